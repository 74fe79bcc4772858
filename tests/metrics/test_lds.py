"""LDS is SciPy's Spearman test example by test example, of models that made nothing themselves."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxmul import metrics
from jaxmul.memorization import Attribution, SubsetModels
from jaxmul.metrics import linear_datamodeling

N, TESTS, MODELS = 12, 4, 40


def scores(seed=0):
  rng = np.random.default_rng(seed)
  ids = {"ids": np.arange(N) * 3, "test_ids": np.arange(TESTS) + 100}
  return Attribution(**ids, value=rng.normal(size=(TESTS, N)))


def models(noise, seed=1, count=MODELS):
  """Outputs are exact sums of the scores, and noise."""
  rng = np.random.default_rng(seed)
  member = np.zeros((count, N), bool)
  for row in member:
    row[rng.permutation(N)[: N // 2]] = True
  of = scores()
  outputs = member @ of.value.T + noise * rng.normal(size=(count, TESTS))
  named = {"ids": of.ids, "test_ids": of.test_ids, "numbers": np.arange(count)}
  return SubsetModels(**named, member=member, outputs=outputs)


def test_it_is_the_mean_of_scipys_correlations():
  heldout, of = models(noise=3.0), scores()
  rho = [
    np.asarray(spearmanr(heldout.member @ of.value[test], heldout.outputs[:, test]))[0]
    for test in range(TESTS)
  ]
  found = metrics.lds(of, heldout, resamples=50)
  np.testing.assert_allclose(found.by_example, rho, atol=1e-12)
  np.testing.assert_allclose(found.value, np.mean(rho), atol=1e-12)
  assert found.low < found.value < found.high
  assert found.num_models == MODELS


@pytest.mark.parametrize("decimals", [8, 0])
def test_a_draw_of_models_has_the_rho_of_its_values(decimals):
  """Without sorting it, ties included."""
  rng = np.random.default_rng(0)
  a, b = (rng.normal(size=(TESTS, MODELS)).round(decimals) for _ in range(2))
  drawn = rng.integers(MODELS, size=MODELS)
  places = linear_datamodeling._order(a), linear_datamodeling._order(b)
  found = linear_datamodeling._rho_of_drawn(*places, np.bincount(drawn, minlength=MODELS))
  rho = [np.asarray(spearmanr(a[test, drawn], b[test, drawn]))[0] for test in range(TESTS)]
  np.testing.assert_allclose(found, rho, atol=1e-12)


def test_exact_sums_score_one_and_their_negative_minus_one():
  heldout, of = models(noise=0), scores()
  for sign in (1, -1):
    found = metrics.lds(dataclasses.replace(of, value=sign * of.value), heldout, resamples=20)
    np.testing.assert_allclose((found.value, found.low, found.high), sign, atol=1e-12)
  shifted = dataclasses.replace(of, value=7 * of.value + 2)  # subsets are of one size
  np.testing.assert_allclose(metrics.lds(shifted, heldout, resamples=2).value, 1)


def test_examples_are_joined_by_id():
  heldout, of = models(noise=1.0), scores()
  want = metrics.lds(of, heldout, resamples=20)
  order, tests = np.random.default_rng(3).permutation(N), np.array([2, 0, 3, 1])
  turned = Attribution(
    ids=of.ids[order], test_ids=of.test_ids[tests], value=of.value[np.ix_(tests, order)]
  )
  found = metrics.lds(turned, heldout, resamples=20)
  np.testing.assert_allclose(found.by_example, want.by_example, atol=1e-12)
  np.testing.assert_array_equal(found.test_ids, heldout.test_ids)
  np.testing.assert_allclose((found.low, found.high), (want.low, want.high), atol=1e-12)


def test_the_interval_is_over_models_and_over_test_examples():
  """Few models, of which all test examples are told alike, are not made sure by many examples."""
  rng, count = np.random.default_rng(0), 20
  heldout = models(noise=0, count=count)
  alike = rng.normal(size=(count, 1)) + 0.01 * rng.normal(size=(count, 200))
  value = rng.normal(size=(1, N)) + 0.01 * rng.normal(size=(200, N))
  many = dataclasses.replace(heldout, test_ids=np.arange(200), outputs=alike)
  found = metrics.lds(
    Attribution(ids=heldout.ids, test_ids=many.test_ids, value=value), many, resamples=200
  )
  alone = metrics.intervals.over_examples(found.by_example)
  assert found.high - found.low > 0.5  # ± 2/√20
  assert alone.high - alone.low < 0.05
  again = metrics.lds(scores(), models(noise=3.0, count=400), resamples=100)
  fewer = metrics.lds(scores(), models(noise=3.0, count=25), resamples=100)
  assert again.high - again.low < fewer.high - fewer.low


def test_models_do_not_judge_what_they_made():
  heldout = models(noise=1.0)
  made = heldout.take(slice(0, 20)).influence()
  with pytest.raises(
    ValueError, match=r"1 of 21 held-out models made the attribution, .* number 19"
  ):
    metrics.lds(made, heldout.take(slice(19, 40)))
  own = Attribution(ids=made.ids, test_ids=made.test_ids, value=made.value)
  rest = heldout.take(slice(20, 40))
  assert metrics.lds(made, rest, resamples=5).value == metrics.lds(own, rest, resamples=5).value
  turned = np.argsort(-made.ids)
  again = Attribution(
    ids=made.ids[turned],
    test_ids=made.test_ids,
    value=made.value[:, turned],
    member=made.member[:, turned],
  )
  with pytest.raises(ValueError, match="held-out models made the attribution"):
    metrics.lds(again, heldout)


def test_what_orders_nothing_is_refused_in_one_line():
  heldout, of = models(noise=1.0), scores()

  def with_row(row):
    return dataclasses.replace(of, value=np.concatenate([of.value[:1], row, of.value[2:]]))

  cases = [
    (with_row(np.full((1, N), 0.1)), heldout, "all scores of test id 101 are 0.1"),
    (with_row(np.full((1, N), np.nan)), heldout, "score of id 0 for test id 101 is nan"),
    (of, dataclasses.replace(heldout, outputs=0 * heldout.outputs), "all outputs of test id 100"),
    (of, heldout.take(slice(0, 9)), "got 9 held-out models, must be at least 10"),
    (of, dataclasses.replace(heldout, ids=heldout.ids + 1), "id 1 has no score"),
    (of, dataclasses.replace(heldout, test_ids=heldout.test_ids + 9), "is no test example of the"),
    (of.value, heldout, "must be an Attribution"),
  ]
  for attribution, judges, message in cases:
    with pytest.raises(ValueError, match=message) as caught:
      metrics.lds(attribution, judges)
    assert "\n" not in str(caught.value)


def test_what_is_in_every_subset_needs_no_score():
  heldout, of = models(noise=1.0), scores()
  member = np.concatenate([heldout.member, np.ones((MODELS, 1), bool)], axis=1)
  more = dataclasses.replace(heldout, ids=np.append(heldout.ids, 999), member=member)
  want = metrics.lds(of, heldout, resamples=5).value
  assert metrics.lds(of, more, resamples=5).value == want
  unknown = Attribution(
    ids=more.ids,
    test_ids=of.test_ids,
    value=np.pad(of.value, ((0, 0), (0, 1)), constant_values=np.nan),
  )
  assert metrics.lds(unknown, more, resamples=5).value == want
