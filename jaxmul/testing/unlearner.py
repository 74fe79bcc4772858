"""What every unlearning algorithm must keep to, whatever it does; each clause has a name.

An algorithm is run a few times on a small problem of yours, and its first step is taken in several
ways. Nothing here knows what the right result is: only what must not change it.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxmul import _sharding, unlearn
from jaxmul._dataset import Dataset
from jaxmul._gradients import per_example
from jaxmul.binding import Network
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
    The names of all clauses, which held: 33, without those of sharded runs, of `eager` and of how
    much padding there is where these are left out; never fewer than 29.

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
    >>> len(testing.check_unlearner(unlearn.fine_tune(), network, toy, split)) >= 31
    True
  """
  given = {"epochs": epochs, "batch_size": batch_size, "eager": eager}
  problem = _Problem(unlearner, network, dataset, split, **given)
  names = []
  for family in (_values, _runs, _orders, _step):
    for name, holds, detail in family(problem):
      if not holds:
        raise AssertionError(f"{name}: {detail}")
      names.append(name)
  return names


Clause = tuple[str, bool, str]
Clauses = Iterator[Clause]


class _Padding(NamedTuple):
  """Row of the data set that fills up S and R, and what padding rows of batches hold.

  Inputs of None are those that stand there.
  """

  of_sets: ArrayLike
  inputs: ArrayLike | None
  label: ArrayLike
  row: ArrayLike


@dataclasses.dataclass
class _Problem:
  """An algorithm that counts its traces, on a problem, with its first result."""

  given: unlearn.Unlearner
  network: Network
  dataset: Dataset
  split: Split
  _: dataclasses.KW_ONLY
  epochs: int
  batch_size: int
  eager: bool
  traces: int = 0

  def __post_init__(self):
    def counted(*arguments):
      self.traces += 1
      return self.given.update(*arguments)  # pyright: ignore[reportOptionalCall]

    update = None if self.given.update is None else counted
    self.unlearner = dataclasses.replace(self.given, update=update)
    self.unlearner = self.never_compiled()
    self.before = jax.tree.map(np.array, (self.network.params, self.network.state))
    self.inputs = self.dataset.inputs.copy()

  def never_compiled(self) -> unlearn.Unlearner:
    """The same with an identity of its own: what was compiled before must not hide a trace."""
    identity = ("check_unlearner", self.given.identity, object())
    return dataclasses.replace(self.unlearner, identity=identity)

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

  def session(
    self, inputs: jax.Array, labels: jax.Array, key: jax.Array, padding: ArrayLike = 0
  ) -> unlearn.Session:
    def of(ids):
      rows = jnp.full(len(self.dataset), padding, jnp.int32)
      rows = rows.at[: len(ids)].set(self.dataset.rows(np.sort(ids)).astype(np.int32))
      return unlearn.Examples(inputs, labels, rows, jnp.int32(len(ids)))

    sets = of(self.split.forget), of(self.split.retain)
    passes = {"epochs": self.epochs, "batch_size": self.batch_size}
    return unlearn.Session(*sets, **passes, key=key, ids=self.dataset.ids)

  def step(
    self,
    network: Network,
    data: tuple[jax.Array, jax.Array],
    key: jax.Array,
    padding: _Padding | None = None,
    more: int = 0,
  ) -> Network:
    """The network after the first step, whose batches have `more` padding rows in addition."""
    session = self.session(*data, key, 0 if padding is None else padding.of_sets)
    state = self.given.init(network, session)
    if self.given.start is not None:
      network = self.given.start(network, state)
    if self.given.update is None:
      return network
    zero = jnp.int32(0)
    if self.given.tick is not None:
      state = self.given.tick(state, unlearn.Clock(zero, zero, zero + 2))
    forget, retain = (
      _filled(examples.batch(zero, jnp.int32(self.batch_size - 3), self.batch_size + more), padding)
      for examples in (session.forget, session.retain)
    )
    updates, _ = self.given.update(forget, retain, state, network, key)
    network = apply_increments(network, updates)
    return network if self.given.finish is None else self.given.finish(network, state)


def _filled(batch: unlearn.Batch, padding: _Padding | None) -> unlearn.Batch:
  if padding is None:
    return batch
  mask, inputs = per_example(batch.mask, batch.inputs), padding.inputs
  return batch._replace(
    inputs=batch.inputs if inputs is None else jnp.where(mask, batch.inputs, inputs),
    labels=jnp.where(per_example(batch.mask, batch.labels), batch.labels, padding.label),
    rows=jnp.where(batch.mask, batch.rows, padding.row),
  )


