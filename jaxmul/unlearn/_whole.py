"""Sums over a whole set at fixed params, block by block: memory is bounded by the block.

All in evaluation mode: each example is independent of the others.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import losses, models
from jaxmul.binding import Bound
from jaxmul.unlearn._passes import Batch, Rows

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def sum_blocks(function: Callable[[Batch], Any], rows: Rows, size: int) -> Any:
  """Returns the sum over blocks of a set of a pytree that `function` computes of each block."""

  def block(index, total):
    batch = rows.batch(index * size, (index + 1) * size, size)
    return jax.tree.map(jnp.add, total, function(batch))

  shapes = jax.eval_shape(lambda: function(rows.batch(jnp.int32(0), jnp.int32(size), size)))
  zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  return lax.fori_loop(0, -(-rows.count // size), block, zero)


@functools.partial(jax.jit, static_argnums=(2, 3))
def full_gradient(params: Bound, rows: Rows, size: int, loss: Loss = losses.cross_entropy) -> Any:
  """Returns ∇ of the mean loss over a whole set at fixed params."""

  def total(theta, batch):
    each = loss(params.replace(params=theta)(batch.inputs), batch.labels)
    return jnp.sum(jnp.where(batch.mask, each, 0))

  gradient = sum_blocks(lambda batch: jax.grad(total)(params.params, batch), rows, size)
  return jax.tree.map(lambda leaf: leaf / rows.count, gradient)


@functools.partial(jax.jit, static_argnums=(2, 3))
def fisher_diagonal(params: Bound, rows: Rows, size: int, expected: bool) -> Any:
  """Returns the mean over a set of squared per-example gradients of ℓ, like params.

  With the data's labels, or the expectation over labels that the network draws (`expected`).
  """

  ghost = models.has_ghost_norms(params, rows.batch(jnp.int32(0), jnp.int32(1), 1).inputs)

  def block(batch):
    log_p = losses.log_probabilities(params(batch.inputs))
    if expected:
      weights = jnp.exp(log_p)
      labels = jnp.broadcast_to(jnp.arange(weights.shape[-1]), weights.shape)
    else:
      labels = batch.labels[:, None]
      weights = jnp.ones(labels.shape, log_p.dtype)
    weights = jnp.where(batch.mask[:, None], weights, 0)
    squares = _ghost_squares if ghost else _squares

    def over_labels(total, at):
      return jax.tree.map(jnp.add, total, squares(params, batch.inputs, *at)), None

    zero = jax.tree.map(jnp.zeros_like, params.params)
    return lax.scan(over_labels, zero, (labels.T, weights.T))[0]

  return jax.tree.map(lambda leaf: leaf / rows.count, sum_blocks(block, rows, size))


def _ghost_squares(params: Bound, inputs: jax.Array, labels: jax.Array, weights: jax.Array) -> Any:
  """Σ_b w_b (∂ℓ_b/∂θ)², read off the layers in one backward pass."""

  def total(zeros):
    each = losses.cross_entropy(models.tapped_squares(params, inputs, zeros), labels)
    return jnp.sum(jnp.sqrt(weights) * each)

  return jax.grad(total)(jax.tree.map(jnp.zeros_like, params.params))


def _squares(params: Bound, inputs: jax.Array, labels: jax.Array, weights: jax.Array) -> Any:
  """The same for any network, from the gradients themselves."""

  def square(image, label, weight):
    def loss(theta):
      return losses.cross_entropy(params.replace(params=theta)(image[None]), label[None])[0]

    return jax.tree.map(lambda leaf: weight * leaf**2, jax.grad(loss)(params.params))

  each = jax.vmap(square)(inputs, labels, weights)
  return jax.tree.map(lambda leaf: leaf.sum(0), each)


@functools.partial(jax.jit, static_argnums=(0, 3))
def map_members(function: Callable[..., Any], arguments: Any, rows: Rows, size: int) -> Any:
  """Returns `function(*arguments, batch)`, leaves [B, ...], of all members of a set as [N, ...].

  Results stand in the rows of the data set; those that are not members hold 0.
  """

  def write(index, whole):
    batch = rows.batch(index * size, (index + 1) * size, size)
    at = jnp.where(batch.mask, batch.rows, len(rows.labels))
    return jax.tree.map(
      lambda all_rows, leaf: all_rows.at[at].set(leaf, mode="drop"),
      whole,
      function(*arguments, batch),
    )

  first = rows.batch(jnp.int32(0), jnp.int32(size), size)
  shapes = jax.eval_shape(function, *arguments, first)
  zero = jax.tree.map(
    lambda leaf: jnp.zeros((len(rows.labels), *leaf.shape[1:]), leaf.dtype), shapes
  )
  return lax.fori_loop(0, -(-rows.count // size), write, zero)


def all_logits(params: Bound, rows: Rows, size: int) -> jax.Array:
  """Returns logits [N, C] of the members of a set, in the rows of the data set; 0 elsewhere."""
  return map_members(_logits, (params,), rows, size)


def _logits(params: Bound, batch: Batch) -> jax.Array:
  return params(batch.inputs)


def is_member(rows: Rows) -> jax.Array:
  """Returns bool [N]: whether each row of the data set is in a set."""
  inside = jnp.arange(len(rows.rows)) < rows.count
  at = jnp.where(inside, rows.rows, len(rows.labels))
  return jnp.zeros(len(rows.labels), bool).at[at].set(True, mode="drop")
