"""The attribution script as a user runs it, small: its table, its files, what it reads back."""

import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import attribution as script
from jaxmul import checkpoint, losses, train
from jaxmul.metrics import find
from jaxmul.metrics.figures import read

ROOT = Path(__file__).parents[2]
SMALL = ["--dataset", "digits", "--epochs", "1", "--models", "20", "30", "--heldout", "10"]
SMALL += ["--fraction", "0.5", "--networks", "2", "--dims", "64", "--num-test", "20"]


def run(*arguments):
  command = [sys.executable, "-m", "experiments.attribution", *map(str, arguments)]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
def test_every_estimate_is_judged_by_the_same_models_and_read_back(tmp_path):
  done = run(*SMALL, "--out", tmp_path)
  assert done.returncode == 0, done.stderr
  assert "40 models, each without 629 of all of 1259 examples, 10 of them to judge" in " ".join(
    done.stdout.split()
  )
  found = json.loads((tmp_path / "attribution.json").read_text())
  figures = read(found["figures"])
  names = ["influence, 20 models", "influence, 30 models"]
  names += [name for of in ("1 network", "2 networks") for name in _of(of)]
  assert [figure.of for figure in figures if figure.name == "LDS"] == names
  for name in names:
    score = find(figures, "LDS", of=name, part="test")
    assert -1 <= score.low <= score.value <= score.high <= 1
  again = run(*SMALL, "--out", tmp_path)
  assert again.returncode == 0, again.stderr
  assert json.loads((tmp_path / "attribution.json").read_text()) == found

  config = script.Config(
    dataset="digits", epochs=1, models=(20, 30), heldout=10, fraction=0.5, num_test=20, out=tmp_path
  )
  problem = script.prepare(config)
  kept, seconds = script.all_models(config, problem)
  assert seconds > 0
  like = train.check_labels(problem.recipe.model, problem.training, "test")
  (folder,) = (tmp_path / "cache").glob("attribution-*")
  for number in range(2):  # what TRAK and EK-FAC were taken of are the models of the schedule
    network = checkpoint.load(folder / f"network-{number}", like)
    phi = losses.log_odds(network(problem.test.batch()[0]), jnp.asarray(problem.test.labels))
    np.testing.assert_allclose(np.asarray(phi), kept.outputs[number], atol=1e-3)


def _of(networks):
  return f"TRAK, {networks}, k = 64", f"EK-FAC, {networks}"


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    ({"heldout": 9}, "--heldout 9: must be at least 10"),
    ({"networks": 401}, r"--networks 401: must be in \[1, 400\]"),
    ({"dims": ()}, r"--dims \(\): give at least one"),
  ],
)
def test_flags_that_cannot_be_are_refused(flags, says):
  with pytest.raises(ValueError, match=says):
    script.Config(**flags)
