"""One unit of schedule: train a few models without random parts of the data and tally the outcome.

For each training example a chunk keeps sums over its models, split by whether the example was in
the model's subset. Sums add across chunks and machines; means do not.

A model is judged by p = e^−ℓ of each example, ℓ the network's loss: with cross-entropy p_y. Only
then can it be right or wrong.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _identity, _settings, losses
from jaxmul._arrays import Inputs, widened
from jaxmul._blocks import map_blocks
from jaxmul._dataset import as_inputs
from jaxmul._examples import Examples, examples_of
from jaxmul.binding import Network, losses_of
from jaxmul.retraining.leave_out_schedule import (
  Learner,
  Schedule,
  Target,
  keys_of,
  refuse_target,
)
from jaxmul.train import Recipe, run

BLOCK = 512
TALLIES = (
  *("correct_in", "count_in", "correct_out", "count_out"),
  *("p_in", "p_out", "odds_in", "odds_out"),
  *("p_sq_in", "p_sq_out", "accuracy_in", "accuracy_out", "accuracy_sq_in", "accuracy_sq_out"),
)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Chunk:
  """Tallies of some models over the n examples of a schedule, and their outputs on its test set.

  Attributes:
    models: int64 [k], which models; a diverged model is not counted.
    diverged: int64 [d], models whose loss became NaN or inf.
    correct_in, count_in: int64 [n], correct predictions and models with the example in the subset.
      A text is right where all of its scored positions are. With a loss of the network's own
      nothing is right or wrong: correct_in, correct_out and the sums of φ are float64 NaN.
    correct_out, count_out: int64 [n], the same for models without it.
    p_in, p_out: float64 [n], sums of p = e^−ℓ: p_y of an image.
    odds_in, odds_out: float64 [n], sums of φ = log p − log(1 − p).
    p_sq_in, p_sq_out: float64 [n], sums of p², by which the mean of p has an interval.
    accuracy_in, accuracy_out: float64 [n], sums of the share of scored positions that are right;
      NaN where an example has one label, or nothing is right or wrong.
    accuracy_sq_in, accuracy_sq_out: float64 [n], sums of its square.
    member: uint8 [k, ⌈n/8⌉], a bit for each example in the subset; [k, 0] without test examples.
    test: uint8 [k, ⌈t/8⌉], a bit for each correct prediction; or outputs float32 [k, t, ...]; or
      float32 [k, t, 2], φ and whether it is right; or p, float32 [k, t].
  """

  models: np.ndarray
  diverged: np.ndarray
  correct_in: np.ndarray
  count_in: np.ndarray
  correct_out: np.ndarray
  count_out: np.ndarray
  p_in: np.ndarray
  p_out: np.ndarray
  odds_in: np.ndarray
  odds_out: np.ndarray
  p_sq_in: np.ndarray
  p_sq_out: np.ndarray
  accuracy_in: np.ndarray
  accuracy_out: np.ndarray
  accuracy_sq_in: np.ndarray
  accuracy_sq_out: np.ndarray
  member: np.ndarray
  test: np.ndarray


class Arrays(NamedTuple):
  """What every model of a schedule reads: one transfer, never part of a compiled program.

  Attributes:
    examples: all n training examples.
    always: int [n − c], rows that are in every subset.
    candidates: rows int [c, s] that may be left out, c families of s copies, for each s.
    test: t examples; t = 0 where nothing is kept.
    key: uint32 key data of the schedule.
  """

  examples: Examples
  always: jax.Array
  candidates: list[jax.Array]
  test: Examples
  key: jax.Array


class Outcome(NamedTuple):
  """What one model did.

  Attributes:
    member: bool [n], which examples it was trained on.
    correct: bool [n]; NaN where the loss is the network's own.
    p, odds: [n], e^−ℓ and φ; φ is NaN as above.
    accuracy: [n], the share of scored positions that are right; NaN as above; 0 where an example
      has one label, of which the tally says NaN.
    test: what is kept of each test example, [t] or [t, ...]; [1] without test examples.
    finite: bool [], whether training and p stayed finite.
  """

  member: jax.Array
  correct: jax.Array
  p: jax.Array
  odds: jax.Array
  accuracy: jax.Array
  test: jax.Array
  finite: jax.Array


class Task(NamedTuple):
  """What all models of a schedule share and a compiled program is made for: hashable.

  JAX itself tells only some of its settings apart, so that they are part of it.
  """

  recipe: Recipe | Learner
  subset_size: int
  kept: tuple[int, ...]
  target: Target
  folds: int
  settings: _settings.Settings


def task_of(schedule: Schedule) -> Task:
  """Returns what the models of a schedule share."""
  return Task(**{name: getattr(schedule, name) for name in Task._fields})


def arrays_of(schedule: Schedule) -> Arrays:
  """Returns the arrays of a schedule on the default device."""
  data = schedule.dataset
  always = np.delete(np.arange(len(data)), data.rows(schedule.candidates))
  return Arrays(
    examples=examples_of(data),
    always=jnp.asarray(always),
    candidates=[jnp.asarray(rows) for rows in schedule.families],
    test=examples_of(schedule.test or data.take([])),
    key=jnp.asarray(schedule.key),
  )


def outcome(task: Task, arrays: Arrays, model: jax.Array) -> Outcome:
  """Trains one model on its subset: a pure function of the model's number.

  Args:
    task, arrays: of the schedule; the task is static.
    model: int scalar.

  Raises:
    ValueError: what is kept of test examples needs classes, and a learner's network has none.
  """
  examples, always, candidates, test, key = arrays
  subset_key, train_key = keys_of(key, model)
  if task.folds:
    # All models of a repeat share one order of the data; each leaves out its own stretch of it.
    subset_key, _ = keys_of(key, model // task.folds * task.folds)
  taken = [always]
  for number, (families, kept) in enumerate(zip(candidates, task.kept, strict=True)):
    own = jax.random.fold_in(subset_key, number) if number else subset_key
    drawn = jax.random.permutation(own, len(families))
    if task.folds:
      drawn = jnp.roll(drawn, (kept - len(families)) * (model % task.folds + 1))
    taken.append(families[drawn[:kept]].reshape(-1))
  rows = jnp.sort(jnp.concatenate(taken))
  member = jnp.zeros(len(examples.labels), bool).at[rows].set(True)
  subset = examples._replace(rows=rows, count=jnp.int32(task.subset_size))
  network, finite = trained(task.recipe, subset, train_key)

  own_loss = None
  if isinstance(network, Network) and network.loss is not losses.cross_entropy:
    own_loss = functools.partial(losses_of, network)

  def confidence(outputs, labels):
    return jnp.exp(-(own_loss or losses.cross_entropy)(outputs, labels))

  def judge(inputs, labels):
    outputs = network(as_inputs(inputs))
    p = confidence(outputs, labels)
    if own_loss is not None:
      undefined = jnp.full_like(p, jnp.nan)
      return undefined, p, undefined, undefined
    # Zeros, not NaN: `jax_debug_nans` stops at any.
    accuracy = jnp.zeros_like(p) if labels.ndim == 1 else losses.token_accuracy(outputs, labels)
    return losses.is_correct(outputs, labels), p, losses.log_odds(outputs, labels), accuracy

  def keep(inputs, labels):
    outputs = network(as_inputs(inputs))
    if task.target == "confidence":
      return confidence(outputs, labels)
    if task.target == "correct":
      return losses.is_correct(outputs, labels)
    if task.target == "log_odds":
      return losses.log_odds_and_correct(outputs, labels)
    # bfloat16 is no dtype of NumPy's own: the store would not give it back.
    return widened(outputs)

  kept = jnp.zeros(1, bool)  # lax.map refuses arrays without elements
  if len(test.labels):
    refuse_target(network, task.target, "a learner")
    kept = map_blocks(keep, test[:2], BLOCK)
  correct, p, odds, accuracy = map_blocks(judge, examples[:2], BLOCK)
  return Outcome(
    member=member,
    correct=correct,
    p=p,
    odds=odds,
    accuracy=accuracy,
    test=kept,
    finite=finite & jnp.isfinite(p).all(),
  )


_jitted_outcome = jax.jit(outcome, static_argnums=0)


def has_classes(schedule: Schedule) -> bool:
  """Whether models of a schedule can be right or wrong; one is traced, and none trained."""
  with as_scheduled(schedule):
    traced = functools.partial(outcome, task_of(schedule))
    return jax.eval_shape(traced, arrays_of(schedule), 0).correct.dtype == bool


def trained(
  recipe: Recipe | Learner, examples: Examples, key: jax.Array
) -> tuple[Callable[[Inputs], jax.Array], jax.Array]:
  """Returns a trained network, and whether training stayed finite."""
  if isinstance(recipe, Recipe):
    result = run(recipe, (), examples, key)
    return result.network, jnp.isfinite(result.history.loss[-1])
  return recipe(examples, key), jnp.array(True)


def run_chunk(schedule: Schedule, chunk: int) -> Chunk:
  """Trains the models of a chunk and tallies them; deterministic, no side effects.

  JAX's settings are those of the schedule while it runs, in whatever process that is.

  Args:
    schedule: what to train.
    chunk: which part of it.

  Returns:
    A `Chunk`.

  Raises:
    ValueError: there is no such chunk.
    RuntimeError: this process has other versions than the one that made the schedule.

  References:
    Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.
  """
  models, task = np.asarray(schedule.models(chunk)), task_of(schedule)
  with as_scheduled(schedule):
    arrays = arrays_of(schedule)
    outcomes = [jax.tree.map(np.asarray, _jitted_outcome(task, arrays, model)) for model in models]
  return tally(schedule, models, jax.tree.map(lambda *leaves: np.stack(leaves), *outcomes))


@contextlib.contextmanager
def as_scheduled(schedule: Schedule) -> Iterator[None]:
  """Inside, JAX has the settings of a schedule; raises RuntimeError where versions are others."""
  here = _identity.versions()
  for name, version in schedule.versions.items():
    if here.get(name) != version:
      raise RuntimeError(
        f"this process has {name} {here.get(name)}, the schedule was made with {version}, "
        "and would train other models. Install the same versions, or make it here."
      )
  with _settings.applied(schedule.settings):
    yield


def tally(schedule: Schedule, models: np.ndarray, outcome: Outcome) -> Chunk:
  """Returns the sums over models [k] of their outcomes, each with a leading axis [k]."""
  finite = np.asarray(outcome.finite)
  member, correct, p, odds, accuracy, test, _ = (np.asarray(leaf)[finite] for leaf in outcome)
  if correct.dtype != bool:
    correct = correct.astype(float)
  p, odds, accuracy = (values.astype(float) for values in (p, odds, accuracy))
  if schedule.dataset.labels.ndim == 1:
    accuracy = np.full_like(accuracy, np.nan)
  if not schedule.test:
    test = member[:, :0]
  tallies = {}
  sums = {"correct": correct, "count": 1, "p": p, "odds": odds, "accuracy": accuracy}
  for name, values in (sums | {"p_sq": p**2, "accuracy_sq": accuracy**2}).items():
    tallies[f"{name}_in"] = np.sum(np.where(member, values, 0), 0)
    tallies[f"{name}_out"] = np.sum(np.where(member, 0, values), 0)
  return Chunk(
    models=models[finite],
    diverged=models[~finite],
    **tallies,
    member=np.packbits(member if schedule.test else test, axis=1),
    test=np.packbits(test, axis=1) if schedule.target == "correct" else test,
  )


def members_of(schedule: Schedule, chunk: Chunk) -> np.ndarray:
  """Returns bool [k, n], which examples each model of a chunk with test examples has seen."""
  return np.unpackbits(chunk.member, axis=1, count=len(schedule.dataset)).astype(bool)


def kept_of(schedule: Schedule, chunk: Chunk) -> np.ndarray:
  """Returns what is kept of the test examples, [k, t] or [k, t, ...]; of "log_odds" φ alone."""
  if schedule.target == "correct":
    return np.unpackbits(chunk.test, axis=1, count=len(schedule.test or ()))
  return chunk.test[..., 0] if schedule.target == "log_odds" else chunk.test


def add(a: Chunk, b: Chunk) -> Chunk:
  """Returns the tallies of both; what is kept for each model apart is dropped."""
  return Chunk(
    models=np.concatenate([a.models, b.models]),
    diverged=np.concatenate([a.diverged, b.diverged]),
    **{name: getattr(a, name) + getattr(b, name) for name in TALLIES},
    member=a.member[:0],
    test=a.test[:0],
  )
