"""One step of a training run, and one epoch of steps: what `fit` and other loops carry along."""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxmul import _sharding, _tracking
from jaxmul._blocks import even_rows, filled, num_parts, shuffled_rows
from jaxmul._examples import Batch, Examples
from jaxmul._step_gradients import Cut, of_batch, of_microbatches
from jaxmul._tracking import Step, Tracker
from jaxmul.binding import Network

if TYPE_CHECKING:
  from jaxmul.train import Recipe


class History(NamedTuple):
  """Per epoch: mean loss [E] in nats and accuracy [E] in [0, 1], of the steps' own forward pass.

  Of a network with a loss of its own: that loss, and NaN for the accuracy.
  """

  loss: jax.Array
  accuracy: jax.Array


class Job(NamedTuple):
  """What a training run is made of, all static.

  Attributes:
    recipe: of the run.
    optimizer: that of the recipe.
    trackers: that ride along.
    mesh: the devices that every batch is split over, None where it is not split.
  """

  recipe: "Recipe"
  optimizer: optax.GradientTransformation
  trackers: tuple[Tracker, ...] = ()
  mesh: _sharding.Devices | None = None


class Carry(NamedTuple):
  """What a training run carries from step to step.

  Attributes:
    network: in training.
    optimizer: state of the optimizer.
    weighting: state of the recipe's weighting, None without one.
    tracked: the state of each tracker.
  """

  network: Network
  optimizer: optax.OptState
  weighting: Any = None
  tracked: tuple[Any, ...] = ()


def first_carry(job: Job, network: Network) -> Carry:
  """Returns what a run carries before its first step, without trackers."""
  weighting = job.recipe.weighting
  return Carry(
    network,
    job.optimizer.init(network.params),
    None if weighting is None else weighting.init(),
  )


def epoch_of(
  job: Job, examples: Examples, key: jax.Array, carry: Carry, number: jax.Array
) -> tuple[Carry, History]:
  """One pass over the data in an order of its own; the history is of scalars."""
  order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
  count = len(examples.rows)

  def step(carry, batch):
    places, index = batch
    return step_of(job, examples, jax.random.fold_in(step_key, index), carry, number, places)

  batches = batches_of(job.recipe, carry.network, order_key, count)
  carry, (loss, hits) = lax.scan(step, carry, (batches, jnp.arange(len(batches))))
  return carry, means(loss, hits, count)


def batches_of(recipe: "Recipe", network: Network, key: jax.Array, count: int) -> jax.Array:
  """Returns the places [steps, B] of an epoch of `count` examples, with padding; see `_blocks`."""
  deal = shuffled_rows if network.train_fn is None else even_rows
  return deal(key, count, recipe.batch_size)


def means(loss: jax.Array, hits: jax.Array, count: int) -> History:
  """Returns the history of an epoch, of its steps' summed losses and numbers right [steps]."""
  loss, accuracy = jnp.sum(loss) / count, jnp.sum(hits) / count
  return History(loss.astype(jnp.float32), accuracy.astype(jnp.float32))


def step_of(
  job: Job,
  examples: Examples,
  key: jax.Array,
  carry: Carry,
  number: jax.Array,
  places: jax.Array,
) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
  """One step on the examples at these places [B]; also returns summed loss and number right.

  A place from n = len(examples.rows) on is padding: n + i is example i, at weight 0. There may be
  more of it, so that microbatches are equal and devices divide them.
  """
  count = len(examples.rows)
  places = whole_rows(job, places, count)
  batch = examples.gather(places % count, places < count)
  return step_on(job, batch, jnp.minimum(places, count), key, carry, number)


def whole_rows(job: Job, places: jax.Array, count: int) -> jax.Array:
  """Returns a batch's places [B] with so much padding that microbatches and devices divide it."""
  parts = num_parts(len(places), job.recipe.microbatch)
  return filled(places, count, parts * (1 if job.mesh is None else job.mesh.size))


def step_on(
  job: Job,
  batch: Batch,
  places: jax.Array,
  key: jax.Array,
  carry: Carry,
  number: jax.Array,
) -> tuple[Carry, tuple[jax.Array, jax.Array]]:
  """One step on a batch; also returns summed loss and number right.

  Args:
    job: static.
    batch: of as many rows as `whole_rows` gives.
    places: int [B], of its rows in the training set of n; n where the row is padding.
    key: for augmentation and the pass.
    carry: what the step before returned.
    number: of the epoch.
  """
  recipe, (network, opt_state, weighting, tracked) = job.recipe, carry
  parts = num_parts(len(places), recipe.microbatch)
  if job.mesh is not None:
    batch = _sharding.constrain(batch, job.mesh)
  augment_key, train_key = jax.random.split(key)
  if recipe.augment is not None:
    batch = batch._replace(inputs=recipe.augment(augment_key, batch.inputs))
  if parts == 1:
    passed = of_batch(recipe, network, weighting, batch, train_key)
  else:
    cut = Cut(parts, job.mesh, bool(job.trackers))
    passed = of_microbatches(recipe, network, weighting, batch, train_key, cut)
  loss = passed.losses
  rate = jnp.asarray(recipe.learning_rate * recipe.schedule(number, recipe.epochs), loss.dtype)
  seen = Step(
    rows=places,
    labels=batch.labels,
    logits=passed.outputs,
    losses=loss,
    epoch=number,
    inputs=batch.inputs,
    learning_rate=rate,
  )
  tracked = _tracking.update(job.trackers, tracked, seen, network, parts)
  updates, opt_state = job.optimizer.update(passed.gradient, opt_state, network.params)
  network = network.replace(params=optax.apply_updates(network.params, updates), state=passed.state)
  moved = Carry(network, opt_state, passed.weighting, tracked)
  return moved, (jnp.sum(jnp.where(batch.mask, loss, 0)), passed.hits)
