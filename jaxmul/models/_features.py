"""Penultimate features of a Linen network: what its last layer is given."""

import dataclasses

import flax.linen as nn
import jax

from jaxmul import _arrays
from jaxmul._arrays import Inputs
from jaxmul.binding import Network
from jaxmul.models._additions import additions
from jaxmul.models._init import in_mode


@dataclasses.dataclass(frozen=True)
class features:
  """`features(module, head)(network, inputs)` returns what the layer `head` is given, [B, F].

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
    with additions(network) as original, nn.intercept_methods(look):
      module.apply(original.variables, inputs, **flags)
    if self.head not in seen:
      names = ", ".join(sorted(str(name) for name in seen if name))
      raise ValueError(f"features: the network has no layer {self.head!r}. It has {names}.")
    return seen[self.head].reshape(_arrays.size(inputs), -1)
