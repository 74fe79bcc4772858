"""The combined proxy is a ridge on ranks, validated on examples that its fit did not see."""

import numpy as np
import pytest

from jaxmul.proxies import agreement, combined
from jaxmul.proxies.combination import _PENALTIES, _ranks, _ridge


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def problem(n=600, known=90, noise=(1.0, 1.0, 2.0)):
  rng = np.random.default_rng(0)
  truth = rng.exponential(size=n)
  scores = {f"p{i}": np.exp(truth + s * rng.normal(size=n)) for i, s in enumerate(noise)}
  sample = rng.permutation(n)[:known]
  return scores, truth, np.where(np.isin(np.arange(n), sample), truth, np.nan)


def test_the_ridge_is_the_one_that_leave_one_out_by_hand_chooses():
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(12, 3)), rng.normal(size=12)

  def solve(x, y, penalty):
    ones = np.c_[np.ones(len(x)), x]
    return np.linalg.solve(ones.T @ ones + np.diag([0.0] + 3 * [penalty]), ones.T @ y)

  errors = []
  for penalty in _PENALTIES:
    left = [np.arange(12) != i for i in range(12)]
    out = [y[i] - np.r_[1, x[i]] @ solve(x[k], y[k], penalty) for i, k in enumerate(left)]
    errors.append(np.mean(np.square(out)))
  want = solve(x, y, _PENALTIES[np.argmin(errors)])
  intercept, weights = _ridge(x, y)
  np.testing.assert_allclose(np.r_[intercept, weights], want, rtol=1e-9)


def test_it_beats_the_best_of_noisy_proxies_on_examples_it_never_saw():
  scores, truth, known = problem()
  result = combined(scores, known)
  unseen = np.isnan(known)
  alone = max(agreement(s[unseen], truth[unseen]).spearman for s in scores.values())
  together = agreement(result.scores[unseen], truth[unseen]).spearman
  assert together > alone + 0.05
  assert result.agreement.low < together < result.agreement.high
  assert result.best in ("p0", "p1")
  assert result.agreement.spearman > result.best_agreement.spearman


def test_validation_is_honest_where_there_is_nothing_to_find():
  rng = np.random.default_rng(0)
  scores = {str(i): rng.normal(size=60) for i in range(30)}
  result = combined(scores, rng.normal(size=60))
  fitted = agreement(result.scores, rng.permutation(result.scores))
  assert result.agreement.spearman < 0.3
  assert abs(fitted.spearman) < 0.5


def test_a_proxy_that_says_nothing_of_the_known_examples_is_no_obstacle():
  scores, _, known = problem()
  silent = np.where(np.isnan(known), scores["p0"], 0.0)
  result = combined(scores | {"silent": silent}, known)
  assert result.best != "silent"
  assert abs(result.agreement.spearman - combined(scores, known).agreement.spearman) < 0.05


def test_no_monotone_change_of_a_proxy_matters():
  scores, _, known = problem()
  changed = {name: np.log(values) * 7 - 3 for name, values in scores.items()}
  np.testing.assert_allclose(combined(changed, known).scores, combined(scores, known).scores, 1e-9)


def test_ranks_share_ties():
  np.testing.assert_allclose(_ranks(np.array([3.0, 1.0, 3.0, 0.0])), [0.75, 0.375, 0.75, 0.125])


def test_impossible_calls_are_refused():
  scores, _, known = problem()
  with one_line("combined got no proxies"):
    combined({}, known)
  with one_line(r"combined got 'p0' of shape \(3,\), truth of \(600,\); join by id"):
    combined({"p0": np.arange(3)}, known)
  for bad in (np.zeros(600), np.where(np.arange(600) == 1, np.nan, scores["p0"])):
    with one_line("combined: 'p0' is constant, NaN or inf somewhere"):
      combined({"p0": bad}, known)
  with one_line("combined got 90 known examples for 31 folds, needs .* 93 examples"):
    combined(scores, known, folds=31)
  silent = np.where(np.isnan(known), scores["p0"], 0.0)
  with one_line("combined: each proxy is constant on the 90 known examples. Estimate the truth of"):
    combined({"silent": silent}, known)
  with one_line(r"agreement: all truth are 0\.0; a constant orders nothing"):
    combined(scores, known * 0)
