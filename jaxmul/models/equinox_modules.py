"""From an Equinox module to params and a function of them; used only where equinox is there.

Arrays of floats are the params. Whatever else a module holds, functions, flags and Python numbers,
is static, and joins them in each call.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax

from jaxmul._arrays import Inputs


@dataclasses.dataclass(frozen=True)
class Joined:
  """A pass that takes the whole module, as one that takes its params; equal for equal ones."""

  function: Callable[..., Any]
  rest: Any

  def __call__(self, params: Any, *more: Any) -> Any:
    return self.function(sys.modules["equinox"].combine(params, self.rest), *more)


@dataclasses.dataclass(frozen=True)
class JoinedInState(Joined):
  """The same of an evaluation pass that takes `{"params": params, **state}`."""

  def __call__(self, params: Any, *more: Any) -> Any:
    module = sys.modules["equinox"].combine(params["params"], self.rest)
    return self.function({**params, "params": module}, *more)


def parts(module: Any) -> tuple[Any, Any]:
  """Returns the params of a module, and the rest of it; None where there is no rest."""
  equinox = sys.modules["equinox"]
  params, rest = equinox.partition(module, equinox.is_inexact_array)
  return (params, rest) if jax.tree.leaves(rest) else (module, None)


def call(module: Callable[[Inputs], jax.Array], inputs: Inputs) -> jax.Array:
  """Returns what a module makes of a batch; raises ValueError where it takes one example."""
  try:
    return module(inputs)
  except (TypeError, ValueError) as error:
    says = str(error).splitlines()[0]
    name = type(module).__name__
    raise ValueError(
      f"{name} of Equinox could not be called with a batch of inputs ({says}). One of one example "
      f"is bound as jaxmul.bind(lambda module, x: jax.vmap(module)(x), {name.lower()})."
    ) from error
