"""The gradient of one training step: of its batch at once, or added up over microbatches.

Either is that of Σ w_b ℓ_b / B over the B examples of the step that are not padding, whichever
microbatch they are in. Microbatches are added in float32, or the wider dtype of the params.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import _sharding, losses
from jaxmul._arrays import wide_dtype
from jaxmul._blocks import dealt, together
from jaxmul._examples import Batch
from jaxmul.binding import Network, losses_of

if TYPE_CHECKING:
  from jaxmul.train import Recipe


class Passed(NamedTuple):
  """What a step's pass forward and back gives.

  Attributes:
    gradient: a tree as the network's params.
    outputs: [B, ...], or None where nobody reads them.
    losses: [B].
    hits: scalar, how many are right; NaN where the loss is the network's own.
    state: of the network after the pass.
    weighting: the state of the recipe's weighting after it, None without one.
  """

  gradient: Any
  outputs: Any
  losses: jax.Array
  hits: jax.Array
  state: Any
  weighting: Any


class Cut(NamedTuple):
  """How a batch is cut into microbatches.

  Attributes:
    parts: how many, of equal size.
    mesh: the devices that each is split over, None where it is not split.
    keeps_outputs: whether outputs are wanted, which may take more room than the inputs.
  """

  parts: int
  mesh: _sharding.Devices | None
  keeps_outputs: bool


def of_batch(
  recipe: "Recipe", network: Network, weighting: Any, batch: Batch, key: jax.Array
) -> Passed:
  """Returns what one pass over a whole batch gives; its inputs are augmented already."""

  def risk(theta):
    outputs, state = network.replace(params=theta).train(batch.inputs, key, batch.mask)
    loss = losses_of(network, outputs, batch.labels)
    if recipe.weighting is None:
      return losses.masked_mean(loss, batch.mask), (outputs, loss, state, None)
    weights, after = recipe.weighting.update(weighting, lax.stop_gradient(loss), batch.mask)
    weighted = lax.stop_gradient(weights) * loss
    return losses.masked_mean(weighted, batch.mask), (outputs, loss, state, after)

  gradient, (outputs, loss, state, after) = jax.grad(risk, has_aux=True)(network.params)
  return Passed(
    gradient=gradient,
    outputs=outputs,
    losses=loss,
    hits=_hits(network, outputs, batch),
    state=state,
    weighting=after,
  )


def of_microbatches(
  recipe: "Recipe", network: Network, weighting: Any, batch: Batch, key: jax.Array, cut: Cut
) -> Passed:
  """Returns what passes over the microbatches of a batch give, one after another.

  A weighting is told the losses of all of them, for which the batch is passed forward once more.
  """
  count = jnp.maximum(jnp.sum(batch.mask), 1)
  parts = dealt(batch, cut.parts)
  keys = jax.vmap(lambda part: jax.random.fold_in(key, part))(jnp.arange(cut.parts))

  def forward(theta, state, part, own_key):
    if cut.mesh is not None:
      part = _sharding.constrain(part, cut.mesh)
    passing = network.replace(params=theta, state=state)
    outputs, state = passing.train(part.inputs, own_key, part.mask)
    return outputs, losses_of(network, outputs, part.labels), state

  def only_losses(state, given):
    _, loss, state = forward(network.params, state, *given)
    return state, loss

  weights, after = None, None
  if recipe.weighting is not None:
    _, loss = lax.scan(only_losses, network.state, (parts, keys))
    weights, after = recipe.weighting.update(weighting, together(loss), batch.mask)
    weights = dealt(weights, cut.parts)

  def backward(carry, given):
    total, state = carry
    part, own_key, own_weights = given

    def risk(theta):
      outputs, loss, new = forward(theta, state, part, own_key)
      weighted = loss if own_weights is None else own_weights * loss
      own = jnp.sum(jnp.where(part.mask, weighted, 0))
      return own / count.astype(own.dtype), (outputs, loss, new)

    gradient, (outputs, loss, state) = jax.grad(risk, has_aux=True)(network.params)
    total = jax.tree.map(lambda sum_, own: sum_ + own.astype(sum_.dtype), total, gradient)
    hits = _hits(network, outputs, part)
    return (total, state), (outputs if cut.keeps_outputs else None, loss, hits)

  zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, wide_dtype(leaf.dtype)), network.params)
  first = (zero, network.state)
  (total, state), (outputs, loss, hits) = lax.scan(backward, first, (parts, keys, weights))
  return Passed(
    gradient=jax.tree.map(lambda sum_, leaf: sum_.astype(leaf.dtype), total, network.params),
    outputs=together(outputs),
    losses=together(loss),
    hits=jnp.sum(hits),
    state=state,
    weighting=after,
  )


def _hits(network: Network, outputs: jax.Array, batch: Batch) -> jax.Array:
  if network.loss is losses.cross_entropy:
    return jnp.sum(batch.mask & losses.is_correct(outputs, batch.labels))
  return jnp.full((), jnp.nan)  # without classes nothing is right or wrong
