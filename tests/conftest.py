"""Fixtures that several test folders share, and eight simulated devices for all of them."""

import importlib.metadata
import os


def xla_flags() -> str:
  """Eight devices, whatever is set, and for quick tests (see the Makefile) fewer optimizations."""
  flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
  if os.environ.get("JAXMUL_QUICK_TESTS"):
    flags.append("--xla_backend_optimization_level=0")
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    if version < (0, 11):  # later ones do not know it, and end at once
      flags.append("--xla_cpu_use_fusion_emitters=false")
  return " ".join(flags)


# Before jax is imported, here and in the processes that tests start.
os.environ["XLA_FLAGS"] = xla_flags()

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxmul.data import Dataset  # noqa: E402

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