def _values(problem: _Problem) -> Clauses:
  """What the algorithm is, and what a run returns."""
  unlearner, network = problem.given, problem.network
  yield "identity_is_hashable", _is_hashable(unlearner), "identity cannot be hashed"
  inputs, labels = problem.dataset.batch()
  state = unlearner.init(network, problem.session(inputs, labels, jax.random.key(0)))
  arrays = all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(state))
  yield "state_holds_arrays_only", arrays, "a leaf of the state is no array"
  after = problem.after
  yield "apply_fn_is_kept", after.apply_fn == network.apply_fn, "the result has another apply_fn"
  yield "train_fn_is_kept", after.train_fn == network.train_fn, "the result has another train_fn"
  same = jax.tree.structure(after) == jax.tree.structure(network)
  yield "structure_is_kept", same, "the result is another tree than the network"
  pairs = list(zip(jax.tree.leaves(after), jax.tree.leaves(network), strict=True))
  yield "shapes_are_kept", all(a.shape == b.shape for a, b in pairs), "a leaf has another shape"
  yield "dtypes_are_kept", all(a.dtype == b.dtype for a, b in pairs), "a leaf has another dtype"
  yield "params_are_finite", _finite(after.params), "a param is NaN or inf"
  yield "network_state_is_finite", _finite(after.state), "a statistic is NaN or inf"
  unchanged = _gap((network.params, network.state), problem.before) == 0
  yield "params_given_are_not_changed", unchanged, "run changed the network it was given"
  kept = np.array_equal(problem.dataset.inputs, problem.inputs)
  yield "data_given_is_not_changed", kept, "run changed the inputs it was given"
  yield "something_moves", _gap(after.params, network.params) > 0, "the result is the original"
  yield "outputs_are_finite", _finite(after(inputs)), "a logit of the result is NaN or inf"


def _runs(problem: _Problem) -> Clauses:
  """Whole runs, in ways that must not matter or must matter in a known way."""
  network, after = problem.network, problem.after
  yield _near("equal_keys_give_equal_bits", problem.run(), after, "a second run differs", 0)
  problem.run(key=1)
  traces = problem.traces
  yield "one_trace", traces <= 1, f"update was traced {traces} times for one shape"
  frozen = problem.run(freeze_statistics=True)
  still = _gap(frozen.state, network.state) == 0
  yield "frozen_statistics_stay", still, "freeze_statistics let a statistic move"
  kept = frozen.train_fn == network.train_fn
  yield "frozen_runs_keep_train_fn", kept, "freeze_statistics changed train_fn"
  devices = jax.devices()
  if len(devices) > 1:
    says = f"{len(devices)} devices differ"
    yield _near("devices_do_not_matter", problem.run(devices=devices), after, says)
  else:
    warnings.warn(
      "check_unlearner found one device and left out devices_do_not_matter and "
      "sharded_data_give_the_same_step. Set XLA_FLAGS=--xla_force_host_platform_device_count=8.",
      stacklevel=3,
    )
  # Whatever a compiled program holds of the first params, such as a teacher, it holds still.
  other = network.replace(params=jax.tree.map(lambda leaf: 0.9 * leaf, network.params))
  anew = problem.run(network=other, unlearner=problem.never_compiled())
  says = "compiled anew for other params it differs"
  yield _near("what_is_remembered_is_in_the_state", problem.run(network=other), anew, says, 0)
  broken = network.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, network.params))
  try:
    problem.run(network=broken)
    error = None
  except unlearn.Diverged as caught:
    error = caught
  yield "divergence_stops", error is not None, "NaN params did not raise Diverged"
  yield "divergence_says_so_in_one_line", "\n" not in str(error), "the message has several lines"
  same = jax.tree.structure(error.network) == jax.tree.structure(network)  # pyright: ignore
  yield "divergence_keeps_the_last_good", same, "Diverged.network is another tree than the network"


