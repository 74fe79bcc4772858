"""Layers of a Linen network found by their names while it runs, so that no model has to know."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxmul._arrays import Inputs
from jaxmul.binding import Network
from jaxmul.models import _remat

Path = tuple[str, ...]


def named_layers(
  network: Network, inputs: Inputs, names: Sequence[str], caller: str
) -> dict[Path, tuple[type, Any, Any]]:
  """Returns kind, x and y of each layer of these names, as shapes, by its path.

  Args:
    network: of Linen layers.
    inputs: [B, ...]; only shapes and dtypes matter.
    names: a name, as "dense2", is that of all layers so called; with those before it, as
      "blocks_1/dense2", of one.
    caller: for messages.

  Raises:
    ValueError: there is no such layer, or the network is none of Linen layers.
  """
  if not isinstance(network.params, Mapping):
    raise ValueError(f"{caller} needs a network of Linen layers, whose params are a dict.")
  seen: dict[Path, tuple[type, Any, Any]] = {}

  def look(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if context.method_name == "__call__" and args:
      seen[context.module.path] = type(context.module), args[0], y
    return y

  with _remat.watching(look):
    # A function made here: one that JAX has traced before is not run again.
    jax.eval_shape(lambda network, x: network(x), network, inputs)
  layers: dict[Path, tuple[type, Any, Any]] = {}
  for name in names:
    called = {path for path in seen if "/".join(("", *path)).endswith(f"/{name}")}
    if not called:
      known = sorted({path[-1] for path in seen if path})
      has = f"It has {', '.join(known)}" if known else "Linen layers are found, no others"
      raise ValueError(f"{caller}: the network has no layer {name!r}. {has}.")
    layers |= {path: seen[path] for path in called}
  return dict(sorted(layers.items()))


def refuse_no_names(names: object, caller: str) -> None:
  """Raises ValueError where layers are named by one text, or none is named."""
  if isinstance(names, str) or not names:
    raise ValueError(f"{caller} got layers={names!r}, must be a tuple of names of layers.")
