"""From an objective to an `Unlearner`: most algorithms are what they descend, and little else.

θ params, S forget set, R retain set. An objective sees one `Turn` and the memory that was made of
the original network before the first step; memory is never differentiated nor updated.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul import _article, _check, losses
from jaxmul._arrays import without_padding
from jaxmul._examples import Batch
from jaxmul.binding import Network, losses_of
from jaxmul.unlearn._passes import Passes
from jaxmul.unlearn.unlearner import Clock, Session, Unlearner, increment

Memory = TypeVar("Memory")


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


class ObjectiveState(NamedTuple, Generic[Memory]):
  """State of an algorithm that descends an objective: optimizer state, memory made by init."""

  optimizer: optax.OptState
  memory: Memory
  clock: Clock
  epochs: jax.Array


Objective = Callable[[Network, Turn, Memory], tuple[jax.Array, Network]]
Reshape = Callable[[optax.Updates, Memory, Turn], optax.Updates]


@dataclasses.dataclass(frozen=True, eq=False)
class Descent(Generic[Memory]):
  """The update of `descend`: a step whose gradient may be taken at other params than those moved.

  Attributes:
    objective, reshape: as `descend` was given them.
    move: the update of its optimizer. How that begins is no part of a step, and what only the state
      knows of, such as a rate, does not tell steps apart.
  """

  objective: Objective[Memory]
  move: optax.TransformUpdateFn
  reshape: Reshape[Memory] | None

  def __call__(
    self,
    forget: Batch,
    retain: Batch,
    state: ObjectiveState[Memory],
    network: Network,
    key: jax.Array,
    where: optax.Params | None = None,
  ) -> tuple[Network, ObjectiveState[Memory]]:
    """Returns updates of `network` by the gradient at `where`, its params by default, and state."""
    turn = Turn(forget, retain, key=key, clock=state.clock, epochs=state.epochs)

    def value(theta):
      result = self.objective(network.replace(params=theta), turn, state.memory)
      if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
          f"descend got an objective that returns {_article.of(result)}, must return (value, "
          "network), as batch_risk does. Of two terms: risk, after = batch_risk(...), and return "
          "risk - other, after."
        )
      value, new = result
      return value, new.state

    where = network.params if where is None else where
    gradient, network_state = jax.grad(value, has_aux=True)(where)
    updates, optimizer_state = self.move(gradient, state.optimizer, network.params)
    if self.reshape is not None:
      updates = self.reshape(updates, state.memory, turn)
    moved = jax.tree.map(increment, network_state, network.state)
    return network.replace(params=updates, state=moved), state._replace(optimizer=optimizer_state)


def descend(
  objective: Objective[Memory],
  optimizer: optax.GradientTransformation,
  *,
  passes: Passes = "retain",
  remember: Callable[[Network, Session], Memory] = lambda network, session: (),
  start: Callable[[Network, Memory], Network] | None = None,
  finish: Callable[[Network, Memory], Network] | None = None,
  reshape: Reshape[Memory] | None = None,
) -> Unlearner:
  """Returns the Unlearner that descends an objective with an optax transformation.

  Make it in a function that `algorithm` decorates: without one it equals no other Unlearner, so
  that each is compiled anew and a run with it cannot be resumed.

  Args:
    objective: `(network, turn, memory) -> (value, network)`; the second result carries the new
      state of the network, such as BatchNorm statistics.
    optimizer: what turns its gradient into updates.
    passes: see `Unlearner`.
    remember: `(network, session) -> memory`, what the objective needs later, of the original and of
      the arrays that the algorithm was given.
    start: `(network, memory) -> network`, where the descent begins; the original by default.
    finish: `(network, memory) -> network`, after the last step.
    reshape: `(updates, memory, turn) -> updates`, applied last: what it zeroes does not move,
      weight decay and momentum included.
  """

  def init(network: Network, session: Session) -> ObjectiveState[Memory]:
    memory = remember(network, session)
    first = network if start is None else start(network, memory)
    zero = jnp.int32(0)
    clock = Clock(zero, zero, zero + 1)
    return ObjectiveState(optimizer.init(first.params), memory, clock, jnp.int32(session.epochs))

  return Unlearner(
    init,
    Descent(objective, optimizer.update, reshape),
    passes=passes,
    start=None if start is None else lambda network, state: start(network, state.memory),
    tick=lambda state, clock: state._replace(clock=clock),
    finish=None if finish is None else lambda network, state: finish(network, state.memory),
  )


def one_shot(change: Callable[[Network, Session], Network]) -> Unlearner:
  """Returns the Unlearner that changes the network once and makes no steps.

  Args:
    change: `(network, session) -> network`.
  """
  return Unlearner(change, None, start=lambda network, changed: changed)


def at_rate(learning_rate: float) -> optax.GradientTransformation:
  """Returns updates times −η, as `optax.scale_by_learning_rate`, with η in the state.

  Every rate then shares one compiled program; see `algorithm`.
  """

  def init(params: optax.Params) -> jax.Array:
    del params
    return jnp.asarray(-learning_rate, jax.dtypes.canonicalize_dtype(float))

  def update(updates, state: Any, params: optax.Params | None = None, **more: object):
    del params, more
    return jax.tree.map(lambda leaf: leaf * state.astype(leaf.dtype), updates), state

  # Of another kind `optax.chain` would wrap it, and its step would hold how it begins.
  return optax.GradientTransformationExtraArgs(init, update)


def sgd(
  learning_rate: float, momentum: float = 0.9, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Returns SGD with coupled weight decay, as PyTorch's, its rate in the state.

  Raises:
    ValueError: a rate is outside its range.
  """
  _check.rate(learning_rate, "learning_rate", np.inf)
  _check.rate(momentum, "momentum", 1)
  _check.rate(weight_decay, "weight_decay", np.inf)
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.trace(momentum) if momentum else optax.identity(),
    at_rate(learning_rate),
  )


