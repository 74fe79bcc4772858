"""How memorized examples are: by a cheap proxy, or in truth, by retraining."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from jaxmul import memorization, proxies, report, retraining
from jaxmul._command import inputs, tables
from jaxmul._command.flags import Flags, PathOrNone
from jaxmul.deletion.request import POINT_PROXIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score(Flags):
  """Scores how memorized every example seems to a network: scores.npz and scores.csv.

  Attributes:
    checkpoint: folder of `jaxmul.checkpoint.save`, the trained network.
    proxy: name of a point proxy.
  """

  checkpoint: Path
  proxy: str = "confidence"
  out: Path = Path("runs/scores")

  def run(self) -> None:
    """Scores all examples of the data."""
    if self.proxy not in POINT_PROXIES:
      raise ValueError(f"--proxy {self.proxy}: must be one of {', '.join(POINT_PROXIES)}.")
    recipe, dataset = self.given("scores.npz")
    network = inputs.network(recipe, dataset, self.checkpoint)
    self.save()
    scores = proxies.score(getattr(proxies, self.proxy), network, dataset)
    columns = {"ids": dataset.ids, "scores": scores}
    report.write_arrays(self.folder / "scores.npz", columns)
    tables.write_csv(self.folder / "scores.csv", columns)
    most = dataset.ids[np.argsort(-scores, kind="stable")[:5]]
    print(
      f"{len(scores)} scores of {self.proxy}; the highest are of ids {', '.join(map(str, most))}"
    )
    print(f"written: {self.out}/scores.npz, scores.csv, config.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memorize(Flags):
  """Measures how memorized every example is, by retraining: estimate.npz and estimate.csv.

  Attributes:
    heldout: file of ids that were never trained on, left out of the data.
    test: file of ids that were never trained on, left out of the data.
    num_models: networks that are retrained without a random part of the data.
    fraction: share of the data that each of them sees, in (0, 1).
    executor: who trains; auto is processes on CPU, devices elsewhere.
    key: number from which all randomness follows.
  """

  heldout: PathOrNone = None
  test: PathOrNone = None
  num_models: int = 400
  fraction: float = 0.7
  executor: Literal["auto", "serial", "processes", "devices", "ray"] = "auto"
  key: int = 0
  out: Path = Path("runs/memorization")

  def run(self) -> None:
    """Trains what is missing in the store, and writes scores with their intervals."""
    recipe, dataset = self.given("estimate.npz")
    left_out = [
      inputs.ids_in(path, dataset, flag)
      for flag, path in (("heldout", self.heldout), ("test", self.test))
      if path is not None
    ]
    training = dataset.take(
      np.setdiff1d(dataset.ids, np.concatenate([np.zeros(0, np.int64), *left_out]))
    )
    schedule = retraining.leave_out(
      recipe,
      training,
      jax.random.key(self.key),
      num_models=self.num_models,
      fraction=self.fraction,
    )
    store = self.folder / "chunks"
    retraining.Store(store, schedule)  # refuses another's before anything is written
    self.save()
    print(schedule.design, flush=True)
    estimate = memorization.estimate(schedule, store=store, executor=executor_of(self.executor))
    estimate.save(self.folder / "estimate.npz")
    names = ("ids", "memorization", "low", "high", "count_in", "count_out")
    tables.write_csv(
      self.folder / "estimate.csv", {name: getattr(estimate, name) for name in names}
    )
    summarize(estimate)
    print(f"written: {self.out}/estimate.npz, estimate.csv, config.json")


def executor_of(name: str) -> retraining.Executor:
  """Returns who trains, by the name of a flag: "auto", "serial", "processes", "devices", "ray"."""
  if name == "serial":
    return retraining.serial
  return getattr(retraining, "default" if name == "auto" else name)()


def summarize(estimate: memorization.Estimate) -> None:
  """Prints how many examples are surely memorized, and the five that are most surely."""
  known = np.isfinite(estimate.memorization)
  order = np.argsort(-estimate.low[known], kind="stable")[:5]
  print(
    f"{known.sum()} of {len(known)} examples scored, {np.sum(estimate.low[known] > 0)} surely "
    "memorized (their 95 % interval is above 0); most surely:"
  )
  for row in np.flatnonzero(known)[order]:
    mem, low, high = (getattr(estimate, name)[row] for name in ("memorization", "low", "high"))
    print(f"  id {estimate.ids[row]}: {mem:.2f}, {low:.2f} to {high:.2f}")