def _orders(problem: _Problem) -> Clauses:
  """Orders and neighbours that a run must not see."""
  split, data, after = problem.split, problem.dataset, problem.after
  turned = problem.run(split=Split(forget=split.forget[::-1], retain=split.retain))
  yield _near("order_of_forget_does_not_matter", turned, after, "another order differs", 0)
  turned = problem.run(split=Split(forget=split.forget, retain=split.retain[::-1]))
  yield _near("order_of_retain_does_not_matter", turned, after, "another order differs", 0)
  turned = problem.run(dataset=data.take(data.ids[::-1]))
  yield _near("order_of_the_data_does_not_matter", turned, after, "it differs")
  outside = data.rows(np.setdiff1d(data.ids, split.train))
  inputs = data.inputs.copy()
  inputs[outside] = inputs[outside][::-1] + np.ones((), inputs.dtype)
  if np.issubdtype(inputs.dtype, np.signedinteger):
    inputs[outside] %= data.inputs.max() + 1  # a token that the network knows
  other = problem.run(dataset=dataclasses.replace(data, inputs=inputs))
  yield _near("what_is_outside_is_not_seen", other, after, "other held-out examples differ", 0)


def _step(problem: _Problem) -> Clauses:
  """The first step, in ways that must not matter."""
  data, labels = problem.dataset.batch(), problem.dataset.labels
  jitted = jax.jit(problem.step, static_argnames="more")
  step = functools.partial(jitted, problem.network, key=jax.random.key(0))
  # What padding rows hold: nothing and anything, or what the loop puts there.
  seen = _sees_padding(problem.network, data[0])
  masked = problem.network.train_fn is not None
  zero, anything = 0.0, 1e3 if masked else jnp.nan
  if jnp.issubdtype(data[0].dtype, jnp.integer):
    # A token that no network knows, unless the network is one that padding must not break.
    zero, anything = 0, 1 if masked else jnp.iinfo(data[0].dtype).max
  empty = _Padding(0, None if seen else zero, label=labels[0], row=0)
  first = step(data, padding=empty)
  yield _near("step_is_pure", step(data, padding=empty), first, "the same step again differs", 0)
  last = len(labels) - 1  # 0 elsewhere
  another = (labels != labels[0]).reshape(len(labels), -1).any(1).argmax()
  full = _Padding(0, None if seen else anything, label=labels[another], row=last)
  says = f"{full.inputs}, another label and row in padding rows differ"
  yield _near("padding_of_batches_is_not_seen", step(data, padding=full), first, says, 0)
  if not seen:
    longer = step(data, padding=empty, more=8)
    yield _near("amount_of_padding_is_not_seen", longer, first, "8 rows more differ")
  other = step(data, padding=empty._replace(of_sets=last))
  yield _near("padding_of_sets_is_not_seen", other, first, "other padding differs")
  if problem.eager:
    eager = problem.step(problem.network, data, jax.random.key(0), empty)
    yield _near("eager_equals_jit", eager, first, "eager and jit differ")
  devices = len(jax.devices())
  if devices > 1:
    # Rows that belong to no set fill up what the devices do not divide.
    more = np.zeros(-len(labels) % devices, int)
    padded = tuple(jnp.concatenate([values, values[more]]) for values in data)
    whole, split = (step(rows, padding=empty) for rows in (padded, _sharding.shard_batch(padded)))
    yield _near("sharded_data_give_the_same_step", split, whole, "they differ")
  lowers, why = _exported(problem)
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


def _exported(problem: _Problem) -> tuple[bool, str]:
  def step(network, data, key_data):
    return problem.step(network, data, jax.random.wrap_key_data(key_data))

  key_data = jax.random.key_data(jax.random.key(0))
  try:
    lower = jax.export.export(jax.jit(step), platforms=PLATFORMS)
    lower(problem.network, problem.dataset.batch(), key_data)
  except Exception as error:
    return False, str(error).splitlines()[0]
  return True, ""


def _finite(tree: object) -> bool:
  return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def _near(
  name: str, got: Network, want: Network, says: str, tolerance: float = TOLERANCE
) -> Clause:
  """The clause that two networks differ by no more than this share of the largest value or 1."""
  gap = _relative(got, want)
  return name, gap <= tolerance, f"{says} by {gap:.1e}"


def _gap(a: object, b: object) -> float:
  """The largest difference between two trees; NaN counts as infinite."""
  gaps = [
    float(np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  ]
  return max((np.inf if np.isnan(gap) else gap for gap in gaps), default=0.0)


def _relative(a: object, b: object) -> float:
  """The largest difference between two trees, over the largest value or 1."""
  largest = max((float(np.max(np.abs(x), initial=0)) for x in jax.tree.leaves(b)), default=0.0)
  return _gap(a, b) / max(1.0, largest)


def _is_hashable(unlearner: unlearn.Unlearner) -> bool:
  try:
    hash(unlearner)
  except TypeError:
    return False
  return True
