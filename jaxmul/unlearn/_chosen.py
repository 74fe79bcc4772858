"""Which weights are chosen: bool masks like params, with exact counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


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
