"""Population attacks, LiRA and RMIA against slow references and closed forms; ids that meet."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from jaxmul.data import Dataset
from jaxmul.metrics import attacks, outputs


def softmax(z):
  p = np.exp(z - z.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def logits():
  return np.random.default_rng(0).normal(0, 2, (3, 20, 4))


@pytest.fixture(scope="module")
def labels():
  return np.random.default_rng(1).integers(0, 4, 20)


def test_population_scores_are_their_formulas(logits, labels):
  p = softmax(logits)
  for k, i in np.ndindex(3, 20):
    own, y = p[k, i], labels[i]
    modified = -(1 - own[y]) * math.log(own[y])
    modified -= sum(own[c] * math.log(1 - own[c]) for c in range(4) if c != y)
    assert attacks.loss(logits, labels)[k, i] == pytest.approx(math.log(own[y]))
    assert attacks.entropy(logits)[k, i] == pytest.approx(np.sum(own * np.log(own)))
    assert attacks.modified_entropy(logits, labels)[k, i] == pytest.approx(-modified)


def test_modified_entropy_is_not_the_inherited_form(logits, labels):
  p = softmax(logits[0])
  own = p[np.arange(20), labels]
  inherited = (1 - own) * np.log(own) + np.sum(p * np.log(p), 1) - own * np.log(own)
  assert np.abs(attacks.modified_entropy(logits[0], labels) - inherited).min() > 1e-3


def test_modified_entropy_tells_a_sure_error_from_a_sure_hit():
  right, wrong = attacks.modified_entropy([[50.0, 0.0], [0.0, 50.0]], [0, 0])
  assert right == pytest.approx(0, abs=1e-15)
  assert wrong == pytest.approx(-100, rel=1e-9)  # log p_y and log(1 − p_1) are both −50
  assert attacks.entropy([[50.0, 0.0]]) == pytest.approx(attacks.entropy([[0.0, 50.0]]))


def test_extreme_logits_give_finite_scores():
  z = np.array([[1e4, 0.0, -1e4], [-1e4, 1e4, 0.0]])
  for score in (attacks.loss(z, [0, 0]), attacks.entropy(z), attacks.modified_entropy(z, [0, 0])):
    assert np.isfinite(score).all()


@pytest.mark.parametrize("fixed", [False, True])
def test_lira_is_a_slow_likelihood_ratio(fixed):
  rng = np.random.default_rng(2)
  outside, inside = rng.normal(0, 1, (7, 9)), rng.normal(2, 3, (5, 9))
  outside[0, 3] = inside[1, 4] = np.nan
  phi = rng.normal(size=(2, 9))
  found = attacks.lira(phi, outside, inside, fixed_variance=fixed)
  offline = attacks.lira(phi, outside, fixed_variance=fixed)

  def gaussian(values, i):
    own = [column[~np.isnan(column)] for column in values.T]
    std = own[i].std(ddof=1)
    if fixed:
      std = math.sqrt(sum(((x - x.mean()) ** 2).sum() for x in own) / sum(len(x) - 1 for x in own))
    return own[i].mean(), std

  for k, i in np.ndindex(2, 9):
    ratio = stats.norm.logpdf(phi[k, i], *gaussian(inside, i))
    ratio -= stats.norm.logpdf(phi[k, i], *gaussian(outside, i))
    assert found[k, i] == pytest.approx(ratio)
    p = stats.norm.cdf(phi[k, i], *gaussian(outside, i))
    assert stats.norm.cdf(offline[k, i]) == pytest.approx(p)


def test_lira_on_gaussians_reaches_the_analytic_auc():
  # Examples differ by far more than membership does: only a per-example test can see it.
  rng = np.random.default_rng(3)
  centre, shift = rng.normal(0, 50, 4000), 1.5

  def models(count, seen):
    return centre + shift * seen + rng.normal(size=(count, 4000))

  scores = [
    attacks.lira(models(1, seen), models(400, 0), models(400, 1), fixed_variance=True)
    for seen in (1, 0)
  ]
  found = attacks.rates(*scores, paired=True, threshold=0.0).auc
  wanted = stats.norm.cdf(shift / math.sqrt(2))
  standard_error = (found.high - found.low) / 3.92
  assert abs(found.mean - wanted) < 3 * standard_error < 0.03


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("gamma", [0.8, 1.0, 2.0])
def test_rmia_is_a_slow_count(online, gamma):
  rng = np.random.default_rng(4)
  x, z = rng.random((2, 6)), rng.random((2, 30))
  outside, inside = (attacks.Reference(rng.random((4, 6)), rng.random((4, 30))) for _ in range(2))
  found = attacks.rmia(x, z, outside, inside if online else None, a=0.4, gamma=gamma)
  for k, i in np.ndindex(2, 6):

    def mean(at, part):
      p_out = getattr(outside, part)[:, at].mean()
      if online:
        return (p_out + getattr(inside, part)[:, at].mean()) / 2
      return (1.4 * p_out + 0.6) / 2

    gain = x[k, i] / mean(i, "examples")
    wins = [gain / (z[k, j] / mean(j, "population")) >= gamma for j in range(30)]
    assert found[k, i] == np.mean(wins)


def test_rmia_skips_reference_models_on_the_other_side():
  some = attacks.Reference([[0.5, np.nan], [np.nan, 0.2]], [[0.5], [0.5]])
  whole = attacks.Reference([[0.5, 0.2]], [[0.5]])
  for gamma in (0.5, 1.0, 1.5):
    args = ([0.6, 0.6], [0.5])
    np.testing.assert_array_equal(
      attacks.rmia(*args, some, gamma=gamma), attacks.rmia(*args, whole, gamma=gamma)
    )


def test_the_five_features(logits, labels):
  found = attacks.svc_features(logits, labels)
  assert list(found) == [
    *("correctness", "confidence", "entropy", "modified_entropy", "probabilities")
  ]
  assert [each.shape for each in found.values()] == [(3, 20, 1)] * 4 + [(3, 20, 4)]
  p = softmax(logits)
  np.testing.assert_array_equal(found["correctness"][..., 0], p.argmax(-1) == labels)
  np.testing.assert_allclose(found["confidence"][..., 0], p[:, np.arange(20), labels])
  np.testing.assert_allclose(found["entropy"][..., 0], (p * np.log(p)).sum(-1))
  np.testing.assert_allclose(found["probabilities"], p)


def test_svc_and_svc_scores_are_one_machine():
  rng = np.random.default_rng(8)
  members, nonmembers, targets = rng.beta(9, 2, 60), rng.beta(2, 1, 60), rng.random(300)
  scores = attacks.svc_scores(*(p[:, None] for p in (members, nonmembers, targets)))
  assert attacks.svc(members, nonmembers, targets) == np.mean(scores < 0)


def test_svc_scores_have_the_sign_of_the_rate():
  rng = np.random.default_rng(5)
  members, nonmembers = rng.beta(9, 2, (60, 1)), rng.beta(2, 9, (60, 1))
  targets = rng.random((200, 1))
  scores = attacks.svc_scores(members, nonmembers, targets)
  assert scores[targets[:, 0] > 0.8].min() > 0 > scores[targets[:, 0] < 0.2].max()
  flat = attacks.svc_scores(np.ones((3, 2)), np.ones((3, 2)), np.ones((4, 2)))
  assert flat.tolist() == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def dataset():
  """Images are the logits: the first 40 are sure and right, the others are noise."""
  rng = np.random.default_rng(6)
  labels = rng.integers(0, 3, 100)
  logits = rng.normal(size=(100, 3))
  logits[np.arange(40), labels[:40]] += 6
  return Dataset(logits, labels, np.arange(100, 200), 3)


def same(w, x):
  return x * w


PARTS = {
  "members": np.r_[100:120],
  "nonmembers": np.r_[140:160],
  "targets": np.r_[120:140],
  "controls": np.r_[160:200],
}


@pytest.mark.parametrize("attack", [attacks.loss, attacks.modified_entropy])
def test_by_id_is_the_same_attack(dataset, attack):
  found = attacks.on_split(attack, np.ones(3), dataset, same, **PARTS)
  scores = attack(outputs.logits_of(np.ones(3), dataset, same), dataset.labels)
  known, target, control = scores[:20], scores[20:40], scores[60:]
  cut = attacks.best_threshold(known, scores[40:60])
  wanted = attacks.rates(target, control, threshold=cut)
  np.testing.assert_equal(*map(dataclasses.asdict, (found, wanted)))
  assert found.auc.mean > 0.95
  unseen = PARTS | {"targets": np.r_[160:180], "controls": np.r_[180:200]}
  auc = attacks.on_split(attack, np.ones(3), dataset, same, **unseen).auc
  assert auc.low < 0.5 < auc.high


@pytest.mark.parametrize("first", PARTS)
@pytest.mark.parametrize("second", PARTS)
def test_a_planted_overlap_is_refused(dataset, first, second):
  if first == second:
    return
  planted = PARTS | {first: np.append(PARTS[first], PARTS[second][0])}
  with pytest.raises(ValueError, match=f"id {PARTS[second][0]} is in .*{first}") as caught:
    attacks.on_split(attacks.loss, np.ones(3), dataset, same, **planted)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: attacks.lira([1.0], [[1.0]]), "example 0 has 1 reference models outside"),
    (lambda: attacks.lira([1.0], [[1.0, 2.0]]), r"outside \[M, 1\]"),
    (lambda: attacks.lira(1.0, [[1.0]]), "observed"),
    (lambda: attacks.lira([np.inf], [[1.0], [2.0]]), "lira: observed φ hold inf at"),
    (lambda: attacks.lira([1.0], [[1.0], [-np.inf]]), "lira: outside φ hold -inf at"),
    (lambda: attacks.rmia([2.0], [0.5], attacks.Reference([[0.5]], [[0.5]])), "observed"),
    (lambda: attacks.rmia([0.5], [0.5], attacks.Reference([[0.5]], [[0.5]]), gamma=0), "gamma"),
    (lambda: attacks.rmia([0.5], [0.5], attacks.Reference([[0.5, 1]], [[0.5]])), r"\[M, 1\]"),
    (lambda: attacks.loss([[0.0, 0.0]], [2]), "label 2"),
    (lambda: attacks.loss([[0.0, 0.0]], [0.0]), "integer labels"),
    (lambda: attacks.loss([[np.nan, 0.0]], [0]), "diverged"),
    (lambda: attacks.entropy([0.0, 0.0]), r"\(2,\)"),
    (lambda: attacks.svc_scores([[1.0]], [[0.0], [0.1]], [[1.0]]), "1 members and 2 nonmembers"),
  ],
)
def test_bad_input_is_refused_in_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
