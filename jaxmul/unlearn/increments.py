"""What an update returns: increments like the network, which are added to it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def increment(new: jax.Array, old: jax.Array) -> jax.Array:
  """Returns what makes a leaf of the network's state new: new − old, for bools whether it changes.

  Example:
    >>> import jax.numpy as jnp
    >>> increment(jnp.array([True, False]), jnp.array([True, True])).tolist()
    [False, True]
  """
  return new ^ old if _is_bool(new) else new - old


def apply_increments(network: Any, updates: Any) -> Any:
  """Returns `optax.apply_updates(params, updates)`, where a bool changes if its update says so."""
  changed = optax.apply_updates(network, updates)
  return jax.tree.map(
    lambda old, update, new: old ^ update if _is_bool(old) else new, network, updates, changed
  )


def _is_bool(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.bool_)
