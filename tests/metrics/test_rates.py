"""Attack rates: closed forms for Gaussian scores, ties, calibration over simulated audits."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxmul.metrics import attacks


def gaussian(rng, n, shift):
  return rng.normal(shift, 1, n), rng.normal(0, 1, n)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_gaussian_scores_give_the_analytic_rates(shift):
  runs = [gaussian(np.random.default_rng(seed), 10_000, shift) for seed in range(20)]
  found = [attacks.rates(*run, threshold=shift / 2, resamples=0) for run in runs]
  analytic = {
    "auc": stats.norm.cdf(shift / math.sqrt(2)),
    "balanced_accuracy": stats.norm.cdf(shift / 2),
    "tpr_at_1": stats.norm.sf(stats.norm.isf(0.01) - shift),
    "tpr_at_01": stats.norm.sf(stats.norm.isf(0.001) - shift),
  }
  for name, wanted in analytic.items():
    values = np.array([getattr(each, name).mean for each in found])
    standard_error = values.std(ddof=1) / math.sqrt(len(values))
    assert 0 < standard_error < 0.02
    assert abs(values.mean() - wanted) < 3 * standard_error, name


def slow(members, nonmembers):
  wins = np.mean([(m > n) + 0.5 * (m == n) for m in members for n in nonmembers])
  ordered = np.sort(nonmembers)[::-1]
  reached = {}
  for rate in (0.01, 0.001):
    k = int(rate * len(nonmembers) + 1e-9)
    cut = ordered[k - 1]
    share = (k - np.sum(nonmembers > cut)) / np.sum(nonmembers == cut)
    reached[rate] = np.mean(members > cut) + share * np.mean(members == cut)
  return wins, reached[0.01]


@pytest.mark.parametrize("decimals", [1, 8])
def test_it_equals_a_slow_reference_ties_included(decimals):
  rng = np.random.default_rng(0)
  members, nonmembers = (
    rng.normal(0.5, 1, 300).round(decimals),
    rng.normal(size=1000).round(decimals),
  )
  found = attacks.rates(members, nonmembers, resamples=0)
  np.testing.assert_allclose((found.auc.mean, found.tpr_at_1.mean), slow(members, nonmembers))


def test_constant_scores_are_chance():
  found = attacks.rates(np.zeros(50), np.zeros(10_000), resamples=0)
  np.testing.assert_allclose([found.auc.mean, found.tpr_at_1.mean], [0.5, 0.01])
  np.testing.assert_allclose(found.tpr_at_01.mean, 0.001)


def test_too_few_nonmembers_give_nan_and_a_note():
  rng = np.random.default_rng(1)
  found = attacks.rates(rng.normal(size=40), rng.normal(size=(9, 111)), resamples=10)
  assert all(math.isnan(value) for value in found.tpr_at_1 + found.tpr_at_01)
  assert "1 % FPR needs 1000 non-members, got 999" in found.notes["tpr_at_1"]
  enough = attacks.rates(rng.normal(size=40), rng.normal(size=1000), resamples=10)
  assert enough.tpr_at_1.low <= enough.tpr_at_1.mean <= enough.tpr_at_1.high
  assert math.isnan(enough.tpr_at_01.mean)


def test_the_bootstrap_resamples_examples_with_their_models():
  # All models say the same: ten times as many scores are no more evidence.
  rng = np.random.default_rng(2)
  members, nonmembers = gaussian(rng, 60, 0.5)
  one = attacks.rates(members, nonmembers, seed=3).auc
  many = attacks.rates(np.tile(members, (10, 1)), np.tile(nonmembers, (10, 1)), seed=3).auc
  np.testing.assert_allclose(one, many)


def test_pairs_are_resampled_together():
  # The same example scores 1e-3 more under members: with its column, every resample sees that.
  base = 100.0 * np.arange(50)
  apart = attacks.rates(base + 1e-3, base).auc
  together = attacks.rates(base + 1e-3, base, paired=True).auc
  assert together.high - together.low < 0.02 < apart.high - apart.low


def test_nothing_leaked_is_calibrated_over_2000_audits():
  rng = np.random.default_rng(4)
  inside, tpr = [], []
  for _ in range(2000):
    scores = rng.normal(size=(2, 100))
    found = attacks.rates(*scores, threshold=0.0, resamples=200, seed=int(rng.integers(2**31)))
    inside.append([r.low <= 0.5 <= r.high for r in (found.auc, found.balanced_accuracy)])
    tpr.append(attacks.rates(*rng.normal(size=(2, 1000)), resamples=0).tpr_at_1.mean)
  for share in np.mean(inside, 0):
    assert 0.93 <= share <= 0.97
  standard_error = np.std(tpr, ddof=1) / math.sqrt(len(tpr))
  assert abs(np.mean(tpr) - 0.01) < 3 * standard_error < 0.001


def test_the_best_threshold_is_that_of_a_search():
  rng = np.random.default_rng(5)
  for _ in range(20):
    members, nonmembers = rng.normal(1, 1, 30).round(1), rng.normal(size=40).round(1)
    cut = attacks.best_threshold(members, nonmembers)

    def accuracy(cut, members=members, nonmembers=nonmembers):
      return np.mean(members >= cut) + np.mean(nonmembers < cut)

    assert accuracy(cut) == max(map(accuracy, np.arange(-4, 5, 0.01)))


@pytest.mark.parametrize(
  ("args", "options", "message"),
  [
    (([], [1.0]), {}, "members"),
    (([1.0], [[[1.0]]]), {}, r"nonmembers.*\(1, 1, 1\)"),
    (([1.0], [np.nan]), {}, "1 of 1 nonmembers are NaN"),
    (([1.0], [1.0, 2.0]), {"paired": True}, "paired scores of 1 and 2"),
  ],
)
def test_bad_scores_are_refused(args, options, message):
  with pytest.raises(ValueError, match=message) as caught:
    attacks.rates(*args, **options)
  assert "\n" not in str(caught.value)
