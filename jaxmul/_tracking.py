"""Trackers: scores gathered while training runs, and how a step feeds them.

Each reads the step's own forward pass. What costs a pass of its own, gradients, is computed once a
step for all that declare it, of the params before the update and in evaluation mode, where examples
do not interact.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import _gradients
from jaxmul._blocks import dealt, together
from jaxmul.binding import Network, refuse_own_loss, refuse_without_embed


class Step(NamedTuple):
  """What one training step saw, for trackers.

  Attributes:
    rows: int32 [B], rows of the training set, 0 … n − 1; n where the row is padding, so that
      `state.at[step.rows].add(values, mode="drop")` needs no mask.
    labels: int32 [B, *P].
    logits: the network's outputs, float [B, *P, C], of the step's own forward pass, before its
      update.
    losses: float32 [B].
    epoch: int32 scalar from 0.
    inputs: float or int32 [B, ...], or a dict of such, augmented as in training.
    learning_rate: η of this step, scalar.
    network: the network before the update; None unless a tracker needs it.
    input_gradients: ∂ℓ_b/∂x_b [B, ...] of `network` in evaluation mode, of integer inputs at what
      they are embedded as; None unless needed.
    parameter_norms: ‖∂ℓ_b/∂θ‖₂ [B] of the same; None unless needed.
  """

  rows: jax.Array
  labels: jax.Array
  logits: jax.Array
  losses: jax.Array
  epoch: jax.Array
  inputs: jax.Array = None  # pyright: ignore[reportAssignmentType]
  learning_rate: jax.Array = None  # pyright: ignore[reportAssignmentType]
  network: Network = None  # pyright: ignore[reportAssignmentType]
  input_gradients: jax.Array = None  # pyright: ignore[reportAssignmentType]
  parameter_norms: jax.Array = None  # pyright: ignore[reportAssignmentType]


Need = Literal["epochs", "input_shape", "network", "input_gradients", "parameter_norms", "classes"]


class Tracker(NamedTuple):
  """A score of every training example, gathered while training runs.

  Attributes:
    init: `n -> state`.
    update: `(state, Step) -> state`, pure; runs in every step of the epochs that `every` names.
    score: `state -> {name: [n]}`, higher = more memorized.
    needs: what else it reads. "network", "input_gradients" and "parameter_norms" are filled in
      `Step`, computed once for all trackers that need them; "epochs" and "input_shape", that of
      one embedded input, are handed to `init` as keywords. "classes" says that it reads
      probabilities of classes: a network with a loss of its own is refused. A tracker without the
      first three is free: it reads the step's own forward pass.
    every: update in every of so many epochs only, the last one. What it needs is not
      computed in the others.
  """

  init: Callable[..., Any]
  update: Callable[[Any, Step], Any]
  score: Callable[[Any], dict[str, jax.Array]]
  needs: tuple[Need, ...] = ()
  every: int = 1


def check(trackers: tuple[Tracker, ...], shape: tuple[int, ...], epochs: int) -> None:
  """Raises ValueError where trackers of a run over inputs [n, ...] cannot work together."""
  names: set[str] = set()
  for tracker in trackers:
    unknown = set(tracker.needs) - set(get_args(Need))
    if unknown:
      raise ValueError(f"a tracker needs {min(unknown)!r}, must be one of {get_args(Need)}.")
    own = _score_names(tracker, start(tracker, shape, epochs))
    if names & own:
      raise ValueError(f"two trackers return a score named {min(names & own)!r}. Drop one of them.")
    if not 1 <= tracker.every <= epochs:
      raise ValueError(
        f"tracker of {min(own)!r} got every={tracker.every}, must be in [1, {epochs}], the epochs."
      )
    names |= own


def check_network(trackers: tuple[Tracker, ...], network: Network) -> None:
  """Raises ValueError where a tracker reads what a network does not say."""
  for tracker in trackers:
    if "classes" in tracker.needs:
      names = _score_names(tracker, start(tracker, (1, 1), 1))
      refuse_own_loss(network, f"the tracker of {min(names)!r}")


def _score_names(tracker: Tracker, state: Any) -> set[str]:
  return set(jax.eval_shape(tracker.score, state))


def start(tracker: Tracker, shape: tuple[int, ...], epochs: int) -> Any:
  """Returns the first state of a tracker of a run over inputs [n, ...]."""
  facts = {"epochs": epochs, "input_shape": shape[1:]}
  return tracker.init(shape[0], **{name: facts[name] for name in facts if name in tracker.needs})


def update(
  trackers: tuple[Tracker, ...],
  states: tuple[Any, ...],
  seen: Step,
  network: Network,
  parts: int = 1,
) -> tuple[Any, ...]:
  """Returns the states after a step; what several trackers need is computed once.

  That is computed of so many parts of the step one after another.
  """
  # Counters are int64 where float64 is enabled; a state of int32 would change its type.
  seen = seen._replace(rows=seen.rows.astype(jnp.int32), epoch=jnp.int32(seen.epoch))
  for tracker, state in zip(trackers, states, strict=True):
    if "input_gradients" in tracker.needs:
      name = min(_score_names(tracker, state))
      refuse_without_embed(network, seen.inputs, f"the tracker of {name!r}")
  users = [t for t in trackers if {"input_gradients", "parameter_norms"} & set(t.needs)]
  if users:
    of_examples = functools.partial(
      _gradients.of_examples,
      to_inputs=any("input_gradients" in t.needs for t in users),
      norms=any("parameter_norms" in t.needs for t in users),
    )

    def compute(network, inputs, labels):
      if parts == 1:
        return of_examples(network, inputs, labels)
      given = dealt((inputs, labels), parts)
      return together(lax.map(lambda part: of_examples(network, *part), given))

    gradients = _in_due_epochs(users, seen, compute, None, (network, seen.inputs, seen.labels))
    seen = seen._replace(input_gradients=gradients.inputs, parameter_norms=gradients.norms)

  def updated(tracker, state):
    own = seen._replace(network=network) if "network" in tracker.needs else seen
    return _in_due_epochs([tracker], seen, tracker.update, state, (state, own))

  return tuple(updated(t, s) for t, s in zip(trackers, states, strict=True))


def _in_due_epochs(trackers, seen, function, otherwise, arguments):
  """Returns function(*arguments) in epochs that a tracker names, else `otherwise` or zeros."""
  if any(t.every == 1 for t in trackers):
    return function(*arguments)
  if otherwise is None:
    shapes = jax.eval_shape(function, *arguments)
    otherwise = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  due = functools.reduce(operator.or_, ((seen.epoch + 1) % t.every == 0 for t in trackers))
  return lax.cond(due, function, lambda *_: otherwise, *arguments)
