"""Disagreement with oracles on every example: churn and total variation, over all pairs of models.

Two oracles disagree too: read both beside the same figure of oracles against oracles.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from jaxmul.metrics.outputs import log_probabilities


def churn(unlearned: npt.ArrayLike, oracles: npt.ArrayLike) -> np.ndarray:
  """Returns the share [n] in [0, 1] of pairs (unlearned, oracle) that predict different classes.

  Args:
    unlearned: [K, n, C] logits.
    oracles: [L, n, C] logits of the same examples.

  Raises:
    ValueError: shapes do not fit, or NaN or inf among the logits.

  References:
    Milani Fard et al., Launch and Iterate: Reducing Prediction Churn, NeurIPS 2016.

  Example:
    >>> churn([[[1.0, 0.0], [1.0, 0.0]]], [[[2.0, 0.0], [0.0, 2.0]]]).tolist()
    [0.0, 1.0]
  """
  ours, theirs = (np.argmax(log_p, -1) for log_p in _both(unlearned, oracles))
  return _mean_of_pairs(ours, theirs, lambda x, y: x != y)


def total_variation(unlearned: npt.ArrayLike, oracles: npt.ArrayLike) -> np.ndarray:
  """Returns the mean over pairs of ½ Σ_c |p_c − q_c|, [n] in [0, 1].

  Args:
    unlearned, oracles: as `churn`, and so are errors.

  Example:
    >>> total_variation([[[0.0, 0.0]]], [[[50.0, 0.0]]]).round(3).tolist()
    [0.5]
  """
  p, q = (np.exp(log_p) for log_p in _both(unlearned, oracles))
  return _mean_of_pairs(p, q, lambda x, y: np.abs(x - y).sum(-1) / 2)


def _mean_of_pairs(a: np.ndarray, b: np.ndarray, distance: Callable) -> np.ndarray:
  return np.mean([distance(x, b).mean(0) for x in a], 0)


def _both(unlearned: npt.ArrayLike, oracles: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  a, b = log_probabilities(unlearned), log_probabilities(oracles)
  if a.ndim != 3 or b.ndim != 3 or a.shape[1:] != b.shape[1:]:
    raise ValueError(
      f"agreement needs logits [K, n, C] of the same examples, got {a.shape} and {b.shape}."
    )
  return a, b
