"""Blocks whose inner values the backward pass computes again, so that they need not be kept.

Where layers of a block are watched while it runs, as ghost norms and what reads a layer's inputs do
it, the block is computed as without: what such an interceptor sees belongs to the trace outside.
The numbers are the same, and the memory is that without rematerialisation.

References:
  Chen et al., [Training Deep Nets with Sublinear Memory Cost](https://arxiv.org/abs/1604.06174),
  2016.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import flax.linen as nn
import jax

T = TypeVar("T")

_watched = contextvars.ContextVar("watched", default=False)


def block(
  method: Callable[..., T], on: bool, module: nn.Module, x: jax.Array, *settings: object
) -> T:
  """Returns `method(module, x, *settings)`; where it is on, its inner values are not kept.

  Args:
    method: of the module, which makes or calls the layers of a block.
    on: whether to rematerialise.
    module: a Linen module. The names of its layers are the same either way.
    x: [B, ...], what the block is given.
    settings: what is no array to differentiate by.
  """

  def run(module: nn.Module, x: jax.Array) -> T:
    return method(module, x, *settings)

  return (nn.remat(run) if on and not _watched.get() else run)(module, x)


@contextlib.contextmanager
def watching(interceptor: Callable[..., Any]) -> Iterator[None]:
  """Within it Linen's methods go through an interceptor, which may keep what it sees."""
  token = _watched.set(True)
  try:
    with nn.intercept_methods(interceptor):
      yield
  finally:
    _watched.reset(token)
