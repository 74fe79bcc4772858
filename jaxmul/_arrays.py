"""Arrays among the leaves of pytrees: networks, and inputs that are a dict of arrays.

Of a network that is a callable pytree, arrays are arguments of a compiled program. What else it
may hold, functions, names and numbers, is part of the program.
"""

import contextlib
import math
import mmap
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray
"""An array, on a device or in host memory; traced ones are of the first kind."""

Inputs = Any
"""Inputs of a network: an array [B, ...], or a dict of arrays that share their first axis."""

Tree = TypeVar("Tree")

_LARGE = 2**22
# Pages of this process alone; Windows has no others.
_PRIVATE: Any = (
  {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)

Static = tuple[jax.tree_util.PyTreeDef, tuple[object, ...], tuple[bool, ...]]


def split(tree: object) -> tuple[Static, list[Any]]:
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


def joined(static: Static, arrays: Iterable[object]) -> Any:
  """Returns the tree that `split` took apart, with these arrays."""
  structure, others, is_array = static
  left = iter(arrays)
  leaves = [next(left) if array else other for other, array in zip(others, is_array, strict=True)]
  return jax.tree.unflatten(structure, leaves)


def rows(tree: Tree, which: Any) -> Tree:
  """Returns these rows, an index or a slice, of every array [n, ...] of a pytree.

  Example:
    >>> rows({"age": np.array([30, 50]), "image": np.zeros((2, 8, 8))}, slice(1))["age"].tolist()
    [30]
  """
  return jax.tree.map(lambda leaf: leaf[which], tree)


def wide_dtype(dtype: Any) -> jnp.dtype:
  """Returns the type to add up numbers in: float32, or their own where it is wider.

  Sums of many bfloat16 numbers stall, and NumPy has no such type of its own.
  """
  return jnp.promote_types(dtype, jnp.float32)


def widened(values: jax.Array) -> jax.Array:
  """Returns numbers as float32, or in their own type where it is wider.

  Example:
    >>> widened(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
  """
  return values.astype(wide_dtype(values.dtype))


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Returns memory that a CPU device of JAX takes as it is, without a copy: with anything in it.

  That begins at a multiple of 64 bytes: here at a page. Nobody may write to it while the device has
  it. When it is free the system has it back: NumPy's allocator keeps much of it for each thread
  that asked.
  """
  size = math.prod(shape) * dtype.itemsize
  pages = mmap.mmap(-1, max(size, 1), **_PRIVATE)
  if size >= _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
    with contextlib.suppress(OSError):  # of a kernel without them
      pages.madvise(mmap.MADV_HUGEPAGE)  # as NumPy does: filled four times as fast
  return np.frombuffer(pages, np.uint8)[:size].view(dtype).reshape(shape)


def by_way(tree: Any) -> dict[str, Any]:
  """Returns the leaves of a pytree by the way to each, in their order.

  Example:
    >>> by_way({"block": {"dense": {"kernel": 1, "bias": 2}}})
    {'block/dense/bias': 2, 'block/dense/kernel': 1}
  """
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def size(tree: object) -> int:
  """Returns the number of rows of a pytree of arrays [n, ...].

  Example:
    >>> size({"age": np.array([30, 50])})
    2
  """
  return len(jax.tree.leaves(tree)[0])


def shapes(tree: Tree, count: int) -> Tree:
  """Returns the shapes and dtypes of a pytree of arrays [n, ...] if it had `count` rows."""
  return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype), tree)


def without_padding(inputs: Inputs, mask: jax.Array) -> Inputs:
  """Returns inputs [B, ...], zeros in the rows where mask [B] is False."""

  def zeroed(leaf: jax.Array) -> jax.Array:
    return jnp.where(mask.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))

  return jax.tree.map(zeroed, inputs)


def is_float(tree: object) -> bool:
  """Whether this is one array of floats, at which a gradient can be taken."""
  return hasattr(tree, "dtype") and jnp.issubdtype(tree.dtype, jnp.inexact)  # pyright: ignore[reportAttributeAccessIssue]


def all_finite(tree: object) -> jax.Array:
  """Returns whether all numbers of a pytree are finite, a bool scalar."""
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def kinds(tree: object) -> str:
  """Returns the dtype of an array in words, or what a dict holds.

  Example:
    >>> kinds(np.zeros(2)), kinds({"age": np.zeros(2), "id": np.zeros(2, int)})
    ('float64', "a dict of arrays ['age', 'id']")
  """
  if isinstance(tree, Mapping):
    return f"a dict of arrays {sorted(map(str, tree))[:4]}"
  return str(getattr(tree, "dtype", type(tree).__name__))
