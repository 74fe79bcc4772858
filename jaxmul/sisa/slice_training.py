"""Training on as many examples as there are, in one compiled program for all shards and requests.

An epoch is that of `train.fit`, bit for bit: the same order and batches, the same step. There the
number of examples is part of the program. Here it is an argument, or every shard, every slice and
every request would be compiled anew.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxmul import models
from jaxmul._arrays import Inputs, all_finite
from jaxmul._examples import Examples
from jaxmul._runs import optimizer_at
from jaxmul._steps import Carry, Job, first_carry, step_of
from jaxmul.train import Recipe


class Slice(NamedTuple):
  """What a network is trained on next.

  Attributes:
    examples: of the data set; its first `count` rows are members, in the order of their ids.
    count: n; without examples nothing is trained.
    epochs: their numbers in the whole training of the network.
  """

  examples: Examples
  count: int
  epochs: range


@functools.partial(jax.jit, static_argnums=0)
def untrained(recipe: Recipe, key: jax.Array, example: Inputs) -> Carry:
  """Returns a network before its first step; of the example [1, ...] only shapes should matter."""
  network = models.init(recipe.model, key, jax.tree.map(jnp.zeros_like, example))
  return first_carry(Job(recipe=recipe, optimizer=_optimizer_of(recipe, 0)), network)


def trained_on(recipe: Recipe, key: jax.Array, carry: Carry, part: Slice) -> tuple[Carry, int]:
  """Returns a network after the epochs of a slice.

  Args:
    recipe: its epochs are those of all slices.
    key: of order, augmentation and dropout, the same for all slices of a shard.
    carry: the network before, with the states of its optimizer and its weighting.
    part: what to train on.

  Returns:
    The network after, or that of the last good epoch; and the number of the epoch that diverged,
    or −1.
  """
  room = len(part.examples.rows)
  if not part.count:  # all that was in the first slices is deleted
    return carry, -1
  even = carry.network.train_fn is not None
  for number in part.epochs:
    order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
    batches = dealt(order_of(order_key, part.count), recipe.batch_size, room, even=even)
    steps = len(batches)
    batches = np.pad(batches, ((0, -(-room // recipe.batch_size) - steps), (0, 0)))
    after, finite = _epoch(recipe, part.examples, (batches, steps), step_key, carry, number)
    if not finite:
      return carry, number
    carry = after
  return carry, -1


@functools.partial(jax.jit, static_argnums=0)
def _epoch(
  recipe: Recipe,
  examples: Examples,
  dealt_steps: tuple[jax.Array, jax.Array],
  key: jax.Array,
  carry: Carry,
  number: jax.Array,
) -> tuple[Carry, jax.Array]:
  """One epoch of a run-time number of steps, and whether what comes out is finite."""
  batches, steps = dealt_steps
  job = Job(recipe=recipe, optimizer=_optimizer_of(recipe, number))

  def step(index, carry):
    own = jax.random.fold_in(key, index)
    return step_of(job, examples, own, carry, number, batches[index])[0]

  carry = lax.fori_loop(0, steps, step, carry)
  return carry, all_finite((carry.network.params, carry.network.state))


def _optimizer_of(recipe: Recipe, number: jax.Array | int) -> optax.GradientTransformation:
  """Returns the recipe's optax transformation at the rate of an epoch."""

  def rate(count):
    del count  # whose epoch depends on how many examples the slices before had
    return recipe.learning_rate * recipe.schedule(jnp.asarray(number), recipe.epochs)

  return optimizer_at(recipe, rate)


def order_of(key: jax.Array, count: int) -> np.ndarray:
  """Returns `jax.random.permutation(key, count)` without compiling it for every count.

  It depends on the key and the count alone. It is JAX's own order where JAX draws a number for each
  place, whatever the size, which is its default (`jax_threefry_partitionable`).
  """
  room = 1 << max(0, count - 1).bit_length()
  rounds = math.ceil(3 * math.log(max(1, count)) / math.log(2**32 - 1))
  return np.asarray(_shuffled(key, count, room, rounds))[:count]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _shuffled(key: jax.Array, count: jax.Array, room: int, rounds: int) -> jax.Array:
  """Returns 0 … room − 1, the first `count` of which are shuffled by sorting random numbers."""
  place = jnp.arange(room)
  order, is_padding = place, place >= count
  for _ in range(rounds):
    key, own = jax.random.split(key)
    drawn = jax.random.bits(own, (room,), jnp.uint32)
    order = lax.sort((is_padding, drawn, order), num_keys=2)[-1]
  return order


def dealt(order: np.ndarray, size: int, room: int, *, even: bool) -> np.ndarray:
  """Returns the batches of an epoch, int [steps, width], as `_blocks` deals them.

  Args:
    order: int [n], places of the members.
    size: B.
    room: rows of the set; `room` plus a place stands for padding, that example at weight 0.
    even: as `even_rows`, for a network that has a training mode; else as `shuffled_rows`.
  """
  count = len(order)
  steps = -(-count // size)
  if not even:
    padded = np.full(steps * size, room, order.dtype)
    padded[:count] = order
    return padded.reshape(steps, size)
  least, more = divmod(count, steps)
  step, place = np.arange(steps)[:, None], np.arange(least + (more > 0))
  rows = order[(step * least + np.minimum(step, more) + place) % count]
  return np.where(place < least + (step < more), rows, room + rows)
