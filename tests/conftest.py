"""Fixtures that several test folders share, and eight simulated devices for all of them."""

import os

# Before jax is imported, here and in the processes that tests start.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 " + os.environ.get(
  "XLA_FLAGS", ""
)

import jax
import pytest

from jaxmul.data import Dataset

if not hasattr(jax, "enable_x64"):  # before jax 0.8
  import jax.experimental

  jax.enable_x64 = jax.experimental.enable_x64  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="session")
def cifar10_small() -> Dataset:
  """4,000 CIFAR-10 training images, class-balanced; ids are CIFAR-10's own indices."""
  from experiments import cifar10_small

  try:
    return cifar10_small.load("train")
  except FileNotFoundError as error:
    pytest.skip(str(error))
