"""Small weights beside a frozen network: they alone train, and without them it is what it was.

x is what a layer is given and y what it returns. An adapter follows a layer: y + relu(y D) U. A
low-rank addition follows a dense layer: y + s (x A) B, which is that layer with kernel K + s A B. U
and B begin as zeros, so that the network begins with the outputs it had.

What the network was, params and state, stands under `binding.FROZEN` in the state of the network
that has them, whose params are the small weights alone: everything that trains, decays, masks or
measures params then does so with these. Layers are found by name while the network runs, so that no
model has to know of any of this.

References:
  Houlsby et al., [Parameter-Efficient Transfer Learning](https://arxiv.org/abs/1902.00751), 2019;
  Hu et al., [LoRA](https://arxiv.org/abs/2106.09685), 2021.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.typing import DTypeLike

from jaxmul import _arrays, _check
from jaxmul._arrays import Inputs
from jaxmul.binding import Network, as_network, frozen
from jaxmul.models._additions import (
  Adapted,
  AdaptedTrain,
  Addition,
  Bottleneck,
  LowRank,
  Path,
  adaptation,
  by_layer,
  by_path,
)
from jaxmul.models._initializers import lecun_normal
from jaxmul.models._named_layers import named_layers, refuse_no_names


def with_adapters(
  network: Network, inputs: Inputs, layers: Sequence[str], width: int, key: jax.Array
) -> Network:
  """Returns a network with an adapter after each named layer, whose params are the adapters alone.

  An adapter makes y + relu(y D) U of what its layer returns, y [..., F]: D [F, width] is drawn with
  variance 1 / F, and U [width, F] begins as zeros, so that the outputs are those of the network.
  Only the adapters train, whatever makes the steps: `unlearn.run(unlearn.npo(), adapted, ...)`. A
  network with statistics, as of BatchNorm, then runs in evaluation mode, so that these stay too.
  `without_adapters` gives back the network, bit for bit.

  Args:
    network: of Linen layers; it has no adapters yet.
    inputs: [B, ...] float or integer, or a dict of arrays; only shapes and dtypes matter.
    layers: names of layers, each of which returns one array of floats. A name, as "dense2", is that
      of all layers so called; with those before it, as "blocks_1/dense2", of one. After "dense2",
      the end of each feed-forward network, is where EUL has them in a `gpt`.
    width: W of the bottleneck.
    key: for D.

  Raises:
    ValueError: there is no such layer, or it returns something else; the network has adapters, or
      width is below 1.

  References:
    Houlsby et al., [Parameter-Efficient Transfer Learning](https://arxiv.org/abs/1902.00751), 2019,
    here without biases; for unlearning: Chen and Yang, [Unlearn What You Want to
    Forget](https://arxiv.org/abs/2310.20150), 2023.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> x = jnp.ones((1, 3))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), x)
    >>> adapted = with_adapters(network, x, ("Dense_0",), 2, jax.random.key(1))
    >>> jax.tree.map(jnp.shape, adapted.params)
    {'Dense_0': {'down': (8, 2), 'up': (2, 8)}}
    >>> bool((adapted(x) == network(x)).all())
    True
  """
  caller = "with_adapters"
  _check.count(width, "width", caller)
  _check.key(key, caller)
  sizes: dict[Path, dict[str, tuple[int, int]]] = {}
  for path, (_, _, y) in _layers(network, inputs, layers, caller).items():
    if not isinstance(y, jax.Array) or not jnp.issubdtype(y.dtype, jnp.inexact):
      raise ValueError(
        f"{caller}: layer {'/'.join(path)!r} returns {_arrays.kinds(y)}, must return one array of "
        "floats. Name a layer inside of it."
      )
    sizes[path] = {"down": (y.shape[-1], width), "up": (width, y.shape[-1])}
  return _added(network, sizes, Bottleneck(), key)


def with_low_rank(
  network: Network,
  inputs: Inputs,
  layers: Sequence[str],
  rank: int,
  key: jax.Array,
  *,
  scale: float = 1.0,
) -> Network:
  """Returns a network with kernels K + s A B in named dense layers, whose params are A and B alone.

  A [I, rank] is drawn with variance 1 / I, and B [rank, O] begins as zeros. Otherwise as
  `with_adapters`; `merge_low_rank` makes a plain network of it.

  Args:
    network, inputs, layers, key: as `with_adapters`; the layers are Linen's `Dense`.
    rank: R.
    scale: s, α / R in the paper.

  Raises:
    ValueError: as `with_adapters`; or a layer is no `Dense`.

  References:
    Hu et al., [LoRA](https://arxiv.org/abs/2106.09685), 2021.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> x = jnp.ones((1, 3))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), x)
    >>> adapted = with_low_rank(network, x, ("Dense_0",), 2, jax.random.key(1))
    >>> jax.tree.map(jnp.shape, adapted.params)
    {'Dense_0': {'a': (3, 2), 'b': (2, 8)}}
  """
  caller = "with_low_rank"
  _check.count(rank, "rank", caller)
  _check.key(key, caller)
  sizes: dict[Path, dict[str, tuple[int, int]]] = {}
  for path, (kind, x, y) in _layers(network, inputs, layers, caller).items():
    if kind is not nn.Dense:
      raise ValueError(
        f"{caller}: layer {'/'.join(path)!r} is a {kind.__name__}, must be a Dense. Use "
        "with_adapters, which follow any layer."
      )
    sizes[path] = {"a": (x.shape[-1], rank), "b": (rank, y.shape[-1])}
  return _added(network, sizes, LowRank(scale), key)


def without_adapters(network: Network) -> Network:
  """Returns the network that `with_adapters` or `with_low_rank` was given, bit for bit.

  Raises:
    ValueError: the network has no adapters.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> x = jnp.ones((1, 3))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), x)
    >>> adapted = with_adapters(network, x, ("Dense_0",), 2, jax.random.key(1))
    >>> without_adapters(adapted).params is network.params
    True
  """
  return adaptation(network, "without_adapters").original(network)


def merge_low_rank(network: Network) -> Network:
  """Returns a plain network with kernels K + s A B, whose outputs are within rounding the same.

  The request can no longer be taken back from it.

  Raises:
    ValueError: the network has no low-rank additions, or one of its kernels is not found.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> x = jnp.ones((1, 3))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), x)
    >>> merged = merge_low_rank(with_low_rank(network, x, ("Dense_0",), 2, jax.random.key(1)))
    >>> jax.tree.structure(merged) == jax.tree.structure(network)
    True
  """
  add = adaptation(network, "merge_low_rank").add
  if not isinstance(add, LowRank):
    raise ValueError(
      "merge_low_rank got adapters, which are no part of any kernel. Keep the network as it is, or "
      "use with_low_rank."
    )
  original = without_adapters(network)
  params = by_path(original.params)
  for path, weights in by_layer(network.params).items():
    name = (*path, "kernel")
    if name not in params:
      raise ValueError(
        f"merge_low_rank finds no {'/'.join(name)!r} in the params: the network gives its layers "
        "other names. Keep the network as it is."
      )
    kernel = params[name]
    params[name] = kernel + (add.scale * (weights["a"] @ weights["b"])).astype(kernel.dtype)
  return original.replace(params=unflatten_dict(params))


def _layers(
  network: Network, inputs: Inputs, names: Sequence[str], caller: str
) -> dict[Path, tuple[type, Any, Any]]:
  """Returns kind, x and y of each layer of these names, as shapes, by its path."""
  refuse_no_names(names, caller)
  network = as_network(network, None, caller)
  if isinstance(network.apply_fn, Adapted):
    raise ValueError(
      f"{caller} got a network that has adapters. Train those, take them out with "
      "models.without_adapters, or fuse those of several requests with models.fuse_adapters."
    )
  return named_layers(network, inputs, names, caller)


def _added(
  network: Network,
  sizes: Mapping[Path, Mapping[str, tuple[int, int]]],
  add: Addition,
  key: jax.Array,
) -> Network:
  """Returns a network with fresh weights of these sizes, the second of each layer zeros."""
  dtype: DTypeLike = jnp.result_type(*jax.tree.leaves(network.params))
  keys = jax.random.split(key, len(sizes))
  fresh = {}
  for own, (path, shapes) in zip(keys, sizes.items(), strict=True):
    (first, drawn), (second, zeros) = shapes.items()
    fresh[*path, first] = lecun_normal(own, drawn, dtype)
    fresh[*path, second] = jnp.zeros(zeros, dtype)
  train_fn = None if network.train_fn is None else AdaptedTrain(network.train_fn, add)
  if jax.tree.leaves(network.state):
    train_fn = None  # evaluation mode: statistics are used, and stay
  return network.replace(
    params=unflatten_dict(fresh),
    state=frozen(network),
    apply_fn=Adapted(network.apply_fn, add, network.train_fn),
    train_fn=train_fn,
    embed=None if network.embed is None else Adapted(network.embed, add),
  )
