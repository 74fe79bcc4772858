"""A plan is chosen on one forget set, validated on two others, and then serves requests."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxmul import data, deletion, models, rum, train, unlearn
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


@pytest.fixture(scope="module")
def rehearsed(problem):
  dataset, parts, recipe = problem
  return deletion.rehearse(
    *(dataset, recipe, KEY), heldout=parts.heldout, test=parts.test, size=60, progress=False
  )


def test_the_plan_is_better_on_what_is_memorized(rehearsed):
  assert find(rehearsed.figures["memorized"], "change of the example gap").high < 0
  assert len(rehearsed.plan.steps) == 3


def test_a_plan_that_was_better_serves_requests(problem, rehearsed):
  dataset, parts, _ = problem
  better = {name: [gap_change(-0.2, -0.1)] for name in ("memorized", "random")}
  served = deletion.serve(
    dataclasses.replace(rehearsed, figures=better),
    rehearsed.network,
    dataset.take(parts.train),
    [parts.train[:30], parts.train[30:50]],
    KEY,
  )
  assert [sum(map(len, done.entry.groups)) for done in served] == [30, 20]


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


def test_a_plan_that_was_not_better_is_not_served(rehearsed):
  def judged(**figures):
    return module.Rehearsal(
      plan=rum.Plan([rum.Step(unlearn.neg_grad(0.1))]),
      figures=figures,
      estimate=rehearsed.estimate,
      network=rehearsed.network,
    )

  good, unclear, bad = gap_change(-0.2, -0.1), gap_change(-0.1, 0.1), gap_change(0.01, 0.1)
  assert judged(memorized=[good], random=[unclear]).is_better_than_nothing
  for worse in (
    judged(memorized=[unclear], random=[unclear]),
    judged(memorized=[good], random=[bad]),
  ):
    with pytest.raises(deletion.Refused, match="the rehearsal did not find its plan better"):
      deletion.serve(worse, rehearsed.network, None, [], KEY)
