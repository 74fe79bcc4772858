"""Layers by their names, and whether two networks have the same ones.

A layer is a name on the way to its leaves, such as "Dense_2" or "stage3_block1_conv1".
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmul.binding import Network


def in_layers(tree: Any, names: Sequence[str], caller: str) -> Any:
  """Returns a bool like each leaf of a tree: whether it belongs to a layer of these names.

  Raises:
    ValueError: a name is nowhere in the tree.
  """
  found = set().union(*(names_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)))
  missing = sorted(set(names) - found)
  if missing:
    raise ValueError(
      f"{caller}: the network has no layer {missing[0]!r}. It has {', '.join(sorted(found))}."
    )
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: bool(names_of(path) & set(names)), tree
  )


def refuse_unlike(name: str, initial: Network, network: Network) -> None:
  """Raises ValueError where `initial` is not the same network: other leaves, or other shapes.

  Example:
    >>> import jax.numpy as jnp, jaxmul
    >>> small, wide = (jaxmul.bind(jnp.dot, {"w": jnp.ones(n)}) for n in (2, 3))
    >>> refuse_unlike("eu_k", wide, small)
    Traceback (most recent call last):
    ValueError: eu_k needs initial to be the same network with fresh params, but its w is (3,), ...
  """
  for part in ("params", "state"):
    got, wanted = (_shapes(getattr(each, part)) for each in (initial, network))
    for at in sorted(got | wanted):
      if got.get(at) != wanted.get(at):
        raise ValueError(
          f"{name} needs initial to be the same network with fresh params, but its {at or part} is "
          f"{got.get(at, 'missing')}, not {wanted.get(at, 'missing')}. "
          "Pass models.init(model, key, inputs) of the model that was trained."
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  """The shape of each leaf by its path, such as "head/kernel"."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def names_of(path) -> set[str]:
  return {jax.tree_util.keystr((key,), simple=True) for key in path}
