"""The game "unlearned or oracle": which models are references, and what is said of each example."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxmul import metrics, report
from jaxmul.data import Split, cut_heldout
from jaxmul.metrics import attacks, find, game, oracle
from jaxmul.metrics._attackers import known_rows

IDS = np.random.default_rng(1).permutation(5000)[:200]
KEY = jax.random.key(0)
FORGET, RETAIN, HELDOUT, TEST = np.split(IDS, [30, 120, 170])
SPLIT = Split(FORGET, RETAIN, HELDOUT, TEST)
ATTACK = cut_heldout(HELDOUT, KEY).attack
FIT = game.known(SPLIT, ATTACK, KEY)


FEW = game.Known(RETAIN[:4], FIT.nonmembers[:4], FIT.population)


def models(seed, count, *, lift):
  """φ is the example's own, 3 more where it was trained on, plus noise."""
  rng = np.random.default_rng(seed)
  phi = np.random.default_rng(99).normal(1, 1, len(IDS)) + rng.normal(size=(count, len(IDS)))
  phi[:, : len(FORGET)] += lift
  phi[:, len(FORGET) : 120] += 3
  return oracle.Outputs.of_logits(IDS, np.zeros(len(IDS), int), np.stack([phi, 0 * phi], -1))


def with_logits(like, logits):
  return oracle.Outputs.of_logits(like.ids, like.labels, logits)


UNLEARNED = models(1, 8, lift=1)
ENSEMBLE = oracle.Ensemble(models(2, 10, lift=3), models(3, 8, lift=0))
OTHERS = ENSEMBLE.originals.models(slice(8, None))


def test_lira_and_u_lira_have_other_insides():
  found = game.attack(UNLEARNED, ENSEMBLE.oracles, OTHERS, FORGET, FIT)
  assert tuple(found) == tuple(game.ATTACKS)
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


def test_the_machine_of_the_game_is_rums_fitted_on_all_models():
  found = game.attack(UNLEARNED, ENSEMBLE.oracles, OTHERS, FORGET, FIT, names=["svc"])
  assert list(found) == ["svc"]
  sides = (UNLEARNED, ENSEMBLE.oracles)
  known = (  # so few models that each gives all of the known examples
    np.concatenate([probability(side, ids).ravel() for side in sides])[:, None]
    for ids in (FIT.members, FIT.nonmembers)
  )
  machine = list(known)
  for scores, side in zip((found["svc"].unlearned, found["svc"].oracles), sides, strict=True):
    for own, p in zip(scores, probability(side, FORGET), strict=True):
      np.testing.assert_allclose(own, attacks.svc_scores(*machine, p[:, None]), atol=1e-2)


@pytest.mark.parametrize("name", ["svc", "svc_entropy", "svc_probabilities"])
def test_models_that_say_the_same_of_an_example_get_one_score(name):
  # Models differ on known examples only: a machine for each of them has a scale of its own.
  logits = UNLEARNED.logits.copy()
  logits[:, : len(FORGET)] = logits[:1, : len(FORGET)]
  alike = with_logits(UNLEARNED, logits)
  oracles = with_logits(UNLEARNED, logits[::-1].copy())
  scores = game.attack(alike, oracles, OTHERS, FORGET, FIT, names=[name])[name]
  np.testing.assert_array_equal(scores.unlearned, np.tile(scores.unlearned[0], (8, 1)))
  np.testing.assert_array_equal(scores.oracles, scores.unlearned)
  assert np.ptp(scores.unlearned[0]) > 0
  np.testing.assert_array_equal(scores.auc_of_pairs, np.full(8, 0.5))


def test_every_model_and_every_known_example_counts_about_alike():
  for count, size in ((8, 10), (24, 83), (100, 83), (1000, 7)):
    rows = known_rows(count, size)
    assert all(len(set(own)) == len(own) for own in rows.tolist())
    times = np.bincount(rows.ravel(), minlength=size)
    assert np.ptp(times) <= 1
    assert rows.size <= max(250, count)


def test_leave_subset_out_models_join_the_references():
  extra, seen = models(5, 6, lift=0), np.zeros((6, 200), bool)
  seen[:, :120] = np.random.default_rng(6).random((6, 120)) < 0.5
  shuffled = np.random.default_rng(7).permutation(200)
  references = extra.take(IDS[shuffled]), seen[:, shuffled]
  sides = (UNLEARNED, ENSEMBLE.oracles, OTHERS)
  found = game.attack(*sides, FORGET, FIT, references=references, names=["lira", "rmia"])
  rows = slice(len(FORGET))  # FORGET is the first of IDS
  own, phi = UNLEARNED.models(slice(4, None)), extra.log_odds[:, rows]
  inside = np.concatenate([OTHERS.log_odds[:, rows], np.where(seen[:, rows], phi, np.nan)])
  outside = np.where(seen[:, rows], np.nan, phi)
  outside = np.concatenate([ENSEMBLE.oracles.log_odds[:4, rows], outside])
  wanted = attacks.lira(own.take(FORGET).log_odds, outside, inside, fixed_variance=True)
  np.testing.assert_allclose(found["lira"].unlearned, wanted)
  # RMIA one example at a time; no reference model has seen the population.
  some, others = (
    np.concatenate([probability(x, FIT.population), probability(extra, FIT.population)])
    for x in (ENSEMBLE.oracles.models(slice(4)), OTHERS)
  )
  for at, id_ in enumerate(FORGET):
    wanted = attacks.rmia(
      *(probability(own, [id_]), probability(own, FIT.population)),
      attacks.Reference(of_known(outside, at), some),
      attacks.Reference(of_known(inside, at), others),
    )
    np.testing.assert_allclose(found["rmia"].unlearned[:, at], wanted[:, 0])


