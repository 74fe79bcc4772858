"""K originals and K oracles by one recipe, which differ in their seeds only.

They are trained as all retraining is: on any executor, into a hashed store, resumable.
What they say of every example of the split is kept; their params are not, for `original` trains
any of them again.
"""

import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxmul import _check, models
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul._paths import local
from jaxmul.binding import refuse_own_loss
from jaxmul.data.split import Split
from jaxmul.metrics.oracle.model_outputs import Outputs, outputs_of
from jaxmul.retraining.executors import Executor
from jaxmul.retraining.leave_out_schedule import Schedule, repeat, train_key
from jaxmul.retraining.progress import Progress
from jaxmul.retraining.streaming import stream
from jaxmul.train import Fit, Learner, Recipe, fit


class Ensemble(NamedTuple):
  """Outputs on all ids of a split: K models trained on S and R, and K trained on R alone."""

  originals: Outputs
  oracles: Outputs


def ensemble(
  recipe: Recipe | Learner,
  dataset: Dataset,
  split: Split,
  key: jax.Array,
  *,
  num_models: int = 16,
  store: Path | str | None = None,
  executor: Executor | None = None,
  progress: bool = True,
) -> Ensemble:
  """Trains what unlearned models are compared with.

  Args:
    recipe: of the model that is unlearned; the same for originals and oracles.
    dataset: where the ids of the split are.
    split: forget, retain, and perhaps heldout and test ids, on all of which outputs are kept.
    key: of all training runs; a larger `num_models` later adds models and changes none.
    num_models: K of each kind.
    store: folder for finished models, or None. A killed run goes on from there; damaged files are
      reported and computed again.
    executor: who computes, as in `retraining.stream`.
    progress: show models done and time left on stderr, likewise.

  Returns:
    An `Ensemble`. A model that diverged is left out with a warning.

  Raises:
    ValueError: an id is not in the data, a number is outside its range, the store was made by
      another schedule, or all models diverged.
    OSError: the store cannot be written; what was finished stays.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, retraining, train
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> split = data.Split(forget=[0, 1], retain=[2, 3], test=[4, 5])
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=2)
    >>> found = ensemble(recipe, toy, split, jax.random.key(0), num_models=3,
    ...   executor=retraining.serial)
    >>> found.originals.logits.shape, found.oracles.logits.shape
    ((3, 6, 2), (3, 6, 2))
  """
  pair = schedules(recipe, dataset, split, key, num_models)
  outputs = []
  with Progress(2 * num_models, progress, "originals and oracles") as bar:
    execute = bar.counting(executor)
    for name, schedule in zip(Ensemble._fields, pair, strict=True):
      bar.next_round(num_models * len(outputs))
      outputs.append(_outputs_of(schedule, name, store, execute))
    bar.reached(2 * num_models)
  return Ensemble(*outputs)


def oracles(
  recipe: Recipe | Learner,
  dataset: Dataset,
  split: Split,
  key: jax.Array,
  *,
  num_models: int = 8,
  store: Path | str | None = None,
  executor: Executor | None = None,
  progress: bool = True,
) -> Outputs:
  """Trains the oracles of an ensemble alone, for what needs no originals, such as `example_gap`.

  Args:
    recipe, dataset, split, key, store, executor, progress: as `ensemble`, which finds them in the
      same store and trains what it needs more.
    num_models: K.

  Returns:
    Their `Outputs` on all ids of the split.

  Raises:
    ValueError, OSError: as `ensemble`.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, retraining, train
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> split = data.Split(forget=[0, 1], retain=[2, 3], test=[4, 5])
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=2)
    >>> oracles(recipe, toy, split, jax.random.key(0), num_models=2,
    ...   executor=retraining.serial).logits.shape
    (2, 6, 2)
  """
  schedule = schedules(recipe, dataset, split, key, num_models)[1]
  with Progress(num_models, progress, "oracles") as bar:
    return _outputs_of(schedule, "oracles", store, bar.counting(executor))


def _outputs_of(
  schedule: Schedule, name: str, store: Path | str | None, execute: Executor
) -> Outputs:
  """Returns what the models of a schedule say, without those that diverged."""
  folder = None if store is None else local(store) / name
  chunks = list(stream(schedule, store=folder, executor=execute))
  diverged = sum(len(chunk.diverged) for chunk in chunks)
  if diverged == schedule.num_models:
    raise ValueError(f"all {schedule.num_models} {name} diverged. Lower the learning rate.")
  if diverged:
    warnings.warn(
      f"{diverged} of {schedule.num_models} {name} diverged and are left out.", stacklevel=3
    )
  return outputs_of(schedule, chunks)


def schedules(
  recipe: Recipe | Learner, dataset: Dataset, split: Split, key: jax.Array, num_models: int
) -> tuple[Schedule, Schedule]:
  """Returns the schedules of originals and oracles, to compute on machines of your own."""
  refuse_no_dataset(dataset, "oracle.ensemble")
  if isinstance(recipe, Recipe):
    like = models.shapes(recipe.model, dataset.example)
    refuse_own_loss(like, "oracle.ensemble", "Compare losses yourself: unlearn.retrain")
  ids = np.sort(np.concatenate([split.forget, split.retain, split.heldout, split.test]))
  seen = dataset.take(ids)
  _check.key(key, "oracle.ensemble")
  keys = jax.random.split(key)
  originals, oracles = (
    repeat(recipe, dataset.take(part), part_key, num_models=num_models, test=seen)
    for part, part_key in zip((split.train, split.retain), keys, strict=True)
  )
  return originals, oracles


def original(
  recipe: Recipe | Learner, dataset: Dataset, split: Split, key: jax.Array, model: int
) -> Fit:
  """Trains one of the originals of an ensemble again, to unlearn it.

  Args:
    recipe, dataset, split, key: as `ensemble`.
    model: number from 0.

  Returns:
    A `Fit` of the same model; its last bits depend on the threads of XLA.

  Raises:
    ValueError: as `ensemble`.
    train.Diverged: the loss became NaN or inf.
  """
  schedule, _ = schedules(recipe, dataset, split, key, model + 1)
  return fit(recipe, schedule.dataset, train_key(schedule, model))
