"""The unlearning challenge's score: for each example, how sure a test of "unlearned or oracle" is.

ε_i = max_τ max{log((1 − δ − FPR)/FNR), log((1 − δ − FNR)/FPR)} over thresholds τ on a scalar
output, in both directions. Forgetting quality is the mean of 2^{−⌊ε_i/0.5⌋}.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from jaxmul import _check
from jaxmul.metrics._given import of_both

WIDTH = 0.5


def epsilon(unlearned: npt.ArrayLike, oracles: npt.ArrayLike, *, delta: float = 1e-5) -> np.ndarray:
  """Returns ε of each example [n], at least 0, in nats.

  Args:
    unlearned: [K, n], a scalar output such as φ under K unlearned models.
    oracles: [L, n], of the same examples under L models retrained without the forget set.
    delta: δ in [0, 1).

  Returns:
    Float64 [n]; inf where a threshold tells all models apart. As in the challenge, a threshold with
    just one of FPR and FNR at 0 is left out: so few models cannot show that a rate is 0. ε of K
    and L models is at most about log K.

  Raises:
    ValueError: not two axes, different numbers of examples, no models, NaN, or δ out of range.

  References:
    Triantafillou et al., [Are we making progress in
    unlearning?](https://arxiv.org/abs/2406.09073), 2024.

  Example:
    >>> epsilon([[2.0], [3.0]], [[0.0], [1.0]]).tolist()
    [inf]
    >>> epsilon([[0.0], [1.0]], [[0.0], [1.0]], delta=0.0).tolist()
    [0.0]
  """
  if not 0 <= delta < 1:
    raise ValueError(f"epsilon got delta={delta}, must be in [0, 1); the challenge's is 1e-5.")
  ours, theirs = of_both(unlearned, oracles, "epsilon")
  best = np.zeros(ours.shape[1])
  for threshold in np.concatenate([ours, theirs]):
    # "Unlearned" is called at or above the threshold, or below it.
    fnr, fpr = np.mean(ours < threshold, 0), np.mean(theirs >= threshold, 0)
    best = np.maximum(best, _bound(fpr, fnr, delta))
    best = np.maximum(best, _bound(1 - fpr, 1 - fnr, delta))
  return best


def forgetting_quality(epsilons: npt.ArrayLike) -> float:
  """Returns the mean of 2^{−⌊ε_i/0.5⌋} in [0, 1]; 1 where no example has an ε of 0.5.

  Args:
    epsilons: [n], at least 0; inf counts 0.

  Raises:
    ValueError: empty, negative or NaN.

  References:
    Triantafillou et al., [Are we making progress in
    unlearning?](https://arxiv.org/abs/2406.09073), 2024.

  Example:
    >>> forgetting_quality([0.0, 0.7, float("inf")])
    0.5
  """
  values = np.asarray(epsilons, dtype=np.float64)
  if not values.size or not (values >= 0).all():
    raise ValueError("forgetting_quality needs epsilons [n] of at least 0, not empty, no NaN.")
  return float(np.mean(quality_of_examples(values)))


def quality_of_examples(epsilons: np.ndarray) -> np.ndarray:
  """Returns 2^{−⌊ε_i/0.5⌋} [n], of which forgetting quality is the mean."""
  return np.exp2(-np.floor(epsilons / WIDTH))


def challenge_score(
  quality: float, unlearned: Sequence[float], retrained: Sequence[float]
) -> float:
  """Returns forgetting quality × RA_u/RA_r × TA_u/TA_r, the final score of the challenge.

  Args:
    quality: of `forgetting_quality`.
    unlearned: (retain, test) accuracy of the unlearned models, in [0, 1].
    retrained: the same of the oracles, above 0.

  Raises:
    ValueError: an accuracy is outside its range.

  Example:
    >>> challenge_score(0.5, (0.9, 0.8), (0.9, 0.8))
    0.5
  """
  retain, test = unlearned
  retrained_retain, retrained_test = retrained
  _check.in_range("challenge_score", 0, 1, retain=retain, test=test)
  rates = {"retrained_retain": retrained_retain, "retrained_test": retrained_test}
  _check.in_range("challenge_score", 0, 1, **rates)
  _check.above("challenge_score", 0, **rates)
  return quality * retain / retrained_retain * test / retrained_test


def _bound(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
  with np.errstate(divide="ignore", invalid="ignore"):
    value = np.fmax(np.log((1 - delta - fpr) / fnr), np.log((1 - delta - fnr) / fpr))
  zero = (fpr == 0).astype(int) + (fnr == 0)
  return np.select([zero == 2, zero == 1], [np.inf, 0.0], np.nan_to_num(value, nan=0.0))
