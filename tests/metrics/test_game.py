"""The game "unlearned or oracle": which models are references, and what is said of each example."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxmul import metrics
from jaxmul.data import Split, cut_heldout
from jaxmul.metrics import attacks, game, oracle

IDS = np.random.default_rng(1).permutation(5000)[:200]
KEY = jax.random.key(0)
FORGET, RETAIN, HELDOUT, TEST = np.split(IDS, [30, 120, 170])
SPLIT = Split(FORGET, RETAIN, HELDOUT, TEST)
ATTACK = cut_heldout(HELDOUT, KEY).attack
FIT = game.known(SPLIT, ATTACK, KEY)


def models(seed, count, *, lift):
  """φ is the example's own, 3 more where it was trained on, plus noise."""
  rng = np.random.default_rng(seed)
  phi = np.random.default_rng(99).normal(1, 1, len(IDS)) + rng.normal(size=(count, len(IDS)))
  phi[:, : len(FORGET)] += lift
  phi[:, len(FORGET) : 120] += 3
  return oracle.Outputs(IDS, np.zeros(len(IDS), int), np.stack([phi, 0 * phi], -1))


UNLEARNED = models(1, 8, lift=1)
ENSEMBLE = oracle.Ensemble(models(2, 10, lift=3), models(3, 8, lift=0))
OTHERS = ENSEMBLE.originals.models(slice(8, None))


def test_lira_and_u_lira_have_other_insides():
  found = game.attack(UNLEARNED, ENSEMBLE.oracles, OTHERS, FORGET, FIT)
  assert tuple(found) == game.ATTACKS
  phi = {
    name: each.take(FORGET).log_odds
    for name, each in (("u", UNLEARNED), ("o", ENSEMBLE.oracles), ("original", OTHERS))
  }
  for name, inside in (("lira", phi["original"]), ("u_lira", phi["u"][:4]), ("lira_offline", None)):
    for side, attacked in (("unlearned", phi["u"][4:]), ("oracles", phi["o"][4:])):
      wanted = attacks.lira(attacked, phi["o"][:4], inside, fixed_variance=True)
      np.testing.assert_allclose(getattr(found[name], side), wanted)
  assert found["lira_offline"].threshold is None
  assert "balanced_accuracy" in found["lira_offline"].rates.notes
  assert found["lira"].rates.notes.keys() == {"tpr_at_1", "tpr_at_01"}


def test_the_svc_of_the_game_is_rums():
  found = game.attack(UNLEARNED, ENSEMBLE.oracles, OTHERS, FORGET, FIT, names=["svc"])
  assert list(found) == ["svc"]
  for scores, side in ((found["svc"].unlearned, UNLEARNED), (found["svc"].oracles, ENSEMBLE[1])):
    np.testing.assert_array_equal(
      (scores < 0).mean(1), game.nonmember_rate(side, FORGET, FIT)[: len(scores)]
    )


@pytest.mark.parametrize("name", ["lira", "rmia"])
def test_leave_subset_out_models_join_the_references(name):
  extra, seen = models(5, 6, lift=0), np.zeros((6, 200), bool)
  seen[:, :120] = np.random.default_rng(6).random((6, 120)) < 0.5
  shuffled = np.random.default_rng(7).permutation(200)
  references = extra.take(IDS[shuffled]), seen[:, shuffled]
  sides = (UNLEARNED, ENSEMBLE.oracles, OTHERS)
  found = game.attack(*sides, FORGET, FIT, references=references, names=[name])[name]
  without = game.attack(*sides, FORGET, FIT, names=[name])[name]
  assert np.abs(found.unlearned - without.unlearned).max() > 0
  # One example at a time, with the models on each side of it.
  z = FIT.population
  for at, id_ in enumerate(FORGET):
    inside = oracle.Outputs(
      IDS, extra.labels, np.concatenate([OTHERS.logits, extra.logits[seen[:, at]]])
    )
    outside = np.concatenate([ENSEMBLE.oracles.logits[:4], extra.logits[~seen[:, at]]])
    outside = oracle.Outputs(IDS, extra.labels, outside)
    if name == "rmia":
      whole = [
        oracle.Outputs(IDS, extra.labels, np.concatenate([first.logits, extra.logits]))
        for first in (ENSEMBLE.oracles.models(slice(4)), OTHERS)
      ]
      some, others = (
        attacks.Reference(probability(x, [id_]), probability(all_of, z))
        for x, all_of in zip((outside, inside), whole, strict=True)
      )
      attacked = UNLEARNED.models(slice(4, None))
      wanted = attacks.rmia(probability(attacked, [id_]), probability(attacked, z), some, others)
      np.testing.assert_allclose(found.unlearned[:, at], wanted[:, 0])
    else:
      means = (x.take([id_]).log_odds.mean() for x in (inside, outside))
      phi = UNLEARNED.models(slice(4, None)).take([id_]).log_odds[:, 0]
      # Each mean is of its own models; the variances are pooled over examples.
      middle = sum(means) / 2
      low, high = phi[phi < middle - 1], phi[phi > middle + 1]
      of = dict(zip(phi, found.unlearned[:, at], strict=True))
      assert all(of[a] < of[b] for a in low for b in high)


