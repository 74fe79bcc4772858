"""From what a pass returns to logits: the function that picks them, and the refusal of the rest."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxmul import _article

Pick = Callable[[Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """An evaluation pass and what is picked of its outputs; equal for equal functions."""

  function: Callable[..., object]
  outputs: Pick

  def __call__(self, variables: object, inputs: object) -> jax.Array:
    return self.outputs(self.function(variables, inputs))


@dataclasses.dataclass(frozen=True)
class Training:
  """A training pass and what is picked of its outputs; the state is handed on as it is."""

  function: Callable[..., tuple[object, Any]]
  outputs: Pick

  def __call__(
    self, params: object, state: object, inputs: object, key: jax.Array, mask: jax.Array
  ) -> tuple[jax.Array, Any]:
    outputs, state = self.function(params, state, inputs, key, mask)
    return self.outputs(outputs), state


def refuse_other(outputs: object, mode: str) -> None:
  """Raises ValueError where a pass returned a tuple, a dict or another object, not an array."""
  if not isinstance(outputs, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
    raise ValueError(
      f"the network's {mode} returns {_described(outputs)}, must be an array of logits [B, *P, C]. "
      f"Pick them with outputs=lambda out: {_pick_of(outputs)}, of jaxmul.bind or models.init."
    )


def _described(outputs: object) -> str:
  if isinstance(outputs, Mapping):
    return f"a dict with keys {sorted(map(str, outputs))[:4]}"
  if isinstance(outputs, tuple | list):
    return f"{_article.of(outputs)} of {len(outputs)}"
  return _article.of(outputs)


def _pick_of(outputs: object) -> str:
  if isinstance(outputs, Mapping):
    name = "logits" if "logits" in outputs else next(iter(outputs), "logits")
    return f"out[{name!r}]"
  return "out[0]" if isinstance(outputs, tuple | list) else "out.logits"
