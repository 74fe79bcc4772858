"""A training run whose examples are read as it goes: the steps of a run in memory, one by one.

Order and keys are those of a run in memory, so that an epoch depends on the run's key and its own
number, and on nothing that was read before. While a step runs, the batch of the next one is put on
the device, and Grain's threads read those after it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _runs, _sharding, _steps
from jaxmul._arrays import Inputs
from jaxmul._dataset import as_inputs
from jaxmul._examples import Batch
from jaxmul._reading import Read, Reader, batches
from jaxmul._runs import State, Task
from jaxmul._saved_runs import Folder, by_epoch, typed
from jaxmul._steps import Carry, History


class Job(NamedTuple):
  """What is trained, and what on.

  Attributes:
    task: recipe, trackers, and the mesh that batches are split over.
    reader: of the data set.
    device: where batches go without a mesh, JAX's default where it is None.
  """

  task: Task
  reader: Reader
  device: Any = None


def run(job: Job, key: jax.Array, folder: Folder | None) -> _runs.Run:
  """Returns what `_runs.whole` does of the same examples in memory.

  Args:
    job: what and what on.
    key: of the run, on the devices of the run.
    folder: where epochs are saved, if they are.

  Raises:
    ValueError: as `_reading.read`.
  """
  state = _start(job.task, job.reader.sample.inputs, len(job.reader.dataset), key)
  return by_epoch(job.task, state, functools.partial(epoch, job, key), folder)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _start(task: Task, first: Inputs, count: int, key: jax.Array) -> State:
  return typed(_runs.start_of(task, first, count, key))


def epoch(job: Job, key: jax.Array, state: State, number: int) -> tuple[State, History]:
  """Returns what `_runs.epoch` does, where all was finite before."""
  task, count, mesh = job.task, len(job.reader.dataset), job.task.mesh
  which = np.asarray(number)
  carry, step_key, order = _begin(task, count, state.carry, key, which)
  places = np.asarray(order, np.int32)
  width = places.shape[1]
  own = np.arange(width) if mesh is None else _sharding.own_rows(width, mesh)
  sums, running = [], None
  for step, read in enumerate(batches(job.reader, places[:, own])):
    given = read, places[step, own]
    if mesh is None:
      given = jax.device_put(given, job.device)
    else:
      given = _sharding.from_processes(given, width, mesh)
    if running is not None:
      sums.append(jax.device_get(running))  # waits, so that no more than two batches are there
    carry, running = _step(task, count, carry, *given, step_key, np.asarray(step), which)
  sums.append(jax.device_get(running))
  return _end(task, count, state, carry, *map(np.asarray, zip(*sums, strict=True)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begin(
  task: Task, count: int, carry: Carry, key: jax.Array, number: jax.Array
) -> tuple[Carry, jax.Array, jax.Array]:
  """A copy of the carry, the key of an epoch's steps, and its order [steps, B] as places."""
  _, own_key = jax.random.split(key)
  order_key, step_key = jax.random.split(jax.random.fold_in(own_key, number))
  job = _runs.job_of(task, count)
  order = _steps.batches_of(task.recipe, carry.network, order_key, count)
  order = jax.vmap(lambda places: _steps.whole_rows(job, places, count))(order)
  return _whole(task, (jax.tree.map(jnp.copy, carry), step_key, order))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _step(
  task: Task,
  count: int,
  carry: Carry,
  read: Read,
  places: jax.Array,
  key: jax.Array,
  step: jax.Array,
  number: jax.Array,
) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
  """One step; it takes the buffers of what the last one carried."""
  batch = Batch(as_inputs(read.inputs), jnp.asarray(read.labels), places < count, places % count)
  job, own_key = _runs.job_of(task, count), jax.random.fold_in(key, step)
  rows = jnp.minimum(places, count)
  return _whole(task, _steps.step_on(job, batch, rows, own_key, carry, number))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _end(
  task: Task, count: int, state: State, carry: Carry, loss: jax.Array, hits: jax.Array
) -> tuple[State, History]:
  return _runs.settled(task, state, carry, _steps.means(loss, hits, count))


def _whole(task: Task, tree: Any) -> Any:
  return tree if task.mesh is None else _sharding.constrain_whole(tree, task.mesh)
