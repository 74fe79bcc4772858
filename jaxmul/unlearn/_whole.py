"""Sums over a whole set at fixed params, block by block: memory is bounded by the block.

All in evaluation mode: each example is independent of the others.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxmul import losses, models
from jaxmul._arrays import Inputs, rows, wide_dtype
from jaxmul._examples import Batch, Examples, sum_blocks
from jaxmul.binding import Network, losses_of

Tree = TypeVar("Tree")


@functools.partial(jax.jit, static_argnums=2)
def full_gradient(network: Network, examples: Examples, size: int) -> optax.Params:
  """Returns ∇ of the mean loss over a whole set at fixed params; the loss is the network's own."""

  def total(theta, batch):
    outputs = network.replace(params=theta)(batch.inputs)
    return jnp.sum(jnp.where(batch.mask, losses_of(network, outputs, batch.labels), 0))

  gradient = sum_blocks(lambda batch: jax.grad(total)(network.params, batch), examples, size)
  return jax.tree.map(lambda leaf: leaf / examples.count.astype(leaf.dtype), gradient)


@functools.partial(jax.jit, static_argnums=(2, 3))
def fisher_diagonal(
  network: Network, examples: Examples, size: int, expected: bool
) -> optax.Params:
  """Returns the mean over a set of squared per-example gradients of ℓ, like params.

  With the data's labels, or the expectation over labels that the network draws (`expected`). Labels
  of positions are drawn independently of each other. Gradients of different positions then have no
  correlation, as each is 0 on average, and their squares add up: with n scored positions
  E[(∂ℓ)²] = n⁻² Σ_t Σ_c p_tc (∂ log p_tc)².
  """

  ghost = models.has_ghost_norms(network, examples.batch(jnp.int32(0), jnp.int32(1), 1).inputs)

  def block(batch):
    outputs = network(batch.inputs)
    if expected:
      labels, weights = _drawn(outputs, batch.labels)
    else:
      labels = batch.labels[None]
      weights = jnp.ones((1, len(batch.mask)), wide_dtype(outputs.dtype))
    weights = jnp.where(batch.mask, weights, 0)
    squares = _ghost_squares if ghost else _squares

    def over_labels(total, drawn):
      return jax.tree.map(jnp.add, total, squares(network, batch.inputs, *drawn)), None

    zero = jax.tree.map(jnp.zeros_like, network.params)
    return lax.scan(over_labels, zero, (labels, weights))[0]

  return jax.tree.map(
    lambda leaf: leaf / examples.count.astype(leaf.dtype), sum_blocks(block, examples, size)
  )


def _drawn(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns all labels [K, B, *P] that a network may draw at one position, and weights [K, B].

  The gradient with these labels is that of one position, and its square counts by the weight.
  """
  classes = logits.shape[-1]
  if labels.ndim == 1:
    p = jnp.exp(losses.log_probabilities(logits))
    return jnp.broadcast_to(jnp.arange(classes), p.shape).T, p.T
  p = jnp.exp(losses.log_probabilities(losses.scored_only(logits, labels)))
  flat = labels.reshape(len(labels), -1)
  scored = flat != losses.UNSCORED
  share = jnp.where(scored, 1 / jnp.maximum(scored.sum(1), 1)[:, None] ** 2, 0)
  weights = p.reshape(*flat.shape, classes) * share[..., None].astype(p.dtype)
  position, drawn = jnp.divmod(jnp.arange(flat.shape[1] * classes), classes)
  here = (jnp.arange(flat.shape[1]) == position[:, None])[:, None] & scored
  labels_of = jnp.where(here, drawn[:, None, None], losses.UNSCORED)
  return labels_of.reshape(len(position), *labels.shape), weights.reshape(len(labels), -1).T


def _ghost_squares(
  network: Network, inputs: Inputs, labels: jax.Array, weights: jax.Array
) -> optax.Params:
  """Σ_b w_b (∂ℓ_b/∂θ)², read off the layers in one backward pass."""

  def total(zeros):
    outputs = models.tapped_squares(network, inputs, zeros)
    return jnp.sum(jnp.sqrt(weights) * losses_of(network, outputs, labels))

  return jax.grad(total)(jax.tree.map(jnp.zeros_like, network.params))


def _squares(
  network: Network, inputs: Inputs, labels: jax.Array, weights: jax.Array
) -> optax.Params:
  """The same for any network, from the gradients themselves."""

  def square(example, label, weight):
    def loss(theta):
      outputs = network.replace(params=theta)(rows(example, None))
      return losses_of(network, outputs, label[None])[0]

    return jax.tree.map(lambda leaf: weight * leaf**2, jax.grad(loss)(network.params))

  squares = jax.vmap(square)(inputs, labels, weights)
  return jax.tree.map(lambda leaf: leaf.sum(0), squares)


@functools.partial(jax.jit, static_argnums=(0, 3))
def map_members(
  function: Callable[..., Tree], arguments: tuple[object, ...], examples: Examples, size: int
) -> Tree:
  """Returns `function(*arguments, batch)`, leaves [B, ...], of all members of a set as [N, ...].

  Results stand in the rows of the data set; those that are not members hold 0.
  """

  def write(index, whole):
    batch = examples.batch(index * size, (index + 1) * size, size)
    members = jnp.where(batch.mask, batch.rows, len(examples.labels))

    def written(all_rows, leaf):
      return all_rows.at[members].set(leaf, mode="drop")

    return jax.tree.map(written, whole, function(*arguments, batch))

  def nothing(leaf):
    return jnp.zeros((len(examples.labels), *leaf.shape[1:]), leaf.dtype)

  first = examples.batch(jnp.int32(0), jnp.int32(size), size)
  zero = jax.tree.map(nothing, jax.eval_shape(function, *arguments, first))
  return lax.fori_loop(0, -(-examples.count // size), write, zero)


def all_logits(network: Network, examples: Examples, size: int) -> jax.Array:
  """Returns logits [N, C] of the members of a set, in the rows of the data set; 0 elsewhere."""
  return map_members(_logits, (network,), examples, size)


def _logits(network: Network, batch: Batch) -> jax.Array:
  return network(batch.inputs)


def is_member(examples: Examples) -> jax.Array:
  """Returns bool [N]: whether each row of the data set is in a set."""
  inside = jnp.arange(len(examples.rows)) < examples.count
  members = jnp.where(inside, examples.rows, len(examples.labels))
  return jnp.zeros(len(examples.labels), bool).at[members].set(True, mode="drop")
