"""Which weights are chosen: by rank, by kind or by the name of their layer.

A choice is a bool mask like params. A layer is a name on the way to its leaves, such as "Dense_2"
or "stage3_block1_conv1".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul._arrays import by_way
from jaxmul.binding import Network
from jaxmul.unlearn.objective import Turn

Tree = TypeVar("Tree")


def smallest(values: Tree, fraction: float) -> Tree:
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
    >>> kernels({"kernel": np.zeros((3, 2)), "bias": np.zeros(2)})
    {'bias': False, 'kernel': True}
  """
  ranks = [jnp.ndim(leaf) for leaf in jax.tree.leaves(weights)]
  rank = 4 if 4 in ranks else 2
  return jax.tree.map(lambda leaf: jnp.ndim(leaf) == rank, weights)


def only(updates: optax.Updates, mask: optax.Params) -> optax.Updates:
  """Returns updates where a mask of the same structure is True, and 0 elsewhere."""
  return jax.tree.map(lambda chosen, moved: jnp.where(chosen, moved, 0), mask, updates)


def in_layers(tree: optax.Params, names: Sequence[str], caller: str) -> optax.Params:
  """Returns a bool like each leaf of a tree: whether it belongs to a layer of these names.

  A name may be a way, such as "blocks_1/dense2", which is `dense2` of that block alone.

  Raises:
    ValueError: a name is nowhere in the tree.
  """
  ways = [f"/{way}/" for way in by_way(tree)]
  missing = sorted(name for name in set(names) if not any(f"/{name}/" in way for way in ways))
  if missing:
    layers = sorted({layer for way in ways for layer in way.strip("/").split("/")})
    raise ValueError(
      f"{caller}: the network has no layer {missing[0]!r}. It has {', '.join(layers)}."
    )
  return inside(tree, names)


def inside(tree: optax.Params, names: Sequence[str]) -> optax.Params:
  """As `in_layers`, where a tree may lack a layer, as a state does those without statistics.

  Example:
    >>> inside({"a": {"dense": 1}, "b": {"dense": 2}}, ["b/dense"])
    {'a': {'dense': False}, 'b': {'dense': True}}
  """
  belongs = [any(f"/{name}/" in f"/{way}/" for name in names) for way in by_way(tree)]
  return jax.tree.unflatten(jax.tree.structure(tree), belongs)


def moves_only(
  names: Sequence[str], caller: str
) -> Callable[[optax.Updates, object, Turn], optax.Updates]:
  """Returns the `reshape` of `descend` with which layers of these names alone move."""

  def reshape(updates: optax.Updates, memory: object, turn: Turn) -> optax.Updates:
    del memory, turn
    return only(updates, in_layers(updates, names, caller))

  return reshape


def refuse_unlike(name: str, initial: Network, network: Network) -> None:
  """Raises ValueError where `initial` is another network: it has other leaves, or other shapes."""
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
  """The shape of each leaf by the way to it, such as "head/kernel"."""
  return {way: jnp.shape(leaf) for way, leaf in by_way(tree).items()}


def keys_like(tree: optax.Params, key: jax.Array) -> optax.Params:
  """Returns a tree of random keys, one for each leaf."""
  leaves, structure = jax.tree.flatten(tree)
  return jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
