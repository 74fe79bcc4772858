"""Results that a script keeps, and names by which they are read back only where nothing changed."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxmul
from jaxmul import checkpoint, report
from jaxmul._progress import stages
from jaxmul.binding import Bound

Begin = Callable[[str], None]


def stamp(*told: Any) -> str:
  """Returns 12 hex digits that change with what is told, the versions and the source code.

  Args:
    told: arrays, and anything whose text is equal in every process for equal values.
  """
  digest = hashlib.sha256(str(report.versions()).encode())
  for each in told:
    digest.update(each.tobytes() if isinstance(each, np.ndarray) else str(each).encode())
  for folder in (Path(jaxmul.__file__).parent, Path(__file__).parent):
    for source in sorted(folder.rglob("*.py")):
      digest.update(source.read_bytes())
  return digest.hexdigest()[:12]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
  """Returns a finished result and its wall-clock seconds, compilation included."""
  start = time.perf_counter()
  result = jax.block_until_ready(function())
  return result, time.perf_counter() - start


def compute_missing(
  paths: Sequence[Path], stages_each: int, compute: Callable[[int, Path, Begin], None]
) -> None:
  """Computes the file of each seed that is not there, and says of all how long it took.

  Args:
    paths: a file for each seed.
    stages_each: stages of one seed, for the bar.
    compute: writes the file of a seed: its number, the file, and what is told that a stage begins.
  """
  missing = [seed for seed, path in enumerate(paths) if not path.exists()]
  with stages(len(missing) * stages_each) as begin:
    for seed, path in enumerate(paths):
      start = time.perf_counter()
      if seed in missing:
        compute(seed, path, begin)
      said = f"{time.perf_counter() - start:.0f} s" if seed in missing else f"read back from {path}"
      print(f"seed {seed + 1} of {len(paths)}: {said}", flush=True)


class Kept:
  """Networks and arrays in a folder: what is there is read back, with the seconds that it took.

  A network is an Orbax checkpoint, arrays are an `.npz`; a `.json` that is written last holds the
  seconds.

  Args:
    folder: of one run; a change of code or settings needs another.
    like: a network of the same structure.
  """

  def __init__(self, folder: Path, like: Bound):
    self._folder, self._like = folder, like

  def __call__(self, name: str, make: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the network or the {name: array} that `make` returns, and its seconds."""
    path = self._folder / name.replace(" ", "-")
    arrays, clock = path.with_suffix(".npz"), path.with_suffix(".json")
    if clock.exists():
      seconds = json.loads(clock.read_text())["seconds"]
      if not arrays.exists():
        return checkpoint.load(path, self._like), seconds
      with np.load(arrays, allow_pickle=False) as file:
        return dict(file), seconds
    result, seconds = timed(make)
    if isinstance(result, Bound):
      checkpoint.save(path, result)
    else:
      report.write_arrays(arrays, result)
    report.write_json(clock, {"seconds": seconds})
    return result, seconds
