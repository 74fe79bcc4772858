"""The loop that runs an unlearning algorithm, and retraining, which it is judged by."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _arrays, _check, _sharding
from jaxmul._dataset import Dataset, as_inputs, refuse_no_dataset
from jaxmul._examples import examples_of
from jaxmul.binding import (
  Network,
  as_network,
  refuse_lone_rows,
  refuse_untrainable,
  warn_without_train_fn,
)
from jaxmul.data.split import Split
from jaxmul.train import Learner, Recipe, fit
from jaxmul.unlearn._passes import Sets, Walk, counts, walk_over
from jaxmul.unlearn.unlearner import (
  Clock,
  Session,
  State,
  Steps,
  Unlearner,
  apply_increments,
  refuse_uncalled,
)


class Diverged(FloatingPointError):
  """Unlearning met values that are not finite; `network` is that of the last good epoch."""

  def __init__(self, message: str, network: Network):
    super().__init__(message)
    self.network = network


def run(
  unlearner: Unlearner,
  network: Network,
  dataset: Dataset,
  split: Split,
  key: jax.Array,
  *,
  epochs: int,
  batch_size: int = 256,
  freeze_statistics: bool = False,
  devices: Sequence[Any] | None = None,
  stop: Callable[[Network], bool] | None = None,
) -> Network:
  """Unlearns a forget set.

  Args:
    unlearner: the algorithm, such as `fine_tune()`.
    network: the trained network; also an `nnx.Module`, or another callable pytree of float arrays.
    dataset: holds the examples that `split` names.
    split: only `forget` and `retain` are used. The order of the ids does not matter.
    key: for orders and random choices.
    epochs: passes, at least 1; an algorithm of one shot makes none.
    batch_size: B, examples a step, at most. A pass over a set makes ⌈n / B⌉ steps; where the
      network has a training mode of its own they are even, of at least B / 2 examples if n ≥ B.
    freeze_statistics: run the network in evaluation mode, so that BatchNorm statistics are used and
      not updated, and there is no dropout. The papers run it in training mode.
    devices: split every batch over these, whose number must divide `batch_size`; `[device]` runs on
      that one. JAX's default device by default.
    stop: asked after each epoch, of the network that would be returned then; True ends the run.
      What it looks at decides the result: no test data. An algorithm of one shot does not ask.

  Returns:
    The unlearned network.

  Raises:
    ValueError: `unlearner` is none, such as a factory that was not called; an id is not in the
      data, a label is not a class, a number is below 1 or no integer, there are no devices or they
      do not divide the batch, params have no forward pass, or hold batch statistics, or a pass over
      a set would take statistics of a single example.
    Diverged: values became NaN or inf; the exception holds the network of the last good epoch.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, unlearn
    >>> from jaxmul.data import Dataset, Split
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs)
    >>> split = Split(forget=np.array([3]), retain=np.array([0, 1, 2]))
    >>> key = jax.random.key(1)
    >>> forgot = unlearn.run(unlearn.neg_grad(0.1), network, toy, split, key, epochs=9)
    >>> from jaxmul import proxies
    >>> bool(proxies.loss(forgot, toy.batch())[3] > proxies.loss(network, toy.batch())[3])
    True
  """
  refuse_uncalled(unlearner, "unlearn.run")
  refuse_no_dataset(dataset, "unlearn.run")
  _check.key(key, "unlearn.run")
  network = as_network(network, None, "unlearn.run")
  refuse_untrainable(network, "unlearn.run")
  _check.count(epochs, "epochs", "unlearn.run")
  _check.count(batch_size, "batch_size", "unlearn.run")
  if stop is not None and not callable(stop):
    raise ValueError(f"unlearn.run got stop={stop!r}, must be a function of a network, or None.")
  mesh = _sharding.data_mesh(devices, batch_size, "unlearn.run")
  if network.embed is not None and _finite(network):  # else it has diverged, which is said later
    _check.tokens(network, dataset.inputs, "unlearn.run")
  _check.answers(network, dataset.example, dataset.labels, "unlearn.run")
  _check.outputs(network, as_inputs(_arrays.rows(dataset.inputs, slice(8))), "unlearn.run")
  examples = examples_of(dataset)
  if devices is not None and mesh is None:
    examples, network = jax.device_put((examples, network), devices[0])
  parts = (split.forget, split.retain)
  sizes = (len(split.forget), len(split.retain))
  sets = Sets(*(examples.subset(dataset.rows(np.sort(ids)), len(dataset)) for ids in parts))
  train_fn = network.train_fn
  if freeze_statistics:
    network = network.replace(train_fn=None)
  elif unlearner.update is not None:
    warn_without_train_fn(network, "unlearn.run", ", or say freeze_statistics=True")
    for count in counts(unlearner.passes, *sizes):
      refuse_lone_rows(network, count, batch_size, "unlearn.run", "Say freeze_statistics=True")
  init_key, run_key = jax.random.split(key)
  session = Session(*sets, epochs=epochs, batch_size=batch_size, key=init_key, ids=dataset.ids)
  state = unlearner.init(network, session)
  original = network
  if unlearner.start is not None:
    network = unlearner.start(network, state)

  def finished(network: Network) -> Network:
    if unlearner.finish is not None:
      network = unlearner.finish(network, state)
    return network.replace(train_fn=train_fn)

  if unlearner.update is None:
    if not _finite(network):
      raise Diverged(
        "unlearning in one shot gave params that are not finite. Use a smaller step or more "
        "damping; .network holds the original.",
        original.replace(train_fn=train_fn),
      )
    return finished(network)
  even = network.train_fn is not None
  walk = walk_over(unlearner.passes, batch_size, sizes, even=even, mesh=mesh)
  if mesh is not None:
    sets, network, state = _sharding.replicate((sets, network, state), mesh)
  for epoch in range(epochs):
    *after, finite = _epoch(Steps.of(unlearner), walk, sets, (network, state), run_key, epoch)
    if not finite:
      raise Diverged(
        f"unlearning diverged in epoch {epoch + 1} of {epochs}: params are not finite. Lower the "
        "learning rate; .network holds that of the epoch before.",
        finished(network),
      )
    network, state = after
    if stop is not None and stop(finished(network)):
      break
  return finished(network)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _epoch(
  made_of: Steps,
  walk: Walk,
  sets: Sets,
  before: tuple[Network, State],
  key: jax.Array,
  epoch: jax.Array,
) -> tuple[Network, State, jax.Array]:
  """One epoch as one program: network and state after it, and whether they are finite."""
  forget_key, retain_key, step_key = jax.random.split(jax.random.fold_in(key, epoch), 3)
  sets = Sets(sets.forget.shuffled(forget_key), sets.retain.shuffled(retain_key))
  steps = walk.num_steps(sets.forget.count, sets.retain.count, epoch)

  def step(index, carry):
    network, state = carry
    forget, retain = walk.at_step(sets, epoch, index)
    if walk.mesh is not None:
      forget, retain = _sharding.constrain((forget, retain), walk.mesh)
    if made_of.tick is not None:
      state = made_of.tick(state, Clock(*map(jnp.int32, (epoch, index, steps))))
    key = jax.random.fold_in(step_key, index)
    updates, state = made_of.update(forget, retain, state, network, key)
    return apply_increments(network, updates), state

  network, state = lax.fori_loop(0, steps, step, before)
  return network, state, _finite(network)


def _finite(network: Network) -> jax.Array:
  return _arrays.all_finite((network.params, network.state))


def retrain(recipe: Recipe | Learner, dataset: Dataset, split: Split, key: jax.Array):
  """Retrains from scratch on R, the oracle: `train.fit` on the retain set alone.

  Args:
    recipe: that of the original network, or a learner of your own, as of `train.fit`.
    dataset: holds the examples that `split` names.
    split: only `retain` is used. The order of the ids does not matter.
    key: for initial params, order and augmentation.

  Returns:
    A `train.Fit`; its `network` is the oracle, its scores and ids those of R.

  Raises:
    ValueError: R is empty, an id is not in the data, or a label is not a class of the network.
    train.Diverged: the loss became NaN or inf; the exception holds the last good epoch.

  References:
    Bourtoule et al., [Machine Unlearning](https://arxiv.org/abs/1912.03817), 2019.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, train, unlearn
    >>> from jaxmul.data import Dataset, Split
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=1)
    >>> split = Split(forget=np.array([3]), retain=np.array([0, 1, 2]))
    >>> unlearn.retrain(recipe, toy, split, jax.random.key(0)).ids.tolist()
    [0, 1, 2]
  """
  return fit(recipe, dataset, key, split.retain)
