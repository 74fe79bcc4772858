"""CIFAR-10 as anyone gets it becomes the very file that the benchmarks use."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import cifar10_small, setting
from jaxmul import data

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
  """All of CIFAR-10 in its official binary form, of which images at hand are a copy."""
  root = Path(os.environ.get("JAXMUL_SHARED_DATA", ROOT.parent / "shared" / "data"))
  if not (root / "cifar10").is_dir():
    pytest.skip(f"there is no CIFAR-10 in {root}")
  load = runpy.run_path(str(root / "load.py"))["load_images"]
  folder = tmp_path_factory.mktemp("cifar-10-batches-bin")
  rows = []
  for part in ("train", "test"):
    images, labels, _ = load(str(root / "cifar10"), part)
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    rows.append(np.concatenate([labels[:, None], pixels], axis=1).astype(np.uint8))
  for name, batch in zip(cifar10_small._FILES, np.split(np.concatenate(rows), 6), strict=True):
    batch.tofile(folder / name)
  return folder


@pytest.mark.parametrize("whole", [False, True])
def test_the_binary_version_gives_the_same_images(binary, tmp_path, whole):
  out = tmp_path / "small.npz"
  cifar10_small.main(cifar10_small.Config(out=out, source=binary, whole=whole))
  found, expected = data.from_npz(out), setting.cifar10("train", "test", whole=whole)
  assert len(found) == (60_000 if whole else 5_000)
  for name in ("inputs", "labels", "ids"):
    np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def run(*arguments, cwd):
  command = [sys.executable, "-m", "experiments.cifar10_small", *arguments]
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAXMUL_SHARED_DATA": "/nowhere"}
  return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_help_writes_nothing_and_says_where_the_images_are(tmp_path):
  done = run("--help", cwd=tmp_path)
  assert done.returncode == 0
  assert "https://www.cs.toronto.edu/~kriz/cifar.html" in done.stdout
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("flags", "said"),
  [((), "https://www.cs.toronto.edu/~kriz/cifar.html"), (("--source", "."), "data_batch_1.bin")],
)
def test_without_images_one_line_says_what_to_do(tmp_path, flags, said):
  done = run("small.npz", *flags, cwd=tmp_path)
  assert (done.returncode, done.stderr.count("\n")) == (1, 1)
  assert said in done.stderr
