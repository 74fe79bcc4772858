"""Intervals of a proportion, and of a difference of two, k_in/n_in − k_out/n_out.

References:
  Newcombe, Interval estimation for the difference between independent proportions, Statistics in
  Medicine 17, 1998: method 10, the hybrid of two Wilson score intervals.
"""

import numpy as np
from numpy.typing import ArrayLike

_Z95 = 1.959963984540054


def wilson(successes: ArrayLike, trials: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """Returns the 95 % score interval (low, high) of a proportion, in [0, 1]; NaN without trials.

  Args:
    successes: [...] from 0 to trials.
    trials: [...].

  Example:
    >>> low, high = wilson(5, 10)
    >>> round(float(low), 3), round(float(high), 3)
    (0.237, 0.763)
  """
  k, n = np.asarray(successes, float), np.asarray(trials, float)
  with np.errstate(invalid="ignore", divide="ignore"):
    p, scale = k / n, 1 + _Z95**2 / n
    centre = (p + _Z95**2 / (2 * n)) / scale
    half = _Z95 / scale * np.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
  return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def newcombe(
  correct_in: ArrayLike, count_in: ArrayLike, correct_out: ArrayLike, count_out: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the 95 % interval (low, high) of k_in/n_in − k_out/n_out, in [−1, 1].

  Args:
    correct_in: k_in [...], successes among `count_in`.
    count_in: n_in [...].
    correct_out: k_out [...], successes among `count_out`.
    count_out: n_out [...].

  Returns:
    Low and high, NaN where one of the two has no trials.

  Example:
    >>> low, high = newcombe(56, 70, 48, 80)  # Newcombe's example (a)
    >>> round(float(low), 4), round(float(high), 4)
    (0.0524, 0.3339)
  """
  with np.errstate(invalid="ignore", divide="ignore"):
    p_in = np.asarray(correct_in, float) / np.asarray(count_in, float)
    p_out = np.asarray(correct_out, float) / np.asarray(count_out, float)
  low_in, high_in = wilson(correct_in, count_in)
  low_out, high_out = wilson(correct_out, count_out)
  difference = p_in - p_out
  low = difference - np.sqrt((p_in - low_in) ** 2 + (high_out - p_out) ** 2)
  high = difference + np.sqrt((high_in - p_in) ** 2 + (p_out - low_out) ** 2)
  return low, high
