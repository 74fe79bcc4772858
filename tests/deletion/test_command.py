"""The command `jaxmul` in a process of its own, in a folder that holds somebody's package."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxmul import _command, checkpoint, data, deletion, proxies, train

PACKAGE = """
import flax.linen as nn
from jaxmul import train

class Net(nn.Module):
  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.Dense(64)(x.reshape(len(x), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
    return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x))

def recipe():
  return train.Recipe(Net(), epochs=30, batch_size=64, learning_rate=0.1)
"""


def jaxmul(folder, *arguments):
  environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
  return subprocess.run(
    [sys.executable, "-m", "jaxmul", *arguments],
    capture_output=True,
    text=True,
    cwd=folder,
    env=environment,
    check=False,
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("engineer")
  (folder / "mine.py").write_text(PACKAGE)
  digits, rng = data.digits(), np.random.default_rng(0)
  ids = rng.choice(10**12, len(digits), replace=False)
  dataset = data.Dataset(digits.inputs, digits.labels, ids)
  parts = data.holdout(dataset, jax.random.key(0), heldout=200, test=300)
  labels = digits.labels.copy()
  wrong = rng.choice(parts.train, 40, replace=False)
  rows = dataset.rows(wrong)
  labels[rows] = (labels[rows] + rng.integers(1, 10, 40)) % 10
  dataset = data.Dataset(digits.inputs, labels, ids)
  np.savez(folder / "arrays.npz", inputs=dataset.inputs, labels=labels, ids=ids)
  sys.path.insert(0, str(folder))
  try:
    fit = train.fit(_command._recipe("mine:recipe"), dataset, jax.random.key(1), ids=parts.train)
  finally:
    sys.path.remove(str(folder))
  checkpoint.save(folder / "trained", fit.network)
  (folder / "ids.csv").write_text("id\n" + "\n".join(map(str, wrong[:37])))
  (folder / "heldout.json").write_text(json.dumps(parts.heldout.tolist()))
  (folder / "test.txt").write_text("\n".join(map(str, parts.test)))
  return folder


def test_one_command_from_ids_to_a_record_that_verifies(folder):
  ours = ("--network", "mine:recipe", "--data", "arrays.npz", "--checkpoint", "trained")
  sets = ("--ids", "ids.csv", "--heldout", "heldout.json", "--test", "test.txt")
  done = jaxmul(folder, "forget", *ours, *sets, "--out", "gone", "--oracles", "2")
  assert done.returncode == 0, done.stderr
  assert "change of the example gap" in done.stdout
  assert 'evidence "sample" costs 7 trainings' in done.stderr
  assert len(deletion.verify(folder / "gone")["forget"]) == 37
  done = jaxmul(folder, "verify", "gone")
  assert done.stdout.startswith("whole: request to delete 37 ids")
  page = folder / "gone" / "report.html"
  page.write_text(page.read_text() + " ")
  done = jaxmul(folder, "verify", "gone")
  assert (done.returncode, done.stderr.count("\n")) == (1, 1)
  assert "report.html is missing or damaged" in done.stderr


def test_scores_are_those_of_the_library(folder):
  ours = ("--network", "mine:recipe", "--data", "arrays.npz", "--checkpoint", "trained")
  done = jaxmul(folder, "score", *ours, "--proxy", "loss", "--out", "loss.npz")
  assert done.returncode == 0, done.stderr
  dataset = data.from_npz(folder / "arrays.npz")
  sys.path.insert(0, str(folder))
  try:
    network = _command._network(_command._recipe("mine:recipe"), dataset, folder / "trained")
  finally:
    sys.path.remove(str(folder))
  with np.load(folder / "loss.npz") as found:
    np.testing.assert_array_equal(found["ids"], dataset.ids)
    expected = proxies.score(proxies.loss, network, dataset)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "content", "ids"),
  [
    ("a.txt", "3\n1 999999999999\n", [3, 1, 999999999999]),
    ("a.csv", "id,why\n4,gdpr\n7,other\n", [4, 7]),
    ("b.csv", "4\n7\n", [4, 7]),
    ("excel.csv", "\ufeff123\n456\n", [123, 456]),
    ("a.json", "[5, 2]", [5, 2]),
  ],
)
def test_ids_are_read_of_files_that_people_have(tmp_path, name, content, ids):
  (tmp_path / name).write_text(content)
  assert _command.read_ids(tmp_path / name).tolist() == ids


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("a.txt", "x"),
    ("a.json", '{"a": 1}'),
    ("b.json", "["),
    ("c.json", "[18446744073709551615]"),
    ("a.csv", "12.0\n34\n"),
    ("b.csv", "12a\n3\n"),
  ],
)
def test_a_file_without_ids_is_refused(tmp_path, name, content):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match="holds no ids"):
    _command.read_ids(tmp_path / name)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("mine", "name it as package.module:name"),
    ("no_such_package:recipe", "No module named 'no_such_package'"),
    ("json:dumps_it", "has no attribute 'dumps_it'"),
    ("os:getcwd", "gives a str, must give a train.Recipe"),
  ],
)
def test_a_network_that_is_no_recipe_is_refused(name, message):
  with pytest.raises(ValueError, match=message):
    _command._recipe(name)