def of_known(phi, at):
  known = phi[np.isfinite(phi[:, at]), at]
  return 1 / (1 + np.exp(-known))[:, None]


def probability(given, ids):
  return metrics.outputs.label_probability(*(lambda x: (x.logits, x.labels))(given.take(ids)))


def test_no_attacked_model_has_its_original_among_the_references():
  # Original k is off the scale where unlearned model k is attacked: nothing may change.
  strange = ENSEMBLE.originals.logits.copy()
  strange[4:8] = 1e3 * np.random.default_rng(8).normal(size=strange[4:8].shape)
  changed = ENSEMBLE._replace(originals=with_logits(ENSEMBLE.originals, strange))
  before, after = (
    game.attack_all(UNLEARNED, each, FORGET, FIT, None) for each in (ENSEMBLE, changed)
  )
  for name in game.ATTACKS:
    np.testing.assert_array_equal(before[name].unlearned, after[name].unlearned)


def test_auc_of_pairs_is_that_of_rates_ties_and_all():
  rng = np.random.default_rng(9)
  ours, theirs = rng.integers(0, 5, (2, 6, 30)).astype(float)
  found = game.Scores(ours, theirs[:, :20], 0.0).auc_of_pairs
  wanted = [
    attacks.rates(a, b, resamples=0).auc.mean for a, b in zip(ours, theirs[:, :20], strict=True)
  ]
  np.testing.assert_allclose(found, wanted)


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


def test_nothing_leaked_is_calibrated_over_2000_audits():
  """The interval that an audit decides by, of one attack of each kind."""
  names, inside = ("loss", "lira", "u_lira", "rmia"), []
  some = IDS[np.r_[:20, 30:34, 120:170]]
  for seed in range(2000):
    first, second, others = (models(10_000 + 3 * seed + k, 8, lift=0).take(some) for k in range(3))
    found = game.attack(first, second, others, FORGET[:20], FEW, names=names)
    intervals = [metrics.intervals.t_interval(each.auc_of_pairs) for each in found.values()]
    inside.append([each.low <= 0.5 <= each.high for each in intervals])
  for share in np.mean(inside, 0):
    assert 0.93 <= share <= 0.97


def test_two_methods_are_compared_seed_by_seed():
  good, bad = judged(models(4, 8, lift=0)), judged(ENSEMBLE.originals.models(slice(8)))
  found = metrics.compare(good, bad)
  tow = find(found, "ToW")
  assert tow.low > 0
  assert tow.p < 0.05
  by_hand = np.subtract(find(good, "ToW").seeds, find(bad, "ToW").seeds)
  assert tow.value == pytest.approx(by_hand.mean())
  assert tow.seeds == tuple(by_hand)
  assert {figure.of for figure in found} == {"unlearned"}
  assert {figure.name for figure in found} >= {"accuracy", "attack lira"}
  assert len(found) == sum(bool(f.seeds) and f.of == "unlearned" for f in good)
  other = ENSEMBLE._replace(oracles=models(9, 8, lift=0))
  for ensemble, key in ((other, KEY), (ENSEMBLE, jax.random.key(1))):
    elsewhere = metrics.beside_oracles(UNLEARNED, ensemble, SPLIT, ATTACK, key)
    with pytest.raises(ValueError, match="judged beside different oracles"):
      metrics.compare(good, elsewhere)


def test_figures_come_back_from_json(tmp_path):
  found = judged(UNLEARNED)
  report.write_json(tmp_path / "figures.json", found)
  again = metrics.figures.read(json.loads((tmp_path / "figures.json").read_text()))
  for ours, theirs in zip(found, again, strict=True):
    a, b = (dataclasses.asdict(each) for each in (ours, theirs))
    np.testing.assert_equal(a | {"value": None}, b | {"value": None})
    assert b["value"] == a["value"] or not np.isfinite(a["value"])
  assert metrics.compare(found, again) == metrics.compare(found, found)
  for bad in ({"name": "ToW"}, {"name": "ToW", "value": 1, "mean": 1}, "ToW"):
    with pytest.raises(ValueError, match="is no figure"):
      metrics.figures.read([bad])


def test_a_figure_is_found_only_where_it_is_one():
  found = judged(UNLEARNED)
  assert find(found, "accuracy", "test", of="oracle").title == "oracle accuracy"
  for asked in ({"name": "accuracy"}, {"name": "accuracy", "part": "nowhere"}, {"name": "acc"}):
    with pytest.raises(ValueError, match=r"there are \d+ figures .*metrics\.table"):
      find(found, **asked)


