"""From ids to a network, its evidence and a record: served where it helps, refused where not."""

import contextlib
import dataclasses
import json
import re
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest

import jaxmul
from jaxmul import (
  bind,
  checkpoint,
  data,
  deletion,
  memorization,
  models,
  proxies,
  retraining,
  rum,
  train,
  unlearn,
)
from jaxmul.deletion import evidence_and_cost as evidence
from jaxmul.deletion.given import refuse_other_network
from jaxmul.metrics import figures, find

KEY = jax.random.key(3)


class Case(NamedTuple):
  dataset: data.Dataset
  parts: data.Holdout
  recipe: train.Recipe
  fit: train.Fit
  estimate: memorization.Estimate

  def latest(self, count):
    """The ids that were learned last."""
    return self.fit.ids[np.argsort(-self.fit.scores["confidence"])][:count]

  def forget(self, ids, **options):
    given = {
      "network": self.fit,
      "dataset": self.dataset,
      "recipe": self.recipe,
      "key": KEY,
      "heldout": self.parts.heldout,
      "test": self.parts.test,
      "estimate": self.estimate,
      "oracles": 3,
      "progress": False,
    }
    return jaxmul.forget(ids=ids, **(given | options))


@pytest.fixture(scope="module")
def case():
  digits, rng = data.digits(), np.random.default_rng(0)
  ids = rng.choice(10**12, len(digits), replace=False)
  dataset = data.Dataset(digits.inputs, digits.labels, ids)
  parts = data.holdout(dataset, KEY, heldout=200, test=300)
  labels = digits.labels.copy()  # what is labelled wrongly has to be memorized
  wrong = dataset.rows(rng.choice(parts.train, 60, replace=False))
  labels[wrong] = (labels[wrong] + rng.integers(1, 10, 60)) % 10
  dataset = data.Dataset(digits.inputs, labels, ids)
  recipe = train.Recipe(models.mlp((64,)), epochs=30, batch_size=64, learning_rate=0.1)
  events = {"events": proxies.trackers.learning_events()}
  fit = train.fit(recipe, dataset, KEY, ids=parts.train, trackers=events)
  schedule = retraining.cross_fit(recipe, dataset.take(parts.train), jax.random.key(4))
  estimate = memorization.estimate(schedule, executor=retraining.serial, progress=False)
  return Case(dataset, parts, recipe, fit, estimate)


@pytest.fixture(scope="module")
def served(case, tmp_path_factory):
  folder = tmp_path_factory.mktemp("deletion")
  return case.forget(case.latest(60), store=folder), folder


def test_what_was_learned_last_is_nearer_to_what_oracles_say_of_it(served):
  done, _ = served
  change = find(done.figures, "change of the example gap", "forget")
  assert change.high < 0
  before, after = (
    find(done.figures, "example gap", "forget", of=of).value for of in ("original", "unlearned")
  )
  assert change.value == pytest.approx(after - before)
  tow = (find(done.figures, "ToW by group", of=of).value for of in ("unlearned", "original"))
  assert next(tow) > next(tow)
  assert all(np.isfinite([figure.low, figure.high]).all() for figure in done.figures)


def test_the_figures_are_those_of_the_network_beside_oracles_trained_by_hand(case, served):
  done, _ = served
  ids = np.sort(case.latest(60))
  retain = np.setdiff1d(case.parts.train, ids)
  split = data.Split(ids, retain, case.parts.heldout, case.parts.test)
  oracles = jaxmul.metrics.oracle.oracles(
    case.recipe,
    case.dataset,
    split,
    jax.random.fold_in(KEY, 3),
    num_models=3,
    executor=retraining.serial,
    progress=False,
  )
  p = oracles.take(ids).probability.mean(0)
  own = jaxmul.metrics.attacks.label_confidence(done.network, case.dataset.take(ids))
  assert find(done.figures, "example gap", "forget").value == pytest.approx(abs(own - p).mean())
  high = np.isin(ids, done.record["groups"]["high"])
  gap = find(done.figures, "example gap", "high").value
  assert gap == pytest.approx(abs(own - p)[high].mean())


