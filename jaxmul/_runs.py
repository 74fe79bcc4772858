"""A training run as pure functions: how it starts, one epoch of it, and all of them as one program.

After a loss that is not finite no later epoch changes anything: what is returned is the network of
the last good one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxmul import _arrays, _article, _sharding, _tracking, models
from jaxmul._arrays import Inputs
from jaxmul._dataset import as_inputs
from jaxmul._examples import Examples
from jaxmul._steps import Carry, History, Job, epoch_of, first_carry
from jaxmul._tracking import Tracker
from jaxmul.binding import Network, refuse_lone_rows

if TYPE_CHECKING:
  from jaxmul.train import Recipe


class Task(NamedTuple):
  """What a compiled run is made for besides shapes: hashable, and equal for equal runs.

  Attributes:
    recipe: of the run.
    trackers: that ride along.
    mesh: the devices that every batch is split over, None where it is not split.
  """

  recipe: "Recipe"
  trackers: tuple[Tracker, ...] = ()
  mesh: _sharding.Devices | None = None


class State(NamedTuple):
  """What a run carries from epoch to epoch: that of a step, and whether all was finite so far."""

  carry: Carry
  alive: jax.Array


class Run(NamedTuple):
  """What `run` returns: the network, tracker scores {name: [n]}, history."""

  network: Network
  scores: dict[str, jax.Array]
  history: History


def run(recipe: "Recipe", trackers: tuple[Tracker, ...], examples: Examples, key: jax.Array) -> Run:
  """A whole training run as a pure function: `jit` it, `vmap` it over `examples.rows` and `key`.

  Args:
    recipe: static.
    trackers: static.
    examples: what is trained on, without padding: all of its n rows are members.
    key: of this run.

  Returns:
    A `Run`. After a loss that is not finite no later epoch changes anything.
  """
  return whole(Task(recipe, trackers), examples, key)


def whole(task: Task, examples: Examples, key: jax.Array) -> Run:
  """All epochs of a run as one loop; the task is static."""
  first = start(task, examples, key)

  def next_epoch(state, number):
    return epoch(task, examples, key, state, number)

  state, history = lax.scan(next_epoch, first, jnp.arange(task.recipe.epochs))
  return Run(state.carry.network, scores(task, state), history)


def start(task: Task, examples: Examples, key: jax.Array) -> State:
  """Returns what a run carries before its first epoch.

  Raises:
    ValueError: trackers cannot work together or with the network, or a step, or a microbatch, would
      take batch statistics of one example.
  """
  return start_of(task, _arrays.rows(examples.inputs, slice(1)), len(examples.rows), key)


def start_of(task: Task, first: Inputs, count: int, key: jax.Array) -> State:
  """As `start`, told the first of `count` examples, inputs [1, ...] in their own dtype."""
  recipe, trackers, _ = task
  init_key, _ = jax.random.split(key)
  first = as_inputs(first)
  shape = (count, *input_shape(first)[1:])
  _tracking.check(trackers, shape, recipe.epochs)
  network = models.init(recipe.model, init_key, first)
  _tracking.check_network(trackers, network)
  example = jax.eval_shape(lambda: network.embedded(first))
  embedded = (shape[0], *input_shape(example)[1:])
  refuse_lone_rows(network, count, recipe.batch_size, "run", microbatch=recipe.microbatch)
  tracked = tuple(_tracking.start(tracker, embedded, recipe.epochs) for tracker in trackers)
  carry = first_carry(job_of(task, count), network)._replace(tracked=tracked)
  return _on_all_devices(task, State(carry, jnp.array(True)))


def epoch(
  task: Task, examples: Examples, key: jax.Array, state: State, number: jax.Array
) -> tuple[State, History]:
  """Returns what a run carries after an epoch, and the epoch's history of scalars, NaN if bad."""
  _, order_key = jax.random.split(key)
  # Also where it is not wanted: of several models under `vmap`, `cond` would give each its own copy
  # of the data.
  job = job_of(task, len(examples.rows))
  return settled(task, state, *epoch_of(job, examples, order_key, state.carry, number))


def settled(task: Task, state: State, new: Carry, history: History) -> tuple[State, History]:
  """Returns what is carried on after an epoch, the old state if the new one is bad, and history."""
  good = state.alive & jnp.isfinite(history.loss) & _arrays.all_finite(new.network.params)
  history = jax.tree.map(lambda mean: jnp.where(good, mean, jnp.nan), history)
  kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state.carry)
  return _on_all_devices(task, State(kept, good)), history


def scores(task: Task, state: State) -> dict[str, jax.Array]:
  """Returns what the trackers of a run say at its end, {name: [n]}."""
  found: dict[str, jax.Array] = {}
  for tracker, own in zip(task.trackers, state.carry.tracked, strict=True):
    found |= tracker.score(own)
  return found


def job_of(task: Task, count: int) -> Job:
  """Returns what the steps of a run on `count` examples are made of."""
  recipe, trackers, mesh = task
  steps = -(-count // recipe.batch_size)
  return Job(recipe=recipe, optimizer=optimizer(recipe, steps), trackers=trackers, mesh=mesh)


def _on_all_devices(task: Task, state: State) -> State:
  """Returns a state whole on every device, so that each epoch takes and returns the same kind."""
  return state if task.mesh is None else _sharding.constrain_whole(state, task.mesh)


def input_shape(inputs: Inputs) -> tuple[int, ...]:
  """The shape [n, ...] that trackers are told: of a dict, whose gradients none takes, [n]."""
  return (_arrays.size(inputs),) if isinstance(inputs, Mapping) else inputs.shape


def optimizer(recipe: "Recipe", steps_per_epoch: int) -> optax.GradientTransformation:
  """Returns the recipe's optax transformation, its rate stepped once an epoch."""

  def rate(count):
    return recipe.learning_rate * recipe.schedule(count // steps_per_epoch, recipe.epochs)

  return optimizer_at(recipe, rate)


def optimizer_at(recipe: "Recipe", rate: optax.Schedule) -> optax.GradientTransformation:
  """Returns the recipe's optax transformation at a rate, `step -> learning rate`."""
  if recipe.optimizer is not None:
    made = recipe.optimizer(rate)
    if not hasattr(made, "init") or not hasattr(made, "update"):
      raise ValueError(
        f"the optimizer of a Recipe returned {_article.of(made)}, must return an optax "
        "transformation, as optax.adam does."
      )
    return made
  return optax.chain(
    optax.add_decayed_weights(recipe.weight_decay),
    optax.sgd(rate, recipe.momentum or None),
  )
