"""Which leaves of a pytree are arguments of a compiled program: arrays; all others are part of it.

A network that is a callable pytree may hold functions, names and numbers beside its arrays.
"""

from typing import Any

import jax
import numpy as np

Array = jax.Array | np.ndarray
"""An array, on a device or in host memory; traced ones are of the first kind."""

Static = tuple[Any, tuple[Any, ...], tuple[bool, ...]]


def split(tree: Any) -> tuple[Static, list[Any]]:
  """Returns what is not an array, hashable where its leaves are, and the arrays, or their shapes.

  Example:
    >>> static, arrays = split({"w": np.ones(2), "name": "head"})
    >>> len(arrays), joined(static, arrays)["name"]
    (1, 'head')
  """
  leaves, structure = jax.tree.flatten(tree)
  is_array = tuple(isinstance(leaf, Array | jax.ShapeDtypeStruct) for leaf in leaves)
  others = tuple(None if array else leaf for leaf, array in zip(leaves, is_array, strict=True))
  arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
  return (structure, others, is_array), arrays


def joined(static: Static, arrays: Any) -> Any:
  """Returns the tree that `split` took apart, with these arrays."""
  structure, others, is_array = static
  left = iter(arrays)
  leaves = [next(left) if array else other for other, array in zip(others, is_array, strict=True)]
  return jax.tree.unflatten(structure, leaves)