def probability(given, ids):
  return metrics.outputs.label_probability(*(lambda x: (x.logits, x.labels))(given.take(ids)))


def test_no_attacked_model_has_its_original_among_the_references():
  # Original k is off the scale where unlearned model k is attacked: nothing may change.
  strange = ENSEMBLE.originals.logits.copy()
  strange[4:8] = 1e3 * np.random.default_rng(8).normal(size=strange[4:8].shape)
  changed = ENSEMBLE._replace(originals=dataclasses.replace(ENSEMBLE.originals, logits=strange))
  before, after = (
    game.attack_all(UNLEARNED, each, FORGET, FIT, None) for each in (ENSEMBLE, changed)
  )
  for name in game.ATTACKS:
    np.testing.assert_array_equal(before[name].unlearned, after[name].unlearned)


def test_each_example_has_figures_of_its_own():
  found = metrics.by_example(UNLEARNED, ENSEMBLE, SPLIT, ATTACK, KEY)
  assert found["ids"].tolist() == FORGET.tolist()
  assert all(len(each) == len(FORGET) for each in found.values())
  own, others = (x.take(FORGET) for x in (UNLEARNED, ENSEMBLE.oracles))
  np.testing.assert_array_equal(found["klom"], oracle.klom(own.log_odds, others.log_odds))
  told = found["attack loss"]
  for at in range(len(FORGET)):
    pairs = own.log_odds[:, at][:, None] > others.log_odds[:, at]
    assert told[at] == pytest.approx(pairs.mean())
  few = metrics.by_example(UNLEARNED.models(slice(3)), ENSEMBLE, SPLIT, ATTACK, KEY)
  assert set(few) == {"ids", "klom", "epsilon", "churn", "total variation"}


def judged(models_, **options):
  return metrics.beside_oracles(models_, ENSEMBLE, SPLIT, ATTACK, KEY, **options)


def test_two_methods_are_compared_seed_by_seed():
  good, bad = judged(models(4, 8, lift=0)), judged(ENSEMBLE.originals.models(slice(8)))
  found = metrics.compare(good, bad)
  assert found["ToW"]["all"].low > 0
  assert found["ToW"]["all"].p < 0.05
  by_hand = np.subtract(good["ToW"]["all"]["seeds"], bad["ToW"]["all"]["seeds"])
  assert found["ToW"]["all"].mean == pytest.approx(by_hand.mean())
  assert "oracle accuracy" not in found
  again = metrics.compare(good, json.loads(json.dumps(bad)))
  assert again == found
  other = ENSEMBLE._replace(oracles=models(9, 8, lift=0))
  elsewhere = metrics.beside_oracles(UNLEARNED, other, SPLIT, ATTACK, KEY)
  with pytest.raises(ValueError, match="judged beside different oracles"):
    metrics.compare(good, elsewhere)


def test_notes_seconds_and_what_is_left_of_r():
  found = judged(UNLEARNED, seconds=[2.0] * 8, retrained_seconds=8.0)
  assert found["run-time efficiency"]["all"]["value"] == 0.25
  assert found["attack loss"]["tpr_at_01"]["note"].startswith("TPR at 0.1 % FPR needs 10000")
  assert found["attack loss"]["auc"]["note"] == ""
  with pytest.raises(ValueError, match="seconds of 2 models for 8"):
    judged(UNLEARNED, seconds=[1.0, 1.0], retrained_seconds=8.0)
  tiny = dataclasses.replace(SPLIT, retain=RETAIN[:4])
  with pytest.raises(ValueError, match="all 4 retain ids fit attacks"):
    metrics.beside_oracles(UNLEARNED, ENSEMBLE, tiny, ATTACK, KEY)
