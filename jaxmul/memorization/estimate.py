"""Memorization scores with intervals, from tallies of models trained without random subsets.

mem(i) = P[h(x_i) = y_i | i in the training subset] − P[h(x_i) = y_i | i left out], estimated by the
difference of two proportions over M models.

References:
  Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.
"""

import dataclasses
import io
import sys
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxmul._files import write_atomic
from jaxmul.data.dataset import Dataset
from jaxmul.memorization import executors
from jaxmul.memorization.chunk import Chunk
from jaxmul.memorization.intervals import newcombe
from jaxmul.memorization.plan import Plan
from jaxmul.memorization.plan import plan as make_plan
from jaxmul.memorization.store import Store
from jaxmul.train import Recipe


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
  """Memorization of n training examples.

  Attributes:
    ids: int64 [n], sorted.
    memorization: float64 [n] in [−1, 1]; NaN where the example was never in, or never out.
    low, high: float64 [n], Newcombe's 95 % interval; NaN as above.
    correct_in, count_in: int64 [n], correct predictions and models with the example in the subset.
    correct_out, count_out: int64 [n], the same for models without it.
    soft: float64 [n] in [−1, 1], the difference of mean p_y: less variance, the same meaning.
    log_odds: float64 [n], the difference of mean φ = log p_y − log Σ_{c≠y} p_c.
  """

  ids: np.ndarray
  memorization: np.ndarray
  low: np.ndarray
  high: np.ndarray
  correct_in: np.ndarray
  count_in: np.ndarray
  correct_out: np.ndarray
  count_out: np.ndarray
  soft: np.ndarray
  log_odds: np.ndarray

  def save(self, path: Path | str) -> None:
    """Writes a small `.npz` with one array for each attribute, whole or not at all."""
    buffer = io.BytesIO()
    fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    np.savez_compressed(buffer, **fields)
    write_atomic(Path(path), buffer.getvalue())

  @classmethod
  def load(cls, path: Path | str) -> "Estimate":
    """Reads what `save` wrote.

    Raises:
      ValueError: the file is damaged or holds something else; nothing in it can execute.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    try:
      # Opened here: numpy leaves the file open where it is damaged.
      with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {name: file[name] for name in names}
    except FileNotFoundError:
      raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
      raise ValueError(
        f"{path} is damaged or not a saved Estimate ({type(error).__name__}). Estimate it again."
      ) from error
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) != 1 or arrays["ids"].ndim != 1:
      raise ValueError(f"{path} is not a saved Estimate: shapes {shapes}. Estimate it again.")
    return cls(**arrays)


def estimate(
  recipe: Recipe,
  dataset: Dataset,
  key: jax.Array,
  *,
  num_models: int,
  fraction: float = 0.7,
  store: Path | str | None = None,
  executor: executors.Executor | None = None,
  progress: bool = True,
) -> Estimate:
  """Estimates the memorization of every example by retraining without random subsets.

  Args:
    recipe: the recipe of the model that will be unlearned.
    dataset: n training examples.
    key: of subsets and training runs; model i uses `fold_in(key, i)`.
    num_models: M; the interval is ±0.107 at worst for 400 models at fraction 0.7.
    fraction: share of the data in each model's subset.
    store: folder for finished chunks, or None. A killed run goes on from there: chunks that are
      whole are not computed again, damaged ones are reported and are.
    executor: who computes; by default one single-threaded process per core on CPU, all devices of
      this process elsewhere.
    progress: show models done, models per second and time left where stderr is a terminal.

  Returns:
    An `Estimate`.

  Raises:
    ValueError: a number is outside its range, or the store was made by another plan.
    OSError: the store cannot be written; what was finished stays.

  References:
    Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import memorization, models, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=10, batch_size=4)
    >>> result = memorization.estimate(
    ...   recipe, toy, jax.random.key(0), num_models=8, executor=memorization.serial)
    >>> (result.count_in + result.count_out).tolist()
    [8, 8, 8, 8, 8, 8]
  """
  plan = make_plan(recipe, dataset, key, num_models=num_models, fraction=fraction)
  execute = executor or executors.default()
  kept = None if store is None else Store(store, plan)
  done: dict[int, Chunk] = {} if kept is None else kept.load(range(plan.num_chunks))
  left = [number for number in range(plan.num_chunks) if number not in done]
  with _Progress(sum(len(plan.models(number)) for number in left), shown=progress) as bar:
    for number, chunk in execute(plan, left) if left else ():
      if kept is not None:
        kept.commit(number, chunk)
      done[number] = chunk
      bar.advance(len(plan.models(number)))
  return merge(plan, [done[number] for number in sorted(done)])


def merge(plan: Plan, chunks: Sequence[Chunk]) -> Estimate:
  """Adds the tallies of chunks, in the given order, into scores.

  An example that was never in a subset, or never out of one, gets NaN and is counted in a warning.
  """
  total = {
    name: np.sum([getattr(chunk, name) for chunk in chunks], axis=0)
    for name in (field.name for field in dataclasses.fields(Chunk))
    if name not in ("models", "diverged")
  }
  diverged = sum(len(chunk.diverged) for chunk in chunks)
  if diverged:
    warnings.warn(
      f"{diverged} of {plan.num_models} models diverged and do not count.", stacklevel=2
    )
  count_in, count_out = total["count_in"], total["count_out"]
  undefined = int(np.sum((count_in == 0) | (count_out == 0)))
  if undefined:
    warnings.warn(
      f"{undefined} of {len(count_in)} examples were never in or never out of a subset; "
      "their scores are NaN. Train more models.",
      stacklevel=2,
    )

  def difference(name: str) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
      return total[f"{name}_in"] / count_in - total[f"{name}_out"] / count_out

  tallies = (total["correct_in"], count_in, total["correct_out"], count_out)
  return Estimate(
    plan.dataset.ids,
    difference("correct"),
    *newcombe(*tallies),
    *tallies,
    soft=difference("p"),
    log_odds=difference("odds"),
  )


class _Progress:
  """A bar on stderr: models done, models per second, time left; silent where nobody looks."""

  def __init__(self, total: int, shown: bool):
    from rich import progress
    from rich.console import Console

    self._bar = progress.Progress(
      progress.TextColumn("ground truth"),
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TextColumn("models, {task.fields[rate]} /s, left"),
      progress.TimeRemainingColumn(),
      console=Console(file=sys.stderr),
      disable=not (shown and sys.stderr.isatty()),
    )
    self._task = self._bar.add_task("", total=total, rate="…")

  def __enter__(self):
    self._bar.start()
    return self

  def __exit__(self, *exception):
    self._bar.stop()

  def advance(self, models: int) -> None:
    self._bar.advance(self._task, models)
    speed = self._bar.tasks[0].finished_speed or self._bar.tasks[0].speed
    self._bar.update(self._task, rate=f"{speed:.1f}" if speed else "…")
