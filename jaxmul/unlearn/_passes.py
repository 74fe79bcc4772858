"""How an epoch walks over the forget set S and the retain set R, in fixed shapes.

Both have room for all examples, so that sets of different size share one compiled program; the
number of steps is a run-time value.

An epoch over n examples in batches of B makes ⌈n / B⌉ steps. They are full but for the last, or,
for a network whose training mode may mix examples (BatchNorm), even: each has n over their number,
rounded down or up, and so at least B / 2 from n = B on. Those of a union are even in S, in R and in
their sum.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmul._examples import Batch, Examples


@dataclasses.dataclass(frozen=True)
class Alternate:
  """An epoch is a pass over S, then one over R; a batch of the other set is empty meanwhile.

  Attributes:
    forget_epochs: S is passed over in the first so many epochs only.
  """

  forget_epochs: int


Passes = Literal["retain", "forget", "union"] | Alternate


class Sizes(NamedTuple):
  """Rows a batch of S and of R has room for; static."""

  forget: int
  retain: int


def sizes(
  passes: Passes,
  batch_size: int,
  forget: int,
  retain: int,
  *,
  multiple: int = 8,
  even: bool = False,
) -> Sizes:
  """Returns the room in each batch, rounded up so that sets of similar size share programs.

  Args:
    passes: how an epoch walks.
    batch_size: B.
    forget, retain: examples of S and of R.
    multiple: what the room is rounded up to, where B is not less.
    even: whether batches are even.
  """
  if passes == "union":
    steps = _ceil(forget + retain, batch_size)
    forget, retain = _ceil(forget, steps), _ceil(retain, steps)
  elif even:
    forget, retain = (_ceil(count, _ceil(count, batch_size)) for count in (forget, retain))
  return Sizes(*(min(batch_size, _ceil(count, multiple) * multiple) for count in (forget, retain)))


def num_steps(
  passes: Passes, batch_size: int, forget: jax.Array, retain: jax.Array, epoch: jax.Array
) -> jax.Array:
  """Returns the number of steps of an epoch.

  "retain" is one pass over R with the batches of S cycled beside it, "forget" one pass over S with
  batches of R beside it, and "union" one pass over both, each batch in their proportion.
  """
  if isinstance(passes, Alternate):
    return _forget_steps(passes, batch_size, forget, epoch) + _ceil(retain, batch_size)
  if passes == "retain":
    return _ceil(retain, batch_size)
  if passes == "forget":
    return _ceil(forget, batch_size)
  return _ceil(forget + retain, batch_size)


def at_step(
  passes: Passes,
  size: Sizes,
  batch_size: int,
  forget: Examples,
  retain: Examples,
  epoch: jax.Array,
  step: jax.Array,
  *,
  even: bool = False,
) -> tuple[Batch, Batch]:
  """Returns the forget and the retain batch of a step of shuffled sets."""

  def share(
    examples: Examples, size: int, steps: jax.Array, step: jax.Array, late: bool = False
  ) -> Batch:
    """Part `step` of `steps`; the first, or the last, hold one member more."""
    each, more = (
      examples.count // steps,
      examples.count % steps,
    )  # no product that could overflow int32
    start, stop = (
      at * each + (jnp.maximum(at - (steps - more), 0) if late else jnp.minimum(at, more))
      for at in (step, step + 1)
    )
    return examples.batch(start, stop, size)

  def part(examples: Examples, size: int, step: jax.Array) -> Batch:
    """Batch `step` of a pass over one set."""
    if even:
      return share(examples, size, _ceil(examples.count, batch_size), step)
    return examples.batch(step * size, (step + 1) * size, size)

  def cycled(examples: Examples, size: int) -> Batch:
    return part(examples, size, step % _ceil(examples.count, batch_size if even else size))

  if passes in ("retain", "forget"):
    return cycled(forget, size.forget), cycled(retain, size.retain)
  if isinstance(passes, Alternate):
    first = _forget_steps(passes, batch_size, forget.count, epoch)
    of_forget = part(forget, size.forget, step)
    of_retain = part(retain, size.retain, jnp.where(step < first, 0, step - first))
    return (
      of_forget._replace(mask=of_forget.mask & (step < first)),
      of_retain._replace(mask=of_retain.mask & (step >= first)),
    )
  steps = num_steps(passes, batch_size, forget.count, retain.count, epoch)
  # The sum of both is even if one set has its larger parts first and the other last.
  of_retain = share(retain, size.retain, steps, step, late=even)
  return share(forget, size.forget, steps, step), of_retain


def _forget_steps(passes: Alternate, batch_size, forget, epoch):
  return jnp.where(epoch < passes.forget_epochs, _ceil(forget, batch_size), 0)


def _ceil(count, size):
  return (count + size - 1) // size
