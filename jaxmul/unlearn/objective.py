"""From an objective to an `Unlearner`: most algorithms are what they descend, and little else.

θ params, S forget set, R retain set. An objective sees one `Turn` and the memory that was made of
the original network before the first step; memory is never differentiated nor updated.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul import _check, losses
from jaxmul.binding import Bound
from jaxmul.unlearn._passes import Batch, Passes
from jaxmul.unlearn.base import Clock, Session, Unlearner, increment


class Turn(NamedTuple):
  """What one step sees.

  Attributes:
    forget: a batch of S.
    retain: a batch of R.
    key: of this step.
    clock: epoch and step.
    epochs: int32 scalar, passes of the whole run.
  """

  forget: Batch
  retain: Batch
  key: jax.Array
  clock: Clock
  epochs: jax.Array


class ObjectiveState(NamedTuple):
  """State of an algorithm that descends an objective: optimizer state, memory made by init."""

  optimizer: Any
  memory: Any
  clock: Clock
  epochs: jax.Array


Objective = Callable[[Bound, Turn, Any], tuple[jax.Array, Bound]]


def descend(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  identity: Hashable,
  passes: Passes = "retain",
  remember: Callable[[Bound, Session], Any] = lambda params, session: (),
  start: Callable[[Bound, Any], Bound] | None = None,
  finish: Callable[[Bound, Any], Bound] | None = None,
  reshape: Callable[[Any, Any, Turn], Any] | None = None,
  given: Any = (),
) -> Unlearner:
  """Returns the Unlearner that descends an objective with an optax transformation.

  Its `update` has one more argument than others: `at`, params at which the gradient is taken in
  place of those that move (`sam`).

  Args:
    objective: `(params, turn, memory) -> (value, params)`; the second result carries the new state
      of the network, such as BatchNorm statistics.
    optimizer: what turns its gradient into updates.
    identity: name and hyperparameters, see `Unlearner`.
    passes: see `Unlearner`.
    remember: `(params, session) -> memory`, what the objective needs later, of the original params.
    start: `(params, memory) -> params`, where the descent begins; the original params by default.
    finish: `(params, memory) -> params`, after the last step.
    reshape: `(updates, memory, turn) -> updates`, applied last: what it zeroes does not move,
      weight decay and momentum included.
    given: arrays that `remember` closes over, see `Unlearner`.
  """

  def init(params: Bound, session: Session) -> ObjectiveState:
    memory = remember(params, session)
    first = params if start is None else start(params, memory)
    zero = jnp.int32(0)
    return ObjectiveState(
      optimizer.init(first.params), memory, Clock(zero, zero, zero + 1), jnp.int32(session.epochs)
    )

  def update(forget, retain, state, params, key, at=None):
    turn = Turn(forget, retain, key, state.clock, state.epochs)

    def value(theta):
      value, new = objective(params.replace(params=theta), turn, state.memory)
      return value, new.state

    where = params if at is None else at
    gradient, network_state = jax.grad(value, has_aux=True)(where.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, params.params)
    if reshape is not None:
      updates = reshape(updates, state.memory, turn)
    moved = jax.tree.map(increment, network_state, params.state)
    return params.replace(params=updates, state=moved), state._replace(optimizer=optimizer_state)

  return Unlearner(
    init,
    update,
    passes,
    identity,
    start=None if start is None else lambda params, state: start(params, state.memory),
    tick=lambda state, clock: state._replace(clock=clock),
    finish=None if finish is None else lambda params, state: finish(params, state.memory),
    given=given,
  )


def one_shot(change: Callable[[Bound, Session], Bound], *, identity: Hashable) -> Unlearner:
  """Returns the Unlearner that changes the params once and makes no steps.

  Args:
    change: `(params, session) -> params`.
    identity: name and hyperparameters, see `Unlearner`.
  """
  return Unlearner(change, None, "retain", identity, start=lambda params, changed: changed)


def sgd(
  learning_rate: float, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Returns SGD with coupled weight decay, as PyTorch's.

  Raises:
    ValueError: a rate is outside its range.
  """
  _check.rate(learning_rate, "learning_rate", np.inf)
  _check.rate(momentum, "momentum", 1)
  _check.rate(weight_decay, "weight_decay", np.inf)
  return optax.chain(
    optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum or None)
  )


def train_logits(params: Bound, batch: Batch, key: jax.Array) -> tuple[jax.Array, Bound]:
  """Returns training-mode logits [B, C] of a batch, and params with the new network state.

  A network that may mix examples sees what stands in padding rows, which are other examples of the
  set, unless it takes the mask. For any other they are zeros. A batch of padding alone leaves the
  state as it is.
  """
  inputs = batch.inputs
  if params.train_fn is None:
    inputs = jnp.where(batch.mask.reshape(-1, *(1,) * (inputs.ndim - 1)), inputs, 0)
  logits, state = params.train(inputs, key, batch.mask)
  return logits, params.replace(state=state)


def batch_risk(params: Bound, batch: Batch, key: jax.Array) -> tuple[jax.Array, Bound]:
  """Returns the mean loss of a batch in training mode, and params with the new network state."""
  logits, params = train_logits(params, batch, key)
  return losses.masked_mean(losses.cross_entropy(logits, batch.labels), batch.mask), params


def retain_risk(params: Bound, turn: Turn, memory: Any) -> tuple[jax.Array, Bound]:
  """The objective risk_R, of all that tune on the retain set."""
  del memory
  return batch_risk(params, turn.retain, turn.key)


def merged(a: Batch, b: Batch) -> Batch:
  """Returns the rows of both batches as one."""
  return Batch(*(jnp.concatenate(pair) for pair in zip(a, b, strict=True)))


def only(updates: Any, mask: Any) -> Any:
  """Returns updates where a mask of the same structure is True, and 0 elsewhere."""
  return jax.tree.map(lambda chosen, moved: jnp.where(chosen, moved, 0), mask, updates)
