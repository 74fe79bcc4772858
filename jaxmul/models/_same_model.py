"""Whether a network is of a `GPT` that somebody names beside it."""

import jax
import jax.numpy as jnp

from jaxmul.binding import Network
from jaxmul.models._init import shapes
from jaxmul.models.transformer import GPT

_UNSEEN = ("heads", "activation", "layout")
"""Fields of a `GPT` that its params do not tell."""


def refuse_other(model: GPT, network: Network, caller: str) -> None:
  """Raises ValueError where a network has other params than a model, or comes from another."""
  like = shapes(model, jnp.zeros((1, 1), int)).params
  sizes = [
    {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(params)}
    for params in (like, network.params)
  ]
  other = [name for name in sizes[0] | sizes[1] if sizes[0].get(name) != sizes[1].get(name)]
  own = getattr(network.apply_fn, "module", model)
  other += [name for name in _UNSEEN if getattr(own, name, None) != getattr(model, name)]
  if other:
    raise ValueError(
      f"{caller}: model= is another than the network's: they differ in {other[0]}. Pass the one "
      "that it was trained with."
    )
