"""Ground truth: what the models of a schedule say of the examples that each of them did not see."""

from pathlib import Path

import jax
import numpy as np

from jaxmul.memorization.scores import Estimate, from_tallies, merged, refuse_without_intervals
from jaxmul.retraining.chunk import Chunk
from jaxmul.retraining.executors import Executor, Submitter
from jaxmul.retraining.leave_out_schedule import Schedule
from jaxmul.retraining.progress import Progress
from jaxmul.retraining.streaming import stream


def estimate(
  schedule: Schedule,
  *,
  until_width: float | None = None,
  store: Path | str | None = None,
  executor: Executor | Submitter | None = None,
  progress: bool = True,
) -> Estimate:
  """Estimates the memorization of every example from models that were trained without it.

  Networks with a loss ℓ of their own have no hard score: of theirs `soft` is the estimate, the
  difference of mean e^−ℓ; see `Estimate`.

  Args:
    schedule: of `retraining.leave_out`, or of `retraining.cross_fit`. With 400 random subsets of
      0.7 the interval is ±0.107 at worst. Chosen candidates, such as those that a proxy finds
      memorized (pLOO-improved), get the same precision from fewer models, best at fraction 0.5; the
      others get NaN. Test examples, of which it is kept whether each is predicted right, give
      influence too. Cross-fitting asks one network without it of every example and K − 1 with it: a
      single score is coarse, and `rum.tune` and `rum.surrogate` take means of `confidence_out`.
    until_width: stop after the first chunk at which the median width of the interval, over the
      examples with |memorization| ≥ 0.1 (at least 50 of them), is at most this.
    store, executor: as `retraining.stream`. A killed run goes on from the store.
    progress: show models done, models per second and time left on stderr: a bar on a terminal, with
      the median width, and a line a minute in a log.

  Returns:
    An `Estimate`.

  Raises:
    ValueError: the schedule leaves nothing out, `until_width` is outside its range or the networks
      have a loss of their own and so no intervals, or the store was made by another schedule.
    OSError: the store cannot be written; what was finished stays.

  References:
    Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020;
    for candidates [pLOO-improved](https://openreview.net/forum?id=bCi3Jz0q02).

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, memorization, models, retraining, train
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=10, batch_size=4)
    >>> schedule = retraining.leave_out(recipe, toy, jax.random.key(0), num_models=8)
    >>> result = memorization.estimate(schedule, executor=retraining.serial)
    >>> (result.count_in + result.count_out).tolist()
    [8, 8, 8, 8, 8, 8]
    >>> schedule = retraining.cross_fit(recipe, toy, jax.random.key(0), folds=3)
    >>> result = memorization.estimate(schedule, executor=retraining.serial)
    >>> result.count_out.tolist(), result.count_in.tolist()
    ([1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2])
  """
  if not len(schedule.candidates):
    raise ValueError(
      f"estimate got a schedule that leaves nothing out: {schedule.design}. "
      "Make it with retraining.leave_out or retraining.cross_fit."
    )
  if until_width is not None:
    if not (0 < until_width <= 2 and jax.process_count() == 1):
      raise ValueError(
        f"estimate got until_width={until_width}, must be in (0, 2], and in one process: in a job "
        "of several nobody sees all intervals before the end."
      )
    if schedule.folds:
      raise ValueError(
        f"estimate got until_width={until_width} and a schedule of {schedule.folds} folds: stopped "
        "early, some examples would be in every subset. Leave out until_width."
      )
    refuse_without_intervals(schedule, f"estimate with until_width={until_width}")
  label = "cross-fit" if schedule.folds else "ground truth"
  with Progress(schedule.num_models, progress, label) as bar:

    def is_enough(total: Chunk) -> bool:
      width = np.nan
      if not schedule.folds and (bar.terminal or until_width is not None):
        width = from_tallies(schedule, total).median_width
      said = "" if np.isnan(width) else f"interval {width:.2f}"
      bar.reached(len(total.models) + len(total.diverged), said)
      return until_width is not None and bool(width <= until_width)

    chunks = stream(schedule, store=store, executor=bar.counting(executor))
    return merged(schedule, chunks, is_enough)
