"""LiRA and U-LiRA: is φ of an example like that of models that saw it, or like that of others?

Λ = log N(φ; μ_in, σ_in²) − log N(φ; μ_out, σ_out²), Gaussians of each example fitted to reference
models. U-LiRA is the same test with models that unlearned the example as the inside.
"""

import numpy as np
import numpy.typing as npt

from jaxmul import _check

_LEAST = 1e-6


def lira(
  observed: npt.ArrayLike,
  outside: npt.ArrayLike,
  inside: npt.ArrayLike | None = None,
  *,
  fixed_variance: bool = False,
) -> np.ndarray:
  """Returns the log-likelihood ratio of each example, higher = member; 0 is the natural threshold.

  Args:
    observed: [n] or [K, n], φ under the models that are attacked; `metrics.outputs.log_odds`.
    outside: [L, n], φ under reference models without the example; NaN where a model saw it.
    inside: [M, n], φ under reference models with it (for U-LiRA: that unlearned it), NaN where not.
      Without, the attack is offline: (φ − μ_out)/σ_out, in the order of the paper's Pr[Z ≤ φ], and
      no threshold is natural.
    fixed_variance: one σ for all examples, pooled within examples; better below about 64 reference
      models. The published code takes the deviation of all φ, differences of examples included.

  Returns:
    [n] or [K, n] in nats, or in standard deviations where offline. σ is at least 1e-6.

  Raises:
    ValueError: shapes do not fit, a φ is infinite, or an example has fewer than 2 reference models
      on a side.

  References:
    Carlini et al., [Membership Inference From First Principles](https://arxiv.org/abs/2112.03570);
    Hayes et al., [Inexact Unlearning Needs More Careful Evaluations](https://arxiv.org/abs/2403.01218).

  Example:
    >>> outside, inside = [[-1.0, -1.0], [1.0, 1.0]], [[1.0, 1.0], [3.0, 3.0]]
    >>> lira([2.0, 0.0], outside, inside).round(6).tolist()
    [1.0, -1.0]
  """
  phi = np.asarray(observed, dtype=np.float64)
  if phi.ndim not in (1, 2):
    raise ValueError(f"lira needs observed [n] or [K, n], got shape {phi.shape}.")
  _check.finite(phi, "lira: observed φ")
  mean_out, std_out = _gaussian(outside, phi.shape[-1], fixed_variance, "outside")
  if inside is None:
    return (phi - mean_out) / std_out
  mean_in, std_in = _gaussian(inside, phi.shape[-1], fixed_variance, "inside")
  return _log_density(phi, mean_in, std_in) - _log_density(phi, mean_out, std_out)


def _log_density(phi: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
  """log N(φ; μ, σ²) up to the constant −½ log 2π."""
  return -np.log(std) - ((phi - mean) / std) ** 2 / 2


def _gaussian(
  given: npt.ArrayLike, size: int, fixed_variance: bool, name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Returns mean and unbiased standard deviation [n] over reference models."""
  values = np.asarray(given, dtype=np.float64)
  if values.ndim != 2 or values.shape[1] != size:
    raise ValueError(f"lira needs {name} [M, {size}], got shape {values.shape}.")
  known = ~np.isnan(values)
  count = known.sum(0)
  if size and count.min() < 2:
    raise ValueError(
      f"lira: example {np.argmin(count)} has {count.min()} reference models {name}, needs 2. "
      "Train more of them, or leave it out."
    )
  values = np.where(known, values, 0)
  _check.finite(values, f"lira: {name} φ")
  mean = values.sum(0) / count
  squares = np.where(known, values - mean, 0) ** 2
  variance = squares.sum(0) / (count - 1)
  if fixed_variance:
    variance = np.full(size, squares.sum() / (count - 1).sum())
  return mean, np.maximum(np.sqrt(variance), _LEAST)