def test_the_record_says_what_was_done_and_the_same_call_reads_it_back(case, served):
  done, folder = served
  record = deletion.verify(folder)
  assert record == json.loads(json.dumps(done.record))
  assert sorted(record["forget"]) == sorted(case.latest(60).tolist())
  assert sorted(i for ids in record["groups"].values() for i in ids) == sorted(record["forget"])
  assert record["network"]["before"] == rum.params_hash(case.fit.network)
  stored = checkpoint.load(folder / "network", case.fit.network)
  assert record["network"]["after"] == rum.params_hash(stored) == rum.params_hash(done.network)
  times = {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*.npz")}
  again = case.forget(case.latest(60), store=folder)
  assert {path: path.stat().st_mtime_ns for path in (folder / "work").rglob("*.npz")} == times
  assert again.record["network"] == record["network"]
  assert again.record["figures"] == record["figures"]


def test_damage_to_any_file_of_the_record_is_found(served, tmp_path):
  assert damaged_files(served[1], tmp_path) > 5


def damaged_files(folder, tmp_path):
  """Damages a copy of every file of a record, one after another, and returns how many there are."""
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("work"))
  files = [path for path in copy.rglob("*") if path.is_file()]
  for path in files:
    whole = path.read_bytes()
    for place in {0, len(whole) // 2, len(whole) - 1} if whole else ():
      path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
      with pytest.raises(ValueError, match=r"damaged|SHA-256|not such a file"):
        deletion.verify(copy)
    path.unlink()
    with pytest.raises((ValueError, FileNotFoundError)):
      deletion.verify(copy)
    path.write_bytes(whole)
  deletion.verify(copy)
  return len(files)


def test_a_refused_request_leaves_a_record_and_a_later_call_goes_on_from_its_work(
  case, tmp_path, trainings
):
  ids, store, copies = case.latest(20), tmp_path / "store", tmp_path / "copies"
  wreck = rum.Plan([rum.Step(unlearn.neg_grad(1.0), 3, 64)])
  with pytest.raises(deletion.Refused, match="the plan wrecks the network") as refused:
    case.forget(ids, plan=wreck, store=store)
  record = deletion.verify(store)
  assert record["refused"] == str(refused.value)
  assert figures.read(record["figures"])[0].value == refused.value.figures[0].value
  assert record["plan"].startswith("neg_grad(learning_rate=1.0")
  assert not record["done"]
  assert record["network"] == {"before": rum.params_hash(case.fit.network), "after": None}
  assert sorted(path.name for path in store.iterdir()) == ["record.json", "report.html", "work"]
  assert "the plan wrecks the network" in (store / "report.html").read_text()
  assert damaged_files(store, copies) == 2
  assert trainings.done == 4  # three oracles, and what was refused
  good = rum.Plan([rum.Step(unlearn.neg_grad_plus(0.02), 3, 64)])
  case.forget(ids, plan=good, store=store)
  assert trainings.done == 5
  assert deletion.verify(store)["refused"] is None
  with pytest.raises(deletion.Refused):
    case.forget(ids, plan=wreck, store=store)
  assert trainings.done == 5
  assert deletion.verify(store)["refused"] == record["refused"]
  (store / "network").mkdir()
  with pytest.raises(ValueError, match="network is not of the record: the request was refused"):
    deletion.verify(store)


def test_what_was_tried_is_in_the_record_of_a_refusal(case, tmp_path):
  easy = case.fit.ids[np.argsort(case.fit.scores["confidence"])][:40]
  with pytest.raises(deletion.Refused, match=r"better than leaving|not clearly better"):
    case.forget(easy, store=tmp_path)
  assert len(deletion.verify(tmp_path)["trials"]) == 12  # three groups, nothing and three steps


def test_a_request_that_is_killed_goes_on_and_ends_with_the_same_bits(case, tmp_path, trainings):
  recipe = dataclasses.replace(case.recipe, epochs=6)
  fit = train.fit(recipe, case.dataset, KEY, ids=case.parts.train)
  given = {"network": fit, "recipe": recipe, "estimate": None, "oracles": 2}

  def record_in(folder):
    with contextlib.suppress(deletion.Refused):  # after so few epochs
      case.forget(case.latest(40), store=folder, **given)
    return deletion.verify(folder) | {"date": "", "files": {}, "sha256": ""}

  trainings.done = 0
  whole = record_in(tmp_path / "whole")
  count = trainings.done
  assert count >= 5 + 9 + 2  # cross-fit, trials, oracles
  assert trainings.killed_every(5, lambda: record_in(tmp_path / "killed")) == whole
  assert (trainings.done, trainings.kills) == (count, (count - 1) // 5)
  trainings.done = 0
  assert record_in(tmp_path / "killed") == whole
  assert trainings.done == 0


def test_originals_of_full_evidence_that_is_killed_are_not_trained_again(
  case, tmp_path, monkeypatch, trainings
):
  def unaudited(*_):
    raise deletion.Refused("two models are too few to audit")

  monkeypatch.setattr(evidence, "_ENSEMBLE", 2)
  monkeypatch.setattr(jaxmul.metrics, "audit", unaudited)
  plan = rum.Plan([rum.Step(unlearn.neg_grad_plus(0.02), 1, 64)])

  def steps_in(folder):
    with pytest.raises(deletion.Refused, match="too few to audit"):
      case.forget(case.latest(20), plan=plan, evidence="full", oracles=2, store=folder)
    return sorted(path.name for path in (folder / "work" / "unlearned").iterdir())

  whole = steps_in(tmp_path / "whole")  # a step is named by every bit of its original
  assert (len(whole), trainings.done) == (3, 9)
  assert trainings.killed_every(2, lambda: steps_in(tmp_path / "killed")) == whole
  assert (trainings.done, trainings.kills) == (9, 4)
  assert steps_in(tmp_path / "killed") == whole
  assert trainings.done == 9


def test_one_example_has_no_interval_and_an_accuracy_of_none_has_one(case):
  gentle = rum.Plan([rum.Step(unlearn.neg_grad_plus(0.02), 3, 64)])
  try:
    found = case.forget(case.latest(1), plan=gentle, oracles=2).figures
  except deletion.Refused as refused:
    found = refused.figures
  for figure in (find(found, "change of the example gap"), find(found, "example gap", "forget")):
    assert np.isnan([figure.low, figure.high]).all()
    assert figure.note == "no interval: one example"
  accuracy = find(found, "accuracy", "forget")
  wilson = {0: [0, 0.793], 1: [0.207, 1]}[round(accuracy.value)]
  assert [accuracy.low, accuracy.high] == pytest.approx(wilson, abs=1e-3)


def test_the_page_says_what_is_not_known_and_keeps_markup_as_text(served):
  from jaxmul.deletion.sealed_record import page

  done, folder = served
  text = (folder / "report.html").read_text()
  assert all(line in text for line in done.record["not_checked"])
  hostile = page(done.record | {"done": {"low": "<script>alert(1)</script>"}})
  assert "<script>" not in hostile
  assert "&lt;script&gt;" in hostile


def test_random_ids_that_look_unseen_already_are_refused(case):
  ids = np.random.default_rng(1).choice(case.fit.ids[case.fit.scores["confidence"] < 0.1], 40)
  with pytest.raises(deletion.Refused, match=r"better than leaving|not clearly better"):
    case.forget(np.unique(ids))


def test_what_takes_as_much_as_retraining_is_refused(case):
  dear = rum.Plan([rum.Step(unlearn.fine_tune(0.01), 30, 64)])
  with pytest.raises(deletion.Refused, match="takes as much as retraining, which is 30 epochs"):
    case.forget(case.latest(60), plan=dear)
  short = jaxmul.train.Recipe(case.recipe.model, epochs=1, batch_size=64)
  with pytest.raises(deletion.Refused, match="for 3 groups takes as much as retraining"):
    case.forget(case.latest(60), recipe=short)


def test_a_plan_that_does_harm_is_refused_with_its_figures(case):
  harm = rum.Plan([rum.Step(unlearn.neg_grad(1.0), 3, 64)])
  easy = case.fit.ids[np.argsort(case.fit.scores["confidence"])][:40]
  with pytest.raises(deletion.Refused, match="not clearly better") as refused:
    case.forget(easy, plan=harm)
  change = find(refused.value.figures, "change of the example gap", "forget")
  assert change.low > 0


def test_a_network_that_is_wrecked_is_refused_though_it_has_forgotten(case):
  """The gap of what it was wrong on is small: a network that knows nothing is wrong on it too."""
  wreck = rum.Plan([rum.Step(unlearn.neg_grad(1.0), 3, 64)])
  with pytest.raises(deletion.Refused, match="the plan wrecks the network") as refused:
    case.forget(case.latest(20), plan=wreck)
  assert find(refused.value.figures, "change of the example gap").high < 0


def test_a_store_keeps_the_record_of_one_request(case, tmp_path):
  options = {"plan": rum.Plan([rum.Step(unlearn.neg_grad_plus(0.02), 3, 64)]), "evidence": "none"}
  first = case.forget(case.latest(20), store=tmp_path, **options)
  record = json.loads((tmp_path / "record.json").read_text())
  again = case.forget(case.latest(20), store=tmp_path, **options)
  assert again.record["date"] == first.record["date"] == record["date"]
  with pytest.raises(ValueError, match="holds the record of another request"):
    case.forget(case.latest(10), store=tmp_path, **options)


def test_a_plan_cannot_be_chosen_by_nothing(case):
  with pytest.raises(ValueError, match="neither a plan nor an estimate"):
    case.forget(case.latest(20), evidence="none", estimate=None)


def test_a_fit_that_saw_other_examples_is_refused(case):
  parts = case.parts
  with pytest.raises(ValueError, match=r"id \d+ was not seen"):
    case.forget(case.latest(20), heldout=parts.heldout[5:])
  with pytest.raises(ValueError, match=r"id \d+ was trained on, and is held out"):
    case.forget(case.latest(20), heldout=np.append(parts.heldout, case.latest(21)[-1]))


def test_full_evidence_is_of_an_ensemble_and_its_audit(tmp_path):
  """A network that knows 29 of 30 wrong labels by heart; beside them 30 that any network knows."""
  digits, rng = data.digits().take(np.arange(1000)), np.random.default_rng(0)
  labels, wrong = digits.labels.copy(), rng.choice(400, 30, replace=False)
  labels[wrong] = (labels[wrong] + rng.integers(1, 10, 30)) % 10
  dataset = data.Dataset(digits.inputs, labels)
  recipe = train.Recipe(models.mlp((256,)), epochs=60, batch_size=32, learning_rate=0.1)
  fit = train.fit(recipe, dataset, KEY, ids=np.arange(400))
  ids = np.concatenate([wrong, np.setdiff1d(np.arange(400), wrong)[:30]])
  done = jaxmul.forget(
    fit,
    dataset,
    ids,
    recipe,
    jax.random.key(4),
    heldout=np.arange(400, 600),
    test=np.arange(600, 1000),
    plan=rum.Plan([rum.Step(unlearn.neg_grad_plus(0.05, alpha=0.97), 8, 32)]),
    evidence="full",
    store=tmp_path,
    progress=False,
  )
  assert done.record["audit"].startswith("audit passed")
  assert len(find(done.figures, "ToW").seeds) == 16
  gap = find(done.figures, "example gap", "forget")
  assert gap.high < find(done.figures, "example gap", "forget", of="original").low
  assert "other networks of the recipe" in done.record["not_checked"][0]
  assert deletion.verify(tmp_path) == json.loads(json.dumps(done.record))


def test_full_evidence_of_what_is_not_memorized_is_refused_with_its_audit(case, monkeypatch):
  monkeypatch.setattr(evidence, "_ENSEMBLE", 8)
  plan = rum.Plan([rum.Step(unlearn.neg_grad_plus(0.02), 3, 64)])
  easy = case.fit.ids[np.argsort(case.fit.scores["confidence"])][:40]
  with pytest.raises(deletion.Refused, match="audit failed") as refused:
    case.forget(easy, plan=plan, evidence="full")
  assert find(refused.value.figures, "example gap", "forget").seeds


def test_full_evidence_says_at_once_that_held_out_examples_are_too_few(case):
  with pytest.raises(ValueError, match="forget got 9 heldout ids, must be at least 12"):
    case.forget(case.latest(60), evidence="full", heldout=case.parts.heldout[:9])


def test_without_evidence_nothing_is_trained(case, monkeypatch):
  def trained(*args, **kwargs):
    raise AssertionError("something was trained")

  monkeypatch.setattr(retraining.executors, "default", trained)
  monkeypatch.setattr(train, "fit", trained)
  plan = rum.Plan([rum.Step(unlearn.neg_grad_plus(0.02), 3, 64)])
  done = case.forget(case.latest(20), plan=plan, evidence="none", estimate=None)
  assert "No network was retrained" in done.record["not_checked"][0]
  assert {figure.name for figure in done.figures} == {"surrogate", "accuracy"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"ids": [5]}, "id 5 is not in the data"),
    ({"ids": {5, 6}}, "got forget ids as set, must be integers .* Make a list of integers of them"),
    ({"ids": (i for i in [5])}, "got forget ids as generator, must be integers"),
    ({"ids": ["5", "6"]}, r"got forget ids as text, .* \[int\(word\) for word in ids\]"),
    ({"ids": [5.0]}, r"got forget ids as float, .* np.asarray\(ids\).astype\('int64'\)"),
    ({"ids": [True]}, r"got forget ids as bool, .* dataset.ids\[mask\]"),
    ({"ids": [[5], [6, 7]]}, "got forget ids as list, must be integers"),
    ({"heldout": {5}}, "got heldout ids as set"),
    ({"test": {5}}, "got test ids as set"),
    ({"dataset": (np.zeros((2, 8, 8)), [0, 1])}, r"got a tuple as the data, .*Dataset\(inputs"),
    ({"key": 0}, r"got key=0, must be one key. Make one: jax.random.key\(0\)"),
    ({"recipe": models.mlp()}, r"got a MLP as recipe: use train.Recipe\(model"),
    ({"recipe": train.Recipe(models.mlp((32,)))}, "holds 4,810 numbers, .* recipe 2,410: it was"),
    ({"network": bind(lambda w, x: x @ w, np.ones((7, 10)))}, r"does not take inputs \[8, 8\] as"),
    ({"evidence": "some"}, "evidence='some', must be 'none', 'sample' or 'full'"),
    ({"oracles": 1}, "forget got oracles=1, must be at least 2"),
    ({"score": "gut feeling"}, "score='gut feeling', must be one of confidence"),
    ({"heldout": []}, "forget got 0 heldout ids, must be at least 3"),
    ({"test": []}, "forget got 0 test ids, must be at least 1"),
  ],
)
def test_bad_requests_end_in_one_line(case, options, message):
  given = {"ids": case.latest(20)} | options
  with pytest.raises(ValueError, match=message) as error:
    case.forget(**given)
  assert "\n" not in str(error.value)


