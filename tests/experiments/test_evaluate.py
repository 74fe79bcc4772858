"""The evaluation of saved models as a user runs it: a good model, a bad one, errors in one line."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.evaluate import Config, batch_norm_changed
from experiments.setting import cut, recipe_of
from jaxmul import checkpoint, data, models, train
from jaxmul.metrics import find
from jaxmul.metrics.figures import read

pytestmark = pytest.mark.xdist_group("evaluate")  # their runs are made once

ROOT = Path(__file__).parents[2]
SMALL = ["--num-models", "16", "--epochs", "60"]


def evaluate(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "experiments.evaluate", *map(str, arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=400,
  )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Checkpoints of one original and one retrained model, and the forget ids."""
  folder = tmp_path_factory.mktemp("saved")
  config = Config(unlearned=(), forget=Path(), dataset="digits", epochs=60)
  dataset, parts = cut(config)
  rng = np.random.default_rng(0)
  # Half get other labels, which a network must memorize; the others are easy: two groups to see.
  forget = np.sort(rng.choice(parts.train, 60, replace=False))
  images, labels = dataset.inputs, dataset.labels.copy()
  rows = dataset.rows(rng.permutation(forget)[:30])
  labels[rows] = (labels[rows] + rng.integers(1, 10, 30)) % 10
  np.savez(folder / "digits.npz", images=images, labels=labels)
  noisy = data.Dataset(images, labels, dataset.ids, 10)
  for name, ids in (("original", parts.train), ("retrained", np.setdiff1d(parts.train, forget))):
    params = train.fit(recipe_of(config, 10), noisy, jax.random.key(7), ids=ids).network
    checkpoint.save(folder / name, params)
  (folder / "forget.txt").write_text("\n".join(map(str, forget)))
  np.save(folder / "heldout.npy", parts.heldout)
  np.save(folder / "test.npy", parts.test)
  return folder


def options(saved):
  files = ("--heldout", saved / "heldout.npy", "--test", saved / "test.npy")
  return (*SMALL, "--dataset", saved / "digits.npz", *files, "--out", saved / "run")


@pytest.fixture(scope="module")
def judged(saved):
  found = {}
  for name in ("original", "retrained"):
    done = evaluate(
      *("--unlearned", saved / name, "--forget", saved / "forget.txt"),
      *options(saved),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found[name] = done.stdout, json.loads((saved / "run" / "evaluation.json").read_text())
  return found


def test_batch_norm_is_changed_in_checkpoints_alone(tmp_path):
  dataset = data.digits()
  dataset = dataset.take(dataset.ids[:4])
  inputs = dataset.batch()[0]
  for model in (models.resnet18(), models.mlp()):
    params = models.init(model, jax.random.key(0), inputs)
    path = tmp_path / type(model).__name__
    checkpoint.save(path, params)
    recipe = train.Recipe(model, epochs=1)
    before = batch_norm_changed((path.with_suffix(".npz"),), recipe, dataset, dataset.ids)
    found = batch_norm_changed((path,), recipe, dataset, dataset.ids)
    assert before is None
    assert (found is None) == (not params.state)
    if found is not None:
      assert np.abs(found.logits[0] - params(inputs)).max() > 1e-3


@pytest.mark.slow
def test_it_is_audited_and_tells_a_retrained_model_from_the_original(judged):
  for said, _ in judged.values():
    assert "audit passed" in said
    assert "One unlearned model gives no interval over seeds" in said
  good, bad = (read(judged[name][1]["figures"]) for name in ("retrained", "original"))
  assert find(good, "ToW").value > 0.8 > find(bad, "ToW").value
  assert np.isnan(find(good, "ToW").low)
  assert find(good, "churn", "forget").value < find(bad, "churn", "forget").value


@pytest.mark.slow
def test_outputs_of_elsewhere_are_judged_alike(saved, judged):
  done = evaluate(
    *("--unlearned", saved / "run" / "outputs.npz", "--forget", saved / "forget.txt"),
    *options(saved),
  )
  assert done.returncode == 0, done.stdout + done.stderr
  again = json.loads((saved / "run" / "evaluation.json").read_text())
  tows = (find(read(each["figures"]), "ToW").value for each in (again, judged["retrained"][1]))
  assert len(set(tows)) == 1


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--unlearned", "nothing"], "nothing"),
    (["--unlearned", "nothing", "--num-models", "4"], "--num-models 4"),
    (["--unlearned", "nothing", "--oracles", "x"], "both --originals and --oracles"),
    (["--unlearned", "nothing", "--test", "x"], "both --heldout and --test"),
    (["--unlearned", "nothing", "--seconds", "1"], "both --seconds and --retrained-seconds"),
    (["--unlearned", "nothing", "--against", "/etc/hostname"], "no evaluation.json"),
  ],
)
def test_user_errors_name_the_cure_without_a_traceback(tmp_path, arguments, said):
  forget = cut(Config(unlearned=(), forget=Path(), dataset="digits"))[1].train[:60]
  (tmp_path / "forget.txt").write_text("\n".join(map(str, forget)))
  given = ["--forget", tmp_path / "forget.txt", "--dataset", "digits", "--out", tmp_path / "bad"]
  done = evaluate(*given, *arguments)
  assert done.returncode != 0
  assert said in done.stdout + done.stderr
  assert "Traceback" not in done.stdout + done.stderr
