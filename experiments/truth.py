"""Estimates that a job needs of its training set: computed once, or read back from its cache.

Or in parts, by several machines that share a folder.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import data, memorization, report, train


def truth_settings(config: Any) -> dict[str, Any]:
  """Returns the key, the models and the share of the data of the ground truth of a config."""
  key = jax.random.fold_in(jax.random.key(config.key), 1)
  return {"key": key, "num_models": config.num_models, "fraction": config.fraction}


def planned_truth(
  config: Any, recipe: train.Recipe, training: data.Dataset
) -> tuple[memorization.Plan, Path]:
  """Returns what the ground truth of a config trains, and the folder for its chunks."""
  plan = memorization.plan(recipe, training, **truth_settings(config))
  return plan, config.out / "cache" / f"chunks-{plan.hash[:12]}"


def ground_truth(
  config: Any, recipe: train.Recipe, training: data.Dataset
) -> tuple[memorization.Estimate, float, str]:
  """Estimates the ground truth of a config, or reads it back.

  Returns:
    The estimate, the seconds that all of it took, and the hash of its plan.
  """
  plan, chunks = planned_truth(config, recipe, training)

  def estimate() -> memorization.Estimate:
    return memorization.estimate(recipe, training, **truth_settings(config), store=chunks)

  return *kept_estimate(config.out, "ground truth", plan, chunks, estimate), plan.hash


def cross_fitted(
  config: Any, recipe: train.Recipe, training: data.Dataset
) -> tuple[memorization.Estimate, float]:
  """Asks networks without it of each example, or reads it back; also the seconds that it took.

  The key is not that of the ground truth: what models select for being hard is less so to others.
  """
  settings = {"key": jax.random.fold_in(jax.random.key(config.key), 5), "folds": config.folds}
  plan = memorization.cross_fit_plan(recipe, training, **settings)
  chunks = config.out / "cache" / f"chunks-{plan.hash[:12]}"

  def estimate() -> memorization.Estimate:
    return memorization.cross_fit(recipe, training, **settings, store=chunks)

  return kept_estimate(config.out, "cross-fit", plan, chunks, estimate)


def kept_estimate(
  out: Path,
  label: str,
  plan: memorization.Plan,
  chunks: Path,
  estimate: Callable[[], memorization.Estimate],
) -> tuple[memorization.Estimate, float]:
  """Returns an estimate and the seconds that all of it took, read back where it is there."""
  count = plan.num_models
  path = out / "cache" / f"{label.replace(' ', '_')}-{plan.hash[:12]}-{count}.npz"
  clock = path.with_suffix(".json")
  if path.exists() and clock.exists():
    print(f"{label}: read back from {path}")
    return memorization.Estimate.load(path), json.loads(clock.read_text())["seconds"] or np.nan
  print(f"{label}: {count} models of {plan.subset_size} examples each")
  missing = memorization.Store(chunks, plan).missing()
  start = time.perf_counter()
  found = estimate()
  # After a kill only a part was computed now: the time of all is the time of that part, scaled.
  new = sum(len(plan.models(number)) for number in missing)
  seconds = (time.perf_counter() - start) * count / new if new else float("nan")
  found.save(path)
  report.write_json(clock, {"seconds": seconds})
  rate = f"{seconds:.0f} s, {count / seconds:.3g} models/s"
  print(f"{label}: {rate if new else f'all models were in {chunks}'}")
  return found, seconds


def read_truth(path: Path, training: data.Dataset) -> memorization.Estimate:
  """Reads a saved ground truth, which must cover the training set."""
  estimate = memorization.Estimate.load(path)
  missing = np.setdiff1d(training.ids, estimate.ids)
  if len(missing):
    raise ValueError(
      f"the ground truth lacks {len(missing)} of {len(training)} training examples, such as id "
      f"{missing[0]}. Pass the --truth of this --dataset and --key."
    )
  print(f"ground truth: read from {path}")
  return estimate.take(training.ids)


def part_of(text: str) -> tuple[int, int]:
  """Returns (index from 0, count) of a part such as 3/16."""
  index, _, count = text.partition("/")
  if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
    raise ValueError(f"--part {text}: write the part and their number, such as 3/16.")
  return int(index) - 1, int(count)


def compute_part(
  work: memorization.Plan, store: Path, executor: memorization.Executor, index: int, count: int
) -> None:
  """Computes every `count`-th missing chunk into a store that other machines share."""
  kept = memorization.Store(store, work)
  kept.describe()
  mine = [number for number in kept.missing() if number % count == index]
  print(f"part {index + 1} of {count}: {len(mine)} chunks to compute")
  computed = executor(work, mine) if mine else iter(())
  for done, (number, chunk) in enumerate(computed, 1):
    kept.commit(number, chunk)
    print(f"{done} of {len(mine)} chunks", flush=True)
