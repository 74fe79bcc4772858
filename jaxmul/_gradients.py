"""Gradients of each example's loss ℓ_b: ∂ℓ_b/∂x_b, and ‖∂ℓ_b/∂θ‖ without the gradient itself.

ℓ is the network's own loss. Where inputs are integers, x is what the network embeds them as.
Examples do not interact, so one backward pass of Σ ℓ_b holds the input gradients of all. Norms ride
in the same pass where every layer of the network has a ghost norm; elsewhere they are those of
`vmap(grad)`, a few examples at a time.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmul import _arrays, _sharding, models
from jaxmul._arrays import Inputs
from jaxmul._blocks import map_blocks
from jaxmul.binding import Network, losses_of

# Bytes of per-example gradients that exist at a time where they must.
_BUDGET = 256 << 20


class Gradients(NamedTuple):
  """What was asked for, None elsewhere; NaN where the loss is NaN.

  Attributes:
    inputs: ∂ℓ_b/∂x_b [B, ...], of the shape of `network.embedded(inputs)`.
    norms: ‖∂ℓ_b/∂θ‖₂ [B], float32 or wider.
  """

  inputs: jax.Array = None  # pyright: ignore[reportAssignmentType]
  norms: jax.Array = None  # pyright: ignore[reportAssignmentType]


def of_examples(
  network: Network,
  inputs: Inputs,
  labels: jax.Array,
  *,
  to_inputs: bool = False,
  norms: bool = False,
) -> Gradients:
  """Returns the gradients of each example's loss, of the evaluation pass.

  Whoever asks for those to inputs says before that there are some: `refuse_without_embed`.
  """
  if to_inputs:
    embedded = network.embedded(inputs)
    if norms and embedded is not inputs:  # norms count what the embedding itself learns
      return Gradients(
        of_examples(network, embedded, labels, to_inputs=True).inputs,
        of_examples(network, inputs, labels, norms=True).norms,
      )
    inputs = embedded
  ghost = norms and models.has_ghost_norms(network, inputs)
  inputs = _sharding.local(inputs, network, labels)
  kinds = [inputs] if _arrays.is_float(inputs) else jax.tree.leaves(network.params) if ghost else []
  squares = jnp.zeros(len(labels), jnp.result_type(*kinds, jnp.float32))
  squares = _sharding.local(squares, inputs)

  def total(x, squares):
    outputs = models.tapped(network, x, squares) if ghost else network(x)
    loss = losses_of(network, outputs, labels)
    return loss.sum(), loss

  asked = Gradients()
  wanted = (0,) * to_inputs + (1,) * ghost
  if wanted:
    gradients, loss = jax.grad(total, wanted, has_aux=True)(inputs, squares)
    # The loss of an impossible label is NaN, but its gradient would be 0.
    bad = jnp.isnan(loss)
    if to_inputs:
      asked = asked._replace(inputs=jnp.where(per_example(bad, inputs), jnp.nan, gradients[0]))
    if ghost:
      # Rounding can leave a sum of products just below 0.
      norms_squared = jnp.maximum(gradients[-1], 0)
      asked = asked._replace(norms=jnp.where(bad, jnp.nan, jnp.sqrt(norms_squared)))
  if norms and not ghost:
    asked = asked._replace(norms=_materialised_norms(network, inputs, labels))
  return asked


def lengths(x: jax.Array) -> jax.Array:
  """Returns ‖x_b‖₂ [B] of x [B, ...], in float32 or wider."""
  x = _arrays.widened(x)
  return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim))))


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
  """Returns values [B] as [B, 1, ...], of the rank of `like`."""
  return values.reshape(-1, *(1,) * (like.ndim - 1))


def trained(network: Network) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Network]]:
  """Returns the float leaves θ of a network's params, and the network as a function of them."""
  leaves, structure = jax.tree.flatten(network.params)
  is_trained = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in map(_array, leaves)]

  def at(theta: list[jax.Array]) -> Network:
    left = iter(theta)
    merged = [next(left) if yes else leaf for leaf, yes in zip(leaves, is_trained, strict=True)]
    return network.replace(params=jax.tree.unflatten(structure, merged))

  return [leaf for leaf, yes in zip(leaves, is_trained, strict=True) if yes], at


def rows_at_a_time(theta: list[jax.Array]) -> int:
  """Returns of how many examples the gradients with respect to θ exist at a time."""
  return max(1, _BUDGET // max(1, sum(4 * leaf.size for leaf in theta)))


def _materialised_norms(network: Network, inputs: Inputs, labels: jax.Array) -> jax.Array:
  """‖∂ℓ_b/∂θ‖₂ [B] from the gradients themselves, as many at a time as the budget holds."""
  theta, at = trained(network)
  theta = _sharding.local(theta, inputs, labels)

  def loss(theta, x, y):
    return losses_of(network, at(theta)(_arrays.rows(x, None)), y[None])[0]

  def norm(x, y):
    value, gradient = jax.value_and_grad(loss)(theta, x, y)
    wide = [_arrays.widened(g) for g in gradient]
    return jnp.where(jnp.isnan(value), jnp.nan, jnp.sqrt(sum(jnp.sum(g**2) for g in wide)))

  size = rows_at_a_time(theta)
  if size >= len(labels):
    return jax.vmap(norm)(inputs, labels)
  return map_blocks(jax.vmap(norm), (inputs, labels), size)


def _array(leaf):
  """A leaf that has a dtype, or one that is not trained: a callable pytree may hold functions."""
  return leaf if hasattr(leaf, "dtype") or isinstance(leaf, float) else 0
