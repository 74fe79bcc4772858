"""The t-interval: SciPy's formula, its coverage, and what one seed gives."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxmul.metrics import intervals


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_it_is_scipys(count):
  values = np.random.default_rng(count).normal(0.9, 0.02, count)
  mean, low, high = intervals.t_interval(values)
  wanted = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
  np.testing.assert_allclose((low, high), wanted, rtol=1e-12)
  assert mean == values.mean()


def test_two_values_by_hand():
  # s/√2 = ½ and t(0.975, 1) = tan(0.475 π) = 12.706.
  result = intervals.t_interval([1, 2])
  np.testing.assert_allclose(result, (1.5, 1.5 - 6.35310236808, 1.5 + 6.35310236808))


@pytest.mark.parametrize("count", [3, 5])
def test_it_covers_the_mean_in_95_of_100(count):
  draws = np.random.default_rng(0).normal(size=(4000, count))
  inside = np.mean([low <= 0 <= high for _, low, high in map(intervals.t_interval, draws)])
  assert abs(inside - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 4000)


def test_one_seed_gives_no_interval():
  mean, low, high = intervals.t_interval([0.75])
  assert mean == 0.75
  assert math.isnan(low)
  assert math.isnan(high)


def test_equal_values_give_a_point():
  assert intervals.t_interval([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad):
  with pytest.raises(ValueError, match=r"values\[1\]") as caught:
    intervals.t_interval([0.5, bad])
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [[], 0.5, [[0.5]]])
def test_anything_but_one_axis_is_refused(bad):
  with pytest.raises(ValueError, match="t_interval needs values"):
    intervals.t_interval(bad)
