"""Who computes the chunks of a plan: this process, all its devices, or one process per core.

An executor is a function `(plan, chunks) -> iterator of (number, Chunk)`, in any order.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _sharding
from jaxmul.memorization.chunk import Chunk, outcome, run_chunk, tally
from jaxmul.memorization.plan import Plan

Executor = Callable[[Plan, Sequence[int]], Iterator[tuple[int, Chunk]]]

# XLA's CPU products do not scale over threads as processes do: one thread each.
_SINGLE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def serial(plan: Plan, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
  """Computes chunk after chunk in this process, on its default device."""
  for chunk in chunks:
    yield chunk, run_chunk(plan, chunk)


def processes(workers: int | None = None) -> Executor:
  """Returns an executor of single-threaded CPU processes.

  Args:
    workers: number of processes; one per core that this process may use by default.

  Raises:
    ValueError: `workers` is below 1.
  """
  if workers is not None and workers < 1:
    raise ValueError(f"processes got workers={workers}, must be at least 1.")

  def execute(plan: Plan, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
    import loky

    count = min(workers or loky.cpu_count(), len(chunks))
    pool = loky.ProcessPoolExecutor(
      count, initializer=_set_plan, initargs=(plan,), env=_environment()
    )
    try:
      futures: dict[Any, int] = {pool.submit(_run_in_worker, chunk): chunk for chunk in chunks}
      for future in loky.as_completed(futures):
        yield futures[future], future.result()
    finally:
      pool.shutdown(wait=True, kill_workers=True)

  return execute


def devices(width: int = 1) -> Executor:
  """Returns an executor that splits the models of a chunk over all devices of this process.

  Args:
    width: models that a device trains at once, under `vmap`; a fixed width gives the same bits on
      any number of devices. A chunk is padded to a multiple of width × devices.

  Raises:
    ValueError: `width` is below 1.
  """
  if width < 1:
    raise ValueError(f"devices got width={width}, must be at least 1.")

  def execute(plan: Plan, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
    found = jax.devices()
    shared = (jnp.asarray(plan.dataset.images), jnp.asarray(plan.dataset.labels))

    def train(model, shared):
      images, labels, key = shared
      key = jax.random.wrap_key_data(key)
      return outcome(plan.recipe, plan.subset_size, images, labels, key, model)

    mapped = jax.jit(_sharding.map_models(train, found, width))
    for chunk in chunks:
      models = np.asarray(plan.models(chunk))
      padded = np.resize(models, -(-len(models) // (width * len(found))) * width * len(found))
      outcomes = mapped(jnp.asarray(padded), (*shared, jnp.asarray(plan.key)))
      yield chunk, tally(models, *(np.asarray(each)[: len(models)] for each in outcomes))

  return execute


def default() -> Executor:
  """Returns one process per core on CPU, all devices of this process elsewhere."""
  return processes() if jax.default_backend() == "cpu" else devices()


def _environment() -> dict[str, str]:
  flags = os.environ.get("XLA_FLAGS", "").split()
  kept = [flag for flag in flags if "host_platform_device_count" not in flag]
  return {"XLA_FLAGS": " ".join([*kept, _SINGLE_THREAD]), "JAX_PLATFORMS": "cpu"}


_worker_plan: list[Plan] = []  # in a worker process only: sent once, not with every chunk


def _set_plan(plan: Plan) -> None:
  _worker_plan[:] = [plan]


def _run_in_worker(chunk: int) -> Chunk:
  return run_chunk(_worker_plan[0], chunk)
