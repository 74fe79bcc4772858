"""Estimates that a job needs of its training set: computed once, or read back from its cache.

Or in parts, by several machines that share a folder.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import setting
from jaxmul import data, memorization, report, retraining, train
from jaxmul.retraining.executors import name_of_default

_LONG = 60.0  # seconds from which a job is told what it costs
_SHORT = 3e11  # operations that every machine makes in a minute: fewer are not even timed


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruthFlags(setting.Flags):
  """Flags of scripts that compare, over training seeds, with a ground truth.

  Attributes:
    seeds: training seeds; one gives no intervals.
    num_models: models retrained without a random part of the data, for the ground truth.
    fraction: share of the training set that each of them sees, in (0, 1).
    truth: .npz of an Estimate of this data and recipe, which takes their place.
  """

  seeds: int = 3
  num_models: int = 200
  fraction: float = 0.7
  truth: Path | None = None

  def __post_init__(self):
    if self.seeds < 1:
      raise ValueError(f"--seeds {self.seeds}: must be at least 1.")


def truth_key(config: setting.Flags) -> jax.Array:
  """Returns the key of the ground truth, in every script the same: one can read another's."""
  return jax.random.fold_in(jax.random.key(config.key), 1)


def scheduled_truth(
  config: TruthFlags, recipe: train.Recipe, training: data.Dataset
) -> tuple[retraining.Schedule, Path]:
  """Returns what the ground truth of a config trains, and the folder for its chunks."""
  schedule = retraining.leave_out(
    recipe, training, truth_key(config), num_models=config.num_models, fraction=config.fraction
  )
  return schedule, chunks_of(config.out, schedule)


def chunks_of(out: Path, schedule: retraining.Schedule) -> Path:
  """Returns the folder, in a run directory, for the chunks of a schedule."""
  return out / "cache" / f"chunks-{schedule.hash[:12]}"


def ground_truth(
  config: TruthFlags, recipe: train.Recipe, training: data.Dataset
) -> tuple[memorization.Estimate, float, str]:
  """Estimates the ground truth of a config, or reads it back, or from the file of its `truth`.

  Returns:
    The estimate of all training examples; the seconds that all of it took, NaN where they are not
    known; and the hash of its schedule, or the digest of the file.
  """
  if config.truth is not None:
    estimate = read_estimate(config.truth, training, "ground truth")
    return estimate, float("nan"), estimate.digest
  schedule, chunks = scheduled_truth(config, recipe, training)
  return *kept_estimate(config.out, "ground truth", schedule, chunks), schedule.hash


def cross_fitted(
  config: TruthFlags, recipe: train.Recipe, training: data.Dataset, folds: int
) -> tuple[memorization.Estimate, float]:
  """Asks networks without it of each example, or reads it back; also the seconds that it took.

  The key is not that of the ground truth: what models select for being hard is less so to others.
  """
  key = jax.random.fold_in(jax.random.key(config.key), 5)
  schedule = retraining.cross_fit(recipe, training, key, folds=folds)
  return kept_estimate(config.out, "cross-fit", schedule, chunks_of(config.out, schedule))


def kept_estimate(
  out: Path, label: str, schedule: retraining.Schedule, chunks: Path
) -> tuple[memorization.Estimate, float]:
  """Returns an estimate and the seconds that all of it took, read back where it is there."""
  count = schedule.num_models
  path = out / "cache" / f"{label.replace(' ', '_')}-{schedule.hash[:12]}-{count}.npz"
  clock = path.with_suffix(".json")
  if path.exists() and clock.exists():
    print(f"{label}: read back from {path}")
    return memorization.Estimate.load(path), json.loads(clock.read_text())["seconds"] or np.nan
  print(f"{label}: {count} models of {schedule.subset_size} examples each")
  missing = retraining.Store(chunks, schedule).missing()
  say_cost(label, schedule, missing)
  start = time.perf_counter()
  estimate = memorization.estimate(schedule, store=chunks)
  # After a kill only a part was computed now: the time of all is the time of that part, scaled.
  new = sum(len(schedule.models(number)) for number in missing)
  seconds = (time.perf_counter() - start) * count / new if new else float("nan")
  estimate.save(path)
  report.write_json(clock, {"seconds": seconds})
  rate = f"{seconds:.0f} s, {count / seconds:.3g} models/s"
  print(f"{label}: {rate if new else f'all models were in {chunks}'}")
  return estimate, seconds


def say_cost(
  label: str, schedule: retraining.Schedule, chunks: Sequence[int], executor: str = "auto"
) -> None:
  """Prints in one line what these chunks cost on this machine, where it is more than a minute.

  The time is measured on some steps of training, only where there is much to compute. It is that of
  the default executor: of another, by the name of its flag, nothing is said.
  """
  if executor not in ("auto", name_of_default()):
    return
  count = sum(len(schedule.models(number)) for number in chunks)
  job = dataclasses.replace(schedule, num_models=count)
  if not count or retraining.cost(job).flops < _SHORT:
    return
  cost = retraining.cost(job, measure=True)
  if cost.hours is not None and 3600 * cost.hours[1] > _LONG:
    print(f"{label}: {cost.line}", flush=True)


def read_estimate(path: Path, training: data.Dataset, label: str) -> memorization.Estimate:
  """Reads a saved estimate, such as a "ground truth", which must cover the training set."""
  estimate = memorization.Estimate.load(path)
  missing = np.setdiff1d(training.ids, estimate.ids)
  if len(missing):
    raise ValueError(
      f"the {label} lacks {len(missing)} of {len(training)} training examples, such as id "
      f"{missing[0]}. Pass that of this --dataset and --key."
    )
  print(f"{label}: read from {path}")
  return estimate.take(training.ids)


def check_part(part: str | None, distributed: bool) -> None:
  """Refuses flags that do not say in one way which chunks a machine computes."""
  if part and distributed:
    raise ValueError("--part and --distributed both share out the chunks: use one of them.")
  if part:
    _part_of(part)


def _part_of(part: str) -> tuple[int, int]:
  """Returns (index from 0, count) of a part such as 3/16."""
  index, _, count = part.partition("/")
  if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
    raise ValueError(f"--part {part}: write the part and their number, such as 3/16.")
  return int(index) - 1, int(count)


def compute_part(
  schedule: retraining.Schedule,
  store: Path,
  executor: retraining.Executor,
  part: str,
  executor_name: str = "auto",
) -> None:
  """Computes a part, such as 3/16, of the missing chunks into a store that machines share.

  What it costs is said before where `say_cost` knows it of an executor of this name.
  """
  index, count = _part_of(part)
  kept = retraining.Store(store, schedule)
  kept.describe()
  mine = [number for number in kept.missing() if number % count == index]
  print(f"part {index + 1} of {count}: {len(mine)} chunks to compute")
  say_cost(f"part {index + 1}", schedule, mine, executor_name)
  computed = executor(schedule, mine) if mine else iter(())
  for done, (number, chunk) in enumerate(computed, 1):
    kept.commit(number, chunk)
    print(f"{done} of {len(mine)} chunks", flush=True)
