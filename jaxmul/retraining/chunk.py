"""One unit of schedule: train a few models without random parts of the data and tally the outcome.

For each training example a chunk keeps sums over its models, split by whether the example was in
the model's subset. Sums add across chunks and machines; means do not.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _identity, _settings, losses
from jaxmul._blocks import map_blocks
from jaxmul._examples import Examples, examples_of
from jaxmul.data.dataset import as_inputs
from jaxmul.retraining.schedule import Learner, Schedule, Target, keys_of
from jaxmul.train import Recipe, run

_BLOCK = 512
TALLIES = (
  *("correct_in", "count_in", "correct_out", "count_out"),
  *("p_in", "p_out", "odds_in", "odds_out"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
  """Tallies of some models over the n examples of a schedule, and their outputs on its test set.

  Attributes:
    models: int64 [k], which models; a diverged model is not counted.
    diverged: int64 [d], models whose loss became NaN or inf.
    correct_in, count_in: int64 [n], correct predictions and models with the example in the subset.
      A text is right where all of its scored positions are.
    correct_out, count_out: int64 [n], the same for models without it.
    p_in, p_out: float64 [n], sums of p_y, of a text of p = e^−ℓ.
    odds_in, odds_out: float64 [n], sums of φ = log p − log(1 − p).
    member: uint8 [k, ⌈n/8⌉], a bit for each example in the subset; [k, 0] without test examples.
    test: uint8 [k, ⌈t/8⌉], a bit for each correct prediction; or logits float32 [k, t, C]; or
      float32 [k, t, 2], φ and whether it is right.
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
  member: np.ndarray
  test: np.ndarray


class Arrays(NamedTuple):
  """What every model of a schedule reads: one transfer, never part of a compiled program.

  Attributes:
    examples: all n training examples.
    always: int [n − c], rows that are in every subset.
    candidates: int [c], rows that may be left out.
    test: t examples; t = 0 where nothing is kept.
    key: uint32 key data of the schedule.
  """

  examples: Examples
  always: jax.Array
  candidates: jax.Array
  test: Examples
  key: jax.Array


class Outcome(NamedTuple):
  """What one model did: member, correct, p, odds [n], test [t] or [t, …] (or [1]), finite []."""

  member: Any
  correct: Any
  p: Any
  odds: Any
  test: Any
  finite: Any


def arrays_of(schedule: Schedule) -> Arrays:
  """Returns the arrays of a schedule on the default device."""
  data = schedule.dataset
  rows = data.rows(schedule.candidates)
  always = np.delete(np.arange(len(data)), rows)
  return Arrays(
    examples_of(data),
    jnp.asarray(always),
    jnp.asarray(rows),
    examples_of(schedule.test or data.take([])),
    jnp.asarray(schedule.key),
  )


def outcome(
  recipe: Recipe | Learner,
  subset_size: int,
  target: Target,
  folds: int,
  arrays: Arrays,
  model: jax.Array,
) -> Outcome:
  """Trains one model on its subset: a pure function of the model's number.

  Args:
    recipe, subset_size, target, folds: of the schedule; static.
    arrays: of the schedule.
    model: int scalar.
  """
  examples, always, candidates, test, key = arrays
  subset_key, train_key = keys_of(key, model)
  kept = subset_size - len(always)
  if folds:
    # All models of a repeat share one order of the data; each leaves out its own stretch of it.
    subset_key, _ = keys_of(key, model // folds * folds)
    left_out = len(candidates) - kept
    drawn = jax.random.permutation(subset_key, len(candidates))
    drawn = jnp.roll(drawn, -left_out * (model % folds + 1))[:kept]
  else:
    drawn = jax.random.permutation(subset_key, len(candidates))[:kept]
  rows = jnp.sort(jnp.concatenate([always, candidates[drawn]]))
  member = jnp.zeros(len(examples.labels), bool).at[rows].set(True)
  subset = examples._replace(rows=rows, count=jnp.int32(subset_size))
  network, finite = _train(recipe, subset, train_key)

  def predict(inputs, labels):
    logits = network(as_inputs(inputs))
    p = jnp.exp(-losses.cross_entropy(logits, labels))
    return losses.is_correct(logits, labels), p, losses.log_odds(logits, labels)

  def keep(inputs, labels):
    logits = network(as_inputs(inputs))
    if target == "correct":
      return losses.is_correct(logits, labels)
    if target == "log_odds":
      return losses.log_odds_and_correct(logits, labels)
    # bfloat16 is no dtype of NumPy's own: the store would not give it back.
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

  correct, p, odds = map_blocks(predict, examples[:2], _BLOCK)
  nothing = jnp.zeros(1, bool)  # lax.map refuses arrays without elements
  kept = map_blocks(keep, test[:2], _BLOCK) if len(test.labels) else nothing
  return Outcome(member, correct, p, odds, kept, finite & jnp.isfinite(p).all())


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _jitted_outcome(settings, recipe, subset_size, target, folds, arrays, model):
  """One program for each of JAX's settings; JAX itself tells only some of them apart."""
  del settings
  return outcome(recipe, subset_size, target, folds, arrays, model)


def _train(recipe, examples, key):
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
  models = np.asarray(schedule.models(chunk))
  static = (
    schedule.settings,
    schedule.recipe,
    schedule.subset_size,
    schedule.target,
    schedule.folds,
  )
  with as_scheduled(schedule):
    arrays = arrays_of(schedule)
    outcomes = [jax.tree.map(np.asarray, _jitted_outcome(*static, arrays, each)) for each in models]
  return tally(schedule, models, Outcome(*map(np.stack, zip(*outcomes, strict=True))))


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
  finite = outcome.finite
  member, correct = outcome.member[finite], outcome.correct[finite]
  p, odds = outcome.p[finite].astype(float), outcome.odds[finite].astype(float)
  test = outcome.test[finite] if schedule.test else member[:, :0]
  return Chunk(
    models[finite],
    models[~finite],
    correct_in=np.sum(correct & member, 0),
    count_in=np.sum(member, 0),
    correct_out=np.sum(correct & ~member, 0),
    count_out=np.sum(~member, 0),
    p_in=np.sum(p * member, 0),
    p_out=np.sum(p * ~member, 0),
    odds_in=np.sum(np.where(member, odds, 0), 0),
    odds_out=np.sum(np.where(member, 0, odds), 0),
    member=np.packbits(member if schedule.test else member[:, :0], axis=1),
    test=np.packbits(test, axis=1) if schedule.target == "correct" else test,
  )


def add(a: Chunk, b: Chunk) -> Chunk:
  """Returns the tallies of both; what is kept for each model apart is dropped."""
  return Chunk(
    np.concatenate([a.models, b.models]),
    np.concatenate([a.diverged, b.diverged]),
    **{name: getattr(a, name) + getattr(b, name) for name in TALLIES},
    member=a.member[:0],
    test=a.test[:0],
  )
