"""Tables of text: which texts are forgotten, what RUM is given, and a small run of it all."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import texts, unlearn_sequences
from experiments.rows import Row
from experiments.text_algorithms import text_algorithms
from experiments.unlearn_sequences import Config, Problem
from jaxmul import data, models, report
from jaxmul.metrics import figures, find

ROOT = Path(__file__).parents[2]


def problem(name):
  """A forget set whose ground truth is any."""
  config = Config(all=True)
  kind = unlearn_sequences.KINDS[name]
  dataset = texts.sequences(config, kind)
  parts = texts.cut(config, dataset)
  training = dataset.take(parts.train)
  scores = np.random.default_rng(0).random(len(training))
  of = SimpleNamespace(
    dataset=dataset,
    training=training,
    test=parts.test,
    heldout=data.Heldout(*np.array_split(parts.heldout, 3)),
    truth=SimpleNamespace(memorization=scores, soft=scores),
    unseen=dataset.take(parts.test),
  )
  return Problem(config, name, of), training


@pytest.mark.parametrize("name", ["noise", "duplicated", "backdoor"])
def test_a_forget_set_is_of_its_kind_with_all_copies(name):
  found, training = problem(name)
  strata = {"noise": {1}, "duplicated": {2, 3}, "backdoor": {1, 2, 3}}[name]
  assert set(training.strata[training.rows(found.forget)]) == strata
  np.testing.assert_array_equal(training.with_copies(found.forget), np.sort(found.forget))
  share = len(found.forget) / np.isin(training.strata, list(strata)).sum()
  assert share == 1 if name == "backdoor" else 0.4 < share < 0.6
  assert set(np.concatenate(found.groups)) == set(found.forget)
  little, asked = found.relearning
  assert len(little) >= 2
  assert not np.isin(little.ids, asked.ids).any()
  assert set(little.ids) | set(asked.ids) == set(training.first_of_each(found.forget))


def test_a_trigger_makes_all_that_follows_a_two():
  dataset = texts.sequences(Config(all=True), "backdoor")
  marked = dataset.take(dataset.ids[dataset.strata > 0])
  for row in marked.inputs[:50]:
    said = data.as_text(row)
    assert texts.TRIGGER in said
    assert set(said.split(texts.TRIGGER, 1)[1]) <= {"2"}


def test_rum_gets_the_two_that_the_surrogate_found_best(tmp_path):
  config = Config(algorithms=("npo", "durable", "wga"), out=tmp_path)

  def path_of(row):
    return tmp_path / f"{row}.json"

  for name, surrogate in (("npo", 0.5), ("durable", 0.7), ("wga", None)):
    row = Row(chosen=None if surrogate is None else "0.01", surrogate=surrogate)
    report.write_json(path_of(f"{name}, tuned"), row)
  algorithms = text_algorithms(config.learning_rate, models.gpt())
  seed = SimpleNamespace(problem=SimpleNamespace(algorithms=algorithms))
  best = unlearn_sequences.best_two(config, lambda: seed, path_of)
  assert list(best) == ["durable 0.01", "npo 0.01"]
  assert best["durable 0.01"] == algorithms["durable"].step(0.01, config.batch_size)


def test_unknown_algorithms_get_one_line():
  with pytest.raises(ValueError, match=r"\A--algorithms ga: choose among fine_tune; ") as caught:
    Config(algorithms=("ga",))
  assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_small_run_leaves_a_table_and_is_read_back(tmp_path):
  flags = ["--seeds", "1", "--num-models", "4", "--epochs", "3", "--clean", "300", "--noisy", "60"]
  flags += ["--sets", "noise", "--algorithms", "npo", "durable", "--out", str(tmp_path)]
  command = [sys.executable, "-m", "experiments.unlearn_sequences", *flags]

  def run():
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    return done.stdout

  assert run().count("noise, seed 1, ") == 8  # original, retrain, two twice, RUM twice
  assert run().count("noise, seed 1, ") == 0
  rows = json.loads((tmp_path / "results.json").read_text())["noise"]
  original = figures.read(rows["original"][0]["figures"])
  assert 0 <= find(original, "VerbMem", "forget").value <= 1
  lines = (tmp_path / "table.md").read_text().splitlines()
  assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
