"""What every unlearning algorithm must keep to, whatever it does; each clause has a name.

An algorithm is run a few times on a small problem of yours, and its first step is taken in several
ways. Nothing here knows what the right result is: only what must not change it.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxmul import _sharding, unlearn
from jaxmul.binding import Network
from jaxmul.data.dataset import Dataset
from jaxmul.data.split import Split
from jaxmul.unlearn.unlearner import apply_increments

TOLERANCE = 1e-5
PLATFORMS = ("cpu", "cuda", "tpu")


def check_unlearner(
  unlearner: unlearn.Unlearner,
  network: Network,
  dataset: Dataset,
  split: Split,
  *,
  epochs: int = 2,
  batch_size: int = 8,
  eager: bool = True,
) -> list[str]:
  """Holds an unlearning algorithm to its contract on a small problem.

  Checks shapes, dtypes and finiteness; that nothing given is changed, and nothing remembered but in
  the state; that the order of ids and of the data, how much padding there is and what it holds,
  and what is outside of S ∪ R do not matter; that equal keys give equal bits; that `jit`, eager and
  sharded runs agree within 1e-5 of the largest value; one trace; frozen statistics; the stop on
  divergence; and lowering for CPU, GPU and TPU. With one device the two clauses of sharded runs are
  left out, and a warning says how to have more.

  A network that mixes examples in training and takes no mask, as `models.init` says, sees the
  examples that padding holds. With it labels and rows of padding alone must not matter, and the
  clause of how much padding there is is left out.

  Args:
    unlearner: the algorithm.
    network: a trained or fresh network; small, as it is compiled several times.
    dataset: a few dozen examples, some of them in neither S nor R.
    split: S and R.
    epochs: passes of each run.
    batch_size: examples a step, at least 4; a multiple of the number of devices.
    eager: also take the first step without `jit`, which is slow for a network of many layers.

  Returns:
    The names of all clauses, 24 or more; each one held.

  Raises:
    AssertionError: a clause does not hold; its message starts with the name of the clause.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, testing, unlearn
    >>> from jaxmul.data import Dataset, Split
    >>> rng = np.random.default_rng(0)
    >>> toy = Dataset(rng.normal(size=(24, 3)).astype(np.float32), np.arange(24) % 3)
    >>> network = models.init(models.mlp((4,), 3), jax.random.key(0), toy.inputs[:1])
    >>> split = Split(forget=np.arange(5), retain=np.arange(5, 20))
    >>> len(testing.check_unlearner(unlearn.fine_tune(), network, toy, split)) >= 25
    True
  """
  problem = _Problem(unlearner, network, dataset, split, epochs, batch_size, eager)
  names = []
  for family in (_values, _runs, _orders, _step):
    for name, holds, detail in family(problem):
      if not holds:
        raise AssertionError(f"{name}: {detail}")
      names.append(name)
  return names


Clauses = Iterator[tuple[str, Any, str]]


class _Problem:
  """An algorithm that counts its traces, on a problem, with its first result."""

  def __init__(self, unlearner, network, dataset, split, epochs, batch_size, eager):
    self.given, self.network, self.dataset, self.split = unlearner, network, dataset, split
    self.epochs, self.batch_size, self.eager = epochs, batch_size, eager
    self.traces = 0

    def counted(*arguments):
      self.traces += 1
      return unlearner.update(*arguments)

    self.unlearner = dataclasses.replace(
      unlearner, update=None if unlearner.update is None else counted
    )
    self.unlearner = self.never_compiled()
    self.before = jax.tree.map(np.array, (network.params, network.state))
    self.inputs = dataset.inputs.copy()

  def never_compiled(self) -> unlearn.Unlearner:
    """The same with an identity of its own: what was compiled before must not hide a trace."""
    return dataclasses.replace(
      self.unlearner, identity=("check_unlearner", self.given.identity, object())
    )

  @functools.cached_property
  def after(self) -> Network:
    try:
      return self.run()
    except unlearn.Diverged as error:
      raise AssertionError(f"params_are_finite: a run stopped: {error}") from error

  def run(self, key: int = 0, **changes: Any) -> Network:
    given = {"unlearner": self.unlearner, "network": self.network, "dataset": self.dataset}
    given |= {"split": self.split, "epochs": self.epochs, "batch_size": self.batch_size}
    return unlearn.run(**given | changes, key=jax.random.key(key))

  def session(self, inputs, labels, key, padding: Any = 0) -> unlearn.Session:
    def of(ids):
      at = jnp.full(len(self.dataset), padding, jnp.int32)
      at = at.at[: len(ids)].set(self.dataset.rows(np.sort(ids)).astype(np.int32))
      return unlearn.Examples(inputs, labels, at, jnp.int32(len(ids)))

    sets = of(self.split.forget), of(self.split.retain)
    return unlearn.Session(*sets, self.epochs, self.batch_size, key, self.dataset.ids)

  def step(
    self, network, inputs, labels, key, hole=None, padding: Any = 0, more: int = 0
  ) -> Network:
    """The network after the first step.

    Args:
      hole: input, label and row of the data set that the padding rows of its batches hold; input
        None for what stands there.
      padding: row of the data set that fills up S and R.
      more: padding rows of its batches in addition.
    """
    session = self.session(inputs, labels, key, padding)
    state = self.given.init(network, session)
    if self.given.start is not None:
      network = self.given.start(network, state)
    if self.given.update is None:
      return network
    zero = jnp.int32(0)
    if self.given.tick is not None:
      state = self.given.tick(state, unlearn.Clock(zero, zero, zero + 2))
    forget, retain = (
      _holed(examples.batch(zero, jnp.int32(self.batch_size - 3), self.batch_size + more), hole)
      for examples in (session.forget, session.retain)
    )
    updates, _ = self.given.update(forget, retain, state, network, key)
    network = apply_increments(network, updates)
    return network if self.given.finish is None else self.given.finish(network, state)


def _holed(batch: unlearn.Batch, hole) -> unlearn.Batch:
  if hole is None:
    return batch
  mask = _beside(batch.mask, batch.inputs)
  return batch._replace(
    inputs=batch.inputs if hole[0] is None else jnp.where(mask, batch.inputs, hole[0]),
    labels=jnp.where(_beside(batch.mask, batch.labels), batch.labels, hole[1]),
    rows=jnp.where(batch.mask, batch.rows, hole[2]),
  )


def _beside(mask: jax.Array, values: jax.Array) -> jax.Array:
  """Returns a mask [B] of rows in the rank of values [B, ...]."""
  return mask.reshape(-1, *(1,) * (values.ndim - 1))


def _values(at: _Problem) -> Clauses:
  """What the algorithm is, and what a run returns."""
  unlearner, network = at.given, at.network
  yield "identity_is_hashable", _hashable(unlearner), "identity cannot be hashed"
  inputs, labels = at.dataset.batch()
  state = unlearner.init(network, at.session(inputs, labels, jax.random.key(0)))
  arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(state))
  yield "state_holds_arrays_only", arrays, "a leaf of the state is no array"
  after = at.after
  yield "apply_fn_is_kept", after.apply_fn == network.apply_fn, "the result has another apply_fn"
  yield "train_fn_is_kept", after.train_fn == network.train_fn, "the result has another train_fn"
  same = jax.tree.structure(after) == jax.tree.structure(network)
  yield "structure_is_kept", same, "the result is another tree than the params"
  pairs = list(zip(jax.tree.leaves(after), jax.tree.leaves(network), strict=True))
  yield "shapes_are_kept", all(a.shape == b.shape for a, b in pairs), "a leaf has another shape"
  yield "dtypes_are_kept", all(a.dtype == b.dtype for a, b in pairs), "a leaf has another dtype"
  finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params)]
  yield "params_are_finite", all(finite), "a param is NaN or inf"
  finite = [np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.state)]
  yield "network_state_is_finite", all(finite), "a statistic is NaN or inf"
  unchanged = _gap((network.params, network.state), at.before) == 0
  yield "params_given_are_not_changed", unchanged, "run changed the params it was given"
  kept = np.array_equal(at.dataset.inputs, at.inputs)
  yield "data_given_is_not_changed", kept, "run changed the inputs it was given"
  yield "something_moves", _gap(after.params, network.params) > 0, "the result is the original"
  outputs = after(inputs)
  yield "outputs_are_finite", jnp.isfinite(outputs).all(), "a logit of the result is NaN or inf"


def _runs(at: _Problem) -> Clauses:
  """Whole runs, in ways that must not matter or must matter in a known way."""
  yield "equal_keys_give_equal_bits", _gap(at.run(), at.after) == 0, "a second run differs"
  at.run(key=1)
  yield "one_trace", at.traces <= 1, f"update was traced {at.traces} times for one shape"
  frozen = at.run(freeze_statistics=True)
  still = _gap(frozen.state, at.network.state) == 0
  yield "frozen_statistics_stay", still, "freeze_statistics let a statistic move"
  kept = frozen.train_fn == at.network.train_fn
  yield "frozen_runs_keep_train_fn", kept, "freeze_statistics changed train_fn"
  devices = jax.devices()
  if len(devices) > 1:
    gap = _relative(at.run(devices=devices), at.after)
    yield "devices_do_not_matter", gap <= TOLERANCE, f"{len(devices)} devices differ by {gap:.1e}"
  else:
    warnings.warn(
      "check_unlearner found one device and left out devices_do_not_matter and "
      "sharded_data_give_the_same_step. Set XLA_FLAGS=--xla_force_host_platform_device_count=8.",
      stacklevel=3,
    )
  # Whatever a compiled program holds of the first params, such as a teacher, it holds still.
  other = at.network.replace(params=jax.tree.map(lambda leaf: 0.9 * leaf, at.network.params))
  gap = _gap(at.run(network=other), at.run(network=other, unlearner=at.never_compiled()))
  says = f"compiled anew for other params it differs by {gap:.1e}"
  yield "what_is_remembered_is_in_the_state", gap == 0, says
  broken = at.network.replace(params=jax.tree.map(lambda x: x * jnp.nan, at.network.params))
  try:
    at.run(network=broken)
    error = None
  except unlearn.Diverged as caught:
    error = caught
  yield "divergence_stops", error is not None, "NaN params did not raise Diverged"
  yield "divergence_says_so_in_one_line", "\n" not in str(error), "the message has several lines"
  same = jax.tree.structure(error.network) == jax.tree.structure(at.network)  # pyright: ignore
  yield "divergence_keeps_the_last_good", same, "Diverged.network is another tree than the params"


def _orders(at: _Problem) -> Clauses:
  """Orders and neighbours that a run must not see."""
  split, data = at.split, at.dataset
  turned = Split(forget=split.forget[::-1], retain=split.retain)
  gap = _relative(at.run(split=turned), at.after)
  yield "order_of_forget_does_not_matter", gap == 0, f"another order differs by {gap:.1e}"
  turned = Split(forget=split.forget, retain=split.retain[::-1])
  gap = _relative(at.run(split=turned), at.after)
  yield "order_of_retain_does_not_matter", gap == 0, f"another order differs by {gap:.1e}"
  gap = _relative(at.run(dataset=data.take(data.ids[::-1])), at.after)
  yield "order_of_the_data_does_not_matter", gap <= TOLERANCE, f"it differs by {gap:.1e}"
  outside = data.rows(np.setdiff1d(data.ids, split.train))
  inputs = data.inputs.copy()
  inputs[outside] = inputs[outside][::-1] + np.ones((), inputs.dtype)
  if np.issubdtype(inputs.dtype, np.signedinteger):
    inputs[outside] %= data.inputs.max() + 1  # a token that the network knows
  other = dataclasses.replace(data, inputs=inputs)
  gap = _relative(at.run(dataset=other), at.after)
  yield "what_is_outside_is_not_seen", gap == 0, f"other held-out examples differ by {gap:.1e}"


def _step(at: _Problem) -> Clauses:
  """The first step, in ways that must not matter."""
  key = jax.random.key(0)
  inputs, labels = at.dataset.batch()
  step: Callable[..., Any] = jax.jit(at.step, static_argnames="more")
  # What padding rows hold: nothing and anything, or what the loop puts there.
  seen = _sees_padding(at.network, inputs)
  anything = jnp.nan if at.network.train_fn is None else 1e3
  zero = 0.0
  if jnp.issubdtype(inputs.dtype, jnp.integer):
    # A token that no network knows, unless the network is one that padding must not break.
    zero, anything = 0, jnp.iinfo(inputs.dtype).max if at.network.train_fn is None else 1
  labels_of = at.dataset.labels
  empty = (None if seen else zero, labels_of[0], 0)
  first = step(at.network, inputs, labels, key, empty, 0)
  gap = _relative(step(at.network, inputs, labels, key, empty, 0), first)
  yield "step_is_pure", gap == 0, f"the same step again differs by {gap:.1e}"
  last = len(at.dataset) - 1  # 0 elsewhere
  differs = (labels_of != labels_of[0]).reshape(len(labels_of), -1).any(1)
  hole = (None if seen else anything, labels_of[differs.argmax()], last)
  gap = _relative(step(at.network, inputs, labels, key, hole, 0), first)
  says = f"{hole[0]}, another label and row in padding rows change it by {gap:.1e}"
  yield "padding_of_batches_is_not_seen", gap == 0, says
  if not seen:
    gap = _relative(step(at.network, inputs, labels, key, empty, 0, more=8), first)
    yield "amount_of_padding_is_not_seen", gap <= TOLERANCE, f"8 rows more change it by {gap:.1e}"
  gap = _relative(step(at.network, inputs, labels, key, empty, last), first)
  yield "padding_of_sets_is_not_seen", gap <= TOLERANCE, f"other padding differs by {gap:.1e}"
  if at.eager:
    gap = _relative(at.step(at.network, inputs, labels, key, empty, 0), first)
    yield "eager_equals_jit", gap <= TOLERANCE, f"eager and jit differ by {gap:.1e}"
  devices = len(jax.devices())
  if devices > 1:
    # Rows that belong to no set fill up what the devices do not divide.
    more = np.zeros(-len(labels) % devices, int)
    padded = tuple(jnp.concatenate([each, each[more]]) for each in (inputs, labels))
    first = step(at.network, *padded, key, empty, 0)
    gap = _relative(step(at.network, *_sharding.shard_batch(padded), key, empty, 0), first)
    yield "sharded_data_give_the_same_step", gap <= TOLERANCE, f"they differ by {gap:.1e}"
  lowers, why = _exported(at)
  yield "it_lowers_for_accelerators", lowers, why


def _sees_padding(network: Network, inputs: jax.Array) -> bool:
  """Whether what padding rows hold reaches the other rows, or the state, of a training pass."""
  mask = jnp.arange(4) < 2
  passes = []
  for last in (inputs[2:4], jnp.full_like(inputs[2:4], 1e3)):
    rows = jnp.concatenate([inputs[:2], last])
    logits, state = jax.jit(Network.train)(network, rows, jax.random.key(0), mask)
    passes.append((logits[:2], state))
  return _relative(*passes) > TOLERANCE


def _exported(at: _Problem) -> tuple[bool, str]:
  leaves, structure = jax.tree.flatten(at.network)

  def flat(leaves, inputs, labels, key_data):
    network = jax.tree.unflatten(structure, leaves)
    return jax.tree.leaves(at.step(network, inputs, labels, jax.random.wrap_key_data(key_data)))

  given = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
    (leaves, *at.dataset.batch(), jax.random.key_data(jax.random.key(0))),
  )
  try:
    jax.export.export(jax.jit(flat), platforms=PLATFORMS)(*given)
  except Exception as error:
    return False, str(error).splitlines()[0]
  return True, ""


def _hashable(unlearner: unlearn.Unlearner) -> bool:
  try:
    hash(unlearner)
  except TypeError:
    return False
  return True


def _gap(a: Any, b: Any) -> float:
  """The largest difference between two trees; NaN counts as infinite."""
  gaps = [
    float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  ]
  return max((np.inf if np.isnan(gap) else gap for gap in gaps), default=0.0)


def _relative(a: Any, b: Any) -> float:
  """The largest difference between two trees, over the largest value or 1."""
  largest = max((float(np.max(np.abs(x), initial=0)) for x in jax.tree.leaves(b)), default=0.0)
  return _gap(a, b) / max(1.0, largest)
