"""A training run whose examples are read as it goes: the steps of a run in memory, in blocks.

Order and keys are those of a run in memory, so that an epoch depends on the run's key and its own
number, and on nothing that was read before. While the steps of a block run, the next block is read
and put on the device. One program has all blocks, whatever the number of their steps: a program of
each step alone would find room for what a step computes anew, which on a CPU took a `cnn` a quarter
of its time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _runs, _sharding, _steps
from jaxmul._arrays import Inputs
from jaxmul._dataset import as_inputs
from jaxmul._examples import Batch
from jaxmul._read_ahead import Rooms, blocks
from jaxmul._reading import Read, Reader
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
  next_epoch = functools.partial(epoch, job, Rooms(job.reader.kept), key)
  return by_epoch(job.task, state, next_epoch, folder)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _start(task: Task, first: Inputs, count: int, key: jax.Array) -> State:
  return typed(_runs.start_of(task, first, count, key))


def epoch(
  job: Job, rooms: Rooms, key: jax.Array, state: State, number: int
) -> tuple[State, History]:
  """Returns what `_runs.epoch` does, where all was finite before."""
  task, count, mesh = job.task, len(job.reader.dataset), job.task.mesh
  which = np.asarray(number)
  carry, step_key, order = _begin(task, count, state.carry, key, which)
  places = np.asarray(order, np.int32)
  width = places.shape[1]
  own = np.arange(width) if mesh is None else _sharding.own_rows(width, mesh)
  sums = []
  for block in blocks(job.reader, rooms, places[:, own]):
    given = block.read, block.places
    if mesh is None:
      given = jax.device_put(given, job.device)
    else:
      given = _sharding.from_processes(given, width, mesh)
    jax.block_until_ready(sums[-1:])  # on every device: no more than two blocks are there
    steps = np.asarray([block.first, block.size], np.int32)
    carry, own_sums = _steps_of(task, count, carry, given, step_key, steps, which)
    sums.append((block.size, own_sums))
  jax.block_until_ready(sums)  # then rooms may be written anew
  loss, hits = (
    np.concatenate([np.asarray(both[part])[:size] for size, both in sums]) for part in (0, 1)
  )
  return _end(task, count, state, carry, loss, hits)


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
def _steps_of(
  task: Task,
  count: int,
  carry: Carry,
  block: tuple[Read, jax.Array],
  key: jax.Array,
  steps: jax.Array,
  number: jax.Array,
) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
  """The steps of a block, as many as it has; it takes the buffers of what the last one carried.

  Their summed losses and numbers right are [K], of which those behind these steps are 0.
  """
  first, size = steps

  def step(carry, index):
    own = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index, 1, False), block)
    return _step(task, count, carry, own, jax.random.fold_in(key, first + index), number)

  def next_step(index, carried):
    carry, sums = carried
    carry, own = step(carry, index)
    return carry, jax.tree.map(lambda all_, one: all_.at[index].set(one), sums, own)

  _, like = jax.eval_shape(step, carry, jnp.int32(0))
  sums = jax.tree.map(lambda one: jnp.zeros(block[1].shape[1], one.dtype), like)
  return lax.fori_loop(0, size, next_step, (carry, sums))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(
  task: Task,
  count: int,
  carry: Carry,
  given: tuple[Read, jax.Array],
  key: jax.Array,
  number: jax.Array,
) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
  """One step, under `jit` so that it is traced once for its types and for the loop."""
  read, places = given
  batch = Batch(as_inputs(read.inputs), jnp.asarray(read.labels), places < count, places % count)
  rows = jnp.minimum(places, count)
  moved = _steps.step_on(_runs.job_of(task, count), batch, rows, key, carry, number)
  return _whole(task, moved)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _end(
  task: Task, count: int, state: State, carry: Carry, loss: jax.Array, hits: jax.Array
) -> tuple[State, History]:
  return _runs.settled(task, state, carry, _steps.means(loss, hits, count))


def _whole(task: Task, tree: Any) -> Any:
  return tree if task.mesh is None else _sharding.constrain_whole(tree, task.mesh)
