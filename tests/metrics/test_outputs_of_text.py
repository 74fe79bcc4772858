"""What models say of text, from training without it to figures: φ of p = e^−ℓ, exact matches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from jaxmul import bind, losses, memorization, metrics, retraining, rum, unlearn
from jaxmul.data import Dataset, Split, cut_heldout
from jaxmul.metrics import attacks, game, oracle

N, WIDTH, CLASSES = 8, 3, 4
KEY = jax.random.key(0)
LENGTHS = [N, 3, 1]  # as many positions as examples, where a mask of rows could meet them


def linear(w, x):
  return x @ w


def drawn(examples, key):
  """A network that has learned nothing: its weights are those of its key."""
  del examples
  return bind(linear, 2 * jax.random.normal(key, (WIDTH, CLASSES)))


def text(length):
  rng = np.random.default_rng(length)
  labels = rng.integers(0, CLASSES, (N, length))
  labels[1::2, 1:] = losses.UNSCORED
  inputs = rng.normal(size=(N, length, WIDTH)).astype(np.float32)
  return Dataset(inputs, labels, np.arange(50, 50 + N), CLASSES)


def said(w, given):
  """(p, whether it is right) of each text [n], by hand in float64."""
  z = given.inputs.astype(float) @ np.asarray(w, float)
  log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
  p, right = [], []
  for each, labels in zip(log_p, given.labels, strict=True):
    at = np.flatnonzero(labels >= 0)
    p.append(np.exp(each[at, labels[at]].mean()))
    right.append((each[at].argmax(-1) == labels[at]).all())
  return np.array(p), np.array(right)


def logit(p):
  return np.log(p / (1 - p))


@pytest.mark.parametrize("length", LENGTHS)
def test_tallies_and_outputs_of_retraining(length, tmp_path):
  given = text(length)
  schedule = retraining.leave_out(
    *(drawn, given, KEY), num_models=12, chunk_size=8, test=given, target="log_odds", fraction=0.5
  )
  run = {"store": tmp_path, "executor": retraining.serial}
  chunks = list(retraining.stream(schedule, **run))
  kept, seen = oracle.references(schedule, retraining.stream(schedule, **run))  # read back
  weights = [drawn(None, retraining.train_key(schedule, model)).params for model in range(12)]
  p, right = (np.stack(each) for each in zip(*(said(w, given) for w in weights), strict=True))
  assert 0 < right.mean() < 1
  np.testing.assert_allclose(kept.log_odds, logit(p), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(kept.correct, right)
  np.testing.assert_allclose(kept.probability, p, rtol=1e-4)
  np.testing.assert_array_equal(kept.accuracy, right.mean(1))
  found = memorization.merge(schedule, chunks)
  np.testing.assert_array_equal(found.correct_in, (right & seen).sum(0))
  np.testing.assert_array_equal(found.correct_out, (right & ~seen).sum(0))
  outside = np.where(seen, 0, p).sum(0) / (~seen).sum(0)
  np.testing.assert_allclose(found.confidence_out, outside, rtol=1e-4)
  odds = (np.where(seen, logit(p), np.nan), np.where(seen, np.nan, logit(p)))
  inside, outside = (np.nanmean(each, 0) for each in odds)
  np.testing.assert_allclose(found.log_odds, inside - outside, rtol=1e-3, atol=1e-4)
  of_ids = memorization.influence(schedule, given.ids[:2], progress=False, **run)
  both = [logit(p)[seen[:, 0] == side].mean(0) for side in (True, False)]
  np.testing.assert_allclose(of_ids.value[:, 0], both[0] - both[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", LENGTHS)
def test_outputs_accuracy_and_confidence_of_a_network(length):
  given, network = text(length), drawn(None, KEY)
  p, right = said(network.params, given)
  found = oracle.outputs([network, network], given, given.ids[::-1])
  assert found.logits is None
  np.testing.assert_allclose(found.log_odds, [logit(p)[::-1]] * 2, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found.correct, [right[::-1]] * 2)
  assert metrics.accuracy(network, given) == right.mean()
  np.testing.assert_allclose(attacks.label_confidence(network, given), p, rtol=1e-4)


def test_a_text_that_is_known_by_heart_is_still_a_number():
  given, sure = text(3), bind(linear, jnp.ones((WIDTH, CLASSES)))
  z = 80 * np.eye(CLASSES, dtype=np.float32)[np.maximum(given.labels, 0)]
  heart = dataclasses.replace(given, inputs=z)
  found = oracle.outputs([sure.replace(params=jnp.eye(CLASSES))], heart, given.ids)
  assert found.correct.all()
  np.testing.assert_allclose(found.log_odds, 80 - np.log(CLASSES - 1), rtol=1e-5)


def test_what_needs_logits_of_one_label_says_so():
  given, network = text(3), drawn(None, KEY)
  parts = dict(
    zip(("members", "nonmembers", "targets", "controls"), given.ids[:4, None], strict=True)
  )
  for call in (
    lambda: metrics.outputs.logits_of(network, given),
    lambda: attacks.on_split(attacks.loss, network, given, **parts),
    lambda: retraining.leave_out(drawn, given, KEY, num_models=2, test=given, target="logits"),
  ):
    with pytest.raises(ValueError, match=r"labels.* \[8, 3\].*(Use|which)") as caught:
      call()
    assert "\n" not in str(caught.value)
  assert retraining.repeat(drawn, given, KEY, num_models=2, test=given).target == "log_odds"


IDS = np.arange(100)
FORGET, RETAIN, HELDOUT, TEST = np.split(IDS, [20, 60, 85])
SPLIT = Split(FORGET, RETAIN, HELDOUT, TEST)
ATTACK = cut_heldout(HELDOUT, KEY).attack
OF_LOGITS = {"entropy", "modified_entropy"} | {
  f"svc_{name}" for name in ("entropy", "modified_entropy", "probabilities")
}


def simulated(seed, lift):
  rng = np.random.default_rng(seed)
  phi = np.random.default_rng(9).normal(1, 1, len(IDS)) + rng.normal(size=(8, len(IDS)))
  phi[:, :20] += lift
  phi[:, 20:60] += 3
  return oracle.Outputs.of_logits(IDS, np.zeros(len(IDS), int), np.stack([phi, 0 * phi], -1))


def without_logits(models):
  return oracle.Outputs(models.ids, models.log_odds, models.correct)


UNLEARNED, ENSEMBLE = simulated(1, 1), oracle.Ensemble(simulated(2, 4), simulated(3, 0))
BARE = oracle.Ensemble(*map(without_logits, ENSEMBLE))


def test_figures_without_logits_are_the_same_but_for_those_that_need_them():
  groups = {"some": FORGET[:9], "others": FORGET[9:]}
  ours, theirs = (
    metrics.beside_oracles(models, ensemble, SPLIT, ATTACK, KEY, groups=groups)
    for models, ensemble in ((UNLEARNED, ENSEMBLE), (without_logits(UNLEARNED), BARE))
  )
  gone = {"churn", "total variation"} | {f"attack {name}" for name in OF_LOGITS}
  assert {each.name for each in ours} - {each.name for each in theirs} == gone
  assert [str(each) for each in ours if each.name not in gone] == [str(each) for each in theirs]


def test_oracles_that_are_right_on_no_whole_text_leave_one_figure_without_a_value():
  none = [
    oracle.Outputs(each.ids, each.log_odds, np.zeros_like(each.correct))
    for each in (UNLEARNED, *BARE)
  ]
  found = metrics.beside_oracles(none[0], oracle.Ensemble(*none[1:]), SPLIT, ATTACK, KEY)
  score = metrics.find(found, "epsilon", kind="challenge score")
  assert np.isnan(score.value)
  assert score.note == "the oracles are right on nothing"
  known = metrics.find(
    metrics.beside_oracles(UNLEARNED, ENSEMBLE, SPLIT, ATTACK, KEY),
    "epsilon",
    kind="challenge score",
  )
  assert (known.value > 0, known.note) == (True, "")


def test_an_attack_that_needs_logits_is_refused_by_name():
  fit = game.known(SPLIT, ATTACK, KEY)
  others = BARE.originals
  for name in OF_LOGITS:
    with pytest.raises(ValueError, match=f"'{name}' needs the logits") as caught:
      game.attack(without_logits(UNLEARNED), BARE.oracles, others, FORGET, fit, names=[name])
    assert "\n" not in str(caught.value)


def test_an_audit_without_logits():
  found = metrics.audit(BARE, SPLIT, ATTACK, KEY)
  names = {control.name for control in found.controls}
  assert {"attack loss", "attack lira", "ToW", "random outputs, KLoM"} <= names
  assert not names & {"churn", "total variation", "attack entropy"}


def test_outputs_without_logits_survive_a_file_and_logits_belong_to_their_log_odds(tmp_path):
  bare = without_logits(UNLEARNED).take(IDS[::-1]).models([2, 0])
  bare.save(tmp_path / "outputs.npz")
  read = oracle.Outputs.load(tmp_path / "outputs.npz")
  assert read.logits is None
  assert read.ids.tolist() == IDS[::-1].tolist()
  np.testing.assert_array_equal(read.log_odds, UNLEARNED.log_odds[[2, 0], ::-1])
  np.testing.assert_array_equal(read.correct, UNLEARNED.correct[[2, 0], ::-1])
  with pytest.raises(ValueError, match="not those of its logits"):
    dataclasses.replace(UNLEARNED, logits=2 * UNLEARNED.logits)
  with pytest.raises(ValueError, match=r"correct bool \[K, 100\]"):
    oracle.Outputs(IDS, UNLEARNED.log_odds, UNLEARNED.correct.astype(float))
  wild = UNLEARNED.log_odds.copy()
  wild[3, 5] = np.inf
  with pytest.raises(ValueError, match="model 3 has log-odds that are not finite"):
    oracle.Outputs(IDS, wild, UNLEARNED.correct)


@pytest.mark.parametrize("strata", [False, True])
def test_the_surrogate_of_text(strata):
  """Without strata all of S is compared with all of H; with them, kind by kind."""
  kinds = np.array([0, 0, 1, 0, 1, 1, 0, 1]) if strata else None
  everything = dataclasses.replace(text(3), strata=kinds)
  given, heldout = everything.take(range(50, 55)), everything.take(range(55, 58))
  split = Split(forget=given.ids[:3], retain=given.ids[3:])
  network = drawn(None, KEY)
  p, _ = said(network.params, everything)
  weights = np.array([1 / 2, 2, 1 / 2]) if strata else np.ones(3)
  want = 1 - wasserstein_distance(p[:3], p[5:], v_weights=weights)
  found = rum.surrogate(network, network, given, split, heldout)
  assert found == pytest.approx(want, abs=1e-5)


@pytest.mark.filterwarnings("ignore:rum.tune got no estimate")
def test_a_text_is_tuned():
  everything = text(3)
  given, heldout = everything.take(range(50, 55)), everything.take(range(55, 58))
  tried = {"ascent": rum.Step(unlearn.neg_grad(1.0), epochs=1)}
  groups = [given.ids[:2], given.ids[2:3]]
  tuned = rum.tune(tried, drawn(None, KEY), given, groups, heldout, KEY)
  assert [trial.name for trial in tuned.trials] == ["none", "ascent"] * 2
  again = rum.meta_unlearn(tuned.plan, drawn(None, KEY), given, groups, KEY)
  np.testing.assert_array_equal(again.params, tuned.network.params)
