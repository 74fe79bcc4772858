"""Who computes the chunks of a schedule: this process, its devices, a process per core, a cluster.

An executor is a function `(schedule, chunks) -> iterator of (number, Chunk)`, in any order. Each
model is the same whoever trains it, with the settings of JAX that the schedule has; its last bits
depend on how many threads XLA has, so the workers of `processes` and `ray` have one each.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _article, _check, _sharding
from jaxmul.retraining.chunk import (
  Arrays,
  Chunk,
  Outcome,
  Task,
  arrays_of,
  as_scheduled,
  outcome,
  run_chunk,
  tally,
  task_of,
)
from jaxmul.retraining.leave_out_schedule import Schedule

Executor = Callable[[Schedule, Sequence[int]], Iterator[tuple[int, Chunk]]]


class Future(Protocol):
  """What `submit` returns: work that another process does."""

  def done(self) -> bool: ...

  def result(self) -> Chunk: ...

  def cancel(self) -> object: ...


@runtime_checkable
class Submitter(Protocol):
  """Whatever sends a function and its arguments to another process: see `pool`."""

  def submit(self, function: Callable[..., Chunk], /, *arguments: object) -> Future: ...


# XLA's CPU products do not scale over threads as processes do: one thread each.
_SINGLE_THREAD = "--xla_cpu_multi_thread_eigen=false"
_POLL_SECONDS = 0.05
_PATIENCE = 3  # pools in a row that die without finishing a chunk


def serial(schedule: Schedule, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
  """Computes chunk after chunk in this process, on its default device."""
  for chunk in chunks:
    yield chunk, run_chunk(schedule, chunk)


def processes(workers: int | None = None) -> Executor:
  """Returns an executor of single-threaded CPU processes; one that dies is replaced.

  Args:
    workers: number of processes; one per core that this process may use by default.

  Raises:
    ValueError: `workers` is below 1; or, when it computes, this is a worker of
      `multiprocessing.Pool`, which may start no processes.
  """
  if workers is not None:
    _check.at_least("processes", 1, workers=workers)

  def execute(schedule: Schedule, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
    import loky
    from loky.process_executor import TerminatedWorkerError

    if multiprocessing.current_process().daemon:
      raise ValueError(
        "processes was called in a daemonic process, such as a worker of multiprocessing.Pool, "
        "which may start none. Use executor=retraining.serial, or a "
        "concurrent.futures.ProcessPoolExecutor."
      )
    left, fruitless = list(chunks), 0
    while left:
      before = len(left)
      count = workers_for(len(left), workers)
      pool = loky.ProcessPoolExecutor(
        count, initializer=_set_schedule, initargs=(schedule,), env=worker_environment()
      )
      try:
        # Two for each worker: none waits, and no more results than that wait for who reads them.
        coming, futures = iter(list(left)), {}
        while True:
          for chunk in itertools.islice(coming, 2 * count - len(futures)):
            with _deaf_to_interrupts():
              futures[pool.submit(_run_in_worker, chunk)] = chunk
          if not futures:
            break
          future = next(iter(concurrent.futures.wait(futures, return_when="FIRST_COMPLETED").done))
          chunk, result = futures.pop(future), future.result()
          left.remove(chunk)
          del future
          yield chunk, result
      except TerminatedWorkerError as error:
        fruitless = fruitless + 1 if len(left) == before else 0
        if fruitless == _PATIENCE:
          raise RuntimeError(
            f"worker processes were killed {_PATIENCE} times without finishing a chunk; out of "
            "memory? Use processes(workers=1). Finished chunks are kept."
          ) from error
      finally:
        pool.shutdown(wait=True, kill_workers=True)

  return execute


def devices(width: int = 1) -> Executor:
  """Returns an executor that splits the models of a chunk over all local devices.

  In a job of several processes (`jax.distributed`) each computes its share of the chunks on its own
  devices, into the store that all of them see.

  Args:
    width: models that a device trains at once, under `vmap`; a fixed width gives the same bits on
      any number of devices. A chunk is padded to a multiple of width × devices by models that are
      trained for nothing: let the schedule's `chunk_size` be one.

  Raises:
    ValueError: `width` is below 1.
  """
  _check.at_least("devices", 1, width=width)

  def execute(schedule: Schedule, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
    local = tuple(jax.local_devices())
    with as_scheduled(schedule):
      arrays = arrays_of(schedule)
    task = task_of(schedule)
    for chunk in chunks:
      if chunk % jax.process_count() != jax.process_index():
        continue
      models = np.asarray(schedule.models(chunk))
      padded = np.resize(models, -(-len(models) // (width * len(local))) * width * len(local))
      with as_scheduled(schedule):  # not around the yield: the settings of who reads are theirs
        outcomes = _on_devices(task, local, width, jnp.asarray(padded), arrays)
      kept = Outcome._make(np.asarray(leaf)[: len(models)] for leaf in outcomes)
      yield chunk, tally(schedule, models, kept)

  return execute


# A function of the module: made anew for each schedule it would be compiled anew, as in each round
# of `memorization.active`.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _on_devices(
  task: Task, local: tuple[Any, ...], width: int, models: jax.Array, arrays: Arrays
) -> Outcome:
  def train(model, arrays):
    return outcome(task, arrays, model)

  return _sharding.map_models(train, local, width)(models, arrays)


def pool(submitter: Submitter) -> Executor:
  """Returns an executor over any object with `submit`: `concurrent.futures`, Dask, submitit.

  The whole schedule, data included, is sent with every chunk.

  Args:
    submitter: its `submit(run_chunk, schedule, number)` returns a future with `done()` and
      `result()`.

  Raises:
    TypeError: it has no `submit`.
  """
  if not callable(getattr(submitter, "submit", None)):
    raise TypeError(
      f"pool got {_article.of(submitter)} without submit(function, *arguments). "
      "Pass a concurrent.futures executor, a Dask client or a submitit executor."
    )

  def execute(schedule: Schedule, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
    futures = {chunk: submitter.submit(run_chunk, schedule, chunk) for chunk in chunks}
    try:
      while futures:
        finished = [chunk for chunk, future in futures.items() if future.done()]
        for chunk in finished:
          yield chunk, futures.pop(chunk).result()
        if not finished:
          time.sleep(_POLL_SECONDS)
    finally:
      for future in futures.values():
        future.cancel()

  return execute


def ray(address: str | None = None, **options: Any) -> Executor:
  """Returns an executor of Ray tasks, single-threaded on CPU; Ray sends lost work again.

  Args:
    address: of a running cluster (`ray start --head`), such as "auto"; None joins the one that
      `ray.init` has connected to, or starts one on this machine.
    options: of `ray.remote`, such as `num_gpus=1` to train on GPUs.

  Raises:
    ImportError: Ray is not installed; the extra `ray` brings it.
  """
  try:
    import ray as client
    from ray.exceptions import RayTaskError
  except ImportError as error:
    raise ImportError("retraining.ray needs Ray: pip install 'jaxmul[ray]'.") from error

  def execute(schedule: Schedule, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
    if not client.is_initialized():
      client.init(address, log_to_driver=False, include_dashboard=False)
    variables = {} if options.get("num_gpus") else worker_environment()
    given: Any = {"runtime_env": {"env_vars": variables}} | options
    remote, shared = client.remote(**given)(run_chunk), client.put(schedule)
    tasks = {remote.remote(shared, chunk): chunk for chunk in chunks}
    try:
      while tasks:
        (task, *_), _ = client.wait(list(tasks))
        chunk = tasks.pop(task)
        try:
          result = client.get(task)
        except RayTaskError as error:
          raise error.cause from error
        yield chunk, result
    finally:
      for task in tasks:
        client.cancel(task, force=True)

  return execute


def of(given: Executor | Submitter | None) -> Executor:
  """Returns an executor from what a user gave: one, an object with `submit`, or None.

  Raises:
    ValueError: it is none of these, or a function that makes one.
  """
  if given is None:
    return default()
  for maker in (devices, processes, pool, ray):
    if given is maker:
      name = maker.__name__
      raise ValueError(f"executor got the function {name}, which makes one. Call it: {name}(…).")
  if isinstance(given, Submitter):
    return pool(given)
  if not callable(given):
    raise ValueError(
      f"executor got {given!r}. Use retraining.processes(), devices(), ray(), serial, or an object "
      "with submit."
    )
  return given


def default() -> Executor:
  """Returns one process per core on CPU, all local devices elsewhere or in a distributed job.

  A worker of `multiprocessing.Pool`, which may start no processes, computes by itself.
  """
  return {"processes": processes(), "devices": devices(), "serial": serial}[name_of_default()]


def name_of_default() -> Literal["processes", "devices", "serial"]:
  """Returns which executor `default` is."""
  if jax.default_backend() != "cpu" or jax.process_count() > 1:
    return "devices"
  return "serial" if multiprocessing.current_process().daemon else "processes"


def default_workers(schedule: Schedule) -> int:
  """Returns how many models of a schedule `default` trains at once, in all processes of a job."""
  name = name_of_default()
  if name == "processes":
    return workers_for(schedule.num_chunks)
  if name == "serial":
    return 1
  # A device without a model of its own trains one for nothing.
  on_devices = min(len(jax.local_devices()), schedule.chunk_size, schedule.num_models)
  return on_devices * min(jax.process_count(), schedule.num_chunks)


def workers_for(chunks: int, workers: int | None = None) -> int:
  """Returns how many processes compute so many chunks: one per core unless `workers` is given."""
  import loky

  return min(workers or loky.cpu_count(), chunks)


def worker_environment() -> dict[str, str]:
  """Returns the variables of a CPU worker process: one device, one thread."""
  flags = os.environ.get("XLA_FLAGS", "").split()
  kept = [flag for flag in flags if "host_platform_device_count" not in flag]
  return {
    "XLA_FLAGS": " ".join([*kept, _SINGLE_THREAD]),
    "JAX_PLATFORMS": "cpu",
    # Threads of XLA's pool, by which products are cut and so rounded; older versions read NPROC.
    "PJRT_NPROC": os.environ.get("PJRT_NPROC", "1"),
    "NPROC": os.environ.get("PJRT_NPROC", "1"),
  }


_worker_schedule: list[Schedule] = []  # in a worker process only: sent once, not with every chunk


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
  """Processes started inside ignore the Ctrl-C of the terminal: who started them ends them."""
  if threading.current_thread() is not threading.main_thread():  # others may not choose
    yield
    return
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    yield
  finally:
    signal.signal(signal.SIGINT, before)


def _set_schedule(schedule: Schedule) -> None:
  _worker_schedule[:] = [schedule]


def _run_in_worker(chunk: int) -> Chunk:
  return run_chunk(_worker_schedule[0], chunk)
