"""Each leave-subset-out model by itself: its subset, and its output on each test example."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxmul import losses
from jaxmul._attribution import SubsetModels
from jaxmul.retraining.chunk import kept_of, members_of
from jaxmul.retraining.executors import Executor, Submitter
from jaxmul.retraining.leave_out_schedule import Schedule
from jaxmul.retraining.progress import Progress
from jaxmul.retraining.streaming import stream


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
      member.append(members_of(schedule, chunk))
      kept = kept_of(schedule, chunk)
      if schedule.target == "logits":
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
