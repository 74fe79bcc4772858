"""A schedule: hashed by what decides its models, which are the same in any order and process."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import toys
from toys import RECIPE

from jaxmul import models, retraining, train
from jaxmul.data import Dataset


@pytest.fixture(scope="module")
def toy():
  return toys.two_classes()


def learn(examples, key, extra=None):
  """A learner that is scheduled, and never run."""
  raise AssertionError("it was run")


def test_same_models_whatever_the_order_of_the_data_the_chunks_and_the_process(toy):
  schedule = retraining.leave_out(RECIPE, toy, jax.random.key(1), num_models=12, chunk_size=4)
  turned = toy.take(toy.ids[::-1])
  again = retraining.leave_out(RECIPE, turned, jax.random.key(1), num_models=12, chunk_size=4)
  assert again.hash == schedule.hash
  here = dict(retraining.serial(schedule, [2, 0, 1]))
  assert len(jax.devices()) == 8
  for executor in (retraining.processes(2), retraining.devices(), retraining.devices(2)):
    there = dict(executor(again, range(3)))
    for k in range(3):
      for field in dataclasses.fields(retraining.Chunk):
        a, b = getattr(here[k], field.name), getattr(there[k], field.name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=field.name)


def test_a_schedule_of_something_else_has_another_hash(toy):
  def hash_of(recipe=RECIPE, data=toy, key=1, **options):
    given = {"num_models": 12} | options
    return retraining.leave_out(recipe, data, jax.random.key(key), **given).hash

  changed = Dataset(toy.inputs + np.float32(1e-6), toy.labels, toy.ids)
  others = [
    hash_of(dataclasses.replace(RECIPE, learning_rate=0.2)),
    hash_of(dataclasses.replace(RECIPE, schedule=train.constant)),
    hash_of(dataclasses.replace(RECIPE, model=models.mlp((7,), 2))),
    hash_of(data=changed),
    hash_of(key=2),
    hash_of(fraction=0.5),
    hash_of(chunk_size=5),
  ]
  assert len({hash_of(), *others}) == 8
  assert hash_of() == hash_of(num_models=99)


def test_diverged_models_are_left_out_and_counted(toy):
  recipe = dataclasses.replace(RECIPE, learning_rate=1e30)
  schedule = retraining.leave_out(recipe, toy, jax.random.key(1), num_models=2)
  chunk = retraining.run_chunk(schedule, 0)
  assert len(chunk.diverged) == 2
  assert not chunk.count_in.any()


class Shifted:
  def __init__(self, by):
    self.by = by

  def __repr__(self):
    return f"Shifted({self.by})"

  learn = learn


def test_learners_that_differ_have_different_hashes(toy):
  def hash_of(learner):
    return retraining.leave_out(learner, toy, jax.random.key(0), num_models=4).hash

  one, other = np.zeros(5000), np.zeros(5000)
  other[2500] = 1
  learners = [
    *(Shifted(0.0).learn, Shifted(1.0).learn),
    *(functools.partial(learn, extra=each) for each in (one, other)),
  ]
  assert len({hash_of(each) for each in learners}) == 4
  with pytest.raises(ValueError, match="has no text of its own"):
    hash_of(functools.partial(learn, extra=object()))


def test_chunks_are_not_held(toy, tmp_path):
  """Memory grows with the chunk, not with the number of models."""
  import gc

  schedule = retraining.leave_out(RECIPE, toy, jax.random.key(1), num_models=32, chunk_size=2)
  alive = []
  for chunk in retraining.stream(schedule, store=tmp_path, executor=retraining.processes(2)):
    del chunk
    alive.append(sum(isinstance(each, retraining.Chunk) for each in gc.get_objects()))
  assert len(alive) == 16
  assert max(alive) <= 8  # two for each worker, and what is at hand


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_models": 1}, "num_models=1, must be at least 2"),
    ({"fraction": 1.0}, r"fraction=1.0, must be in \(0, 1\)"),
    ({"fraction": 0.001}, "some in and some out"),
    ({"chunk_size": 0}, "chunk_size=0, must be an integer of at least 1"),
    ({"recipe": models.mlp()}, r"got a MLP as recipe: use train\.Recipe\(model\)"),
    ({"recipe": dataclasses.replace(RECIPE, augment=lambda k, x: x)}, "module-level function"),
    ({"key": jax.random.key(0, impl="rbg")}, "threefry"),
  ],
)
def test_bad_input_gets_one_line(toy, options, message):
  given = {"recipe": RECIPE, "key": jax.random.key(0), "num_models": 4} | options
  with pytest.raises(ValueError, match=message) as caught:
    retraining.leave_out(dataset=toy, **given)
  assert "\n" not in str(caught.value)


WAYS = {
  "leave_out": functools.partial(retraining.leave_out, num_models=4),
  "repeat": functools.partial(retraining.repeat, num_models=2),
  "cross_fit": retraining.cross_fit,
}
ELSEWHERE = Dataset(np.zeros((3, 5)), np.zeros(3, int))
OUTSIDE = Dataset(np.zeros((6, 3)), np.arange(6) % 3)


@pytest.mark.parametrize(
  ("way", "options", "message"),
  [
    *(
      (way, options, f"{way} {message}")
      for way in WAYS
      for options, message in (
        ({"recipe": models.mlp()}, r"got a MLP as recipe: use train\.Recipe\(model\)"),
        ({"key": jax.random.key(0, impl="rbg")}, "got a key of .*threefry"),
        ({"dataset": OUTSIDE}, r"got label 2, outside \[0, 2\)"),
      )
    ),
    *(
      (way, {"test": test}, f"{way} {message}")
      for way in ("leave_out", "repeat")
      for test, message in (
        (ELSEWHERE, r"got test inputs \[5\] for a network of \[3\]"),
        (OUTSIDE, r"got label 2, outside \[0, 2\)"),
      )
    ),
    ("repeat", {"num_models": 0}, "num_models=0, must be an integer of at least 1"),
    ("repeat", {"num_models": 1.5}, r"num_models=1\.5, must be an integer of at least 1"),
    ("cross_fit", {"folds": 25}, r"folds=25, must be in \[2, 24\]"),
  ],
)
def test_every_way_to_a_schedule_checks_alike(toy, way, options, message):
  given = {"recipe": RECIPE, "dataset": toy, "key": jax.random.key(0)}
  given |= {"test": toy} if way == "repeat" else {}
  with pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
    WAYS[way](**given | options)


def test_no_such_chunk(toy):
  schedule = retraining.leave_out(RECIPE, toy, jax.random.key(0), num_models=4)
  with pytest.raises(ValueError, match="chunk 1 is not in this schedule"):
    retraining.run_chunk(schedule, 1)
