"""Intervals for a difference of two means of numbers that are not only 0 and 1, from their sums.

What a model says of a text, e^−ℓ or the share of its tokens that are right, is bounded and not
binary: Newcombe's interval would be far too wide. Welch's is what a bootstrap over models becomes
with many of them, and needs no more than sums of the numbers and of their squares, which add across
machines. With few models it covers more often than that bootstrap.

References:
  Welch, The generalization of Student's problem when several different population variances are
  involved, Biometrika 34, 1947.
"""

from typing import NamedTuple

import numpy as np


class Sums(NamedTuple):
  """Of n numbers, each [...]: n, their sum, and the sum of their squares."""

  count: np.ndarray
  sums: np.ndarray
  squares: np.ndarray


def mean_and_error(of: Sums) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean [...] of n numbers and its squared standard error, NaN where n is below 2."""
  # Sums that are differences of sums are not exactly 0 where nothing is left.
  count = np.where(of.count > 0, of.count, np.nan)
  mean = of.sums / count
  variance = np.maximum(of.squares / count - mean**2, 0)
  return mean, variance / np.where(count > 1, count - 1, np.nan)


def welch(inside: Sums, outside: Sums) -> tuple[np.ndarray, np.ndarray]:
  """Returns the 95 % interval (low, high) of the mean inside less that outside, [...] each.

  NaN where one of the two has fewer than two numbers; of no width where both have equal ones. It is
  not cut to the range of the numbers.

  Example:
    >>> sides = np.array([0.9, 0.8, 1.0]), np.array([0.1, 0.4, 0.3, 0.2])
    >>> low, high = welch(*(Sums(np.array(len(x)), x.sum(), (x**2).sum()) for x in sides))
    >>> round(float(low), 3), round(float(high), 3)
    (0.427, 0.873)
  """
  from scipy.special import stdtrit

  mean_in, error_in = mean_and_error(inside)
  mean_out, error_out = mean_and_error(outside)
  error = error_in + error_out
  with np.errstate(invalid="ignore", divide="ignore"):
    share = error_in / error  # not error_in², which underflows
    freedom = 1 / (share**2 / (inside.count - 1) + (1 - share) ** 2 / (outside.count - 1))
    half = np.where(error == 0, 0, stdtrit(freedom, 0.975) * np.sqrt(error))
  return mean_in - mean_out - half, mean_in - mean_out + half
