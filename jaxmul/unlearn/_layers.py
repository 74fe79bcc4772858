"""Layers by their names, and whether two networks have the same ones.

A layer is a name on the way to its leaves, such as "Dense_2" or "stage3_block1_conv1".
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from jaxmul.binding import Network
from jaxmul.unlearn.objective import Turn, only


def in_layers(tree: optax.Params, names: Sequence[str], caller: str) -> optax.Params:
  """Returns a bool like each leaf of a tree: whether it belongs to a layer of these names.

  Raises:
    ValueError: a name is nowhere in the tree.
  """
  layers = set().union(*(names_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)))
  missing = sorted(set(names) - layers)
  if missing:
    raise ValueError(
      f"{caller}: the network has no layer {missing[0]!r}. It has {', '.join(sorted(layers))}."
    )
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: bool(names_of(path) & set(names)), tree
  )


def moves_only(
  names: Sequence[str], caller: str
) -> Callable[[optax.Updates, object, Turn], optax.Updates]:
  """Returns the `reshape` of `descend` with which layers of these names alone move."""

  def reshape(updates: optax.Updates, memory: object, turn: Turn) -> optax.Updates:
    del memory, turn
    return only(updates, in_layers(updates, names, caller))

  return reshape


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
    got, wanted = (_shapes(getattr(given, part)) for given in (initial, network))
    for leaf in sorted(got | wanted):
      if got.get(leaf) != wanted.get(leaf):
        raise ValueError(
          f"{name} needs initial to be the same network with fresh params, but its {leaf or part} "
          f"is {got.get(leaf, 'missing')}, not {wanted.get(leaf, 'missing')}. "
          "Pass models.init(model, key, inputs) of the model that was trained."
        )


def _shapes(tree: optax.Params) -> dict[str, tuple[int, ...]]:
  """The shape of each leaf by its path, such as "head/kernel"."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): jnp.shape(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def names_of(path) -> set[str]:
  return {jax.tree_util.keystr((key,), simple=True) for key in path}
