"""Rank agreement is SciPy's, its interval covers, and what orders nothing is refused."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxmul.proxies import agreement


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def correlated(n, seed, rho=0.7):
  rng = np.random.default_rng(seed)
  a, b = rng.normal(size=(2, n))
  return a, rho * a + np.sqrt(1 - rho**2) * b


@pytest.mark.parametrize("decimals", [None, 0], ids=["no ties", "many ties"])
def test_spearman_is_scipys(decimals):
  a, b = correlated(60, 0)
  if decimals is not None:
    a, b = a.round(decimals), b.round(decimals)
    assert len(np.unique(a)) < 10
  np.testing.assert_allclose(agreement(a, b).spearman, spearmanr(a, b).statistic, rtol=1e-12)
  np.testing.assert_allclose(agreement(a, -b).spearman, spearmanr(a, -b).statistic, rtol=1e-12)


def test_the_interval_is_the_percentile_bootstraps():
  a, b = correlated(30, 1)
  got = agreement(a, b, resamples=2000, seed=5)
  rng = np.random.default_rng(99)
  rows = rng.integers(30, size=(2000, 30))
  want = np.percentile([spearmanr(a[r], b[r]).statistic for r in rows], [2.5, 97.5])
  np.testing.assert_allclose([got.low, got.high], want, atol=0.04)
  assert got == agreement(a, b, resamples=2000, seed=5)
  assert got.low != agreement(a, b, resamples=2000, seed=6).low


def test_the_interval_covers_the_truth():
  rho = 0.6
  truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman's ρ of a bivariate normal
  results = [agreement(*correlated(80, seed, rho), resamples=300) for seed in range(150)]
  covered = np.mean([each.low <= truth <= each.high for each in results])
  assert 0.88 <= covered <= 0.99


def test_the_interval_holds_rho_and_narrows_with_more_examples():
  widths = []
  for n in (40, 400):
    result = agreement(*correlated(n, 3))
    assert result.low < result.spearman < result.high
    widths.append(result.high - result.low)
  assert 2 < widths[0] / widths[1] < 5  # √10


def test_large_inputs_are_resampled_in_parts():
  a, b = correlated(3_000, 4)
  whole = agreement(a, b, resamples=700)  # 666 resamples fit into one part
  assert whole.high - whole.low < 0.06
  assert whole.low < whole.spearman < whole.high


def test_precision_is_the_share_of_the_true_top_k():
  scores, truth = [5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 1.0, 4.0, 3.0, 2.0]
  assert agreement(scores, truth).precision_at_k is None
  got = [agreement(scores, truth, top_k=k).precision_at_k for k in (1, 2, 3, 5)]
  assert got == [1.0, 0.5, 2 / 3, 1.0]


def test_ties_at_the_edge_count_as_if_broken_at_random():
  truth = [1.0, 1.0, 1.0, 0.0]
  for scores in ([9.0, 0.0, 0.0, 1.0], [0.0, 0.0, 9.0, 1.0]):  # wherever the three ones stand
    assert agreement(scores, truth, top_k=1).precision_at_k == pytest.approx(1 / 3)
  assert agreement([0.0, 0.0, 9.0, 9.0], truth, top_k=3).precision_at_k == pytest.approx(2 / 3)
  rng = np.random.default_rng(0)
  coarse, exact = rng.integers(0, 4, 60).astype(float), rng.integers(0, 3, 60).astype(float)
  drawn = []
  for _ in range(4000):
    orders = [np.lexsort((rng.random(60), -values))[:20] for values in (coarse, exact)]
    drawn.append(len(np.intersect1d(*orders)) / 20)
  found = agreement(coarse, exact, top_k=20, resamples=1).precision_at_k
  assert found == pytest.approx(np.mean(drawn), abs=0.01)


@pytest.mark.parametrize(
  ("scores", "truth", "options", "pattern"),
  [
    ([1, np.nan, 3], [1, 2, 3], {}, r"scores\[1\] is nan.*Drop these examples"),
    ([1, 2, 3], [1, 2, np.inf], {}, r"truth\[2\] is inf.*Drop these examples"),
    ([1, 1, 1], [1, 2, 3], {}, r"all scores are 1\.0; a constant orders nothing"),
    ([1, 2, 3], [0, 0, 0], {}, r"all truth are 0\.0; a constant orders nothing"),
    ([1, 2, 3, 4], [1, 2, 3], {}, r"4 scores.* 3 truths; join them by id"),
    ([1, 2], [1, 2], {}, r"n of at least 3, got \(2,\)"),
    ([[1, 2, 3]], [1, 2, 3], {}, r"scores \[n\].*got \(1, 3\)"),
    ([1, 2, 3], [1, 2, 3], {"top_k": 0}, r"top_k=0, must be in \[1, 3\]"),
    ([1, 2, 3], [1, 2, 3], {"top_k": 4}, r"top_k=4, must be in \[1, 3\]"),
    ([1, 2, 3], [1, 2, 3], {"top_k": 2.0}, r"top_k=2\.0, must be an integer of at least 1"),
    ([1, 2, 3], [1, 2, 3], {"resamples": 0}, r"resamples=0, must be an integer of at least 1"),
    ([1, 2, 3], [1, 2, 3], {"classes": [0, 1]}, r"classes \[2\], must be \[3\]"),
    ([1, 2, 3], [1, 2, 3], {"classes": [0, 0, 1]}, r"none of 2 classes at least 3 examples differ"),
  ],
)
def test_what_cannot_be_ranked_is_refused(scores, truth, options, pattern):
  with one_line(f"agreement.*{pattern}"):
    agreement(scores, truth, **options)


def test_resamples_of_one_value_raise_no_warning():
  result = agreement([0, 0, 0, 1], [0, 0, 1, 1])
  assert -1 <= result.low <= result.spearman <= result.high <= 1


def test_within_classes_it_is_the_mean_of_each_by_its_size():
  rng = np.random.default_rng(0)
  classes = rng.permutation(np.repeat([3, 1, 2], [50, 120, 30]))
  a, b = correlated(200, 1)
  a, b = a + 5 * classes, b + 5 * classes  # hard classes: all in all they agree
  got = agreement(a, b, classes=classes, resamples=500)
  each = [spearmanr(a[classes == c], b[classes == c]).statistic for c in (1, 2, 3)]
  np.testing.assert_allclose(got.spearman, np.average(each, weights=[120, 30, 50]), rtol=1e-12)
  assert got.low < got.spearman < got.high < agreement(a, b).low
  same = agreement(a, b, classes=np.zeros(200))
  assert same == agreement(a, b)
  # Of two and a constant one nothing is known.
  more = np.r_[classes, [7, 7], [8, 8, 8, 8]]
  wider = agreement(np.r_[a, 1, 2, 9, 9, 9, 9], np.r_[b, 2, 1, 1, 2, 3, 4], classes=more)
  assert wider.spearman == pytest.approx(got.spearman)


def test_the_interval_within_classes_covers_the_truth():
  truth = 6 / np.pi * np.arcsin(0.3)  # Spearman's ρ of a bivariate normal of correlation 0.6
  covered = []
  for seed in range(100):
    a, b = correlated(120, seed, 0.6)
    classes = np.arange(120) % 3
    found = agreement(a + 9 * classes, b - 9 * classes, classes=classes, resamples=300)
    covered.append(found.low <= truth <= found.high)
  assert 0.86 <= np.mean(covered) <= 0.99


def test_a_resample_in_which_one_class_is_constant_counts_the_others():
  scores, truth = [1, 1, 2, 1, 2, 3, 4, 5], [1, 2, 3, 1, 2, 3, 5, 4]
  found = agreement(scores, truth, classes=[0, 0, 0, 1, 1, 1, 1, 1], resamples=200)
  assert np.isfinite([found.low, found.high]).all()
