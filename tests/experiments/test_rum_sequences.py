"""The main job on sequences: what is in the data, what is forgotten, and a small run of it all."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import rum_sequences, texts
from experiments.rum_sequences import Config
from experiments.texts import COPIES
from jaxmul import data, memorization
from jaxmul.metrics import figures, find

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["math", "prose"])
def test_copies_are_trained_on_and_half_of_each_kind_is_forgotten(name):
  config = Config(dataset=name)
  dataset = texts.sequences(config, name)
  parts = texts.cut(config, dataset)
  training = dataset.take(parts.train)
  whole, counts = np.unique(training.families, return_counts=True)
  for number, copies in enumerate(COPIES, 1):
    of_kind = np.unique(training.families[training.strata == number])
    assert set(counts[np.isin(whole, of_kind)]) == {copies}
  assert np.isin(dataset.strata[dataset.rows(parts.test)], [0, 1]).all()
  for family in np.unique(training.families[training.strata > 1]):
    same = training.inputs[training.families == family]
    assert (same == same[0]).all()

  work = rum_sequences.work_of(config, dataset, parts)
  n = len(training)
  scores = np.random.default_rng(0).random(n)
  names = [field.name for field in dataclasses.fields(memorization.Estimate)][1:-2]
  truth = memorization.Estimate(ids=training.ids, **dict.fromkeys(names, scores))
  groups = work.choose(training, truth, jax.random.key(0))
  forget = np.concatenate(groups)
  assert len(np.unique(forget)) == len(forget)
  np.testing.assert_array_equal(training.with_copies(forget), np.sort(forget))
  for number in (1, 2, 3):
    of_kind = training.ids[training.strata == number]
    share = np.isin(of_kind, forget).mean()
    assert 0.4 < share < 0.6
  for group in groups:
    np.testing.assert_array_equal(training.with_copies(group), np.sort(group))
  assert not np.isin(np.concatenate([work.parts[f"kept, {c}×"].ids for c in COPIES]), forget).any()
  for copies in COPIES:
    mine = work.parts[f"forget, {copies}×"]
    assert np.isin(mine.ids, forget).all()
    assert (mine.labels[:, :10] == -1).all()
    assert (np.unique(mine.families, return_counts=True)[1] == 1).all()
  lowest, highest = (np.unique(training.families[training.rows(g)]) for g in (groups[0], groups[2]))
  assert abs(len(lowest) - len(highest)) <= 1  # texts, not copies, are cut in three


def test_too_much_prose_gets_one_line():
  with pytest.raises(ValueError, match=r"\A--clean 90000 and --noisy 240 are 90240 windows, at mo"):
    texts.sequences(Config(dataset="prose", clean=90_000), "prose")


@pytest.mark.slow
@pytest.mark.parametrize(
  "text", [[], ["--dataset", "prose", "--window", "24"]], ids=["math", "prose"]
)
def test_a_small_run_leaves_tables_and_a_report(tmp_path, text):
  flags = ["--seeds", "1", "--num-models", "4", "--epochs", "3", "--audit-models", "0"]
  flags += ["--clean", "300", "--noisy", "60", "--out", str(tmp_path)]
  command = [sys.executable, "-m", "experiments.rum_sequences", *flags, *text]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=590)
  assert done.returncode == 0, done.stderr
  assert "Share that greedy decoding goes on with exactly after" in done.stdout
  assert "Spearman's ρ with counterfactual memorization" in done.stdout
  told = json.loads((tmp_path / "metrics.json").read_text())["methods"]
  assert {"NPO", "SCRUB", "RUM confidence", "vanilla, tuned"} <= set(told)
  chosen = json.loads((tmp_path / "metrics.json").read_text())["autopilot"]["chosen"][0]
  assert all(chosen[name][0].endswith("of the rate") for name in ("SCRUB", "NPO"))  # never none
  original = figures.read(told["original"]["figures"])
  assert 0 <= find(original, "accuracy", "kept, 10×").value <= 1
  ranks = json.loads((tmp_path / "ranks.json").read_text())
  assert {"all, exact", "planted, e^−ℓ"} <= set(ranks["confidence"])
  with np.load(tmp_path / "tokens.npz") as file:
    probability, tokens = file["probability"], file["tokens"]
  assert probability.shape == (len(told), 1, *tokens.shape)
  assert np.nanmin(probability) >= 0
  assert np.nanmax(probability) <= 1
  assert {"copies.png", "positions.png", "tokens.png"} <= {p.name for p in tmp_path.iterdir()}
  page = (tmp_path / "report.html").read_text()
  assert '"classes":["clean","1×","3×","10×"]' in page
  with np.load(tmp_path / "images.npz") as file:
    shown = str(file["decode"][0])
  assert shown[:12] in page
  assert data.as_text([10, 1]) == "^1"
