"""The evaluation of saved models as a user runs it: a good model, a bad one, errors in one line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.evaluate import Config, batch_norm_changed, main, read_models, split_of
from experiments.setting import cut, recipe_of
from jaxmul import checkpoint, data, losses, models, train
from jaxmul.metrics import find
from jaxmul.metrics.figures import read
from jaxmul.metrics.oracle import Outputs

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


@pytest.fixture
def text(tmp_path):
  """The flags of a text data set with half of its forget set memorized, and its split."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 5, (400, 6))
  labels = np.concatenate([tokens[:, 1:], np.full((400, 1), -1)], 1)
  np.savez(tmp_path / "text.npz", inputs=tokens, labels=labels, strata=np.zeros(400, int))
  flags = {"dataset": str(tmp_path / "text.npz"), "model": "gpt", "out": tmp_path / "run"}
  config = Config(unlearned=(), forget=tmp_path / "forget.npy", **flags)
  dataset, parts = cut(config)
  np.save(config.forget, parts.train[:60])
  return config, dataset, split_of(config, dataset, parts)


def said(split, models, memorized, seed):
  """Outputs of made-up networks of text: log-odds alone, higher where it was trained on."""
  rng, ids = np.random.default_rng(seed), np.concatenate([split.train, split.heldout, split.test])
  hard = np.isin(ids, split.forget[:30])
  log_odds = 2.0 - 4.0 * hard + rng.normal(size=(models, len(ids))) / 2
  log_odds[:, hard] += 5.0 * memorized
  return Outputs(ids, log_odds, log_odds > 0)


def test_networks_of_text_are_judged_without_logits(text):
  config, _, split = text
  files = {}
  for seed, (name, memorized) in enumerate({"original": 1, "oracle": 0, "unlearned": 0}.items()):
    files[name] = config.out.parent / f"{name}.npz"
    said(split, 16, memorized, seed).save(files[name])
  given = {"originals": (files["original"],), "oracles": (files["oracle"],)}
  found = {}
  for name in ("original", "unlearned"):
    main(dataclasses.replace(config, unlearned=(files[name],), **given))
    written = json.loads((config.out / "evaluation.json").read_text())
    found[name] = find(read(written["figures"]), "ToW")
  assert found["original"].high < found["unlearned"].low
  assert found["unlearned"].value > 0.9


def test_a_checkpoint_of_a_gpt_is_read_and_logits_are_refused_for_text(text, tmp_path):
  config, dataset, split = text
  recipe = recipe_of(config, dataset.num_classes)
  network = models.init(recipe.model, jax.random.key(0), dataset.example)
  checkpoint.save(tmp_path / "gpt", network)
  said(split, 2, 0, 0).save(tmp_path / "two.npz")
  paths = (tmp_path / "gpt", tmp_path / "two.npz")
  outputs = read_models(paths, recipe, dataset, split.forget)
  assert (len(outputs), outputs.logits) == (3, None)
  few = dataset.take(split.forget)
  ours = losses.cross_entropy(network(few.batch()[0]), few.batch()[1])
  np.testing.assert_allclose(outputs.probability[0], np.exp(-ours), rtol=1e-4)
  labels = np.zeros(len(split.forget), int)
  Outputs.of_logits(split.forget, labels, np.zeros((1, len(labels), 5))).save(tmp_path / "of.npz")
  with pytest.raises(ValueError, match=r"of.npz holds logits, of one label each, but labels of"):
    read_models((tmp_path / "of.npz",), recipe, dataset, split.forget)


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
