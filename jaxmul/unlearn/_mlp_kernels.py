"""The kernels that edits of weights and of neurons work on: those of the MLPs of a network.

Which leaves are kernels is told by `kernels_of`. The MLP of a block of our transformers is
`dense1`, `gate` and `dense2`; that of another is found by shape: two kernels [D, M] and [M, D] of
layers that lie side by side, M > D. Its neurons are the M units between them. Each is a row of the
second kernel: without this row the rest of the network is as if the unit were 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxmul._arrays import by_way
from jaxmul._kernels import kernels_of
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import in_layers, smallest

_FIRST, _SECOND = ("dense1", "gate"), "dense2"
Layers = Sequence[str] | None
"""Names of layers, as `in_layers` takes them; None for those of the MLPs."""


def names(layers: Layers, caller: str) -> tuple[str, ...] | None:
  """Returns names of layers as they can be hashed, or raises ValueError for a single text."""
  if layers is None:
    return None
  if not isinstance(layers, Sequence) or isinstance(layers, str) or not len(layers):
    raise ValueError(f"{caller} got layers={layers!r}, must be a tuple of names, or None.")
  return tuple(layers)


def mlp_kernels(params: optax.Params, layers: Layers, caller: str) -> optax.Params:
  """Returns a bool like each leaf: the kernels of these layers, or by default of the MLPs.

  Where no two kernels are those of a transformer's MLP, they are all kernels.

  Raises:
    ValueError: there is no such layer, or no kernel in it.

  Example:
    >>> import numpy as np
    >>> block = {"up": {"kernel": np.zeros((2, 8))}, "down": {"kernel": np.zeros((8, 2))}}
    >>> tree = {"block": block | {"qkv": {"kernel": np.zeros((2, 6))}}}
    >>> mlp_kernels(tree, None, "subnet")["block"]["qkv"]
    {'kernel': False}
  """
  every, pairs = kernels_of(params), _those(params, set.union(*_pairs(params)))
  if layers is not None:
    named = in_layers(params, layers, caller)
    chosen = jax.tree.map(lambda kernel, inside: kernel and inside, every, named)
    return _some(chosen, caller, f"{', '.join(layers)} have none")
  return _some(pairs if any(jax.tree.leaves(pairs)) else every, caller, "this network has none")


def neuron_kernels(params: optax.Params, layers: Layers, caller: str) -> optax.Params:
  """Returns a bool like each leaf: the kernels whose rows are neurons.

  Those of these layers, or by default the second ones of the MLPs of a transformer.

  Raises:
    ValueError: there is no such layer, or no kernel in it, or no MLP is found.
  """
  if layers is not None:
    return mlp_kernels(params, layers, caller)
  return _some(
    _those(params, _pairs(params)[1]),
    caller,
    "no block of this network has an MLP [D, M], [M, D]. Name the layers that read "
    "the neurons: layers=(...)",
  )


def picked(tree: optax.Params, mask: optax.Params) -> list[jax.Array]:
  """Returns the leaves of a tree where a mask is True."""
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(mask), strict=True)
  return [leaf for leaf, chosen in pairs if chosen]


def put(tree: optax.Params, mask: optax.Params, leaves: Sequence[jax.Array]) -> optax.Params:
  """Returns a tree with other leaves where a mask is True.

  Example:
    >>> put({"a": 1, "b": 2}, {"a": False, "b": True}, [5])
    {'a': 1, 'b': 5}
  """
  new = iter(leaves)
  return jax.tree.map(lambda leaf, chosen: next(new) if chosen else leaf, tree, mask)


def zeroed(network: Network, mask: optax.Params, lost: Sequence[jax.Array]) -> Network:
  """Returns a network whose kernels are 0 where `lost` is True, one bool array for each of them."""
  kept = [
    jnp.where(zero, 0, kernel)
    for kernel, zero in zip(picked(network.params, mask), lost, strict=True)
  ]
  return network.replace(params=put(network.params, mask, kept))


def gated(network: Network, mask: optax.Params, gates: Sequence[jax.Array]) -> Network:
  """Returns a network whose neurons are multiplied by gates, [M] for each kernel."""
  kernels = [
    kernel * gate[:, None].astype(kernel.dtype)
    for kernel, gate in zip(picked(network.params, mask), gates, strict=True)
  ]
  return network.replace(params=put(network.params, mask, kernels))


def without_neurons(
  network: Network, mask: optax.Params, scores: Sequence[jax.Array], fraction: float
) -> Network:
  """Returns a network without a share of the neurons of each kernel, those of highest scores [M].

  Equal scores are told apart by position.
  """
  lost = [smallest(-score, fraction)[:, None] for score in scores]
  return zeroed(network, mask, lost)


def _pairs(params: optax.Params) -> tuple[set[str], set[str]]:
  """Returns the layers of the kernels [D, M] and of those [M, D] of the MLPs of a transformer.

  Those of our transformers are told by their names, of others by M > D of two side by side.
  """
  is_kernel = by_way(kernels_of(params))
  shapes = {
    _parent(way): jnp.shape(leaf)
    for way, leaf in by_way(params).items()
    if is_kernel[way] and jnp.ndim(leaf) == 2 and "/" in way
  }
  named = {
    (layer.removesuffix(_SECOND) + first, layer)
    for layer in shapes
    if layer.endswith(_SECOND)
    for first in _FIRST
  }
  pairs = {pair for pair in named if shapes.get(pair[0]) == shapes[pair[1]][::-1]}
  pairs = pairs or {
    (first, second)
    for first, (width, inner) in shapes.items()
    for second, shape in shapes.items()
    if inner > width and shape == (inner, width) and _parent(first) == _parent(second)
  }
  return {first for first, _ in pairs}, {second for _, second in pairs}


def _those(params: optax.Params, layers: set[str]) -> optax.Params:
  """A bool like each leaf: whether it is the kernel of one of these layers."""
  kernels = by_way(kernels_of(params))
  theirs = [kernel and _parent(way) in layers for way, kernel in kernels.items()]
  return jax.tree.unflatten(jax.tree.structure(params), theirs)


def _parent(way: str) -> str:
  return way.rpartition("/")[0]


def _some(mask: optax.Params, caller: str, otherwise: str) -> optax.Params:
  if not any(jax.tree.leaves(mask)):
    raise ValueError(f"{caller} needs kernels of two axes or more: {otherwise}.")
  return mask
