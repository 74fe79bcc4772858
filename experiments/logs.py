"""Logs of a run: `log(step, metrics)`, as JSON lines in the run directory and wherever else asked.

A log is a plain function of a number and `{name: float}`. Training runs are logged when they are
done, from the history that they return: nothing leaves the device while they run.
"""

import importlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxmul.metrics import Figure

Metrics = Mapping[str, float | None]
Log = Callable[[int, Metrics], None]
Write = Callable[[int, Mapping[str, float]], None]
Service = Literal["tensorboard", "wandb", "trackio"]


def start(
  out: Path, services: tuple[Service, ...] = (), settings: Mapping[str, object] | None = None
) -> Log:
  """Returns the log of a run: `log.jsonl` in its directory, and each of the services.

  Args:
    out: the run directory; TensorBoard's files go to its folder `tensorboard`.
    services: what else gets everything. wandb and trackio get a run in their project "jaxmul",
      named like the run directory; how they are told who you are is up to them.
    settings: of the script by name, kept with the run where a service can.

  Raises:
    ImportError: the package of a service is not installed.
  """
  openers = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
  told = json.loads(json.dumps(settings, default=str))
  others = [openers[name](out, told) for name in services]
  logs = [_jsonl(out / "log.jsonl"), *others]

  def log(step: int, metrics: Metrics) -> None:
    numbers = {k: math.nan if value is None else float(value) for k, value in metrics.items()}
    for write in logs:
      write(step, numbers)

  return log


def history(log: Log, name: str, loss: ArrayLike, accuracy: ArrayLike) -> None:
  """Logs a finished training run, its mean loss [E] and accuracy [E], from epoch 1."""
  for epoch, values in enumerate(zip(np.asarray(loss), np.asarray(accuracy), strict=True), 1):
    log(epoch, {f"{name}/loss": values[0], f"{name}/accuracy": values[1]})


def named(figures: Iterable[Figure], *before: str) -> dict[str, float]:
  """Returns {name: value} of figures for a log: what is before, name, part unless all, kind."""
  values = {}
  for figure in figures:
    part = "" if figure.part == "all" else figure.part
    values["/".join(filter(None, (*before, figure.title, part, figure.kind)))] = figure.value
  return values


def _jsonl(path: Path) -> Write:
  path.parent.mkdir(parents=True, exist_ok=True)

  def log(step: int, metrics: Mapping[str, float]) -> None:
    # JSON has no NaN.
    values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    line = json.dumps({"time": round(time.time(), 3), "step": step, **values}, allow_nan=False)
    with path.open("a") as file:
      file.write(line + "\n")

  return log


def _imported(module: str) -> Any:
  service = module.split(".")[0]
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise ImportError(f"--log {service} needs it: pip install {service}.") from error


def _tensorboard(out: Path, settings: dict[str, object] | None) -> Write:
  del settings
  writer = _imported("tensorboard.summary").Writer(str(out / "tensorboard"))

  def log(step: int, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
      if math.isfinite(value):
        writer.add_scalar(name, value, step)
    writer.flush()

  return log


def _wandb(out: Path, settings: dict[str, object] | None) -> Write:
  wandb = _imported("wandb")
  run = wandb.init(project="jaxmul", name=out.name, dir=str(out), config=settings)
  # wandb's own steps must not fall; ours begin again with each training run.
  run.define_metric("*", step_metric="step")
  return lambda step, metrics: run.log({"step": step, **metrics})


def _trackio(out: Path, settings: dict[str, object] | None) -> Write:
  trackio = _imported("trackio")
  trackio.init(project="jaxmul", name=out.name, config=settings)
  return lambda step, metrics: trackio.log(dict(metrics), step=step)
