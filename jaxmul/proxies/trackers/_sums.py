"""The commonest tracker: values [B] of each step, added up over epochs for every example."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxmul.train import Need, Step, Tracker


def totals(
  values: Mapping[str, Callable[[Step], jax.Array]], needs: tuple[Need, ...] = (), every: int = 1
) -> Tracker:
  """Returns a Tracker of Σ over epochs of each of the named values [B]."""

  def init(n):
    return {name: jnp.zeros(n, jnp.float32) for name in values}

  def update(sums, step):
    for need in needs:
      if getattr(step, need, step) is None:
        raise ValueError(
          f"the tracker of {min(values)!r} needs train.Step({need}=...), which a loop of your own "
          "has to give: see the page on training loops."
        )

    def added(name, value):
      return sums[name].at[step.rows].add(value(step).astype(sums[name].dtype), mode="drop")

    return {name: added(name, value) for name, value in values.items()}

  return Tracker(init, update, score=lambda sums: sums, needs=needs, every=every)


def means(
  values: Mapping[str, Callable[[Step], jax.Array]], needs: tuple[Need, ...] = (), every: int = 1
) -> Tracker:
  """Returns a Tracker of the mean over epochs of each of the named values [B]."""
  sums = totals(values)

  def init(n):
    return sums.init(n), jnp.zeros((), jnp.int32)

  def update(state, step):
    return sums.update(state[0], step), (step.epoch + 1) // every

  def score(state):
    return {name: total / state[1] for name, total in state[0].items()}

  return Tracker(init, update, score, needs=needs, every=every)
