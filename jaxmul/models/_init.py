"""From a Linen module to a `Network`: the one place that knows what Linen's variables look like."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import VariableDict

from jaxmul import _article, _check
from jaxmul._arrays import Inputs, without_padding
from jaxmul._outputs import Pick
from jaxmul.binding import Network, as_network, is_a, picking, refuse_untrainable
from jaxmul.models import _modes

Model = nn.Module | Callable[[jax.Array, Inputs], object]

# What Linen raises where a pass does with variables or keys what was not provided for.
_SURPRISES = (
  flax.errors.ModifyScopeVariableError,
  flax.errors.ScopeCollectionNotFound,
  flax.errors.ScopeVariableNotFoundError,
  flax.errors.InvalidRngError,
)


@dataclasses.dataclass(frozen=True)
class _Apply:
  """Evaluation pass of a module; equal for equal modules, so that a fresh one does not retrace."""

  module: nn.Module
  flags: tuple[tuple[str, bool], ...] = ()

  def __call__(self, variables: VariableDict, inputs: Inputs) -> jax.Array:
    options: _modes.Flags = dict(self.flags)
    try:
      return self.module.apply(variables, inputs, **options)  # pyright: ignore[reportReturnType]
    except _SURPRISES as error:
      raise _in_one_line(self.module, "evaluation", error) from error


@dataclasses.dataclass(frozen=True)
class _Embed:
  """The method `embed` of a module; equal for equal modules."""

  module: nn.Module

  def __call__(self, variables: VariableDict, inputs: Inputs) -> jax.Array:
    return self.module.apply(variables, inputs, method="embed")  # pyright: ignore[reportReturnType]


@dataclasses.dataclass(frozen=True)
class _Train:
  """Training pass of a module, which gets `mask` if its `__call__` wants one."""

  module: nn.Module
  flags: tuple[tuple[str, bool], ...] = ()

  def __call__(self, params, state, inputs, key, mask):
    options: _modes.Flags = dict(self.flags)
    if "mask" in _modes.parameters(type(self.module).__call__):
      options["mask"] = mask
      # What takes the mask never sees what padding holds, not even NaN.
      inputs = without_padding(inputs, mask)
    variables = {"params": params, **state}
    # Linen draws from "params" what has a stream of another name than "dropout".
    rngs = {"dropout": key, "params": jax.random.fold_in(key, 1)}
    try:
      logits, changed = self.module.apply(
        variables, inputs, rngs=rngs, mutable=list(state), **options
      )
    except _SURPRISES as error:
      raise _in_one_line(self.module, "training", error) from error
    return logits, changed if state else state


def _in_one_line(module: nn.Module, mode: str, error: Exception) -> ValueError:
  says = str(error).splitlines()[0].split(" (http")[0].rstrip(".")
  return ValueError(
    f"{type(module).__name__} in {mode}: {says}. Collections are carried on as init makes them, "
    "and change in training alone. Anything else needs functions of your own: "
    "jaxmul.bind(apply_fn, params, state, train_fn)."
  )


def init(
  model: Model,
  key: jax.Array,
  inputs: Inputs,
  *,
  train_flag: Mapping[str, bool] | None = None,
  outputs: Pick | None = None,
) -> Network:
  """Returns fresh params of a model, bound to its forward pass.

  A Linen module is told whether it trains by an argument of `__call__` or a field of its own:
  `train`, `training`, `is_training` or `is_train`; or, False in training, `deterministic`,
  `use_running_average`, `inference`, `eval_mode` or `is_eval`. Each one that it has is set in both
  modes, whatever its default. All its collections but the params are the state; what it sows is
  left out. Its streams of random numbers follow the key of the step. A module that reads integers
  has a method `embed`, `embed(inputs)` -> floats that it takes in their place: see `jaxmul.bind`.

  Args:
    model: a Linen module called as `module(inputs)`, in training also with `mask=mask` where its
      `__call__` takes one (bool [B], False where a row is padding); or, for anything else, a
      function `(key, inputs)` that returns a `Network`, an `nnx.Module` or another callable pytree.
    key: for the initial values.
    inputs: [B, ...] float or integer, or a dict of arrays; only shapes and dtypes matter.
    train_flag: {name: its value in training} of a flag with a name of your own, such as
      `{"frozen": False}`. In a `Recipe`: `functools.partial(models.init, module, train_flag=...)`.
    outputs: picks the logits where the module returns a tuple, a dict or an object, as of
      `jaxmul.bind`.

  Returns:
    A `Network`. Equal modules give equal static parts, so nothing is traced twice.

  Raises:
    ValueError: a module has BatchNorm or dropout and no flag, has no params, or no argument or
      field of the name that `train_flag` gives; or a function returns nothing that can be trained.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> network = models.init(models.mlp(), jax.random.key(0), jnp.zeros((1, 28, 28)))
    >>> network(jnp.zeros((2, 28, 28))).shape
    (2, 10)
  """
  _check.key(key, "models.init")
  if not isinstance(model, nn.Module):
    network = _made_by(model, key, inputs, train_flag)
    return network if outputs is None else picking(network, outputs)
  _modes.refuse_unknown(model, train_flag)
  evaluation, options = in_mode(model, False, train_flag)
  two_modes: list[str] = []

  def note(call, args, kwargs, context):
    if context.method_name == "__call__" and _has_two_modes(context.module):
      two_modes.append(type(context.module).__name__)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    variables = dict(evaluation.init(key, jax.tree.map(jnp.zeros_like, inputs), **options))
  params = variables.pop("params", None)
  if not jax.tree.leaves(params):
    raise ValueError(
      f"models.init got {_article.of(model)} without a single param: there is nothing to train."
    )
  has_flag = any(_modes.flags(model, True, train_flag))
  if not has_flag and (two_modes or "batch_stats" in variables):
    raise ValueError(
      f"models.init got {_article.of(model)} with {min(two_modes, default='batch_stats')}, and "
      "no argument or field that says whether it trains. Name it, train_flag={'name': its value "
      "in training}, or give (key, inputs) -> jaxmul.bind(apply_fn, params, state, train_fn)."
    )
  for name in _sown(evaluation, params, variables, inputs, options):
    del variables[name]
    warnings.warn(
      f"{type(model).__name__} sows {name!r}, which is left out: nothing is added to the loss. "
      "Return it beside the logits, and bind with a loss= of both.",
      stacklevel=2,
    )
  apply_fn = _Apply(evaluation, tuple(options.items()))
  train_fn = None
  if has_flag or variables:
    module, options = in_mode(model, True, train_flag)
    train_fn = _Train(module, tuple(options.items()))
  embed = _Embed(evaluation) if callable(getattr(type(model), "embed", None)) else None
  network = Network(params, variables, apply_fn, train_fn, embed=embed)
  return network if outputs is None else picking(network, outputs)


def _sown(
  module: nn.Module,
  params: VariableDict,
  variables: VariableDict,
  inputs: Inputs,
  options: _modes.Flags,
) -> list[str]:
  """Returns the collections that a pass only adds to, as `sow` does: tuples that get longer."""

  def is_tuple(node):
    return isinstance(node, tuple)

  names = [
    name
    for name, part in variables.items()
    if all(map(is_tuple, jax.tree.leaves(part, is_leaf=is_tuple)))
  ]
  if not names:
    return names

  def again(params, variables, inputs):
    return module.apply({"params": params, **variables}, inputs, mutable=names, **options)[1]

  added = jax.eval_shape(again, params, variables, inputs)
  return [n for n in names if jax.tree.structure(added[n]) != jax.tree.structure(variables[n])]


def in_mode(
  module: nn.Module, training: bool, train_flag: Mapping[str, bool] | None = None
) -> tuple[nn.Module, _modes.Flags]:
  """Returns a Linen module and keywords of its call, both told whether it trains."""
  by_field, by_call = _modes.flags(module, training, train_flag)
  return (module.clone(**by_field) if by_field else module), by_call


def _made_by(
  model: Callable[[jax.Array, Inputs], object],
  key: jax.Array,
  inputs: Inputs,
  train_flag: Mapping[str, bool] | None,
) -> Network:
  """What a function of a user's own makes, as a `Network`."""
  name = getattr(model, "__name__", type(model).__name__)
  if train_flag is not None:
    raise ValueError(f"models.init got train_flag for {name}, which is no Linen module. Drop it.")
  if isinstance(model, Network) or is_a(model, "flax.nnx") or is_a(model, "equinox"):
    raise ValueError(
      f"models.init got {_article.named(name)}, which has weights already. Give a function "
      "(key, inputs) that makes fresh ones."
    )
  made = model(key, inputs)
  if not callable(made):
    raise ValueError(
      f"models.init: {name} returned {_article.of(made)}, must be a Network or another "
      "callable pytree. Return jaxmul.bind(apply_fn, params, state, train_fn)."
    )
  network = as_network(made, None, f"models.init({name})")
  refuse_untrainable(network, f"models.init({name})")
  return network


def _has_two_modes(module: nn.Module) -> bool:
  """Whether a layer of Linen's does something else in training than in evaluation."""
  if isinstance(module, nn.Dropout):
    return bool(module.rate)
  if isinstance(module, nn.MultiHeadDotProductAttention):
    return bool(module.dropout_rate)
  return isinstance(module, nn.BatchNorm)


def shapes(model: Model, inputs: Inputs) -> Network:
  """Returns what `init` would, as shapes and dtypes alone: the `like` of `checkpoint.load`.

  Args:
    model, inputs: as `init`.

  Returns:
    A `Network` whose leaves are `jax.ShapeDtypeStruct`; nothing is computed.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxmul import models
    >>> models.shapes(models.mlp(), jnp.zeros((1, 28, 28))).state
    {}
  """
  return jax.eval_shape(lambda key: init(model, key, inputs), jax.random.key(0))
