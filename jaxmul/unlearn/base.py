"""What an unlearning algorithm is, and the loop that runs one.

θ params, S forget set, R retain set, ℓ cross-entropy, risk = mean ℓ. An `Unlearner` is a pair of
pure functions, as in optax. Hyperparameters are closed over; arrays (a teacher, a mask) are made by
`init` and live in the state, so that one compiled program serves every model and every set.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxmul import _check, losses
from jaxmul.binding import Bound, as_bound, refuse_batch_stats
from jaxmul.data.dataset import Dataset
from jaxmul.data.split import Split
from jaxmul.train import Recipe, fit
from jaxmul.unlearn._passes import Batch, Passes, Rows, at_step, num_steps, padded_rows, sizes


class Session(NamedTuple):
  """What an algorithm may look at once, before its first step.

  Attributes:
    forget: S, whole.
    retain: R, whole.
    epochs: passes to come.
    batch_size: examples a step.
    key: for random choices.
  """

  forget: Rows
  retain: Rows
  epochs: int
  batch_size: int
  key: jax.Array


@dataclasses.dataclass(frozen=True)
class Unlearner:
  """An unlearning algorithm as two pure functions.

  Attributes:
    init: `(params, session) -> state`, any pytree of arrays.
    update: `(forget, retain, state, params, key) -> (updates, state)`, batches and a `Bound` in,
      and out a `Bound` of increments for `optax.apply_updates(params, updates)`.
    passes: how an epoch walks: "retain" (over R, S cycled beside it), "forget" (over S, R beside
      it) or "union" (over both, in proportion).
    identity: equal for equal algorithms, so that they share a compiled program; name and
      hyperparameters. By default the two functions themselves.
  """

  init: Callable[[Bound, Session], Any] = dataclasses.field(compare=False)
  update: Callable[[Batch, Batch, Any, Bound, jax.Array], tuple[Bound, Any]] = dataclasses.field(
    compare=False
  )
  passes: Passes = "retain"
  identity: Hashable = None

  def __post_init__(self):
    if self.identity is None:
      object.__setattr__(self, "identity", (self.init, self.update))


class Diverged(FloatingPointError):
  """Unlearning met values that are not finite; `params` are those of the last good epoch."""

  def __init__(self, message: str, params: Bound):
    super().__init__(message)
    self.params = params


def run(
  unlearner: Unlearner,
  params: Bound,
  dataset: Dataset,
  split: Split,
  key: jax.Array,
  *,
  epochs: int,
  batch_size: int = 256,
) -> Bound:
  """Unlearns a forget set.

  Args:
    unlearner: the algorithm, such as `fine_tune()`.
    params: the trained network.
    dataset: holds the examples that `split` names.
    split: only `forget` and `retain` are used. The order of the ids does not matter.
    key: for orders and random choices.
    epochs: passes, at least 1.
    batch_size: examples a step.

  Returns:
    The unlearned network.

  Raises:
    ValueError: an id is not in the data, a label is not a class, a number is below 1, or raw
      variables with batch statistics are given.
    Diverged: values became NaN or inf; the exception holds the last good params.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, unlearn
    >>> from jaxmul.data import Dataset, Split
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> params = models.init(models.mlp((8,), 2), jax.random.key(0), toy.images)
    >>> split = Split(forget=np.array([3]), retain=np.array([0, 1, 2]))
    >>> forgot = unlearn.run(unlearn.neg_grad(0.1), params, toy, split, jax.random.key(1), epochs=9)
    >>> from jaxmul import proxies
    >>> bool(proxies.loss(forgot, toy.batch())[3] > proxies.loss(params, toy.batch())[3])
    True
  """
  params = as_bound(params, None, "unlearn.run")
  refuse_batch_stats(params, "unlearn.run")
  for name, value in (("epochs", epochs), ("batch_size", batch_size)):
    if value < 1:
      raise ValueError(f"unlearn.run got {name}={value}, must be at least 1.")
  classes = jax.eval_shape(params, dataset.take(dataset.ids[:1]).batch()[0]).shape[-1]
  _check.class_numbers(dataset.labels, classes, "unlearn.run")
  images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
  forget, retain = (
    Rows(images, labels, *padded_rows(dataset.rows(sorted(ids)), len(dataset)))
    for ids in (split.forget, split.retain)
  )
  init_key, run_key = jax.random.split(key)
  state = unlearner.init(params, Session(forget, retain, epochs, batch_size, init_key))
  size = sizes(unlearner.passes, batch_size, len(split.forget), len(split.retain))
  for epoch in range(epochs):
    epoch_key = jax.random.fold_in(run_key, epoch)
    new, state, finite = _epoch(
      unlearner, size, batch_size, forget, retain, state, params, epoch_key
    )
    if not finite:
      raise Diverged(
        f"unlearning diverged in epoch {epoch + 1} of {epochs}: params are not finite. Lower the "
        "learning rate; .params holds the epoch before.",
        params,
      )
    params = new
  return params


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _epoch(unlearner, size, batch_size, forget, retain, state, params, key):
  """One epoch as one program; the number of steps is a run-time value."""
  passes = unlearner.passes
  forget_key, retain_key, step_key = jax.random.split(key, 3)
  forget, retain = forget.shuffled(forget_key), retain.shuffled(retain_key)

  def step(index, carry):
    params, state = carry
    batches = at_step(passes, size, batch_size, forget, retain, index)
    key = jax.random.fold_in(step_key, index)
    updates, state = unlearner.update(*batches, state, params, key)
    return optax.apply_updates(params, updates), state

  steps = num_steps(passes, batch_size, forget.count, retain.count)
  params, state = lax.fori_loop(0, steps, step, (params, state))
  finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
  return params, state, jnp.stack(finite).all()


def retrain(recipe: Recipe, dataset: Dataset, split: Split, key: jax.Array):
  """Retrains from scratch on R, the oracle: `train.fit(recipe, dataset, key, split.retain)`.

  Returns:
    A `train.Fit`; its `params` are the oracle.
  """
  return fit(recipe, dataset, key, split.retain)


class ObjectiveState(NamedTuple):
  """State of an algorithm that descends an objective: optimizer state, memory made by init."""

  optimizer: Any
  memory: Any


def descend(
  objective: Callable[[Bound, Batch, Batch, Any, jax.Array], tuple[jax.Array, Bound]],
  optimizer: optax.GradientTransformation,
  *,
  identity: Hashable,
  passes: Passes = "retain",
  remember: Callable[[Bound, Session], Any] = lambda params, session: (),
  restrict: Callable[[Any, Any], Any] | None = None,
) -> Unlearner:
  """Returns the Unlearner that descends an objective with an optax transformation.

  Args:
    objective: `(params, forget, retain, memory, key) -> (value, params)`; the second result carries
      the new state of the network, such as BatchNorm statistics.
    optimizer: what turns its gradient into updates.
    identity: name and hyperparameters, see `Unlearner`.
    passes: see `Unlearner`.
    remember: `(params, session) -> memory`, what the objective needs later.
    restrict: `(updates, memory) -> updates`, applied last, so that nothing moves what it zeroes,
      weight decay and momentum included.
  """

  def init(params: Bound, session: Session) -> ObjectiveState:
    return ObjectiveState(optimizer.init(params.params), remember(params, session))

  def update(forget, retain, state, params, key):
    def value(theta):
      value, new = objective(params.replace(params=theta), forget, retain, state.memory, key)
      return value, new.state

    gradient, network_state = jax.grad(value, has_aux=True)(params.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, params.params)
    if restrict is not None:
      updates = restrict(updates, state.memory)
    moved = jax.tree.map(lambda new, old: new - old, network_state, params.state)
    return params.replace(params=updates, state=moved), state._replace(optimizer=optimizer_state)

  return Unlearner(init, update, passes, identity)


def batch_risk(params: Bound, batch: Batch, key: jax.Array) -> tuple[jax.Array, Bound]:
  """Returns the mean loss of a batch in training mode, and params with the new network state."""
  inputs = jnp.where(_like(batch.mask, batch.inputs), batch.inputs, 0)
  logits, state = params.train(inputs, key, batch.mask)
  each = losses.cross_entropy(logits, batch.labels)
  return losses.masked_mean(each, batch.mask), params.replace(state=state)


def merged(a: Batch, b: Batch) -> Batch:
  """Returns the rows of both batches as one."""
  return Batch(*(jnp.concatenate(pair) for pair in zip(a, b, strict=True)))


@functools.partial(jax.jit, static_argnums=2)
def full_gradient(params: Bound, rows: Rows, size: int) -> Any:
  """Returns ∇ of the mean evaluation-mode loss over a whole set at fixed params, block by block."""

  def total(theta, batch):
    logits = params.replace(params=theta)(batch.inputs)
    each = losses.cross_entropy(logits, batch.labels)
    return jnp.sum(jnp.where(batch.mask, each, 0))

  def block(index, gradient):
    batch = rows.batch(index * size, (index + 1) * size, size)
    return jax.tree.map(jnp.add, gradient, jax.grad(total)(params.params, batch))

  zero = jax.tree.map(jnp.zeros_like, params.params)
  gradient = lax.fori_loop(0, -(-rows.count // size), block, zero)
  return jax.tree.map(lambda leaf: leaf / rows.count, gradient)


def _like(mask: jax.Array, inputs: jax.Array) -> jax.Array:
  return mask.reshape(-1, *(1,) * (inputs.ndim - 1))
