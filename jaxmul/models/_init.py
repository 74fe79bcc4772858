"""From a Linen module to a `Bound`: the one place that knows what Linen's variables look like."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmul.binding import Bound

Model = nn.Module | Callable[[jax.Array, jax.Array], Bound]


@dataclasses.dataclass(frozen=True)
class _Apply:
  """Evaluation pass of a module; equal for equal modules, so that a fresh one does not retrace."""

  module: nn.Module

  def __call__(self, variables: Any, inputs: jax.Array) -> jax.Array:
    return self.module.apply(variables, inputs)  # pyright: ignore[reportReturnType]


@dataclasses.dataclass(frozen=True)
class _Train:
  """Training pass of a module whose `__call__` takes `train`, and `mask` if it wants one."""

  module: nn.Module

  def __call__(self, params, state, inputs, key, mask):
    options = {"mask": mask} if _takes(self.module, "mask") else {}
    variables = params if state is None else {"params": params, **state}
    logits, changed = self.module.apply(
      variables, inputs, train=True, rngs={"dropout": key}, mutable=list(state or {}), **options
    )
    return logits, changed if state else state


def _takes(module: nn.Module, name: str) -> bool:
  return name in inspect.signature(type(module).__call__).parameters


def init(model: Model, key: jax.Array, inputs: jax.Array) -> Bound:
  """Returns fresh params of a model, bound to its forward pass.

  Args:
    model: a Linen module called as `module(inputs)`, in training with `train=True` and `mask=mask`
      where its `__call__` takes these; or a function `(key, inputs) -> Bound` for
      anything else.
    key: for the initial values.
    inputs: [B, ...] float; only the shape and dtype matter.

  Returns:
    A `Bound`. Equal modules give equal static parts, so nothing is traced twice.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> bound = models.init(models.mlp(), jax.random.key(0), jnp.zeros((1, 28, 28)))
    >>> bound(jnp.zeros((2, 28, 28))).shape
    (2, 10)
  """
  if not isinstance(model, nn.Module):
    return model(key, inputs)
  variables = dict(model.init(key, jnp.zeros(inputs.shape, inputs.dtype)))
  params = variables.pop("params")
  train_fn = _Train(model) if _takes(model, "train") else None
  if not variables:
    return Bound({"params": params}, None, _Apply(model), train_fn)
  return Bound(params, variables, _Apply(model), train_fn)


def shapes(model: Model, inputs: jax.Array) -> Bound:
  """Returns what `init` would, as shapes and dtypes alone: the `like` of `checkpoint.load`.

  Args:
    model: as `init`.
    inputs: [B, ...] float; only the shape and dtype matter.

  Returns:
    A `Bound` whose leaves are `jax.ShapeDtypeStruct`; nothing is computed.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxmul import models
    >>> models.shapes(models.mlp(), jnp.zeros((1, 28, 28))).state is None
    True
  """
  return jax.eval_shape(lambda key: init(model, key, inputs), jax.random.key(0))
