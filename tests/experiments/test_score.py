"""`experiments.score` as a user runs it, small: files, figures, resuming, errors in one line."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.score import PROXIES, auroc, plant
from jaxmul.data import Dataset
from jaxmul.metrics import find
from jaxmul.metrics.figures import read

ROOT = Path(__file__).parents[2]
SMALL = ["--dataset", "digits", "--model", "mlp", "--epochs", "4", "--num-models", "8"]


def score(*arguments):
  command = [sys.executable, "-m", "experiments.score", *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  out = tmp_path_factory.mktemp("run")
  return out, score(*SMALL, "--seeds", "2", "--out", str(out))


@pytest.mark.slow
def test_it_writes_every_proxy_with_intervals(first):
  out, done = first
  assert done.returncode == 0, done.stderr
  found = json.loads((out / "metrics.json").read_text())
  events = {"confidence", "max_confidence", "correctness", "entropy"}
  assert set(found["proxies"]) == set(PROXIES) - {"learning_events"} | events
  proxies = {name: read(rows) for name, rows in found["proxies"].items()}
  for name, figures in proxies.items():
    assert 0 <= find(figures, "auroc").value <= 1
    rank = find(figures, "spearman", kind="")
    if np.isfinite(rank.value):
      assert rank.seeds == tuple(find(figures, "spearman", kind=f"seed {k}").value for k in (1, 2))
      assert rank.low <= rank.value <= rank.high, name
  assert find(proxies["cumulative_loss"], "auroc").value > 0.9
  assert len(found["combined"]) == 2
  with np.load(out / "scores.npz", allow_pickle=False) as arrays:
    n = len(arrays["ids"])
    shape = (len(proxies), 2, n)
    assert arrays["proxies"].shape == arrays["proxies_of_planted"].shape == shape
    assert set(arrays["proxy_names"].tolist()) == set(proxies)
    assert arrays["planted"].sum(1).tolist() == 2 * [round(0.1 * n)]
  assert (out / "ground_truth.npz").is_file()


@pytest.mark.slow
def test_running_it_again_computes_nothing_and_a_truth_can_be_handed_in(first, tmp_path):
  out, _ = first
  again = score(*SMALL, "--seeds", "1", "--truth", str(out / "ground_truth.npz"), "--out", str(out))
  assert again.returncode == 0, again.stderr
  assert "seed 1 of 1: read back" in again.stdout
  assert "ground truth: read from" in again.stdout
  other = ["--key", "1", "--planted", "0", "--proxy", "final_loss", "--seeds", "1"]
  done = score(*SMALL, *other, "--truth", str(out / "ground_truth.npz"), "--out", str(tmp_path))
  assert done.returncode != 0
  assert "error: the ground truth lacks" in done.stderr
  assert "Traceback" not in done.stderr


def test_planted_labels_are_another_class_uniformly():
  data = Dataset(np.zeros((4000, 1), np.uint8), np.arange(4000) % 4, num_classes=4)
  noisy, planted = plant(data, 0.25, jax.random.key(0))
  assert planted.sum() == 1000
  np.testing.assert_array_equal(noisy.labels != data.labels, planted)
  moves = (noisy.labels - data.labels)[planted] % 4
  assert (np.abs(np.bincount(moves, minlength=4)[1:] - 1000 / 3) < 60).all()


def test_auroc_counts_pairs_and_halves_ties():
  rng = np.random.default_rng(0)
  scores, positive = rng.integers(0, 5, 40), rng.random(40) < 0.3
  pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
  np.testing.assert_allclose(auroc(scores, positive), np.mean(pairs))
