"""A training run whose examples are read as it goes: the steps of a run in memory, one by one.

Order and keys are those of a run in memory, so that an epoch depends on the run's key and its own
number, and on nothing that was read before. While a step runs, the batch of the next one is put on
the device, and Grain's threads read those after it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _runs, _sharding, _steps
from jaxmul._arrays import Inputs
from jaxmul._dataset import as_inputs
from jaxmul._examples import Batch
from jaxmul._reading import Read, batches
from jaxmul._runs import State, Task
from jaxmul._steps import Carry, History
from jaxmul._streamed import Streamed


def run(
  task: Task, dataset: Streamed, first: Read, key: jax.Array, device: Any = None
) -> _runs.Run:
  """Returns what `_runs.whole` does of the same examples in memory.

  Args:
    task: what is trained, and the mesh that its batches are split over.
    dataset: what on.
    first: its first example.
    key: of the run, on the devices of the run.
    device: where batches go without a mesh, JAX's default by default.

  Raises:
    ValueError: as `_reading.read`.
  """
  state = start(task, first.inputs, len(dataset), key)
  history = np.full((2, task.recipe.epochs), np.nan, np.float32)
  for number in range(task.recipe.epochs):
    state, history[:, number] = epoch(task, dataset, first, key, state, number, device)
    if not state.alive:
      break
  loss, accuracy = map(jnp.asarray, history)
  return _runs.Run(state.carry.network, scores(task, state), History(loss, accuracy))


@functools.partial(jax.jit, static_argnums=(0, 2))
def start(task: Task, first: Inputs, count: int, key: jax.Array) -> State:
  """`_runs.start_of`, in the types that a step returns."""
  # With weak types, as of 1.0, the first step would be another program than the next.
  state = _runs.start_of(task, first, count, key)
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)


scores = jax.jit(_runs.scores, static_argnums=0)


def epoch(
  task: Task,
  dataset: Streamed,
  first: Read,
  key: jax.Array,
  state: State,
  number: int,
  device: Any = None,
) -> tuple[State, History]:
  """Returns what `_runs.epoch` does, where all was finite before."""
  count, which = len(dataset), np.asarray(number)
  carry, step_key, order = _begin(task, count, state.carry, key, which)
  places, mesh = np.asarray(order), task.mesh
  width = places.shape[1]
  own = np.arange(width) if mesh is None else _sharding.own_rows(width, mesh)
  sums, running = [], None
  for step, read in enumerate(batches(dataset, first, places[:, own])):
    given = (read, places[step, own].astype(np.int32))
    if mesh is None:
      given = jax.device_put(given, device)
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
  batch = Batch(as_inputs(read.inputs), read.labels, places < count, places % count)
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
