"""From an `nnx.Module` to a `Network`; imported only where flax.nnx is there already.

A module is split into its graph, which is static, and arrays: `nnx.Param` are the params,
`nnx.BatchStat` and all other variables the state. Streams of random numbers are neither: in
training they are made anew from the key of the step, so that equal keys give equal numbers.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from optax import Params

from jaxmul import _article
from jaxmul._arrays import Inputs, without_padding
from jaxmul.binding import ApplyFn, Network
from jaxmul.models import _modes

# The structure of a tree of arrays, and their shapes and dtypes.
_Kinds = tuple[jax.tree_util.PyTreeDef, tuple[tuple[tuple[int, ...], np.dtype], ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Graph:
  """A module in one of its two modes, without its arrays; equal for equal modules.

  Attributes:
    graph: nnx.GraphDef.
    call: `(module, inputs) -> logits`, or None for the module's own.
    flags: of the module's own call.
    takes: "mask" and "rngs" where the module's own call has such an argument.
    streams: structure, shapes and dtypes of the keys of random numbers, and of their counts.
    has_state: whether variables are `{"params": params, **state}` or the params alone.
  """

  graph: nnx.GraphDef
  call: ApplyFn | None
  flags: tuple[tuple[str, bool], ...]
  takes: tuple[str, ...]
  streams: tuple[_Kinds, _Kinds]
  has_state: bool

  @functools.cached_property
  def _own(self) -> tuple[object, ...]:
    return (self.graph, self.call, self.flags, self.takes, self.streams, self.has_state)

  @functools.cached_property
  def _hash(self) -> int:
    return hash(self._own)  # it takes a while, and each call of a compiled program asks for it

  def __eq__(self, other):
    return self is other or (type(self) is type(other) and self._own == other._own)

  def __hash__(self):
    return self._hash

  def module(self, params: Params, state: dict[str, Params] | None, key: jax.Array) -> nnx.Module:
    """Returns the module itself, with streams that follow a key."""
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
      key = jax.random.wrap_key_data(key)
    (keys, key_kinds), (counts, count_kinds) = self.streams
    fresh = [
      _key(jax.random.fold_in(key, number), shape, dtype)
      for number, (shape, dtype) in enumerate(key_kinds)
    ]
    zeros = [jnp.zeros(shape, dtype) for shape, dtype in count_kinds]
    streams = (jax.tree.unflatten(keys, fresh), jax.tree.unflatten(counts, zeros))
    return nnx.merge(self.graph, params, *(state or {}).values(), *streams)

  def logits(self, module: nnx.Module, inputs: Inputs, **more: object) -> jax.Array:
    if self.call is not None:
      return self.call(module, inputs)
    return module(inputs, **dict(self.flags), **more)  # pyright: ignore[reportCallIssue]


class _Apply(_Graph):
  """Evaluation pass."""

  def __call__(self, variables: Any, inputs: Inputs) -> jax.Array:
    state = dict(variables) if self.has_state else {}
    params = state.pop("params") if self.has_state else variables
    module = self.module(params, state, jax.random.key(0))
    return self.logits(module, inputs, **({"rngs": None} if "rngs" in self.takes else {}))


class _Train(_Graph):
  """Training pass."""

  def __call__(self, params, state, inputs, key, mask):
    module, more = self.module(params, state, key), {}
    if "rngs" in self.takes:
      more["rngs"] = nnx.Rngs(jax.random.fold_in(key, len(self.streams[0][1])))
    if "mask" in self.takes:
      more["mask"] = mask
      inputs = without_padding(inputs, mask)
    logits = self.logits(module, inputs, **more)
    return logits, _split(module)[2] or state


def network_of(module: nnx.Module, call: ApplyFn | None, caller: str) -> Network:
  """Returns a module as a `Network`; the module itself stays as it is.

  Args:
    module: any; its `train()` and `eval()` say what its modes are, and so do the common flags of
      its `__call__`.
    call: `(module, inputs) -> logits`, or None for the module's own.
    caller: for messages.

  Raises:
    ValueError: the module has no `nnx.Param`, or something static that cannot be hashed.
  """
  name, own = type(module).__name__, _modes.parameters(type(module).__call__)
  takes = tuple(argument for argument in ("mask", "rngs") if argument in own and call is None)
  passes = []
  for kind, training in ((_Apply, False), (_Train, True)):
    copy = nnx.clone(module)
    (copy.train if training else copy.eval)()
    _set_flags(copy, training)
    graph, params, state, streams = _split(copy)
    flags = _modes.of_call(type(module).__call__, training) if call is None else {}
    made = kind(graph, call, tuple(flags.items()), takes, streams, bool(state))
    try:
      hash(made)
    except TypeError as error:
      raise ValueError(
        f"{caller} got {_article.named(name)}, an nnx.Module with an attribute that cannot be "
        f"hashed ({error}). "
        "Keep arrays in nnx.Variable, and settings in tuples and frozen dataclasses."
      ) from error
    passes.append(made)
  if not jax.tree.leaves(params):
    raise ValueError(
      f"{caller} got {_article.named(name)}, an nnx.Module without nnx.Param: nothing to train."
    )
  apply_fn, train_fn = passes
  same = (apply_fn.graph, apply_fn.flags) == (train_fn.graph, train_fn.flags)
  draws = streams[0][1] or "rngs" in takes
  is_one_pass = same and not (state or draws)
  return Network(params, state or None, apply_fn, None if is_one_pass else train_fn)


def _split(
  module: nnx.Module,
) -> tuple[nnx.GraphDef, Params, dict[str, Params], tuple[_Kinds, _Kinds]]:
  """Returns the graph, params, state and (structure, kinds) of keys and counts of a module."""
  nnx.pop(module, nnx.Intermediate)  # what is sown is of one call, and not carried on
  graph, *parts = nnx.split(module, nnx.Param, nnx.RngKey, nnx.RngCount, nnx.BatchStat, ...)
  params, keys, counts, stats, others = map(nnx.to_pure_dict, parts)
  named = {"batch_stats": stats, "variables": others}
  state: dict[str, Params] = {name: part for name, part in named.items() if part}
  return graph, params, state, (_kinds(keys), _kinds(counts))


def _kinds(tree: Params) -> _Kinds:
  leaves, structure = jax.tree.flatten(tree)
  return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _set_flags(module: nnx.Module, training: bool) -> None:
  """Sets attributes that are flags by their name, which `train()` and `eval()` do not know."""
  for _, node in nnx.iter_graph(module):
    for name, on in _modes.COMMON.items():
      if isinstance(node, nnx.Module) and isinstance(vars(node).get(name), bool):
        setattr(node, name, on == training)


def _key(key: jax.Array, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
  """Returns a key, or an array of as many, in the form of a stream's."""
  if jnp.issubdtype(dtype, jax.dtypes.prng_key):
    return jax.random.split(key, shape) if shape else key
  return jax.random.key_data(jax.random.split(key, shape[:-1]) if shape[:-1] else key)
