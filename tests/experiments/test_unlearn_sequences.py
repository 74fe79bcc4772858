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
from jaxmul.metrics import Figure, figures, find

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


def test_a_table_marks_what_is_worse_and_what_is_over_forgotten(tmp_path):
  """Gaps, steps and marks come from the rows; a seed that took too many steps is not averaged."""

  def row(gap, tow, verbatim, steps, utility=0.4):
    parts = [("example gap", "forget", gap), ("ToW by group", "all", tow), ("ToW", "all", tow)]
    parts += [("VerbMem gap", "forget", verbatim), ("KnowMem gap", "forget", 0.5)]
    parts += [("PrivLeak", "forget", 20.0), ("relearning steps", "forget", steps)]
    parts += [("accuracy", "forget after a prompt", 0.25), ("accuracy", "test", 0.75)]
    parts += [("KnowMem", "forget", 0.9), ("KnowMem", "retain", utility)]
    parts += [("seconds", "all", 1.0)]
    return Row(figures=[Figure(name=n, part=p, value=v) for n, p, v in parts], chosen="0.1")

  methods = {
    "original": [row(0.1, 0.5, 0.4, 0), row(0.2, 0.6, 0.5, 0), row(0.3, 0.7, 0.6, 0)],
    "npo": [row(0.3, 0.5, -0.3, 21), row(0.41, 0.6, -0.31, 21), row(0.5, 0.7, -0.32, 5)],
    "durable": [row(0.1, 0.5, 0.4, 3), row(0.2, 0.6, 0.5, 4), row(0.3, 0.7, 0.6, 8)],
    "wga": [Row()],
    "ce_u": [row(0.1, 0.5, 0.4, 3, 0.1), row(0.2, 0.6, 0.5, 4, 0.12), row(0.3, 0.7, 0.6, 8, 0.1)],
    "obs": [row(0.1, 0.5, 0.4, np.nan), row(0.2, 0.6, 0.5, 3), row(0.3, 0.7, 0.6, 3)],
  }
  config = Config(algorithms=("npo", "durable"), out=tmp_path)
  unlearn_sequences.write(config, {"noise": methods})
  lines = (tmp_path / "table.md").read_text().splitlines()
  npo, durable = (next(x for x in lines if x.startswith(f"| {n} |")) for n in ("npo", "durable"))
  cells = [cell.strip() for cell in npo.split("|")[2:-1]]
  assert cells[0].startswith("-0.310")
  assert cells[3].startswith("0.403")
  assert cells[5].startswith("0.400")
  assert cells[6].startswith("0.250")
  assert cells[8:10] == ["> 20", "1.00"]
  assert cells[10] == "worse than the original by example gap; over-forgetting; chosen: 0.1"
  assert [cell.strip() for cell in durable.split("|")[10:]] == ["4", "1.00", "chosen: 0.1", ""]
  obs = next(x for x in lines if x.startswith("| obs |"))
  assert obs.split("|")[10].strip() == ""  # nothing of one seed was known: no step is told
  ce_u = next(x for x in lines if x.startswith("| ce_u |"))
  assert ce_u.split("|")[12].strip() == "worse than the original by utility; chosen: 0.1"
  assert any(line.startswith("| wga | diverged |") for line in lines)
  assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


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
