"""Intervals of a mean over training seeds: mean ± t · s/√k of k independent runs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
  """A mean with its 95 % interval; `low` and `high` are NaN where there was a single value."""

  mean: float
  low: float
  high: float


def t_interval(values: Sequence[float] | np.ndarray) -> Interval:
  """Returns the mean and its 95 % Student t-interval.

  Args:
    values: [k], one figure of each training seed, such as the ToW of k runs.

  Returns:
    An `Interval` in the unit of the values. One seed gives no interval: its low and high are NaN.
    The interval covers the mean over seeds in 95 % of cases if the values are about normal; it is
    not cut at 0 or 1.

  Raises:
    ValueError: no values, not one axis, or NaN or inf among them.

  Example:
    >>> [round(bound, 3) for bound in t_interval([0.90, 0.92, 0.94])]
    [0.92, 0.87, 0.97]
    >>> t_interval([0.9])
    Interval(mean=0.9, low=nan, high=nan)
  """
  array = np.asarray(values, dtype=float)
  if array.ndim != 1 or not len(array):
    raise ValueError(f"t_interval needs values [k] with k of at least 1, got shape {array.shape}.")
  bad = np.flatnonzero(~np.isfinite(array))
  if len(bad):
    raise ValueError(
      f"t_interval: values[{bad[0]}] is {array[bad[0]]} ({len(bad)} such values). "
      "A run without a figure must be reported, not averaged: leave it out and say so."
    )
  mean = float(np.mean(array))
  if len(array) == 1:
    return Interval(mean, float("nan"), float("nan"))
  from scipy.special import stdtrit

  half = float(stdtrit(len(array) - 1, 0.975) * np.std(array, ddof=1) / np.sqrt(len(array)))
  return Interval(mean, mean - half, mean + half)
