"""Fixtures that several test folders share, and eight simulated devices for all of them."""

import importlib.util
import os
from pathlib import Path

# Before jax is imported, here and in the processes that tests start.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get(
  "XLA_FLAGS", ""
)

import jax
import numpy as np
import pytest

from jaxmul.data import Dataset

if not hasattr(jax, "enable_x64"):  # before jax 0.8
  import jax.experimental

  jax.enable_x64 = jax.experimental.enable_x64  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="session")
def shared_data() -> Path:
  """The folder of real images, at JAXMUL_SHARED_DATA or ../shared/data."""
  root = Path(__file__).parents[2] / "shared" / "data"
  root = Path(os.environ.get("JAXMUL_SHARED_DATA", root))
  if not (root / "load.py").is_file():
    pytest.skip(f"no real images in {root}; set JAXMUL_SHARED_DATA to the folder of load.py")
  return root


@pytest.fixture(scope="session")
def cifar10_small(shared_data) -> Dataset:
  """4,000 CIFAR-10 training images, class-balanced; ids are CIFAR-10's own indices."""
  spec = importlib.util.spec_from_file_location("shared_data_load", shared_data / "load.py")
  assert spec is not None
  assert spec.loader is not None
  load = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(load)
  folder = shared_data / "cifar10_small"
  images, labels, classes = load.load_images(str(folder), "train")
  return Dataset(images, labels, np.load(folder / "train_index.npy"), len(classes))
