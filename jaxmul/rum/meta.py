"""Meta-unlearning: group after group, each from the result before, restartable after every step.

S forget set, D the training set; at step i the retain set is D ∖ (S₁ ∪ … ∪ Sᵢ).
"""

import dataclasses
import functools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check, _settings, checkpoint, metrics
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul._identity import describe_functions, digest, tree_digest, versions
from jaxmul._paths import local
from jaxmul.binding import Network, as_network, refuse_own_loss
from jaxmul.data.split import Split
from jaxmul.rum.plan import Plan, Step, named_steps, refuse_no_plan, refuse_uneven


class Effect(NamedTuple):
  """What one step did.

  Attributes:
    step: from 0.
    algorithm: its name, or "none".
    seconds: wall clock, compilation included; 0 for a step that was read back.
    before: accuracies in [0, 1] before it: "group 0", "group 1", …, "retain" (what is kept in the
      end).
    after: the same after it.
  """

  step: int
  algorithm: str
  seconds: float
  before: dict[str, float]
  after: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
  """The unlearned network, and the effect of each step on each group."""

  network: Network
  effects: tuple[Effect, ...]


def meta_unlearn(
  plan: Plan,
  network: Network,
  dataset: Dataset,
  groups: Sequence[np.ndarray],
  key: jax.Array,
  *,
  store: str | os.PathLike[str] | None = None,
  devices: Sequence[Any] | None = None,
) -> Network:
  """Unlearns group after group, each from the result before, with a shrinking retain set.

  Args:
    plan: one step for each group.
    network: the trained network.
    dataset: D, exactly what it was trained on.
    groups: ids of S₁, S₂, …, disjoint, from `refine`; at step i everything of D outside
      S₁ ∪ … ∪ Sᵢ is retained.
    key: step i uses `fold_in(key, i)`.
    store: folder that gets the params after each step. The same call again, after a kill, goes on
      from the last finished step, with the same bits. Steps are found by a hash of all that decides
      them, JAX's settings and the versions of packages too, except lambdas that are bound as
      forward passes: two of these cannot be told apart.
    devices: split every batch of every step over these, as `unlearn.run`. The numbers are the same
      within rounding: devices are not in the hash, and a step that other devices made is read back.

  Returns:
    The unlearned network.

  Raises:
    ValueError: the plan is none or has another number of steps than there are groups, groups
      overlap or are empty, an id is not in the data, nothing would be retained, the store holds a
      damaged step or is refused by `checkpoint.refuse_path`, a step could not be found again in a
      store, as its algorithm holds a lambda, there are no devices, or they do not divide the batch
      of a step.
    unlearn.Diverged: a step diverged; the steps before it are in the store.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, rum, unlearn
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs)
    >>> plan = rum.Plan([rum.Step(None), rum.Step(unlearn.fine_tune(), epochs=1)])
    >>> groups = rum.refine([0.1, 0.7], [4, 5], num_groups=2)
    >>> rum.meta_unlearn(plan, network, toy, groups, jax.random.key(1))(toy.inputs).shape
    (6, 2)
  """
  work = Work(dataset, groups, key)
  for done in chained(plan, network, work, _kept(store), devices):
    network = done.network
  return network


def run(
  plan: Plan,
  network: Network,
  dataset: Dataset,
  groups: Sequence[np.ndarray],
  key: jax.Array,
  *,
  store: str | os.PathLike[str] | None = None,
) -> Outcome:
  """`meta_unlearn` that also reports what each step did to each group.

  Args:
    plan, network, dataset, groups, key, store: as `meta_unlearn`.

  Returns:
    An `Outcome`: the same params, bit for bit, and an `Effect` for each step.

  Raises:
    ValueError, unlearn.Diverged: as `meta_unlearn`; and ValueError where the network is bound with
      a loss of its own, which has no accuracies.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, rum, unlearn
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs)
    >>> plan = rum.Plan([rum.Step(None), rum.Step(unlearn.neg_grad(), epochs=1)])
    >>> outcome = rum.run(plan, network, toy, [np.array([4]), np.array([5])], jax.random.key(1))
    >>> [effect.algorithm for effect in outcome.effects]
    ['none', 'neg_grad']
  """
  network = as_network(network, None, "rum.run")
  refuse_own_loss(network, "rum.run", "Use rum.meta_unlearn, which reports nothing")
  parts = {f"group {i}": np.asarray(group) for i, group in enumerate(groups)}
  parts["retain"] = functools.reduce(np.setdiff1d, parts.values(), dataset.ids)

  def accuracies(network: Network) -> dict[str, float]:
    return {name: metrics.accuracy(network, dataset.take(ids)) for name, ids in parts.items()}

  effects, before = [], None
  for done in chained(plan, network, Work(dataset, groups, key), _kept(store)):
    before = accuracies(network) if before is None else before
    after = before if done.network is network else accuracies(done.network)
    name = "none" if done.step.unlearner is None else done.step.unlearner.name
    facts = {"step": done.number, "algorithm": name, "seconds": done.seconds}
    effects.append(Effect(**facts, before=before, after=after))
    network, before = done.network, after
  return Outcome(network, tuple(effects))


