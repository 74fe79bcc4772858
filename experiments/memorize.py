"""Ground truth on its own: memorization of every training example, by leave-subset-out retraining.

    python -m experiments.memorize run --out runs/truth --num-models 400
    python -m experiments.memorize status runs/truth
    python -m experiments.memorize verify runs/truth

`run` writes `estimate.npz` and keeps finished chunks of 8 models under `chunks/`. Stopped at any
time (Ctrl-C, SIGTERM, kill -9, power) the same command goes on from there, with the same result.
Several machines share one folder: each runs `--part 1/16`, `--part 2/16` …; then the command
without `--part` reads all parts and writes the estimate. `experiments/launch/` has ready files.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro

from experiments import cli, logs, setting
from experiments.setting import cut, recipe_of
from experiments.truth import check_part, compute_part, say_cost, truth_key
from jaxmul import memorization, report, retraining
from jaxmul._command.scoring import executor_of, summarize
from jaxmul._paths import local


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(setting.Flags):
  """Estimates the memorization of every training example.

  Attributes:
    num_models: models retrained without a random part of the data.
    fraction: share of the training set that each of them sees, in (0, 1).
    until_width: stop when the median width of the interval, over the examples with |memorization|
      of at least 0.1 (at least 50 of them), is at most this.
    influence: keep what each model says of the held-out and test examples, for influence.
    active: spend the second half of the models on the uncertain examples.
    strategy: which those are, with --active: of the widest intervals, or drawn by weights that are
      learned (sleeping_experts).
    executor: who trains; auto is processes on CPU, devices elsewhere.
    part: compute only this part of the chunks, such as 3/16, into the shared folder.
    distributed: one JAX job of several processes; on Slurm, MPI and TPU pods it finds the others.
  """

  model: Literal["mlp", "cnn", "resnet8", "resnet18"] = "mlp"
  num_models: int = 400
  fraction: float = 0.7
  until_width: float | None = None
  influence: bool = False
  active: bool = False
  strategy: Literal["widest", "sleeping_experts"] = "widest"
  executor: Literal["auto", "serial", "processes", "devices", "ray"] = "auto"
  part: str | None = None
  distributed: bool = False
  out: Path = Path("runs/truth")

  def __post_init__(self):
    if self.active and (self.influence or self.part or self.until_width is not None):
      raise ValueError(
        "--active chooses its own models: leave out --influence, --part and --until-width."
      )
    if self.strategy != "widest" and not self.active:
      raise ValueError(f"--strategy {self.strategy} chooses for --active: say both.")
    if self.until_width is not None and (self.part or self.distributed):
      raise ValueError("--until-width needs all chunks: leave out --part and --distributed.")
    check_part(self.part, self.distributed)


def run(config: Annotated[Config, tyro.conf.arg(name="")]) -> None:
  """Trains what is missing and writes the estimate."""
  config = cli.at_home(config)
  if config.distributed:
    jax.distributed.initialize()
  dataset, parts = cut(config)
  training = dataset.take(parts.train)
  test = dataset.take(np.concatenate([parts.heldout, parts.test])) if config.influence else None
  recipe = recipe_of(config, dataset.num_classes)
  first = jax.process_index() == 0
  log = logs.start(config.out, config.log, vars(config)) if first else lambda step, metrics: None
  executor = _logged(executor_of(config.executor), log)
  store = config.out / "chunks"
  schedule = retraining.leave_out(
    recipe,
    training,
    truth_key(config),
    num_models=config.num_models,
    fraction=config.fraction,
    test=test,
  )
  # A store refuses another's chunks before anything is written.
  kept = None if config.active else retraining.Store(store, schedule)
  if first and not config.part:
    record = {"config": config, "versions": report.versions()}
    report.write_json(config.out / "config.json", record)
    label = "ground truth" if config.until_width is None else "ground truth, at most"
    missing = kept.missing() if kept else range(schedule.num_chunks)
    say_cost(label, schedule, missing, config.executor)
  start = time.perf_counter()
  if config.part:
    compute_part(schedule, store, executor, config.part, config.executor)
    return
  if config.active:
    estimate = memorization.active(
      schedule, strategy=config.strategy, store=store, executor=executor
    )
  else:
    estimate = memorization.estimate(
      schedule, until_width=config.until_width, store=store, executor=executor
    )
  if first:
    estimate.save(config.out / "estimate.npz")
    print(f"{estimate.design}; {time.perf_counter() - start:.0f} s now")
    summarize(estimate)
    print(f"median width of the interval (memorization 0.1 or more): {estimate.median_width:.2f}")
    print(f"SHA-256 {estimate.digest[:16]}")
    print(f"written: {config.out}/estimate.npz")


def _logged(execute: retraining.Executor, log: logs.Log) -> retraining.Executor:
  """Returns an executor that does the same, and logs the models done and their rate."""

  def logged(
    schedule: retraining.Schedule, chunks: Sequence[int]
  ) -> Iterator[tuple[int, retraining.Chunk]]:
    left = sum(len(schedule.models(number)) for number in chunks)
    done, start = 0, time.perf_counter()
    for number, chunk in execute(schedule, chunks):
      done += len(schedule.models(number))
      rate = done / (time.perf_counter() - start)
      log(schedule.num_models - left + done, {"models_per_second": rate})
      yield number, chunk

  return logged


def status(out: tyro.conf.Positional[Path]) -> None:
  """Says how far a run is, also one of the main job."""
  for folder in _stores(local(out)):
    store = retraining.status(folder)
    of = f" of {store.num_models}" if store.num_models else ""
    print(
      f"{folder}: {store.done}{of} models done; {store.design or 'schedule.jaxmul is not whole'}"
    )
    for name in store.damaged:
      print(f"  damaged: {name}")


def verify(out: tyro.conf.Positional[Path]) -> None:
  """Reads and checks every store of a run; exit code 1 where one is damaged or models are missing.

  After --until-width models are missing for good: the run did not need them.
  """
  out = local(out)
  stores = [(folder, retraining.status(folder)) for folder in _stores(out)]
  damaged = [folder / name for folder, store in stores for name in store.damaged]
  kinds = ("estimate.npz", "cache/ground_truth-*.npz", "cache/cross-fit-*.npz")
  for estimate in (path for kind in kinds for path in sorted(out.glob(kind))):
    try:
      memorization.Estimate.load(estimate)
    except ValueError:
      damaged.append(estimate)
  for path in damaged:
    print(f"damaged: {path}")
  for folder, store in stores:
    if store.design is None and "schedule.jaxmul" not in store.damaged:
      damaged.append(folder / "schedule.jaxmul")
      print(f"missing: {folder / 'schedule.jaxmul'}")
    elif store.num_models and store.done < store.num_models:
      print(f"missing: {store.num_models - store.done} of {store.num_models} models of {folder}")
      damaged.append(folder)
  if damaged:
    sys.exit("error: damaged or missing files. Run the same command to compute them again.")
  models = sum(store.done for _, store in stores)
  print(f"every file is whole and there: {models} models in {len(stores)} store(s)")


def _stores(out: Path) -> list[Path]:
  """Returns all stores of a run directory: rounds, and those of the main job and of its oracles."""
  files = ("schedule.jaxmul", "chunk-*.jaxmul")
  folders = sorted({path.parent for file in files for path in out.rglob(file)})
  if not folders:
    raise FileNotFoundError(f"there are no stored models in {out}. Name the --out of a run.")
  return folders


if __name__ == "__main__":
  commands = {"run": run, "status": status, "verify": verify}
  cli.run(
    lambda: tyro.extras.subcommand_cli_from_dict(commands, prog=cli.program(), description=__doc__)
  )
