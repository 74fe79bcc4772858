"""Which weights are chosen: bool masks like params, with exact counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul.binding import Network


def smallest(values: optax.Params, fraction: float) -> optax.Params:
  """Returns bool like values: True for exactly `fraction` of all numbers of a tree, the smallest.

  All leaves are ranked together, and equal numbers by position.

  Example:
    >>> import jax.numpy as jnp
    >>> smallest(jnp.array([3.0, 1.0, 2.0, 1.0]), 0.5).tolist()
    [False, True, False, True]
  """
  leaves, tree = jax.tree.flatten(values)
  flat = jnp.concatenate([leaf.reshape(-1) for leaf in leaves])
  order = jnp.argsort(flat, stable=True)
  chosen = jnp.zeros(flat.size, bool).at[order[: round(fraction * flat.size)]].set(True)
  parts = jnp.split(chosen, np.cumsum([leaf.size for leaf in leaves])[:-1])
  shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
  return jax.tree.unflatten(tree, shaped)


class Chosen(NamedTuple):
  """Weights that are replaced: a bool mask and new values, both like params."""

  mask: optax.Params
  values: optax.Params


def replaced(network: Network, chosen: Chosen) -> Network:
  def chosen_or_own(mask, value, weight):
    return jnp.where(mask, value.astype(weight.dtype), weight)

  return network.replace(params=jax.tree.map(chosen_or_own, *chosen, network.params))


def scaled(updates: optax.Updates, rate: jax.Array) -> optax.Updates:
  """Returns updates at another rate: those of SGD are proportional to it."""
  return jax.tree.map(lambda moved: rate.astype(moved.dtype) * moved, updates)


def kernels(weights: optax.Params) -> optax.Params:
  """Returns a bool like each leaf: convolution kernels, or dense ones where there are none.

    Example:
      >>> import numpy as np
  import optax
      >>> kernels({"kernel": np.zeros((3, 2)), "bias": np.zeros(2)})
      {'bias': False, 'kernel': True}
  """
  ranks = [jnp.ndim(leaf) for leaf in jax.tree.leaves(weights)]
  rank = 4 if 4 in ranks else 2
  return jax.tree.map(lambda leaf: jnp.ndim(leaf) == rank, weights)
