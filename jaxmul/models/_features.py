"""Penultimate features of a Linen network: what its last layer is given."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmul import _arrays
from jaxmul._arrays import Inputs
from jaxmul.binding import Network
from jaxmul.models import _remat
from jaxmul.models._additions import additions
from jaxmul.models._init import in_mode


@dataclasses.dataclass(frozen=True)
class features:
  """`features(module, head)(network, inputs)` returns what the layer `head` is given, [B, F], in
  float32 or wider.

  Evaluation mode. Equal modules and names give equal functions, so that nothing is traced twice.

  Attributes:
    module: a Linen network.
    head: name of the layer, such as "Dense_2" of `mlp` and "head" of `resnet18`.

  Raises:
    ValueError: when called, if the network has no such layer.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> network = models.init(models.mlp((8,)), jax.random.key(0), jnp.zeros((1, 3)))
    >>> models.features(models.mlp((8,)), "Dense_1")(network, jnp.zeros((2, 3))).shape
    (2, 8)
  """

  module: nn.Module
  head: str

  def __call__(self, network: Network, inputs: Inputs) -> jax.Array:
    seen: dict[str | None, jax.Array] = {}

    def look(call, args, kwargs, context):
      if context.method_name == "__call__" and args:
        seen[context.module.name] = args[0]
      return call(*args, **kwargs)

    module, flags = in_mode(self.module, False)
    with additions(network) as original, _remat.watching(look):
      module.apply(original.variables, inputs, **flags)
    if self.head not in seen:
      names = ", ".join(sorted(str(name) for name in seen if name))
      raise ValueError(f"features: the network has no layer {self.head!r}. It has {names}.")
    return _wide(seen[self.head]).reshape(_arrays.size(inputs), -1)


def layer_inputs(
  network: Network, inputs: Inputs, layers: Sequence[tuple[str, ...]]
) -> list[jax.Array]:
  """Returns what each of these layers of a Linen network is given, [B, ..., F]; evaluation mode.

  Args:
    network: bound by `models.init`, or by another `apply_fn` of a Linen module.
    inputs: [B, ...].
    layers: the way to each of them, such as `("blocks_0", "dense2")`. Of a layer that is called
      more than once it is what the last call is given.

  Raises:
    ValueError: no layer of a Linen module is called by this name.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> network = models.init(models.mlp((8,)), jax.random.key(0), jnp.zeros((1, 3)))
    >>> [given.shape for given in layer_inputs(network, jnp.zeros((2, 3)), [("Dense_1",)])]
    [(2, 8)]
  """
  seen: dict[tuple[str, ...], jax.Array] = {}

  def look(call, args, kwargs, context):
    if context.method_name == "__call__" and args:
      seen[tuple(context.module.path)] = args[0]
    return call(*args, **kwargs)

  with _remat.watching(look):
    network(inputs)
  for layer in layers:
    if layer not in seen:
      raise ValueError(
        f"layer_inputs saw no call of the layer {'/'.join(layer)!r}: only those of a Linen network "
        "can be watched."
      )
  return [_wide(seen[layer]) for layer in layers]


def _wide(values: jax.Array) -> jax.Array:
  """Returns floats of 32 bits or more: whoever reads them adds them up."""
  is_float = jnp.issubdtype(values.dtype, jnp.floating)
  return _arrays.widened(values) if is_float else values
