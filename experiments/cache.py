"""Results that a script keeps, and names by which they are read back only where nothing changed."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, cast

import jax
import numpy as np

from experiments import setting
from jaxmul import _identity, _settings, checkpoint, data, metrics, report, train
from jaxmul._files import read_npz
from jaxmul._progress import stages
from jaxmul.binding import Network

Begin = Callable[[str], None]
T = TypeVar("T")


class Keep(Protocol):
  """`(name, make) -> (make(), seconds)`, which may read back what an earlier run made."""

  def __call__(self, name: str, make: Callable[[], T], /) -> tuple[T, float]: ...


def told(config: setting.Flags, *others: str) -> dict[str, object]:
  """Returns the settings of a script by name, but for those that do not decide its result.

  Args:
    config: the flags.
    others: settings that change no number, such as where a result goes, and those of which the
      content is told instead, such as a path to data. A new setting is told until it is one.
  """
  # As `_identity.describe`: a setting that came later is left out at its default.
  fields = (
    field
    for field in dataclasses.fields(config)
    if not (field.metadata.get("later") and getattr(config, field.name) == field.default)
  )
  return {field.name: getattr(config, field.name) for field in fields if field.name not in others}


def name_of(*deciding: object) -> str:
  """Returns 16 hex digits that change with what decides a result, versions and JAX's settings.

  Args:
    deciding: settings, and the contents of everything that was read; see `_identity.describe`.
  """
  around = (_identity.versions("scipy", "scikit-learn"), _settings.current())
  return _identity.digest(deciding, around, report.versions()["device"])[:16]


def ensemble_store(
  out: Path,
  recipe: train.Recipe,
  dataset: data.Dataset,
  split: data.Split,
  key: jax.Array,
  num_models: int,
) -> Path:
  """Returns the folder, in a run directory, for the models of an ensemble of `metrics.oracle`."""
  schedules = metrics.oracle.schedules(recipe, dataset, split, key, num_models)
  name = _identity.digest(*(schedule.hash for schedule in schedules))[:16]
  return out / "cache" / f"ensemble-{name}"


def oracles(
  out: Path,
  recipe: train.Recipe,
  dataset: data.Dataset,
  split: data.Split,
  key: jax.Array,
  num_models: int,
) -> metrics.oracle.Outputs:
  """Returns the outputs of oracles, whose models are kept in a run directory."""
  store = ensemble_store(out, recipe, dataset, split, key, num_models)
  return metrics.oracle.oracles(recipe, dataset, split, key, num_models=num_models, store=store)


def timed(function: Callable[[], T]) -> tuple[T, float]:
  """Returns a finished result and its wall-clock seconds, compilation included."""
  start = time.perf_counter()
  result = jax.block_until_ready(function())
  return result, time.perf_counter() - start


def clocked(clock: Path, begun: Path, make: Callable[[], T]) -> tuple[T, float]:
  """Returns what is made, and the seconds that the work took until it was finished first.

  For work that keeps its own parts: a later run makes it again, and only reads them back.

  Args:
    clock: file of the seconds, of all runs that did a part of it.
    begun: is there once the work has begun: without a clock nobody knows how long it took.
    make: does the work.

  Returns:
    The result; and the seconds, NaN where a run was killed or was one of an older version.
  """
  seconds, done = np.nan if begun.exists() else 0.0, False
  if clock.exists():
    kept = json.loads(clock.read_text())
    seconds, done = np.nan if kept["seconds"] is None else kept["seconds"], kept["done"]
  if done:
    return make(), seconds
  report.write_json(clock, {"seconds": np.nan, "done": False})
  start = time.perf_counter()
  try:
    result = make()
    done = True
  finally:  # also where it is stopped
    seconds += time.perf_counter() - start
    report.write_json(clock, {"seconds": seconds, "done": done})
  return result, seconds


def compute_missing(
  paths: Mapping[int, Path], stages_each: int, compute: Callable[[int, Path, Begin], None]
) -> None:
  """Computes the file of each seed that is not there, and says of all how long it took.

  Args:
    paths: a file for each seed, by its number from 0.
    stages_each: stages of one seed, for the bar.
    compute: writes the file of a seed: its number, the file, and what is told that a stage begins.
  """
  missing = [seed for seed, path in paths.items() if not path.exists()]
  with stages(len(missing) * stages_each) as begin:
    for done, (seed, path) in enumerate(paths.items(), 1):
      start = time.perf_counter()
      if seed in missing:
        compute(seed, path, begin)
      said = f"{time.perf_counter() - start:.0f} s" if seed in missing else f"read back from {path}"
      print(f"seed {seed + 1}, {done} of {len(paths)}: {said}", flush=True)


@dataclasses.dataclass(frozen=True)
class Kept:
  """Networks and arrays in a folder: what is there is read back, with the seconds that it took.

  A network is an Orbax checkpoint, arrays are an `.npz`; a `.json` that is written last holds the
  seconds.

  Attributes:
    folder: of one result, named by what decides it.
    like: a network of the same structure.
  """

  folder: Path
  like: Network

  def __call__(self, name: str, make: Callable[[], T], /) -> tuple[T, float]:
    """Returns the network or the {name: array} that `make` returns, and its seconds."""
    path = self.folder / name.replace(" ", "-")
    # Not with_suffix, which takes the end of a name such as "rate 0.1 of 2" for one.
    arrays, clock = (path.parent / f"{path.name}{suffix}" for suffix in (".npz", ".json"))
    if clock.exists():
      seconds = json.loads(clock.read_text())["seconds"]
      kept = read_npz(arrays) if arrays.exists() else checkpoint.load(path, self.like)
      return cast("T", kept), seconds
    result, seconds = timed(make)
    if isinstance(result, Network):
      checkpoint.save(path, result)
    else:
      report.write_arrays(arrays, cast("Mapping[str, np.ndarray]", result))
    report.write_json(clock, {"seconds": seconds})
    return result, seconds
