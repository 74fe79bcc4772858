"""Before a long job one line says what it costs; before a short one nothing does."""

import jax
import numpy as np
import pytest

from experiments import memorize, truth
from jaxmul import models, retraining, train
from jaxmul.data import Dataset

RECIPE = train.Recipe(models.mlp((8,), 2), epochs=1, batch_size=8)
TOY = Dataset(np.eye(12, dtype=np.float32), np.arange(12) % 2)


@pytest.fixture
def schedule():
  return retraining.leave_out(
    RECIPE, TOY, jax.random.key(0), num_models=11, chunk_size=4, fraction=0.5
  )


def test_a_short_job_is_neither_timed_nor_told(schedule, capsys, monkeypatch):
  def cost(schedule, measure=False):
    assert not measure
    return retraining.Cost(models=1, trained_examples=1, training_flops=2e11, prediction_flops=9e10)

  monkeypatch.setattr(truth.retraining, "cost", cost)
  truth.say_cost("ground truth", schedule, [0, 1, 2])
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("seconds", "told"), [(59, False), (61, True)])
def test_from_a_minute_on_it_is_told(seconds, told, schedule, capsys, monkeypatch):
  def cost(schedule, measure=False):
    return retraining.Cost(
      models=schedule.num_models,
      trained_examples=1,
      training_flops=1e12,
      prediction_flops=0.0,
      flops_per_second=(1e12 / seconds, 1e13 / seconds) if measure else None,
      measured_steps=20 if measure else 0,
    )

  monkeypatch.setattr(truth.retraining, "cost", cost)
  truth.say_cost("ground truth", schedule, [0, 2])  # of four models and of three
  line = (
    "ground truth: 7 models, 1 TFLOP, 6 seconds to 1.0 minutes on this machine "
    "(measured on 20 steps)\n"
  )
  assert capsys.readouterr().out == (line if told else "")


def test_only_what_is_missing_is_counted_and_the_estimate_stays_the_same(
  schedule, capsys, monkeypatch, tmp_path
):
  plain, _ = truth.kept_estimate(tmp_path / "plain", "ground truth", schedule, tmp_path / "a")
  assert "FLOP" not in capsys.readouterr().out
  monkeypatch.setattr(truth, "_SHORT", 0.0)
  monkeypatch.setattr(truth, "_LONG", 0.0)
  store = retraining.Store(tmp_path / "b", schedule)
  for number, chunk in retraining.serial(schedule, [1]):
    store.commit(number, chunk)
  told, _ = truth.kept_estimate(tmp_path / "told", "ground truth", schedule, tmp_path / "b")
  assert "ground truth: 7 models, " in capsys.readouterr().out
  assert told.digest == plain.digest
  truth.say_cost("ground truth", schedule, [])
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["auto", "processes", "serial", "devices", "ray"])
def test_only_of_the_executor_that_was_timed_the_cost_is_said(
  name, schedule, capsys, monkeypatch, tmp_path
):
  """The one that is the default on a CPU, also by its own name; in parts and as a whole."""
  monkeypatch.setattr(truth, "_SHORT", 0.0)
  monkeypatch.setattr(truth, "_LONG", 0.0)
  timed = name in ("auto", "processes")
  truth.say_cost("ground truth", schedule, [0], name)
  assert ("ground truth: 4 models, " in capsys.readouterr().out) == timed
  truth.compute_part(schedule, tmp_path, retraining.serial, "2/3", name)
  said = capsys.readouterr().out
  assert said.startswith("part 2 of 3: 1 chunks to compute\n")
  assert ("part 2: 4 models, " in said) == timed


@pytest.mark.filterwarnings("ignore:.*never in or never out:UserWarning")
def test_a_run_says_of_whom_it_is(monkeypatch, tmp_path):
  asked = []

  def say_cost(label, schedule, chunks, executor="auto"):
    asked.append((label, executor))

  monkeypatch.setattr(truth, "say_cost", say_cost)
  monkeypatch.setattr(memorize, "say_cost", say_cost)
  few = {"dataset": "digits", "epochs": 1, "num_models": 4, "out": tmp_path}
  memorize.run(memorize.Config(**few, executor="serial", part="1/1"))
  memorize.run(memorize.Config(**few, executor="serial"))
  assert asked == [("part 1", "serial"), ("ground truth", "serial")]
