"""Retraining without random subsets: computes what a plan lacks and turns it into scores."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul.data.dataset import Dataset
from jaxmul.memorization import executors
from jaxmul.memorization.chunk import Chunk, add
from jaxmul.memorization.plan import Learner, Plan, cross_fit_plan, plan
from jaxmul.memorization.progress import Progress
from jaxmul.memorization.scores import Estimate, from_tallies, merge
from jaxmul.memorization.store import Store
from jaxmul.train import Recipe

_POLL_SECONDS = 0.5


def estimate(
  recipe: Recipe | Learner,
  dataset: Dataset,
  key: jax.Array,
  *,
  num_models: int,
  fraction: float = 0.7,
  candidates: Any = None,
  test: Dataset | None = None,
  until_width: float | None = None,
  store: Path | str | None = None,
  executor: Any = None,
  progress: bool = True,
) -> Estimate:
  """Estimates the memorization of every example by retraining without random subsets.

  Args:
    recipe: the recipe of the model that will be unlearned, or a learner of your own; see `plan`.
    dataset: n training examples.
    key: of subsets and training runs; model i uses `fold_in(key, i)`.
    num_models: M; the interval is ±0.107 at worst for 400 models at fraction 0.7.
    fraction: share of the candidates in each model's subset.
    candidates: ids that may be left out, such as those a proxy finds memorized (pLOO-improved):
      the same precision on them from fewer models, best at fraction 0.5; the others get NaN. All by
      default.
    test: examples on which influence is estimated, or None.
    until_width: stop after the first chunk at which the median width of the interval, over the
      examples with |memorization| ≥ 0.1 (at least 50 of them), is at most this.
    store: folder for finished chunks, or None. A killed run goes on from there: chunks that are
      whole are not computed again, damaged ones are reported and are. It knows functions by their
      names: after a change inside one use another folder.
    executor: who computes, or any object with `submit`; by default one single-threaded process per
      core on CPU, all devices elsewhere.
    progress: show models done, models per second and time left on stderr: a bar on a terminal, with
      the median width, and a line a minute in a log.

  Returns:
    An `Estimate`.

  Raises:
    ValueError: a number is outside its range, or the store was made by another plan.
    OSError: the store cannot be written; what was finished stays.

  References:
    Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020;
    for candidates [pLOO-improved](https://openreview.net/forum?id=bCi3Jz0q02).

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
  if until_width is not None and not (0 < until_width <= 2 and jax.process_count() == 1):
    raise ValueError(
      f"estimate got until_width={until_width}, must be in (0, 2], and in one process: in a job of "
      "several nobody sees all intervals before the end."
    )
  options = {"num_models": num_models, "fraction": fraction, "candidates": candidates}
  work = plan(recipe, dataset, key, **options, test=test)
  with Progress(work.num_models, shown=progress) as bar:
    execute = bar.counting(executors.of(executor))

    def chunks() -> Iterator[Chunk]:
      total = None
      for chunk in stream(work, store=store, executor=execute):
        yield chunk
        total = chunk if total is None else add(total, chunk)
        width = np.nan
        if bar.terminal or until_width is not None:
          width = from_tallies(work, total).median_width
        bar.reached(len(total.models) + len(total.diverged), width)
        if until_width is not None and width <= until_width:
          return

    return merge(work, chunks())


def cross_fit(
  recipe: Recipe | Learner,
  dataset: Dataset,
  key: jax.Array,
  *,
  folds: int = 5,
  repeats: int = 1,
  store: Path | str | None = None,
  executor: Any = None,
  progress: bool = True,
) -> Estimate:
  """Asks, for every example, one network that never saw it: K trainings in all, each on n − n/K.

  Paid once for a trained network, it serves every later request for deletion: the mean over any
  group of `confidence_out`, or of `correct_out`, is what networks say of examples when each of them
  was left out, with a random K-th of the data. `rum.tune` and `rum.surrogate` take it as
  `estimate=`. A single score is coarse: of one model without the example, and K − 1 with it.

  An oracle is another network in two ways. It saw nearly all of the rest, and does slightly better.
  And it lacks all of the request: where that is most of a class or a cluster, it does far worse,
  and nothing here says so. Use a key of its own: what selects a forget set must not also say how
  hard it is, or the winners look harder than they are.

  Args:
    recipe: that of the network which will be unlearned, or a learner of your own; see `plan`.
    dataset: n training examples.
    key: of the folds and the training runs.
    folds: K.
    repeats: how often all of it is done, with folds of its own: `repeats` networks an example.
    store, executor, progress: as `estimate`.

  Returns:
    An `Estimate`.

  Raises:
    ValueError: a number is outside its range, or the store was made by another plan.
    OSError: the store cannot be written; what was finished stays.

  References:
    Cross-fitting: Chernozhukov et al., [Double Machine Learning](https://arxiv.org/abs/1608.00060).

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import memorization, models, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=10, batch_size=4)
    >>> result = memorization.cross_fit(
    ...   recipe, toy, jax.random.key(0), folds=3, executor=memorization.serial)
    >>> result.count_out.tolist(), result.count_in.tolist()
    ([1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2])
  """
  work = cross_fit_plan(recipe, dataset, key, folds=folds, repeats=repeats)
  with Progress(work.num_models, shown=progress, label="cross-fit") as bar:
    execute = bar.counting(executors.of(executor))
    return merge(work, stream(work, store=store, executor=execute))


def stream(work: Plan, *, store: Path | str | None = None, executor: Any = None) -> Iterator[Chunk]:
  """Yields every chunk of a plan in the order of their numbers, computing what is missing.

  Chunks that were finished before, or out of turn, are read from the store when their turn comes.
  Without a store, those that workers finished out of turn are held.

  Args:
    work: what to compute.
    store: folder for finished chunks, or None.
    executor: as `estimate`.

  Raises:
    ValueError: the store was made by another plan, or a job of several processes has no store.
    OSError: the store cannot be written; what was finished stays.
  """
  kept = None if store is None else Store(store, work)
  missing = list(range(work.num_chunks)) if kept is None else kept.missing()
  if kept is not None:
    kept.describe()
  execute = executors.of(executor)
  computed = iter(execute(work, missing) if missing else ())
  if jax.process_count() > 1:
    if kept is None:
      raise ValueError("a job of several processes needs a store= that all of them see.")
    for number, chunk in computed:  # its own share first: nobody waits for anybody before the end
      kept.commit(number, chunk)
    for number in range(work.num_chunks):
      yield _awaited(kept, number)
    return
  ahead, waiting = set(missing), {}
  for number in range(work.num_chunks):
    while number in ahead:
      done, chunk = next(computed)
      ahead.remove(done)
      if kept is not None:
        kept.commit(done, chunk)
      if kept is None or done == number:
        waiting[done] = chunk
    # With a store, what came before its turn was not held: it is read back.
    yield waiting.pop(number) if number in waiting else _awaited(kept, number)


def _awaited(kept: Store | None, number: int) -> Chunk:
  """Returns a chunk from the store, waiting until another process has put it there."""
  assert kept is not None
  while True:
    found = kept.load([number])
    if number in found:
      return found[number]
    if jax.process_count() == 1:
      raise OSError(f"chunk {number} has vanished from {kept.path}. Run the same again.")
    time.sleep(_POLL_SECONDS)