def test_a_model_that_says_one_thing_and_models_told_apart_entirely():
  logits = UNLEARNED.logits.copy()
  logits[0] = 0
  constant = with_logits(UNLEARNED, logits)
  assert find(judged(constant), "attack rate").seeds[0] == 0
  far = judged(with_logits(UNLEARNED, np.add(UNLEARNED.logits, [50.0, 0.0])))
  assert find(far, "epsilon", kind="median").value == np.inf
  assert find(far, "epsilon", kind="median").note.startswith("inf: half of the examples")


def test_notes_seconds_and_what_is_left_of_r():
  found = judged(UNLEARNED, seconds=[2.0] * 8, retrained_seconds=8.0)
  assert find(found, "run-time efficiency").value == 0.25
  tpr = find(found, "attack loss", kind="tpr_at_01")
  assert tpr.note.startswith("TPR at 0.1 % FPR needs 10000")
  assert np.isnan(tpr.value)
  assert find(found, "attack loss", kind="auc").note == "95 % bootstrap over examples"
  with pytest.raises(ValueError, match="seconds of 2 models for 8"):
    judged(UNLEARNED, seconds=[1.0, 1.0], retrained_seconds=8.0)
  tiny = dataclasses.replace(SPLIT, retain=RETAIN[:4])
  with pytest.raises(ValueError, match="all 4 retain ids fit attacks"):
    metrics.beside_oracles(UNLEARNED, ENSEMBLE, tiny, ATTACK, KEY)


def test_where_each_method_forgets():
  """The same mean of p_y on S, from the wrong examples: by example and by group it is seen."""
  groups = {"low": FORGET[:10], "high": FORGET[10:]}
  phi = ENSEMBLE.oracles.logits.copy()
  turned = phi.copy()
  turned[:, :10, 0] -= 4
  turned[:, 10:30, 0] += 2
  wrong = with_logits(ENSEMBLE.oracles, turned)
  found = judged(wrong, groups=groups)
  p = 1 / (1 + np.exp(-phi[:, :30, 0].astype(float)))
  q = 1 / (1 + np.exp(-turned[:, :30, 0].astype(float)))
  gaps = np.abs(q - p.mean(0))
  for part, rows in (("forget", slice(30)), ("low", slice(10)), ("high", slice(10, 30))):
    np.testing.assert_allclose(find(found, "example gap", part).seeds, gaps[:, rows].mean(1))
  first = np.abs(p[0] - p[1:].mean(0)).mean()
  assert find(found, "example gap", of="oracle").seeds[0] == pytest.approx(first)
  assert len(find(found, "example gap", of="original").seeds) == len(ENSEMBLE.originals)
  low, high, forget = (
    np.mean(turned[:, at, 0] > 0, 1) - np.mean(phi[:, at, 0] > 0, 1)
    for at in (slice(10), slice(10, 30), slice(30))
  )
  np.testing.assert_allclose(
    find(found, "ToW by group").seeds, (1 - np.abs(low)) * (1 - np.abs(high))
  )
  np.testing.assert_allclose(find(found, "ToW").seeds, 1 - np.abs(forget))
  accuracy = find(found, "accuracy", "low").seeds
  assert accuracy == pytest.approx(np.mean(turned[:, :10, 0] > 0, 1))
  # KLoM of groups would say nothing of 8 oracles.
  assert {f.part for f in found if f.name == "KLoM"} == {"forget", "retain", "test"}
  plain = judged(wrong)
  assert "ToW by group" not in {figure.name for figure in plain}
  assert find(plain, "example gap").part == "forget"
  with pytest.raises(ValueError, match=r"groups as a list, must be \{name: ids\}.*dict\(zip"):
    judged(wrong, groups=[FORGET[:3]])
  for taken in ("test", "forget", "retain", "attack"):
    with pytest.raises(ValueError, match=f"group called '{taken}'"):
      judged(wrong, groups={taken: FORGET[:3]})
  with pytest.raises(ValueError, match="more than once"):
    judged(wrong, groups={"low": FORGET[:3], "high": FORGET[2:5]})
  for ids in (FORGET[:0], RETAIN[:2]):
    with pytest.raises(ValueError, match=r"group 'low' has \d ids, must be some of the forget set"):
      judged(wrong, groups={"low": ids})


def test_klom_of_groups_from_sixteen_oracles():
  many = ENSEMBLE._replace(oracles=models(3, 16, lift=0))
  found = metrics.beside_oracles(
    models(4, 16, lift=3), many, SPLIT, ATTACK, KEY, groups={"low": FORGET[:10]}
  )
  own, others = (x.take(FORGET[:10]).log_odds for x in (models(4, 16, lift=3), many.oracles))
  wanted = np.percentile(oracle.klom(own, others), 50)
  assert find(found, "KLoM", "low", kind="p50").value == pytest.approx(wanted)
