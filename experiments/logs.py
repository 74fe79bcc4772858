"""Logs of a run: `log(step, metrics)`, as JSON lines in the run directory and wherever else asked.

A log is a plain function of a number and `{name: float}`. Training runs are logged when they are
done, from the history that they return: nothing leaves the device while they run.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxmul import train

Log = Callable[[int, Mapping[str, Any]], None]
Service = Literal["tensorboard", "wandb", "trackio"]


def start(out: Path, services: tuple[Service, ...] = (), config: Any = None) -> Log:
  """Returns the log of a run: `log.jsonl` in its directory, and each of the services.

  Args:
    out: the run directory; TensorBoard's files go to its folder `tensorboard`.
    services: what else gets everything. wandb and trackio get a run in their project "jaxmul",
      named like the run directory; how they are told who you are is up to them.
    config: kept with the run where a service can.

  Raises:
    ImportError: the package of a service is not installed.

  Example:
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> log = start(folder)
    >>> log(3, {"loss": 0.5})
    >>> json.loads((folder / "log.jsonl").read_text())["loss"]
    0.5
  """
  openers = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
  others = [openers[name](out, config) for name in services]
  logs = [_jsonl(out / "log.jsonl"), *others]

  def log(step: int, metrics: Mapping[str, Any]) -> None:
    for each in logs:
      each(step, metrics)

  return log


def history(log: Log, name: str, history: train.History) -> None:
  """Logs the mean loss and accuracy of each epoch of a finished training run, from epoch 1."""
  for epoch, (loss, accuracy) in enumerate(zip(*map(np.asarray, history), strict=True), 1):
    log(epoch, {f"{name}/loss": float(loss), f"{name}/accuracy": float(accuracy)})


def _jsonl(path: Path) -> Log:
  path.parent.mkdir(parents=True, exist_ok=True)

  def log(step: int, metrics: Mapping[str, Any]) -> None:
    found = {name: _finite(value) for name, value in metrics.items()}
    line = json.dumps({"time": round(time.time(), 3), "step": step, **found}, allow_nan=False)
    with path.open("a") as file:
      file.write(line + "\n")

  return log


def _tensorboard(out: Path, config: Any) -> Log:
  try:
    from tensorboard.summary import Writer
  except ImportError as error:
    raise ImportError("--log tensorboard needs it: pip install tensorboard.") from error
  del config
  writer = Writer(str(out / "tensorboard"))

  def log(step: int, metrics: Mapping[str, Any]) -> None:
    for name, value in metrics.items():
      if _finite(value) is not None:
        writer.add_scalar(name, value, step)
    writer.flush()

  return log


def _wandb(out: Path, config: Any) -> Log:
  try:
    import wandb
  except ImportError as error:
    raise ImportError("--log wandb needs it: pip install wandb.") from error
  run = wandb.init(project="jaxmul", name=out.name, dir=str(out), config=config)
  # wandb's own steps must not fall; ours begin again with each training run.
  run.define_metric("*", step_metric="step")
  return lambda step, metrics: run.log({"step": step, **metrics})


def _trackio(out: Path, config: Any) -> Log:
  try:
    import trackio
  except ImportError as error:
    raise ImportError("--log trackio needs it: pip install trackio.") from error
  trackio.init(project="jaxmul", name=out.name, config=config)
  return lambda step, metrics: trackio.log(dict(metrics), step=step)


def _finite(value: Any) -> Any:
  """Returns a number, or None for NaN and infinity, which JSON has not."""
  return float(value) if value is not None and math.isfinite(value) else None