class Done(NamedTuple):
  """A finished step of `chained`; seconds are 0 where it was read back."""

  number: int
  step: Step
  network: Network
  seconds: float


class Work(NamedTuple):
  """What is unlearned: groups of D, step i with `fold_in(key, i)`; ids in `gone` are in no set."""

  dataset: Dataset
  groups: Sequence[ArrayLike]
  key: jax.Array
  gone: ArrayLike = ()


class Kept(NamedTuple):
  """Where steps are kept, and what names them besides all that decides their numbers."""

  folder: Path
  around: tuple[object, ...] = ()


def chained(
  plan: Plan,
  network: Network,
  work: Work,
  kept: Kept | None = None,
  devices: Sequence[Any] | None = None,
) -> Iterator[Done]:
  """Yields each step of `meta_unlearn` when it is done."""
  refuse_no_plan(plan, "rum")
  refuse_uneven(named_steps(plan), devices, "rum")
  if kept is not None:
    checkpoint.refuse_path(kept.folder)
  network = as_network(network, None, "rum")
  dataset, groups, key, gone = work
  refuse_no_dataset(dataset, "rum")
  _check.key(key, "rum")
  if len(plan.steps) != len(groups):
    raise ValueError(
      f"the plan has {len(plan.steps)} steps but there are {len(groups)} groups; "
      "give one step for each group."
    )
  splits = shrinking(dataset, groups, gone)
  folders = [None] * len(splits)
  if kept is not None:
    gone = np.sort(np.asarray(gone, np.int64))
    start = (params_hash(network), describe_functions(network), dataset, key, gone, kept.around)
    folders = [kept.folder / name for name in _step_names(digest(*start), plan, splits)]
  for i, (step, split, folder) in enumerate(zip(plan.steps, splits, folders, strict=True)):
    seconds = 0.0
    if step.unlearner is None:
      pass
    elif folder is not None and folder.exists():
      network = checkpoint.load(folder, network)
    else:
      start = time.perf_counter()
      after = step.run(network, dataset, split, jax.random.fold_in(key, i), devices=devices)
      network = jax.block_until_ready(after)
      seconds = time.perf_counter() - start
      if folder is not None:
        checkpoint.save(folder, network)
    yield Done(i, step, network, seconds)


def shrinking(dataset: Dataset, groups: Sequence[ArrayLike], gone: ArrayLike = ()) -> list[Split]:
  """Returns what each step forgets and retains: D without `gone` and the groups up to its own.

  Raises:
    ValueError: there are no groups, an id is in two of them or not in the data, ids are no
      integers, or nothing would be retained.
  """
  members = [np.asarray(group) for group in groups]
  if not members:
    raise ValueError("there are no groups; give the ids of at least one.")
  ids, counts = np.unique(np.concatenate(members), return_counts=True)
  if (counts > 1).any():
    raise ValueError(
      f"id {ids[counts > 1][0]} is in the groups more than once; they must be disjoint, as "
      "rum.refine makes them. Take it out of all but one."
    )
  before = [np.asarray(gone, np.int64), *members]
  splits = [
    Split(forget=group, retain=np.setdiff1d(dataset.ids, np.concatenate(before[: i + 2])))
    for i, group in enumerate(members)
  ]
  for split in splits:
    dataset.rows(split.forget)
  return splits


def params_hash(network: Network) -> str:
  """SHA-256 of all params and statistics, with their names, dtypes and shapes.

  Functions are not part of it: it tells weights apart, not architectures that share them.

  Args:
    network: a `Network`, on any devices.

  Returns:
    64 hex digits, equal where every bit is.

  Example:
    >>> import numpy as np
    >>> from jaxmul import bind
    >>> zero, one = (bind(lambda w, x: x @ w, np.full((2, 3), value)) for value in (0.0, 1.0))
    >>> len(params_hash(zero)), params_hash(zero) == params_hash(one)
    (64, False)
  """
  return tree_digest((network.params, network.state))


def _kept(store: str | os.PathLike[str] | None) -> Kept | None:
  """Where `meta_unlearn` keeps steps: those of other settings and versions are others."""
  return None if store is None else Kept(local(store), (versions(), _settings.current()))


def _step_names(start: str, plan: Plan, splits: list[Split]) -> list[str]:
  """A name for the result of each step, of a digest of everything that came before it."""
  names, before = [], start
  for number, (step, split) in enumerate(zip(plan.steps, splits, strict=True)):
    algorithm = step.unlearner
    settings = (step.epochs, step.batch_size, step.freeze_statistics)
    what = None if algorithm is None else (algorithm.words(), algorithm.passes)
    before = digest(before, what, settings, np.sort(split.forget))
    names.append(f"step{number}-{before[:16]}")
  return names
