"""A plan is chosen on one forget set, validated on two others, and then serves requests."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxmul import checkpoint, data, deletion, models, proxies, rum, train, unlearn
from jaxmul.deletion import rehearsal as module
from jaxmul.metrics import Figure, find

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def problem():
  digits, rng = data.digits(), np.random.default_rng(0)
  parts = data.holdout(digits, KEY, heldout=200, test=300)
  labels = digits.labels.copy()
  wrong = digits.rows(rng.choice(parts.train, 90, replace=False))
  labels[wrong] = (labels[wrong] + rng.integers(1, 10, 90)) % 10
  recipe = train.Recipe(models.mlp((64,)), epochs=30, batch_size=64, learning_rate=0.1)
  return data.Dataset(digits.inputs, labels, digits.ids), parts, recipe


def rehearse(problem, **options):
  dataset, parts, recipe = problem
  return deletion.rehearse(
    dataset, recipe, KEY, heldout=parts.heldout, test=parts.test, progress=False, **options
  )


@pytest.fixture(scope="module")
def rehearsed(problem):
  return rehearse(problem, size=60)


@pytest.fixture
def better(rehearsed):
  figures = {name: [gap_change(-0.2, -0.1)] for name in ("memorized", "random")}
  return dataclasses.replace(rehearsed, figures=figures)


def test_the_plan_is_better_on_what_is_memorized(rehearsed):
  assert find(rehearsed.figures["memorized"], "change of the example gap").high < 0
  assert len(rehearsed.plan.steps) == 3


def test_requests_of_any_size_are_served_with_a_record_that_the_ledger_names(
  problem, better, tmp_path
):
  dataset, parts, _ = problem
  training = dataset.take(parts.train)
  asked = [parts.train[:1], parts.train[1:3], parts.train[3:40]]
  served = list(deletion.serve(better, better.network, training, asked, KEY, store=tmp_path))
  assert [sum(map(len, done.entry.groups)) for done in served] == [1, 2, 37]
  lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
  before = better.network
  for line, done, ids in zip(lines, served, asked, strict=True):
    record = deletion.verify(tmp_path / line["record"])
    assert record["forget"] == ids.tolist()
    hashes = {"before": rum.params_hash(before), "after": rum.params_hash(done.network)}
    assert record["network"] == hashes == {"before": line["before"], "after": line["after"]}
    stored = checkpoint.load(tmp_path / line["record"] / "network", before)
    assert rum.params_hash(stored) == line["after"]
    assert "Nothing was measured of this request" in record["not_checked"][0]
    before = done.network
  records = [(tmp_path / line["record"] / "record.json").read_bytes() for line in lines]
  again = deletion.serve(better, better.network, training, asked, KEY, store=tmp_path)
  assert [done.entry for done in again] == [done.entry for done in served]
  assert records == [(tmp_path / f"record{n}" / "record.json").read_bytes() for n in range(3)]


def test_an_example_is_unlearned_by_the_step_of_its_score(problem, better):
  """The easiest example goes to the first step, which does nothing; the hardest to the last."""
  dataset, parts, _ = problem
  training = dataset.take(parts.train)
  order = np.argsort(proxies.score(proxies.confidence, better.network, training))
  plan = rum.Plan([rum.Step(None), rum.Step(None), rum.Step(unlearn.neg_grad(0.01), 1, 64)])
  rehearsal = dataclasses.replace(better, plan=plan)
  asked = [training.ids[order[:1]], training.ids[order[-1:]]]
  easy, hard = deletion.serve(rehearsal, better.network, training, asked, KEY)
  assert [len(group) for group in easy.entry.groups] == [1, 0, 0]
  assert [len(group) for group in hard.entry.groups] == [0, 0, 1]
  assert easy.entry.before == easy.entry.after == hard.entry.before != hard.entry.after


def gap_change(low, high):
  return Figure(name="change of the example gap", value=0.0, low=low, high=high)


def test_what_the_plan_is_chosen_on_and_validated_on_share_no_example(problem):
  dataset, parts, _ = problem
  ids = dataset.take(parts.train).ids
  confidence = np.linspace(0, 1, len(ids))
  fit = train.Fit(None, {"confidence": confidence}, ids, None)
  sets = module.forget_sets(fit, 60, KEY)
  assert {name: len(part) for name, part in sets.items()} == dict.fromkeys(sets, 60)
  assert len(np.unique(np.concatenate(list(sets.values())))) == 180
  late = set(ids[-90:].tolist())
  assert set(sets["memorized"].tolist()) <= late
  assert len(set(sets["mixed"].tolist()) & late) == 30
  assert not set(sets["random"].tolist()) & late


def test_a_plan_that_was_not_better_is_not_served(problem):
  dataset, _, recipe = problem
  network = models.init(recipe.model, KEY, dataset.example)

  def judged(**figures):
    return module.Rehearsal(
      plan=rum.Plan([rum.Step(unlearn.neg_grad(0.1))]),
      cuts=(0.2, 0.5),
      figures=figures,
      estimate=None,
      network=network,
      recipe=recipe,
    )

  nan = float("nan")
  good, unclear, bad = gap_change(-0.2, -0.1), gap_change(-0.1, 0.1), gap_change(0.01, 0.1)
  just, edge = gap_change(-0.2, -1e-6), gap_change(0.0, 0.1)
  for random in (good, unclear, edge):
    assert judged(memorized=[just], random=[random]).is_better_than_nothing
  for worse in (
    judged(memorized=[unclear], random=[unclear]),
    judged(memorized=[gap_change(-0.2, 0.0)], random=[unclear]),
    judged(memorized=[gap_change(nan, nan)], random=[unclear]),
    judged(memorized=[good], random=[bad]),
    judged(memorized=[good], random=[gap_change(1e-6, 0.1)]),
    judged(memorized=[good], random=[gap_change(nan, nan)]),
  ):
    with pytest.raises(deletion.Refused, match="the rehearsal did not find its plan better"):
      deletion.serve(worse, network, dataset, [], KEY)


def test_a_rehearsal_that_is_killed_goes_on_and_ends_with_the_same_bits(
  problem, tmp_path, trainings
):
  _, _, recipe = problem
  problem = (*problem[:2], dataclasses.replace(recipe, epochs=12))
  whole = rehearse(problem, size=60, store=tmp_path / "whole")
  count = trainings.done
  assert count > 12  # and trials, and what unlearns the two sets of the validation
  found = trainings.killed_every(7, lambda: rehearse(problem, size=60, store=tmp_path / "killed"))
  assert trainings.done == count
  assert trainings.kills == (count - 1) // 7
  trainings.done = 0
  again = rehearse(problem, size=60, store=tmp_path / "killed")
  assert trainings.done == 0
  for other in (found, again):
    assert rum.params_hash(other.network) == rum.params_hash(whole.network)
    assert other.figures == whole.figures
    assert (other.cuts, other.plan) == (whole.cuts, whole.plan)


def test_a_rehearsal_that_lacks_test_examples_speaks_for_itself(problem):
  dataset, parts, recipe = problem
  with pytest.raises(ValueError, match="rehearse got 0 test ids, must be at least 1"):
    deletion.rehearse(dataset, recipe, KEY, heldout=parts.heldout, test=[])


def test_bad_input_is_one_line(problem, better):
  dataset, parts, recipe = problem
  training = dataset.take(parts.train)
  with pytest.raises(ValueError, match=r"rehearse got heldout ids as set, must be integers"):
    deletion.rehearse(dataset, recipe, KEY, heldout=set(parts.heldout), test=parts.test)
  with pytest.raises(ValueError, match=r"rehearse got key=0, must be one key. Make one: jax"):
    deletion.rehearse(dataset, recipe, 0, heldout=parts.heldout, test=parts.test)
  with pytest.raises(ValueError, match=r"serve got a Plan, must be a Rehearsal"):
    deletion.serve(better.plan, better.network, training, [], KEY)
  with pytest.raises(ValueError, match=r"request 0 has no ids"):
    next(deletion.serve(better, better.network, training, [[]], KEY))
  with pytest.raises(ValueError, match=r"serve got request ids as float, must be integers"):
    next(deletion.serve(better, better.network, training, [[1.0]], KEY))
  other = models.init(models.mlp((32,)), KEY, dataset.example)
  with pytest.raises(ValueError, match=r"serve: the network holds 2,410 numbers, the model of"):
    deletion.serve(better, other, training, [], KEY)
