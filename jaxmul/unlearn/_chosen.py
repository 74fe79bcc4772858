"""Which weights are chosen: bool masks like params, with exact counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul.binding import Network


def smallest(values: Any, fraction: float) -> Any:
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


def refuse_fraction(caller: str, fraction: float) -> None:
  """Raises ValueError where a fraction is outside [0, 1].

  Example:
    >>> refuse_fraction("msg", 0.3)
  """
  if not 0 <= fraction <= 1:
    raise ValueError(f"{caller} got fraction={fraction}, must be in [0, 1].")


class Chosen(NamedTuple):
  """Weights that are replaced: a bool mask and new values, both like params."""

  mask: Any
  values: Any


def replaced(network: Network, chosen: Chosen) -> Network:
  def replaced(mask, value, weight):
    return jnp.where(mask, value.astype(weight.dtype), weight)

  return network.replace(params=jax.tree.map(replaced, *chosen, network.params))


def scaled(updates: Any, rate: jax.Array) -> Any:
  """Returns updates at another rate: those of SGD are proportional to it."""
  return jax.tree.map(lambda moved: rate.astype(moved.dtype) * moved, updates)


def kernels(network: Any) -> Any:
  """Returns a bool like each leaf: convolution kernels, or dense ones where there are none.

  Example:
    >>> import numpy as np
    >>> kernels({"kernel": np.zeros((3, 2)), "bias": np.zeros(2)})
    {'bias': False, 'kernel': True}
  """
  ranks = [jnp.ndim(leaf) for leaf in jax.tree.leaves(network)]
  rank = 4 if 4 in ranks else 2
  return jax.tree.map(lambda leaf: jnp.ndim(leaf) == rank, network)
