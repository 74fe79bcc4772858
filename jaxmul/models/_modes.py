"""How a module is told whether it trains: the common names of that flag, for Linen and NNX."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

# Each name with its value in training; the opposite is evaluation. A default says nothing: the flag
# is always set.
COMMON = {
  **dict.fromkeys(("train", "training", "is_training", "is_train"), True),
  **dict.fromkeys(("deterministic", "use_running_average", "inference"), False),
  **dict.fromkeys(("eval_mode", "is_eval"), False),
}

Flags = dict[str, Any]  # of bools, among other keywords of Linen


def parameters(call: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
  """Returns the parameters of a function by name."""
  return inspect.signature(call).parameters


def of_call(call: Callable[..., object], training: bool) -> Flags:
  """Returns the common flags that a function takes, with their values."""
  accepted = parameters(call)
  named = (name for name in COMMON if name in accepted and _is_flag(accepted[name].default))
  return {name: COMMON[name] == training for name in named}


def flags(
  module: nn.Module, training: bool, train_flag: Mapping[str, bool] | None = None
) -> tuple[Flags, Flags]:
  """Returns what tells a Linen module whether it trains: fields, and arguments of its call.

  A flag that is both is a field where the module has not left it at None, as `nn.merge_param` wants
  it. What holds neither a bool nor None is no flag.

  Args:
    module: any.
    training: whether it trains.
    train_flag: {name: value in training} of flags that have other names.

  Example:
    >>> import flax.linen as nn
    >>> flags(nn.Dropout(0.5), training=True)
    ({}, {'deterministic': False})
  """
  own = dict(train_flag or {})
  accepted = parameters(type(module).__call__)
  names = {field.name for field in dataclasses.fields(module)}
  by_field: Flags = {}
  by_call: Flags = {}
  for name, on in {**COMMON, **own}.items():
    value = getattr(module, name) if name in names else None
    default = accepted[name].default if name in accepted else None
    is_field = name in names and (value is not None or name not in accepted)
    is_argument = name in accepted or (name in own and name not in names)
    if is_field and (_is_flag(value) or name in own):
      by_field[name] = on == training
      is_argument = is_argument and default is not None
    if is_argument and (_is_flag(default) or name in own):
      by_call[name] = on == training
  return by_field, by_call


def refuse_unknown(module: nn.Module, train_flag: object) -> None:
  """Raises ValueError where `train_flag` is no {name: bool}, or names nothing of the module."""
  if train_flag is None:
    return
  if not isinstance(train_flag, Mapping) or not all(
    isinstance(key, str) and isinstance(on, bool) for key, on in train_flag.items()
  ):
    raise ValueError(
      f"models.init got train_flag={train_flag!r}, must be {{name: its value in training}}, such "
      "as {'train': True} or {'frozen': False}."
    )
  accepted = parameters(type(module).__call__)
  takes_any = any(taken.kind is inspect.Parameter.VAR_KEYWORD for taken in accepted.values())
  known = {field.name for field in dataclasses.fields(module)} | accepted.keys()
  for name in train_flag:
    if name not in known and not takes_any:
      raise ValueError(
        f"models.init got train_flag of {name!r}, no argument and no field of "
        f"{type(module).__name__}. It has {', '.join(sorted(known - {'self', 'parent', 'name'}))}."
      )


def _is_flag(value: object) -> bool:
  return value is None or value is inspect.Parameter.empty or isinstance(value, bool)
