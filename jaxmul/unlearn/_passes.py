"""How an epoch walks over the forget set S and the retain set R, in fixed shapes.

Both have room for all examples, so that sets of different size share one compiled program; the
number of steps is a run-time value.

An epoch over n examples in batches of B makes ⌈n / B⌉ steps. They are full but for the last, or,
for a network whose training mode may mix examples (BatchNorm), even: each has n over their number,
rounded down or up, and so at least B / 2 from n = B on. Those of a union are even in S, in R and in
their sum.
"""

import dataclasses
import math
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxmul._examples import Batch, Examples
from jaxmul._sharding import Devices

Count = TypeVar("Count", int, jax.Array)


@dataclasses.dataclass(frozen=True)
class Alternate:
  """An epoch is a pass over S, then one over R; a batch of the other set is empty meanwhile.

  Attributes:
    forget_epochs: S is passed over in the first so many epochs only; None is in all.
  """

  forget_epochs: int | None


Passes = Literal["retain", "forget", "union"] | Alternate


def counts(passes: Passes, forget: Count, retain: Count) -> tuple[Count, ...]:
  """Returns how many examples each pass of an epoch goes over."""
  if isinstance(passes, Alternate):
    return forget, retain
  return ({"forget": forget, "retain": retain, "union": forget + retain}[passes],)


class Sets(NamedTuple):
  """What is walked over: S and R."""

  forget: Examples
  retain: Examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walk:
  """How all epochs of a run walk; static.

  Attributes:
    passes: see `Unlearner`.
    batch_size: B.
    rooms: rows that a batch of S and one of R has room for.
    even: whether batches are even.
    mesh: devices that every batch is split over, if there are several.
  """

  passes: Passes
  batch_size: int
  rooms: tuple[int, int]
  even: bool
  mesh: Devices | None

  def num_steps(self, forget: jax.Array, retain: jax.Array, epoch: jax.Array) -> jax.Array:
    """Returns the number of steps of an epoch over so many examples of S and of R."""
    if isinstance(self.passes, Alternate):
      return self._forget_steps(self.passes, forget, epoch) + _ceil(retain, self.batch_size)
    (count,) = counts(self.passes, forget, retain)
    return _ceil(count, self.batch_size)

  def at_step(self, sets: Sets, epoch: jax.Array, step: jax.Array) -> tuple[Batch, Batch]:
    """Returns the forget and the retain batch of a step of shuffled sets."""
    (forget, retain), (forget_room, retain_room) = sets, self.rooms
    if isinstance(self.passes, Alternate):
      first = self._forget_steps(self.passes, forget.count, epoch)
      of_forget = self._part(forget, forget_room, step)
      of_retain = self._part(retain, retain_room, jnp.where(step < first, 0, step - first))
      return (
        of_forget._replace(mask=of_forget.mask & (step < first)),
        of_retain._replace(mask=of_retain.mask & (step >= first)),
      )
    if self.passes == "union":
      steps = self.num_steps(forget.count, retain.count, epoch)
      # The sum of both is even if one set has its larger parts first and the other last.
      of_retain = _share(retain, retain_room, steps, step, late=self.even)
      return _share(forget, forget_room, steps, step), of_retain
    return self._cycled(forget, forget_room, step), self._cycled(retain, retain_room, step)

  def _forget_steps(self, passes: Alternate, forget: jax.Array, epoch: jax.Array) -> jax.Array:
    steps = _ceil(forget, self.batch_size)
    return (
      steps if passes.forget_epochs is None else jnp.where(epoch < passes.forget_epochs, steps, 0)
    )

  def _part(self, examples: Examples, room: int, step: jax.Array) -> Batch:
    """Batch `step` of a pass over one set."""
    if self.even:
      return _share(examples, room, _ceil(examples.count, self.batch_size), step)
    return examples.batch(step * room, (step + 1) * room, room)

  def _cycled(self, examples: Examples, room: int, step: jax.Array) -> Batch:
    steps = _ceil(examples.count, self.batch_size if self.even else room)
    return self._part(examples, room, step % steps)


def walk_over(
  passes: Passes,
  batch_size: int,
  sizes: tuple[int, int],
  *,
  multiple: int = 8,
  even: bool = False,
  mesh: Devices | None = None,
) -> Walk:
  """Returns the walk over S and R of these sizes, and of others for which a batch has equal room.

  Args:
    passes, batch_size, even, mesh: as of `Walk`.
    sizes: examples of S and of R.
    multiple: what the room of a batch is rounded up to, where B is not less; and to one of the
      number of devices.
  """
  multiple = multiple if mesh is None else math.lcm(multiple, mesh.size)
  rows = sizes
  if passes == "union":
    steps = _ceil(sum(sizes), batch_size)
    rows = tuple(_ceil(count, steps) for count in sizes)
  elif even:
    rows = tuple(_ceil(count, _ceil(count, batch_size)) for count in sizes)
  forget, retain = (min(batch_size, _ceil(count, multiple) * multiple) for count in rows)
  return Walk(passes=passes, batch_size=batch_size, rooms=(forget, retain), even=even, mesh=mesh)


def _share(
  examples: Examples, room: int, steps: jax.Array, step: jax.Array, late: bool = False
) -> Batch:
  """Part `step` of `steps`; the first, or if `late` the last, hold one member more."""
  # No product here that could overflow int32.
  least, more = examples.count // steps, examples.count % steps

  def begin(part):
    longer = jnp.maximum(part - (steps - more), 0) if late else jnp.minimum(part, more)
    return part * least + longer

  return examples.batch(begin(step), begin(step + 1), room)


def _ceil(count, size):
  return (count + size - 1) // size
