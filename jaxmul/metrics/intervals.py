"""Intervals of a mean: over training seeds (t), over examples (bootstrap), of paired differences.

They answer different questions: what another training run would give, and what other examples would
give. A table names the one it holds.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_BLOCK_NUMBERS = 2**22
_EXACT = 14


class Interval(NamedTuple):
  """A mean with its 95 % interval; `low` and `high` are NaN where there was a single value."""

  mean: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
  """Mean of a − b over seeds with its 95 % t-interval, and the p-value of a sign-flip test."""

  mean: float
  low: float
  high: float
  p: float


def t_interval(values: Sequence[float] | np.ndarray, *, level: float = 0.95) -> Interval:
  """Returns the mean and its Student t-interval, 95 % by default.

  Args:
    values: [k], one figure of each training seed, such as the ToW of k runs.
    level: of the interval, in (0, 1).

  Returns:
    An `Interval` in the unit of the values. One seed gives no interval: its low and high are NaN.
    The interval covers the mean over seeds in 95 % of cases if the values are about normal; it is
    not cut at 0 or 1, as `figures.over_seeds` cuts it.

  Raises:
    ValueError: no values, not one axis, or NaN or inf among them.

  Example:
    >>> [round(bound, 3) for bound in t_interval([0.90, 0.92, 0.94])]
    [0.92, 0.87, 0.97]
    >>> t_interval([0.9])
    Interval(mean=0.9, low=nan, high=nan)
  """
  array = _checked(values, "t_interval")
  mean = float(np.mean(array))
  if len(array) == 1:
    return Interval(mean, float("nan"), float("nan"))
  from scipy.special import stdtrit

  # The bits of scipy.stats.ttest_1samp, which warns where all seeds agree.
  t = stdtrit(len(array) - 1, (1 + level) / 2)
  half = float(t * np.std(array, ddof=1) / np.sqrt(len(array)))
  return Interval(mean, mean - half, mean + half)


def over_examples(
  values: Sequence[float] | np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> Interval:
  """Returns the mean and its 95 % percentile bootstrap interval over examples.

  Args:
    values: [n], one figure of each example, such as the churn of the forget set.
    resamples: of the bootstrap.
    seed: of the resampling.

  Returns:
    An `Interval` in the unit of the values. One example gives no interval: its low and high are
    NaN.

  Raises:
    ValueError: no values, not one axis, or NaN or inf among them.

  Example:
    >>> over_examples([0.0, 1.0, 0.0, 1.0], seed=0)
    Interval(mean=0.5, low=0.0, high=1.0)
  """
  array = _checked(values, "over_examples")
  mean = float(np.mean(array))
  if len(array) == 1:
    return Interval(mean, float("nan"), float("nan"))
  from scipy.stats import bootstrap

  # Not BCa: it has no interval where all values are equal, and its jackknife takes n² numbers.
  low, high = bootstrap(
    (array,),
    np.mean,
    n_resamples=resamples,
    batch=max(1, _BLOCK_NUMBERS // len(array)),
    method="percentile",
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return Interval(mean, float(low), float(high))


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Difference:
  """Returns how much better a is than b over the same training seeds, with evidence.

  Args:
    a: [k], one figure of each seed under one method.
    b: [k], the same of the other method, seed by seed.

  Returns:
    A `Difference`. The interval is Student's of a − b. p is the share of all 2ᵏ ways to flip the
    signs of the differences whose mean is as far from 0 (of 2¹⁴ random ways above 14 seeds): it
    assumes no distribution, and cannot be below 2^{1−k}, or 2⁻¹³. One seed gives NaN.

  Raises:
    ValueError: different lengths, no values, not one axis, or NaN or inf among them.

  Example:
    >>> found = paired([0.9, 0.8, 0.95, 0.85], [0.7, 0.7, 0.7, 0.7])
    >>> round(found.mean, 3), found.low > 0, found.p
    (0.175, True, 0.125)
  """
  first, second = _checked(a, "paired"), _checked(b, "paired")
  if len(first) != len(second):
    raise ValueError(f"paired got {len(first)} and {len(second)} seeds; pair them seed by seed.")
  difference = first - second
  mean, low, high = t_interval(difference)
  k = len(difference)
  if k == 1:
    return Difference(mean=mean, low=low, high=high, p=float("nan"))
  from scipy.stats import permutation_test

  flips = permutation_test(
    (difference,),
    np.mean,
    permutation_type="samples",
    vectorized=True,
    n_resamples=2**_EXACT,
    rng=np.random.default_rng(0),
  )
  return Difference(mean=mean, low=low, high=high, p=float(flips.pvalue))


def _checked(values: Sequence[float] | np.ndarray, caller: str) -> np.ndarray:
  array = np.asarray(values, dtype=float)
  if array.ndim != 1 or not len(array):
    raise ValueError(f"{caller} needs values [k] with k of at least 1, got shape {array.shape}.")
  bad = np.flatnonzero(~np.isfinite(array))
  if len(bad):
    raise ValueError(
      f"{caller}: values[{bad[0]}] is {array[bad[0]]} ({len(bad)} such values). "
      "A run without a figure must be reported, not averaged: leave it out and say so."
    )
  return array
