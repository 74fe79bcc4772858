"""Fixtures that several test folders share, and eight simulated devices for all of them."""

import importlib.metadata
import os
from pathlib import Path

# Before jax is imported, here and in the processes that tests start. Ours come last: they count.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
if os.environ.get("JAXMUL_QUICK_TESTS"):  # fewer optimizations: see the Makefile
  os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
  # A later one does not know this flag, and would end at once.
  if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import pytest

from jaxmul.data import Dataset

jax.devices()  # now: a test that sets JAX's variables for a moment must not be the first to ask

if not hasattr(jax, "enable_x64"):  # before jax 0.8
  import jax.experimental

  jax.enable_x64 = jax.experimental.enable_x64  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="session", autouse=True)
def _compiled(tmp_path_factory):
  """What was compiled once is read from disk: most tests make the same programs anew.

  Processes that tests start share a folder. This process has its own, as JAX's files are not
  written under a temporary name, and another worker could read half of one.
  """
  if os.environ.get("JAXMUL_QUICK_TESTS"):
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(shared / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled_here"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
  """Linux lets a process map 65,530 pieces of memory; each compiled program takes some for good.

  What needs one more then ends in a segmentation fault.
  """
  yield
  maps = Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()


@pytest.fixture(scope="session")
def cifar10_small() -> Dataset:
  """4,000 CIFAR-10 training images, class-balanced; ids are CIFAR-10's own indices."""
  from experiments import setting

  try:
    return setting.cifar10("train")
  except FileNotFoundError as error:
    pytest.skip(str(error))


@pytest.fixture
def eight():
  """Eight devices; elsewhere than on a CPU there may be fewer."""
  if len(jax.devices()) < 8:
    pytest.skip("needs XLA_FLAGS=--xla_force_host_platform_device_count=8")
  return jax.devices()[:8]
