"""What follows a layer of a frozen network while it runs, found by the layer's path.

x is what a layer is given and y what it returns. An adapter makes y + relu(y D) U of it, a low-rank
addition y + s (x A) B. The network that has them holds all that it was under `binding.FROZEN` in
its state, and the small weights alone as its params: nested dicts by the layers' paths.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from jaxmul._arrays import Inputs
from jaxmul.binding import FROZEN, ApplyFn, Network, TrainFn
from jaxmul.models import _remat

Path = tuple[str, ...]
Weights = Mapping[str, jax.Array]
See = Callable[[Path, Weights, jax.Array, jax.Array], None]


class Addition(Protocol):
  """What follows a layer: how it changes y, and what its own linear maps are given."""

  def __call__(self, weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array: ...

  def inputs(self, weights: Weights, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """Returns what each map [F, G] of `weights` that is fused is given, [..., F]."""
    ...


@dataclasses.dataclass(frozen=True)
class Bottleneck:
  """y + relu(y D) U."""

  def __call__(self, weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    return y + self.inputs(weights, x, y)["up"] @ weights["up"].astype(y.dtype)

  def inputs(self, weights: Weights, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    del x
    return {"down": y, "up": nn.relu(y @ weights["down"].astype(y.dtype))}


@dataclasses.dataclass(frozen=True)
class LowRank:
  """y + s (x A) B."""

  scale: float

  def __call__(self, weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
    a, b = (weights[name].astype(y.dtype) for name in ("a", "b"))
    return y + self.scale * ((x.astype(y.dtype) @ a) @ b)

  def inputs(self, weights: Weights, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    del weights, y
    return {"a": x}


@dataclasses.dataclass(frozen=True)
class Adapted:
  """Evaluation pass of a network with additions; equal for equal ones.

  Attributes:
    apply_fn: of the network without them.
    add: what follows its layers.
    train_fn: of the network without them, kept for it.
  """

  apply_fn: ApplyFn
  add: Addition
  train_fn: TrainFn | None = None

  def __call__(self, variables: Any, inputs: Inputs, see: See | None = None) -> jax.Array:
    original = Network(**variables[FROZEN], apply_fn=self.apply_fn)
    with _adding(variables["params"], self.add, see):
      return self.apply_fn(original.variables, inputs)

  def original(self, network: Network) -> Network:
    """Returns the network without them, of which this is the evaluation pass."""
    embed = network.embed
    return network.replace(
      **network.state[FROZEN],
      apply_fn=self.apply_fn,
      train_fn=self.train_fn,
      embed=embed.apply_fn if isinstance(embed, Adapted) else embed,
    )


@dataclasses.dataclass(frozen=True)
class AdaptedTrain:
  """Training pass of a network with additions, which has no statistics."""

  train_fn: TrainFn
  add: Addition

  def __call__(self, params, state, inputs, key, mask):
    original = state[FROZEN]
    with _adding(params, self.add):
      outputs, _ = self.train_fn(original["params"], original["state"], inputs, key, mask)
    return outputs, state


def by_path(tree: Any) -> dict[Path, jax.Array]:
  """Returns the leaves of nested dicts by the names on the way to them."""
  leaves: dict[Any, Any] = flatten_dict(tree)
  return leaves


def adaptation(network: Network, caller: str) -> Adapted:
  """Returns what stands between a network with adapters and the one without.

  Raises:
    ValueError: the network has no adapters.
  """
  if not isinstance(network, Network) or not isinstance(network.apply_fn, Adapted):
    raise ValueError(
      f"{caller} got a network without adapters. Make one with models.with_adapters or "
      "models.with_low_rank."
    )
  return network.apply_fn


def bare(network: Network) -> Network:
  """Returns a network without its additions, if it has any."""
  adapted = network.apply_fn
  return adapted.original(network) if isinstance(adapted, Adapted) else network


@contextlib.contextmanager
def additions(network: Network) -> Iterator[Network]:
  """Within it modules run with a network's additions, if any; gives the network without them."""
  if isinstance(network.apply_fn, Adapted):
    with _adding(network.params, network.apply_fn.add):
      yield bare(network)
  else:
    yield network


def _adding(
  weights: Any, add: Addition, see: See | None = None
) -> contextlib.AbstractContextManager[None]:
  """Within it, layers for which there are weights are followed by `add`, and shown to `see`."""
  layers = by_layer(weights)

  def followed(call, args, kwargs, context):
    y = call(*args, **kwargs)
    own = layers.get(context.module.path) if context.method_name == "__call__" else None
    if own is None:
      return y
    if see is not None:
      see(context.module.path, own, args[0], y)
    return add(own, args[0], y)

  return nn.intercept_methods(followed) if see is None else _remat.watching(followed)


def by_layer(weights: Any) -> dict[Path, dict[str, jax.Array]]:
  """Returns the weights of each layer by its path."""
  layers: dict[Path, dict[str, jax.Array]] = {}
  for path, leaf in by_path(weights).items():
    layers.setdefault(path[:-1], {})[path[-1]] = leaf
  return layers
