"""KLoM of known histograms, ε by hand, agreement and gaps."""

import math

import numpy as np
import pytest

from jaxmul import metrics
from jaxmul.metrics import oracle


def test_klom_of_two_known_histograms():
  # Bins of width 1 over [0, 20]: unlearned ½ in bin 0 and ½ in bin 19, oracles ¾ and ¼.
  unlearned = np.array([[0.0], [0.0], [20.0], [20.0]])
  oracles = np.array([[0.5], [0.5], [0.5], [19.5]])
  p, q = (np.full(20, 1e-5) for _ in range(2))
  p[[0, 19]] += 0.5
  q[[0, 19]] += (0.75, 0.25)
  p, q = p / p.sum(), q / q.sum()
  assert oracle.klom(unlearned, oracles)[0] == pytest.approx(np.sum(p * np.log(p / q)))


def test_klom_is_numpys_histogram_example_by_example():
  rng = np.random.default_rng(0)
  a, b = rng.normal(0, 60, (9, 30)), rng.normal(20, 60, (7, 30))
  found = oracle.klom(a, b)
  for i in range(30):
    both = [np.clip(each[:, i], -100, 100) for each in (a, b)]
    ends = np.concatenate(both).min(), np.concatenate(both).max()
    p, q = (np.histogram(x, 20, ends)[0] / len(x) + 1e-5 for x in both)
    p, q = p / p.sum(), q / q.sum()
    assert found[i] == pytest.approx(np.sum(p * np.log(p / q)))


@pytest.mark.parametrize(("models", "median"), [(16, 3.8), (32, 1.6), (100, 0.3)])
def test_equal_models_have_the_stated_noise(models, median):
  a, b = np.random.default_rng(1).normal(size=(2, models, 4000))
  assert np.median(oracle.klom(a, b)) == pytest.approx(median, abs=0.1)


def test_klom_of_the_same_models_is_zero_and_of_constants_too():
  a = np.random.default_rng(2).normal(size=(8, 20))
  np.testing.assert_allclose(oracle.klom(a, a), 0, atol=1e-12)
  assert oracle.klom(np.ones((3, 2)), np.ones((4, 2))).tolist() == [0, 0]


def test_the_null_holds_for_equal_models_and_not_for_others():
  # Models shift all their examples together, as training seeds do.
  rng = np.random.default_rng(3)

  def models(count, mean):
    return mean + rng.normal(size=(count, 1)) + rng.normal(size=(count, 40))

  below = []
  for _ in range(60):
    null = oracle.klom_null(models(16, 0), permutations=40)
    below.append(np.mean(null <= oracle.klom(models(8, 0), models(8, 0)).mean()))
  assert 0.35 < np.mean(below) < 0.65
  null = oracle.klom_null(models(16, 0), permutations=40)
  assert oracle.klom(models(8, 5), models(8, 0)).mean() > null.max()


def test_epsilon_of_a_worked_example():
  # Thresholds at 1 and 2 err; the best: τ = 2, above it 3 of 4 unlearned and 1 of 4 oracles.
  unlearned = np.array([[1.0], [2.0], [3.0], [4.0]])
  oracles = np.array([[0.0], [0.5], [1.5], [3.5]])
  delta = 1e-5
  found = oracle.epsilon(unlearned, oracles, delta=delta)
  assert found[0] == pytest.approx(math.log((1 - delta - 0.25) / 0.25))
  assert oracle.forgetting_quality(found) == 2.0 ** -math.floor(found[0] / 0.5)


def test_epsilon_is_a_slow_search_in_both_directions():
  rng = np.random.default_rng(4)
  a, b = rng.normal(0, 1, (6, 25)), rng.normal(0.7, 2, (9, 25))
  found = oracle.epsilon(a, b)
  for i in range(25):
    best = 0.0
    values = np.sort(np.concatenate([a[:, i], b[:, i]]))
    for cut in (values[1:] + values[:-1]) / 2:
      for called_a, called_b in ((a[:, i] >= cut, b[:, i] >= cut), (a[:, i] < cut, b[:, i] < cut)):
        fnr, fpr = 1 - called_a.mean(), called_b.mean()
        if fnr == fpr == 0:
          best = math.inf
        elif fnr and fpr:
          for x, y in ((fpr, fnr), (fnr, fpr)):
            if 1 - 1e-5 - x > 0:
              best = max(best, math.log((1 - 1e-5 - x) / y))
    assert found[i] == pytest.approx(best)


def test_separated_models_have_no_quality_and_equal_ones_all():
  a = np.random.default_rng(5).normal(size=(8, 30))
  assert oracle.epsilon(a + 100, a).tolist() == [math.inf] * 30
  assert oracle.epsilon(a - 100, a).tolist() == [math.inf] * 30
  assert oracle.forgetting_quality(oracle.epsilon(a + 100, a)) == 0
  assert oracle.forgetting_quality(oracle.epsilon(a, a)) == 1
  assert oracle.challenge_score(1.0, (0.5, 0.6), (1.0, 0.6)) == 0.5


def test_agreement_is_over_all_pairs():
  rng = np.random.default_rng(6)
  a, b = rng.normal(size=(3, 10, 4)), rng.normal(size=(5, 10, 4))
  p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (a, b))
  pairs = [(k, l) for k in range(3) for l in range(5)]
  wanted = np.mean([np.abs(p[k] - q[l]).sum(-1) / 2 for k, l in pairs], 0)
  np.testing.assert_allclose(oracle.total_variation(a, b), wanted)
  wanted = np.mean([a[k].argmax(-1) != b[l].argmax(-1) for k, l in pairs], 0)
  np.testing.assert_allclose(oracle.churn(a, b), wanted)


def test_the_average_gap_by_hand():
  a = {"forget": 0.5, "retain": 1.0, "test": 0.9, "attack": 0.25}
  b = {"forget": 0.75, "retain": 0.5, "test": 0.9, "attack": 0.75}
  assert metrics.average_gap(a, b) == pytest.approx((0.25 + 0.5 + 0.5) / 4)
  assert metrics.average_gap(a, a) == 0


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: oracle.klom([[1.0]], [[1.0, 2.0]]), "1 and 2 examples"),
    (lambda: oracle.klom([1.0], [[1.0]]), r"unlearned \[K, n\]"),
    (lambda: oracle.klom([[np.nan]], [[1.0]]), "1 of 1 numbers of unlearned are NaN"),
    (lambda: oracle.klom_null(np.ones((3, 2))), "3 oracles"),
    (lambda: oracle.epsilon([[1.0]], [[1.0]], delta=1.0), "delta=1.0"),
    (lambda: oracle.epsilon([[1.0]], [[1.0, 2.0]]), "1 and 2 examples"),
    (lambda: oracle.forgetting_quality([-1.0]), "at least 0"),
    (lambda: oracle.churn(np.ones((2, 3, 4)), np.ones((2, 4, 4))), "same examples"),
    (lambda: metrics.average_gap({"forget": 0.5}, {}), "unlearned has retain None"),
    (lambda: metrics.run_time_efficiency(0, 1), "above 0"),
  ],
)
def test_bad_input_is_refused_in_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
