"""KLoM: for each example, how far margins of unlearned models are from those of oracles.

KLoM(i) = KL(histogram of φ_i over unlearned models ‖ histogram of φ_i over oracles), 20 bins
between the smallest and the largest φ_i of both, φ = z_y − logsumexp_{c≠y} z_c clipped to ±100.

With few models two equal distributions are far from 0: a median of 3.8 nats at 16 against 16 models
for Gaussians, 1.6 at 32, 0.3 at 100. Read it beside `klom_null`, never alone.
"""

import numpy as np
import numpy.typing as npt

from jaxmul.metrics._given import of_both, of_models

BINS = 20
LIMIT = 100.0
SMOOTHING = 1e-5
PERCENTILES = (50, 95, 99)


def klom(unlearned: npt.ArrayLike, oracles: npt.ArrayLike) -> np.ndarray:
  """Returns KLoM of each example [n] in nats, at least 0.

  Args:
    unlearned: [K, n], φ under K unlearned models; `metrics.outputs.log_odds`.
    oracles: [L, n], φ of the same examples under L models retrained without the forget set.

  Returns:
    Float64 [n]. Each bin's share gets 1e-5 before the two are normalised, so that an empty bin
    costs a finite amount: at most about 11.5 nats. 0 where all φ_i are one number.

  Raises:
    ValueError: not two axes, different numbers of examples, no models, or NaN.

  References:
    Georgiev et al., [Attribute-to-Delete](https://arxiv.org/abs/2410.23232), 2024.

  Example:
    >>> klom([[0.0], [1.0]], [[1.0], [0.0]]).tolist()
    [0.0]
  """
  margins = [np.clip(phi, -LIMIT, LIMIT) for phi in of_both(unlearned, oracles, "klom")]
  low = np.minimum(*(phi.min(0) for phi in margins))
  width = np.maximum(*(phi.max(0) for phi in margins)) - low
  p, q = (_histogram(phi, low, width) for phi in margins)
  return np.sum(p * np.log(p / q), 0)


def klom_null(oracles: npt.ArrayLike, *, permutations: int = 2000, seed: int = 0) -> np.ndarray:
  """Returns the mean KLoM [P] of random halves of the oracles against their other halves.

  What two sets of ⌊L/2⌋ equally good models give: compare with `klom` of as many models a side.

  Args:
    oracles: [L, n], φ under L retrained models, L at least 4.
    permutations: P.
    seed: of the halves.

  Raises:
    ValueError: fewer than 4 oracles, not two axes, or NaN.

  Example:
    >>> rng = np.random.default_rng(0)
    >>> null = klom_null(rng.normal(size=(16, 50)), permutations=20)
    >>> bool(klom(rng.normal(9, 1, (8, 50)), rng.normal(size=(8, 50))).mean() > null.max())
    True
  """
  phi = of_models(oracles, "klom_null", "numbers of oracles")
  half = len(phi) // 2
  if half < 2:
    raise ValueError(f"klom_null got {len(phi)} oracles; halves of them need at least 4.")
  rng = np.random.default_rng(seed)
  values = []
  for _ in range(permutations):
    order = rng.permutation(len(phi))
    values.append(klom(phi[order[:half]], phi[order[half : 2 * half]]).mean())
  return np.array(values)


def percentiles(values: npt.ArrayLike) -> dict[str, float]:
  """Returns the 50th, 95th and 99th percentile over examples, as KLoM is published.

  Example:
    >>> percentiles([0.0, 1.0, 2.0])["p50"]
    1.0
  """
  return {f"p{share}": float(np.percentile(values, share)) for share in PERCENTILES}


def _histogram(values: np.ndarray, low: np.ndarray, width: np.ndarray) -> np.ndarray:
  """Returns the smoothed share [20, n] of models in each bin; the last bin is closed."""
  place = (values - low) / np.where(width > 0, width, 1) * BINS
  place = np.minimum(place.astype(int), BINS - 1)
  n = place.shape[1]
  count = np.bincount((place * n + np.arange(n)).ravel(), minlength=BINS * n).reshape(BINS, n)
  return (count / len(values) + SMOOTHING) / (1 + BINS * SMOOTHING)
