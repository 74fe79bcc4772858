"""Params that know their own forward pass.

A `Bound` is params θ, the non-trained state s of the network (BatchNorm statistics) and two static
functions: the evaluation pass `apply_fn` and, optionally, the training pass `train_fn`. It is a
pytree, so it goes through `jit`, `vmap` and `grad` like plain params, and it can be called. Only
`params` is ever differentiated, decayed, masked or normed.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

ApplyFn = Callable[[Any, jax.Array], jax.Array]
TrainFn = Callable[..., tuple[jax.Array, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
  """Params with their forward pass; made by `bind`.

  Attributes:
    params: any pytree; the only part that is trained.
    state: mapping such as `{"batch_stats": ...}`, or None.
    apply_fn: static, `apply_fn(variables, inputs [B, ...]) -> logits [B, C]`, evaluation mode, each
      example independent of the others.
    train_fn: static, `train_fn(params, state, inputs, key, mask) -> (logits [B, C], state)`, or
      None where training and evaluation are the same computation.
  """

  params: Any
  state: Any
  apply_fn: ApplyFn = dataclasses.field(metadata={"static": True})
  train_fn: TrainFn | None = dataclasses.field(default=None, metadata={"static": True})

  def __call__(self, inputs: jax.Array) -> jax.Array:
    """Returns evaluation-mode logits [B, C] of inputs [B, ...]."""
    if self.state is None:
      return self.apply_fn(self.params, inputs)
    return self.apply_fn({"params": self.params, **self.state}, inputs)

  def train(self, inputs: jax.Array, key: jax.Array, mask: jax.Array) -> tuple[jax.Array, Any]:
    """Returns training-mode logits [B, C] and the new state.

    Args:
      inputs: [B, ...].
      key: for dropout and the like.
      mask: bool [B]; rows that are False are padding and never enter the state.
    """
    if self.train_fn is None:
      return self(inputs), self.state
    return self.train_fn(self.params, self.state, inputs, key, mask)

  def replace(self, **changes: Any) -> "Bound":
    """Returns a copy with the named fields changed."""
    return dataclasses.replace(self, **changes)


def bind(
  apply_fn: ApplyFn, params: Any, state: Any = None, train_fn: TrainFn | None = None
) -> Bound:
  """Binds params to their forward pass.

  Args:
    apply_fn: `apply_fn(params, inputs [B, ...]) -> logits [B, C]`, evaluation mode. With `state`
      it gets `{"params": params, **state}` instead of `params`.
    params: any pytree.
    state: mapping of what the network carries but does not train, such as
      `{"batch_stats": variables["batch_stats"]}`; None if there is nothing.
    train_fn: `train_fn(params, state, inputs, key, mask) -> (logits, state)`; needed only where
      training mode differs (BatchNorm, dropout).

  Returns:
    A `Bound`, callable and usable wherever params are. Bind once per module: two different function
    objects are two traces.

  Raises:
    ValueError: `state` is not a mapping, or holds a "params" entry.

  Example:
    >>> import jax.numpy as jnp, jaxmul
    >>> linear = jaxmul.bind(lambda w, x: x @ w, jnp.eye(2))
    >>> linear(jnp.array([[1.0, 2.0]])).tolist()
    [[1.0, 2.0]]
  """
  if not callable(apply_fn):
    raise ValueError(
      f"bind needs a callable apply_fn, got {type(apply_fn).__name__}. "
      "The order is jaxmul.bind(model.apply, params)."
    )
  if state is not None and (not isinstance(state, Mapping) or "params" in state):
    raise ValueError(
      f"bind needs state to be a mapping without 'params', got {_describe(state)}. "
      "Pass state={'batch_stats': variables['batch_stats']}."
    )
  return Bound(params, state, apply_fn, train_fn)


def call_self(params: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> jax.Array:
  """The apply_fn of a pytree that is itself a function of its inputs (NNX, Equinox)."""
  return params(inputs)


def as_bound(params: Any, apply_fn: ApplyFn | None, caller: str) -> Bound:
  """Returns params as a `Bound`, whichever of the three forms of the call was used.

  Raises:
    ValueError: `params` cannot be called and no `apply_fn` is given, both know a forward pass, or
      it is a Linen module, which has no params.
  """
  if isinstance(params, Bound):
    if apply_fn is not None:
      raise ValueError(f"{caller} got a Bound and an apply_fn: params are bound, drop apply_fn.")
    return params
  if apply_fn is not None:
    return Bound(params, None, apply_fn)
  linen = sys.modules.get("flax.linen")
  if linen is not None and isinstance(params, linen.Module):
    raise ValueError(
      f"{caller} got a {_describe(params)}, a module without params. "
      "Make some: jaxmul.models.init(module, key, inputs)."
    )
  if callable(params):
    return Bound(params, None, call_self)
  raise ValueError(
    f"{caller} needs apply_fn: params is a {_describe(params)}, not callable. Pass "
    "apply_fn=model.apply, or bind it once with jaxmul.bind(model.apply, params)."
  )


def refuse_batch_stats(bound: Bound, caller: str) -> None:
  """Raises ValueError where a parameter gradient would also differentiate BatchNorm statistics."""
  if bound.state is None and isinstance(bound.params, Mapping) and "batch_stats" in bound.params:
    raise ValueError(
      f"{caller} takes parameter gradients, but params holds 'batch_stats', which is not trained. "
      "Bind them apart: jaxmul.bind(model.apply, variables['params'], "
      "state={'batch_stats': variables['batch_stats']})."
    )


def _describe(value: Any) -> str:
  if isinstance(value, Mapping):
    return f"{type(value).__name__} with keys {sorted(map(str, value))[:4]}"
  return type(value).__name__
