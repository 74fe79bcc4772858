"""How an epoch walks over the forget set S and the retain set R, in fixed shapes.

Sets are row numbers padded to a common capacity with a count, so that sets of different size share
one compiled program; the number of steps is a run-time value. Batches are padded with a mask, never
ragged; what stands there are the next members of the set in turn, at weight 0.

An epoch over n examples in batches of B makes ⌈n / B⌉ steps. They are full but for the last, or,
for a network whose training mode may mix examples (BatchNorm), even: each has n over their number,
rounded down or up, and so at least B / 2 from n = B on. Those of a union are even in S, in R and in
their sum.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul.data.dataset import as_inputs


@dataclasses.dataclass(frozen=True)
class Alternate:
  """An epoch is a pass over S, then one over R; a batch of the other set is empty meanwhile.

  Attributes:
    forget_epochs: S is passed over in the first so many epochs only.
  """

  forget_epochs: int


Passes = Literal["retain", "forget", "union"] | Alternate


class Batch(NamedTuple):
  """Some examples of one set.

  Attributes:
    inputs: float [B, ...].
    labels: int32 [B].
    mask: bool [B]; rows that are False are padding, other examples of the set, and must not matter.
    rows: int32 [B], their positions in the data set, to look up what was computed of them before.
  """

  inputs: jax.Array
  labels: jax.Array
  mask: jax.Array
  rows: jax.Array


class Rows(NamedTuple):
  """A set of examples in a data set of N.

  Attributes:
    images: [N, ...], uint8 or float, shared by all sets.
    labels: int32 [N].
    rows: int32 [capacity], the members first, then padding.
    count: int32 scalar, how many are members.
  """

  images: jax.Array
  labels: jax.Array
  rows: jax.Array
  count: jax.Array

  def batch(self, start: jax.Array, stop: jax.Array, size: int) -> Batch:
    """Returns members start … stop − 1 as a batch of `size` rows; the next ones are padding."""
    at = start + jnp.arange(size)
    mask = at < jnp.minimum(stop, self.count)
    rows = self.rows[at % jnp.maximum(self.count, 1)]
    return Batch(as_inputs(self.images[rows]), self.labels[rows], mask, rows)

  def shuffled(self, key: jax.Array) -> "Rows":
    """Returns the same members in random order."""
    member = jnp.arange(len(self.rows)) < self.count
    drawn = jax.random.uniform(key, self.rows.shape, jnp.float32)  # the same under float64
    order = jnp.argsort(jnp.where(member, drawn, 2.0))
    return self._replace(rows=self.rows[order])


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
  forget: Rows,
  retain: Rows,
  epoch: jax.Array,
  step: jax.Array,
  *,
  even: bool = False,
) -> tuple[Batch, Batch]:
  """Returns the forget and the retain batch of a step of shuffled sets."""

  def share(rows: Rows, size: int, steps: jax.Array, step: jax.Array, late: bool = False) -> Batch:
    """Part `step` of `steps`; the first, or the last, hold one member more."""
    each, more = rows.count // steps, rows.count % steps  # no product that could overflow int32
    start, stop = (
      at * each + (jnp.maximum(at - (steps - more), 0) if late else jnp.minimum(at, more))
      for at in (step, step + 1)
    )
    return rows.batch(start, stop, size)

  def part(rows: Rows, size: int, step: jax.Array) -> Batch:
    """Batch `step` of a pass over one set."""
    if even:
      return share(rows, size, _ceil(rows.count, batch_size), step)
    return rows.batch(step * size, (step + 1) * size, size)

  def cycled(rows: Rows, size: int) -> Batch:
    return part(rows, size, step % _ceil(rows.count, batch_size if even else size))

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


def padded_rows(rows: np.ndarray, capacity: int) -> tuple[jax.Array, jax.Array]:
  """Returns row numbers int32 [capacity] with their count."""
  padded = np.zeros(capacity, np.int32)
  padded[: len(rows)] = rows
  return jnp.asarray(padded), jnp.int32(len(rows))


def _ceil(count, size):
  return (count + size - 1) // size
