"""Examples on the device: the one container of training, retraining, unlearning and scoring.

All of a data set lies there once. A set of its examples, such as S or R, is their row numbers; a
batch is gathered from it when its turn comes, always of the same size: what is missing is padding,
other examples of the set at weight 0. The rows that a set has room for beyond its members are 0.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _arrays
from jaxmul._arrays import Inputs
from jaxmul._dataset import Dataset, as_inputs

Tree = TypeVar("Tree")


class Batch(NamedTuple):
  """Some examples of one set.

  Attributes:
    inputs: float or int [B, ...], or a dict of such arrays.
    labels: int32 [B, *P], or what a loss of one's own takes, [B, ...].
    mask: bool [B]; rows that are False are padding, any examples of the data, and must not matter.
    rows: int32 [B], their positions in the data set, to look up what was computed of them before.
  """

  inputs: Inputs
  labels: jax.Array
  mask: jax.Array
  rows: jax.Array


class Examples(NamedTuple):
  """A set of examples of a data set of N.

  Attributes:
    inputs: [N, ...], in the data set's own dtype, shared by all sets.
    labels: int32 [N, *P], or what a loss of one's own takes, [N, ...].
    rows: int32 [capacity], the members first, then padding, which is row 0.
    count: int32 scalar, how many are members.
  """

  inputs: Inputs
  labels: jax.Array
  rows: jax.Array
  count: jax.Array

  def gather(self, places: jax.Array, mask: jax.Array) -> Batch:
    """Returns the examples at these places [B] of the set as a batch."""
    rows = self.rows[places]
    return Batch(as_inputs(_arrays.rows(self.inputs, rows)), self.labels[rows], mask, rows)

  def whole(self) -> Batch:
    """Returns all members, and the padding if there is any, as one batch."""
    places = jnp.arange(len(self.rows))
    return self.gather(places, places < self.count)

  def batch(self, start: jax.Array, stop: jax.Array, size: int) -> Batch:
    """Returns members start … stop − 1 as a batch of `size` rows; the next ones are padding."""
    places = start + jnp.arange(size)
    mask = places < jnp.minimum(stop, self.count)
    return self.gather(places % jnp.maximum(self.count, 1), mask)

  def shuffled(self, key: jax.Array) -> "Examples":
    """Returns the same members in random order."""
    member = jnp.arange(len(self.rows)) < self.count
    drawn = jax.random.uniform(key, self.rows.shape, jnp.float32)  # the same under float64
    order = jnp.argsort(jnp.where(member, drawn, 2.0))
    return self._replace(rows=self.rows[order])

  def subset(self, rows: np.ndarray, capacity: int | None = None) -> "Examples":
    """Returns the set of these rows of the same data, with room for `capacity` of them."""
    padded = np.zeros(len(rows) if capacity is None else capacity, np.int32)
    padded[: len(rows)] = rows
    return self._replace(rows=jnp.asarray(padded), count=jnp.int32(len(rows)))


def examples_of(dataset: Dataset) -> Examples:
  """Returns all examples of a `Dataset`, on the default device."""
  rows = jnp.arange(len(dataset))
  inputs, labels = jax.tree.map(_placed, (dataset.inputs, dataset.labels))
  return Examples(inputs, labels, rows, jnp.int32(len(rows)))


def _placed(array: np.ndarray) -> jax.Array:
  """Returns a copy of an array on the default device; on a CPU `jnp.asarray` would make two."""
  if jax.default_backend() != "cpu":
    return jax.device_put(array)
  own = _arrays.aligned(array.shape, array.dtype)
  own[...] = array
  return jax.device_put(own)


def sum_blocks(function: Callable[[Batch], Tree], examples: Examples, size: int) -> Tree:
  """Returns the sum over blocks of a set of a pytree that `function` computes of each block."""

  def block(index, total):
    batch = examples.batch(index * size, (index + 1) * size, size)
    return jax.tree.map(jnp.add, total, function(batch))

  shapes = jax.eval_shape(lambda: function(examples.batch(jnp.int32(0), jnp.int32(size), size)))
  zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  return lax.fori_loop(0, -(-examples.count // size), block, zero)
