"""The main job as a user runs it, small: files, resuming, errors without traceback."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("rum")  # their runs are made once

ROOT = Path(__file__).parents[2]
SMALL = ["--dataset", "digits", "--num-models", "8", "--epochs", "4", "--group-size", "30"]
SMALL += ["--audit-models", "8"]


def rum(*arguments, cwd=ROOT):
  return subprocess.run(
    [sys.executable, "-m", "experiments.rum", *arguments],
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=400,
  )


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  out = tmp_path_factory.mktemp("run")
  options = [*SMALL, "--seeds", "2", "--proxy", "confidence", "curvature", "heldout_divergence"]
  return out, options, rum(*options, "--out", str(out))


def test_it_prints_the_table_and_writes_the_run_directory(first):
  out, _, done = first
  assert done.returncode == 0, done.stderr
  for row in (
    "original",
    "retrain",
    "fine-tune",
    "NegGrad+ vanilla",
    "RUM shuffle",
    "RUM curvature",
  ):
    assert row in done.stdout
  found = json.loads((out / "metrics.json").read_text())
  assert found["ground_truth"]["models"] == 8
  audit = json.loads((out / "audit.json").read_text())
  assert f"audit {'passed' if audit['passed'] else 'failed'}: " in done.stdout
  assert len(audit["audit"]["controls"]) == 7
  for method in found["methods"].values():
    for metric in ("ToW", "ToW-MIA", "forget", "retain", "test", "attack"):
      assert 0 <= method[metric]["mean"] <= 1
      assert method[metric]["low"] <= method[metric]["mean"] <= method[metric]["high"]
  config = json.loads((out / "config.json").read_text())
  assert config["config"]["batch_size"] == 64
  assert config["versions"]["jax"]
  with np.load(out / "scores.npz", allow_pickle=False) as scores:
    assert scores["proxy_curvature"].shape == (2, len(scores["ids"]))
    groups = [scores[f"group_{name}"] for name in ("low", "medium", "high")]
    assert len(np.unique(np.concatenate(groups))) == 90
    assert np.isin(np.concatenate(groups), scores["ids"]).all()
  for name in ("memorization", "proxies", "methods", "gallery"):
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
  with np.load(out / "unlearned.npz", allow_pickle=False) as unlearned:
    confidence = unlearned["confidence"]
    assert confidence.shape == (len(found["methods"]), 2, 90)
    assert ((confidence >= 0) & (confidence <= 1)).all()
  assert "Deletion record" in (out / "report.html").read_text()


def test_the_same_command_again_reads_back_what_is_finished(first):
  out, options, _ = first
  before = json.loads((out / "metrics.json").read_text())
  again = rum(*options, "--out", str(out))
  assert again.returncode == 0, again.stderr
  assert again.stdout.count("read back") == 3
  assert json.loads((out / "metrics.json").read_text()) == before


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--seed", "3"], "--seeds"),
    (["--seeds", "0"], "--seeds 0: must be at least 1"),
    (["--audit-models", "4"], "--audit-models 4: must be at least 8"),
    (["--dataset", "nothing.npz"], "nothing.npz"),
    (["--dataset", "mnist5k", "--fraction", "2"], "fraction=2"),
  ],
)
def test_user_errors_name_the_cure_without_a_traceback(tmp_path, arguments, said):
  done = rum(*arguments, "--out", str(tmp_path / "run"))
  assert done.returncode != 0
  assert said in done.stdout + done.stderr
  assert "Traceback" not in done.stdout + done.stderr
