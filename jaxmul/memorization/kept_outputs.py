"""Each leave-subset-out model by itself: what it was trained on, and its output on test examples.

The influence of an example is what they say on average with it and without it. Others of the same
models judge it, or any other estimate, by `metrics.lds`: those that made it may not.
"""

import dataclasses
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import losses
from jaxmul.memorization.attribution import Attribution
from jaxmul.retraining.executors import Executor, Submitter
from jaxmul.retraining.leave_out_schedule import Schedule
from jaxmul.retraining.progress import Progress
from jaxmul.retraining.streaming import stream


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SubsetModels:
  """M models of a schedule, one by one.

  Attributes:
    ids: int64 [n], training examples, sorted.
    test_ids: int64 [t].
    numbers: int64 [M], which models of the schedule.
    member: bool [M, n], whether an example was in the model's subset.
    outputs: float32 [M, t], one number of each test example; see `subset_models`.
  """

  ids: np.ndarray
  test_ids: np.ndarray
  numbers: np.ndarray
  member: np.ndarray
  outputs: np.ndarray

  def __len__(self) -> int:
    return len(self.numbers)

  def take(self, rows: ArrayLike | slice) -> "SubsetModels":
    """Returns some of the models, by their rows, such as `slice(0, 100)`."""
    rows = rows if isinstance(rows, slice) else np.asarray(rows)
    parts = {name: getattr(self, name)[rows] for name in ("numbers", "member", "outputs")}
    return dataclasses.replace(self, **parts)

  def influence(self) -> Attribution:
    """Returns the mean output with each training example less that without it.

    It is `memorization.influence` of all examples, by models that it names.

    Returns:
      An `Attribution` in the unit of the outputs; NaN, with a warning, where an example was never
      in or never out.

    References:
      Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.

    Example:
      >>> two = SubsetModels(
      ...   ids=np.array([5, 6]), test_ids=np.array([8]), numbers=np.arange(2),
      ...   member=np.eye(2, dtype=bool), outputs=np.array([[3.0], [1.0]], np.float32))
      >>> two.influence().value.tolist()
      [[2.0, -2.0]]
    """
    inside, outputs = self.member.astype(float), self.outputs.astype(float)
    count_in = inside.sum(0)
    count_out = len(self) - count_in
    undefined = int(np.sum((count_in == 0) | (count_out == 0)))
    if undefined:
      warnings.warn(
        f"{undefined} of {len(self.ids)} examples were never in or never out of {len(self)} "
        "subsets; their influence is NaN. Train more models.",
        stacklevel=2,
      )
    sums = outputs.T @ inside
    with np.errstate(invalid="ignore", divide="ignore"):
      value = sums / count_in - (outputs.sum(0)[:, None] - sums) / count_out
    return Attribution(ids=self.ids, test_ids=self.test_ids, value=value, member=self.member)


def subset_models(
  schedule: Schedule,
  *,
  store: Path | str | None = None,
  executor: Executor | Submitter | None = None,
  progress: bool = True,
) -> SubsetModels:
  """Reads each model of a schedule off its store, or trains those that are missing.

  Args:
    schedule: of `retraining.leave_out` with `test=`. The one number of a test example is φ, the
      log-odds of its label, with target "log_odds" or "logits"; p with "confidence"; 1 or 0 with
      "correct". φ tells models apart where all are right and p is nearly 1.
    store, executor, progress: as `memorization.estimate`.

  Returns:
    `SubsetModels` of all models that did not diverge.

  Raises:
    ValueError: the schedule leaves nothing out or keeps no outputs, its logits are of no classes,
      or the store was made by another schedule.
    OSError: the store cannot be written.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, memorization, models, retraining, train
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=1, batch_size=4)
    >>> schedule = retraining.leave_out(
    ...   recipe, toy, jax.random.key(0), num_models=8, test=toy, target="log_odds")
    >>> kept = memorization.subset_models(schedule, executor=retraining.serial)
    >>> kept.member.sum(1).tolist(), kept.outputs.shape
    ([4, 4, 4, 4, 4, 4, 4, 4], (8, 6))
  """
  test = schedule.test
  if not len(schedule.candidates) or not test:
    raise ValueError(
      f"subset_models got a schedule that leaves nothing out or keeps no outputs: "
      f"{schedule.design}. Make it with retraining.leave_out(..., test=, target='log_odds')."
    )
  if schedule.target == "logits" and not test.classes:
    raise ValueError(
      "subset_models needs one number of each test example, and these outputs are of no classes. "
      "Keep retraining.leave_out(..., target='confidence')."
    )
  numbers, member, outputs = [], [], []
  with Progress(schedule.num_models, progress, "ground truth") as bar:
    for chunk in stream(schedule, store=store, executor=bar.counting(executor)):
      numbers.append(chunk.models)
      member.append(np.unpackbits(chunk.member, axis=1, count=len(schedule.dataset)).astype(bool))
      kept = chunk.test
      if schedule.target == "correct":
        kept = np.unpackbits(kept, axis=1, count=len(test))
      elif schedule.target == "log_odds":
        kept = kept[..., 0]
      elif schedule.target == "logits":
        labels = jnp.asarray(test.labels)
        kept = np.stack([np.asarray(losses.log_odds(jnp.asarray(one), labels)) for one in kept])
      outputs.append(np.asarray(kept, np.float32))
  return SubsetModels(
    ids=schedule.dataset.ids,
    test_ids=test.ids,
    numbers=np.concatenate(numbers),
    member=np.concatenate(member),
    outputs=np.concatenate(outputs),
  )
