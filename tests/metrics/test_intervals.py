"""The t-interval: SciPy's formula, its coverage, and what one seed gives."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import tables
from jaxmul import metrics
from jaxmul._command import export
from jaxmul.data import Split
from jaxmul.metrics import intervals, oracle


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


def test_of_rates_it_is_cut_where_they_lie_and_tables_show_the_whole_half():
  values = [0.9, 1.0, 0.98]
  mean, low, high = intervals.t_interval(values)
  figure = metrics.figures.over_seeds(values, within=metrics.figures.RATE, name="ToW")
  assert (figure.value, figure.low, figure.high) == (mean, low, 1.0)
  assert high > 1
  assert tables.with_half_width(figure) == f"{mean:.3f} ± {high - mean:.3f}"
  assert export._cell(figure) == f"${mean:.3f} \\pm {high - mean:.3f}$"
  figure = metrics.figures.over_seeds([0.1, 0.5], within=metrics.figures.RATE, name="example gap")
  assert (figure.low, figure.high) == (0, 1)
  assert tables.with_half_width(figure) == "0.300 ± 2.541"  # t(0.975, 1) = 12.706 times 0.2
  one = metrics.figures.over_seeds([0.5], within=metrics.figures.RATE, name="ToW")
  assert math.isnan(one.low)
  assert export._cell(one) == "$0.500$"


def test_no_interval_of_a_rate_that_is_judged_leaves_0_to_1():
  rng = np.random.default_rng(0)
  ids, labels = np.arange(90), np.arange(90) % 3
  split = Split(*np.split(ids, [30, 60, 80]))
  ensemble = oracle.Ensemble(
    *(
      oracle.Outputs.of_logits(
        ids, labels, scale * rng.normal(size=(4, 90, 3)) + 3 * np.eye(3)[labels]
      )
      for scale in (0.7, 0.8)
    )
  )
  found = metrics.beside_oracles(
    ensemble.originals, ensemble, split, split.heldout, jax.random.key(0)
  )
  kept = [figure for figure in found if figure.note == metrics.figures.SEEDS]
  assert {"accuracy", "ToW", "ToW-MIA", "average gap", "example gap"} < {f.name for f in kept}
  assert all(0 <= figure.low <= figure.value <= figure.high <= 1 for figure in kept)
  assert max(intervals.t_interval(figure.seeds).high for figure in kept) > 1


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


def test_the_bootstrap_over_examples_covers_the_mean():
  rng = np.random.default_rng(1)
  inside = []
  for seed in range(1000):
    _, low, high = intervals.over_examples(rng.normal(size=80), resamples=400, seed=seed)
    inside.append(low <= 0 <= high)
  assert 0.92 <= np.mean(inside) <= 0.97


def test_one_example_gives_no_interval_and_equal_ones_a_point():
  mean, low, high = intervals.over_examples([0.25])
  assert mean == 0.25
  assert math.isnan(low)
  assert math.isnan(high)
  assert intervals.over_examples(np.full(9, 0.5)) == (0.5, 0.5, 0.5)


def test_paired_differences_are_scipys_paired_t():
  rng = np.random.default_rng(2)
  a, b = rng.normal(0.9, 0.1, 6), rng.normal(0.8, 0.1, 6)
  found = intervals.paired(a, b)
  wanted = stats.ttest_rel(a, b).confidence_interval(0.95)
  ends = (found.mean, found.low, found.high)
  np.testing.assert_allclose(ends, (np.mean(a - b), wanted.low, wanted.high))
  exact = stats.permutation_test(
    (a, b), lambda x, y, axis: np.mean(x - y, axis), permutation_type="samples", vectorized=True
  )
  assert found.p == pytest.approx(exact.pvalue)


def test_what_seeds_share_does_not_hide_a_difference():
  shared = np.random.default_rng(3).normal(0, 1, 5)
  noise = np.array([0.01, -0.01, 0.02, 0.0, -0.02])
  found = intervals.paired(shared + 0.1 + noise, shared)
  assert found.low > 0
  assert found.p == 2 / 2**5
  apart = intervals.t_interval(shared + 0.1), intervals.t_interval(shared)
  assert apart[0].low < apart[1].high


def test_p_is_never_zero():
  p = intervals.paired(np.arange(16) + 10.0, np.arange(16) + np.linspace(0, 1, 16)).p
  assert p == 2 / (2**14 + 1)


@pytest.mark.parametrize("seeds", [4, 17])
def test_a_sign_flip_of_nothing_is_calibrated(seeds):
  rng = np.random.default_rng(4)
  p = [intervals.paired(*rng.normal(size=(2, seeds))).p for _ in range(300 if seeds > 14 else 2000)]
  share = np.mean(np.array(p) <= 0.13)
  assert abs(share - 0.125) < 3 * math.sqrt(0.125 * 0.875 / len(p))


def test_one_pair_is_no_evidence():
  found = intervals.paired([0.9], [0.8])
  assert all(math.isnan(value) for value in (found.low, found.high, found.p))


def test_pairs_must_match():
  with pytest.raises(ValueError, match="2 and 1 seeds"):
    intervals.paired([0.9, 0.8], [0.8])