def test_a_network_that_does_not_take_a_dict_of_arrays_is_told_their_shapes():
  inputs = {"age": np.ones(6, np.float32), "image": np.ones((6, 2), np.float32)}
  dataset = data.Dataset(inputs, np.arange(6) % 2)
  network = bind(lambda w, x: x["text"] @ w, np.ones((3, 2)))
  with pytest.raises(ValueError, match=r"does not take inputs \{'age': \[\], 'image': \[2\]\} as"):
    refuse_other_network(network, train.Recipe(models.mlp((4,), 2)), dataset, "forget")


def test_an_id_is_in_one_part_only(case):
  with pytest.raises(ValueError, match="is in forget and in heldout"):
    case.forget(case.parts.heldout[:1])


def test_what_evidence_costs():
  assert deletion.cost("none") == 'evidence "none" costs 0 trainings'
  assert deletion.cost("sample", has_estimate=True, oracles=4) == (
    'evidence "sample" costs 4 trainings: 4 oracles'
  )
  assert "53 trainings" in deletion.cost("full")
  assert deletion.cost("sample", seconds=90).endswith("; about 12.0 minutes at 90.0 seconds each")


def test_minutes_are_told_once_a_training_was_timed(case, capsys):
  with contextlib.suppress(deletion.Refused):
    case.forget(case.latest(20), estimate=None, oracles=2, progress=True)
  line = [line for line in capsys.readouterr().err.splitlines() if "still to come" in line]
  assert re.search(
    r"costs 2 trainings: 2 oracles; about [\d.]+ (seconds|minutes) at [\d.]+ seconds each, ",
    line[0],
  )