def adamw(learning_rate: float, weight_decay: float = 0.0) -> optax.GradientTransformation:
  """Returns Adam with decoupled weight decay, its rate in the state.

  ε is 1e-6. With 1e-8 a gradient that is only rounding, as that of key biases, makes a whole step:
  another number of devices would move params elsewhere by up to twice the rate.

  Raises:
    ValueError: a rate is outside its range.
  """
  _check.rate(learning_rate, "learning_rate", np.inf)
  _check.rate(weight_decay, "weight_decay", np.inf)
  return optax.chain(
    optax.scale_by_adam(eps=1e-6),
    optax.add_decayed_weights(weight_decay),
    at_rate(learning_rate),
  )


def train_logits(network: Network, batch: Batch, key: jax.Array) -> tuple[jax.Array, Network]:
  """Returns training-mode logits [B, *P, C] of a batch, and the network with its new state.

  A network that may mix examples sees what stands in padding rows, which are other examples of the
  set, unless it takes the mask. For any other they are zeros. A batch of padding alone leaves the
  state as it is.
  """
  inputs = batch.inputs
  if network.train_fn is None:
    inputs = without_padding(inputs, batch.mask)
  logits, state = network.train(inputs, key, batch.mask)
  return logits, network.replace(state=state)


def batch_risk(network: Network, batch: Batch, key: jax.Array) -> tuple[jax.Array, Network]:
  """Returns the mean loss of a batch in training mode, and the network with its new state.

  The loss is the network's own. The mean is over examples; what positions an example has were
  averaged before.
  """
  logits, network = train_logits(network, batch, key)
  return losses.masked_mean(losses_of(network, logits, batch.labels), batch.mask), network


def retain_risk(network: Network, turn: Turn, memory: object) -> tuple[jax.Array, Network]:
  """The objective risk_R, of all that tune on the retain set."""
  del memory
  return batch_risk(network, turn.retain, turn.key)


def forget_gain(network: Network, turn: Turn, memory: object) -> tuple[jax.Array, Network]:
  """The objective −risk_S, of all that ascend on the forget set alone."""
  del memory
  risk, network = batch_risk(network, turn.forget, turn.key)
  return -risk, network


def merged(a: Batch, b: Batch) -> Batch:
  """Returns the rows of both batches as one."""
  return Batch(*(jnp.concatenate(pair) for pair in zip(a, b, strict=True)))
