"""The audit on simulated models: passes where it should, and each control can fail."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxmul
from jaxmul import metrics
from jaxmul.data import Split, cut_heldout
from jaxmul.metrics import find, game, oracle
from jaxmul.metrics.intervals import t_interval as intervals_of

IDS = np.arange(1000, 1400)
KEY = jax.random.key(0)
FORGET, RETAIN, HELDOUT, TEST = np.split(IDS, [60, 240, 340])
HIGH, LOW = FORGET[:20], FORGET[40:]
SPLIT = Split(FORGET, RETAIN, HELDOUT, TEST)
ATTACK = cut_heldout(HELDOUT, KEY).attack


def simulated(seed, count, *, lift):
  """Models whose φ on example i is its hardness + lift_i + noise; R has a lift of its own."""
  rng = np.random.default_rng(seed)
  hardness = np.random.default_rng(99).normal(2, 1, len(IDS))
  hardness[:20] -= 2  # what is memorized is hard
  gain = np.zeros(len(IDS))
  gain[60:240] = 2
  gain[: len(FORGET)] = lift
  phi = hardness + gain + 0.2 * rng.normal(size=(count, 1)) + rng.normal(size=(count, len(IDS)))
  return oracle.Outputs.of_logits(IDS, np.zeros(len(IDS), int), np.stack([phi, 0 * phi], -1))


MEMORIZED = np.repeat([4.0, 1.0, 0.1], 20)


@pytest.fixture(scope="module")
def ensemble():
  return oracle.Ensemble(simulated(1, 16, lift=MEMORIZED), simulated(2, 16, lift=0))


def audited(ensemble, **changed):
  options = {"high": HIGH, "low": LOW} | changed
  return metrics.audit(ensemble, SPLIT, ATTACK, KEY, **options)


def test_it_passes_where_the_answers_are_right(ensemble):
  found = audited(ensemble)
  assert found.passed, found.line
  assert found.line.startswith("audit passed: ")
  assert " (1 not run); no attack tells oracles from other oracles: " in found.line
  assert [c.name for c in found.controls if c.passed is None and not c.blind] == [
    "BatchNorm statistics changed"
  ]
  found.certify()


def test_a_null_says_what_it_could_have_noticed(ensemble):
  fit = game.known(SPLIT, ATTACK, KEY)
  halves = [ensemble.oracles.models(at) for at in (slice(8), slice(8, None))]
  others = ensemble.originals.models(slice(8, None))
  pairs = game.attack(*halves, others, FORGET, fit, names=["loss"])["loss"].auc_of_pairs
  wanted = intervals_of(pairs, level=1 - 0.05 / 14)  # 13 attacks and KLoM
  control = next(each for each in audited(ensemble).controls if each.name == "attack loss")
  assert control.equal == wanted
  assert control.detectable == pytest.approx(0.5 + wanted.high - wanted.mean)
  assert f"AUC {wanted.mean:.3f} [{wanted.low:.3f}, {wanted.high:.3f}]" in control.said
  assert f"{control.detectable:.3f} would have been noticed" in control.said
  few = oracle.Ensemble(*(each.models(slice(8)) for each in ensemble))
  control = next(each for each in audited(few).controls if each.name == "attack lira")
  assert control.detectable > 1  # two pairs of models
  assert "none would have been noticed" in control.said


def with_logits(models, logits):
  return oracle.Outputs.of_logits(models.ids, models.labels, logits)


def sure(seed, *, right):
  """Models that are as sure of HIGH whether they are right or wrong, and equal elsewhere."""
  found = simulated(seed, 16, lift=0)
  logits = found.logits.copy()
  logits[:, :20, 0] = (3 if right else -3) + np.random.default_rng(seed).normal(size=(16, 20))
  return with_logits(found, logits)


def test_what_is_blind_is_named_and_leaves_the_tables():
  ensemble = oracle.Ensemble(sure(1, right=True), sure(2, right=False))
  found = audited(ensemble)
  assert found.passed, found.line
  whole = [blind.name for blind in found.blind if blind.whole]
  assert whole == ["attack svc_entropy", "attack entropy"]
  assert "; blind here: attack svc_entropy, attack entropy" in found.line
  for name in whole:
    control = next(each for each in found.controls if each.name == name)
    assert control.passed is None
    assert control.said.endswith("blind here")
  figures = metrics.beside_oracles(sure(3, right=False), ensemble, SPLIT, ATTACK, KEY)
  shown = found.without_blind(figures)
  gone = [figure for figure in figures if figure not in shown]
  assert {figure.name for figure in gone} - {figure.name for figure in shown} == set(whole)
  parts = {(figure.name, figure.kind) for figure in gone if figure.name not in whole}
  assert parts == {(blind.name, blind.kind) for blind in found.blind if not blind.whole}
  # As a figure of unlearned models goes, so does that of the oracles.
  rate = metrics.Control("attack rate", None, "", blind=(metrics.Blind("attack rate"),))
  gone = set(figures) - set(metrics.Audit((rate,)).without_blind(figures))
  assert {figure.title for figure in gone} == {"attack rate", "oracle attack rate"}


def test_a_direct_attack_that_points_the_wrong_way_fails_it(ensemble):
  # On HIGH oracles are right and originals wrong: what needs no direction from elsewhere sees it.
  found = audited(oracle.Ensemble(sure(1, right=False), sure(2, right=True)))
  assert not found.passed
  assert {"attack loss", "attack modified_entropy"} <= set(failed(found))
  loss = next(each for each in found.controls if each.name == "attack loss")
  assert "the wrong way round" in loss.said
  assert metrics.Blind("attack loss") in found.blind


def failed(found):
  return [control.name for control in found.controls if control.passed is False]


def test_oracles_of_two_kinds_fail_it(ensemble):
  halves = simulated(2, 8, lift=MEMORIZED), simulated(3, 8, lift=0)
  logits = np.concatenate([each.logits for each in halves])
  mixed = with_logits(ensemble.oracles, logits)
  found = audited(ensemble._replace(oracles=mixed))
  broken = [name for name in failed(found) if name in {f"attack {each}" for each in game.ATTACKS}]
  assert "attack loss" in broken
  assert found.line.startswith(f"audit failed: {broken[0]}: oracles beside oracles: AUC ")
  assert found.line.endswith(f"({len(failed(found)) - 1} more failed)")
  assert "; it tells equal models apart" in found.line
  with pytest.raises(ValueError, match=r"audit failed.*Do not report figures") as caught:
    found.certify()
  assert "\n" not in str(caught.value)


def test_originals_that_memorized_nothing_fail_it(ensemble):
  found = audited(ensemble._replace(originals=simulated(4, 16, lift=0)))
  for control in (
    "attacks, not all blind",
    "ToW",
    "original beside oracle, high group, KLoM",
  ):
    assert control in failed(found)


def test_groups_in_the_wrong_order_fail_it(ensemble):
  assert "low group, less to see than in the high group" in failed(
    audited(ensemble, high=LOW, low=HIGH)
  )


def test_groups_are_not_compared_where_a_whole_class_goes():
  """Oracles never saw the class: leaving it out moves every example of it as far."""
  found = audited(oracle.Ensemble(simulated(1, 16, lift=4), simulated(2, 16, lift=-8)))
  name = "low group, less to see than in the high group"
  (control,) = (c for c in found.controls if c.name == name)
  assert control.passed is None
  assert "p moved alike" in control.said
  assert found.passed, found.line


@pytest.mark.parametrize("seed", range(5))
def test_groups_that_are_not_those_of_the_examples_fail_it(ensemble, seed):
  """Ids joined wrongly: groups that are random parts of S look alike, and are not passed over."""
  high, middle, low = np.split(np.random.default_rng(seed).permutation(FORGET), 3)
  del middle
  name = "low group, less to see than in the high group"
  for first, second in ((high, low), (low, high)):
    (control,) = (c for c in audited(ensemble, high=first, low=second).controls if c.name == name)
    if control.passed is False:
      return
    assert control.passed
  pytest.fail("neither of two orders of random groups failed")


def test_batch_norm_that_changes_nothing_fails_it(ensemble):
  same = simulated(5, 16, lift=0)
  assert failed(audited(ensemble, batch_norm=same)) == ["BatchNorm statistics changed, KLoM"]
  far = with_logits(same, 3 * same.logits)
  assert audited(ensemble, batch_norm=far).passed


def test_without_test_ids_tow_is_not_examined(ensemble):
  untested = dataclasses.replace(SPLIT, test=np.zeros(0, int))
  found = metrics.audit(ensemble, untested, ATTACK, KEY, high=HIGH, low=LOW)
  not_run = [c.name for c in found.controls if c.passed is None and not c.blind]
  figures = ["accuracy", "attack rate", "ToW", "ToW-MIA", "average gap", "ToW by group"]
  assert not_run == [*figures, "BatchNorm statistics changed"]


def test_groups_must_be_of_the_forget_set(ensemble):
  with pytest.raises(ValueError, match="id 1060 of high or low is not in the forget set"):
    audited(ensemble, high=np.append(HIGH, RETAIN[0]))


def test_only_the_variances_are_changed():
  statistics = {"norm": {"mean": np.ones(3), "var": np.full(3, 2.0)}}
  params = jaxmul.bind(lambda w, x: x @ w, np.eye(3), state={"batch_stats": statistics})
  changed = metrics.batch_stats_changed(params, 2.0)
  assert changed.params is params.params
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(params.state), jax.tree.leaves(changed.state), strict=True
  ):
    factor = 2 if path[-1].key == "var" else 1
    np.testing.assert_array_equal(b, factor * a)
  with pytest.raises(ValueError, match="no BatchNorm statistics"):
    metrics.batch_stats_changed(jaxmul.bind(lambda w, x: x @ w, np.eye(2)))


def test_a_planted_overlap_is_refused(ensemble):
  fit = game.known(SPLIT, ATTACK, KEY)
  for part in fit:
    planted = np.append(FORGET, part[0])
    with pytest.raises(ValueError, match=f"id {part[0]} is in scored and in") as caught:
      game.attack(ensemble.originals, ensemble.oracles, ensemble.originals, planted, fit)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=f"id {part[0]} is in scored and in"):
      game.nonmember_rate(ensemble.oracles, planted, fit)
  for part in (FORGET, RETAIN, TEST):
    with pytest.raises(ValueError, match=f"id {part[0]} is in attack_ids and in"):
      game.known(SPLIT, np.append(ATTACK, part[0]), KEY)


def test_few_models_are_refused(ensemble):
  few = oracle.Ensemble(*(each.models(slice(6)) for each in ensemble))
  with pytest.raises(ValueError, match="6 originals and 6 oracles, needs 8"):
    audited(few)


def test_oracles_as_unlearned_are_as_good_as_it_gets(ensemble):
  same = metrics.beside_oracles(ensemble.oracles, ensemble, SPLIT, ATTACK, KEY)
  for name in ("ToW", "ToW-MIA"):
    assert find(same, name).value == 1  # equal models: exactly 1
  assert find(same, "average gap").value == 0
  assert find(same, "KLoM", "forget", kind="p99").value == pytest.approx(0)
  assert find(same, "epsilon", kind="forgetting quality").value == 1
  other = metrics.beside_oracles(simulated(7, 16, lift=0), ensemble, SPLIT, ATTACK, KEY)
  worse = metrics.beside_oracles(ensemble.originals, ensemble, SPLIT, ATTACK, KEY)
  for attack in game.ATTACKS:
    auc = find(other, f"attack {attack}", kind="auc of each seed")
    assert abs(auc.value - 0.5) < 1.5 * (auc.high - auc.value)  # about 3 errors
    assert auc.note == "95 % t over training seeds"
  assert find(worse, "attack lira", kind="auc").low > 0.6
  assert find(worse, "attack lira", kind="auc").note == "95 % bootstrap over examples"
  assert find(worse, "epsilon", kind="forgetting quality").value < 0.7
  klom, null = (
    find(worse, "KLoM", "forget", kind=kind)
    for kind in ("mean of halves", "null of halves, 97.5 %")
  )
  assert klom.value > null.value
  rows = metrics.table(worse)
  assert len(rows) == len(worse)
  assert len({(f.name, f.of, f.part, f.kind) for f in worse}) == len(worse)


def test_one_model_gives_no_interval_over_seeds(ensemble):
  one = ensemble.originals.models(slice(1))
  found = metrics.beside_oracles(one, ensemble, SPLIT, ATTACK, KEY)
  assert find(found, "ToW").note == "one seed gives no interval"
  assert np.isnan(find(found, "ToW").low)
  assert not {f"attack {name}" for name in game.ATTACKS} & {figure.name for figure in found}
