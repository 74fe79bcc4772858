"""jaxmul on your own network, data and ids.

A network is named as package.module:name of a `train.Recipe`, or of a function that returns one:
its model, and how it was trained. Data are an .npz of inputs, labels and ids, a folder of images by
class, or the name of a prepared TFDS data set.
"""

import csv
import dataclasses
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from jaxmul import checkpoint as checkpoints
from jaxmul import data as sources
from jaxmul import deletion, models, proxies, report, train
from jaxmul.binding import Network
from jaxmul.deletion.request import POINT_PROXIES
from jaxmul.metrics import Figure


def score(
  network: str,
  data: str,
  checkpoint: Path,
  proxy: str = "confidence",
  out: Path = Path("scores.npz"),
) -> None:
  """Scores how memorized every example seems to a network.

  Args:
    network: package.module:name of a train.Recipe, or of a function that returns one.
    data: an .npz, a folder of images by class, or the name of a prepared TFDS data set.
    checkpoint: folder of `jaxmul.checkpoint.save`.
    proxy: name of a point proxy.
    out: .npz to write, with ids and scores.
  """
  if proxy not in POINT_PROXIES:
    raise ValueError(f"--proxy {proxy}: must be one of {', '.join(POINT_PROXIES)}.")
  dataset = _dataset(data)
  trained = _network(_recipe(network), dataset, checkpoint)
  scores = proxies.score(getattr(proxies, proxy), trained, dataset)
  report.write_arrays(out.expanduser(), {"ids": dataset.ids, "scores": scores})
  print(f"{len(scores)} scores of {proxy}: {out}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forget:
  """Unlearns examples, shows how well, and writes a record of it.

  Attributes:
    network: package.module:name of a train.Recipe, or of a function that returns one.
    data: an .npz, a folder of images by class, or the name of a prepared TFDS data set: what was
      trained on, held-out examples and test examples.
    checkpoint: folder of `jaxmul.checkpoint.save`, the trained network.
    ids: what is to be deleted: a .txt, .csv (first column), .json or .npy.
    heldout: such a file, of ids never trained on.
    test: such a file, of ids never trained on, for final figures only.
    evidence: how much is known afterwards; none trains nothing.
    oracles: networks retrained without the ids.
    score: name of the point proxy that makes groups.
    key: number from which all randomness follows.
    out: folder of the record. The same command again goes on after a kill.
  """

  network: str
  data: str
  checkpoint: Path
  ids: Path
  heldout: Path
  test: Path
  evidence: Literal["none", "sample", "full"] = "sample"
  oracles: int = 3
  score: str = "confidence"
  key: int = 0
  out: Path = Path("runs/deletion")


def forget(flags: Annotated[Forget, tyro.conf.arg(name="")]) -> None:
  """Unlearns examples, shows how well, and writes a record of it."""
  recipe, dataset = _recipe(flags.network), _dataset(flags.data)
  try:
    done = _forgotten(flags, recipe, dataset)
  except deletion.Refused as refused:
    _show(refused.figures)
    raise
  _show(done.figures)
  print(f"record: {flags.out}; `jaxmul verify {flags.out}` checks it")


def _forgotten(flags: Forget, recipe: train.Recipe, dataset: sources.Dataset) -> deletion.Forgotten:
  return deletion.forget(
    _network(recipe, dataset, flags.checkpoint),
    dataset,
    read_ids(flags.ids),
    recipe,
    jax.random.key(flags.key),
    heldout=read_ids(flags.heldout),
    test=read_ids(flags.test),
    evidence=flags.evidence,
    oracles=flags.oracles,
    score=flags.score,
    store=flags.out.expanduser(),
  )


def verify(folder: tyro.conf.Positional[Path]) -> None:
  """Checks every file of a record of a deletion by its hash.

  Args:
    folder: the --out of jaxmul forget.
  """
  record = deletion.verify(folder.expanduser())
  print(f"whole: request to delete {len(record['forget'])} ids, {record['date']}")
  for name in ("before", "after"):
    print(f"network {name}: {record['network'][name]}")


def html(folder: tyro.conf.Positional[Path]) -> None:
  """Writes report.html into a run directory of the experiments.

  Args:
    folder: the run directory.
  """
  print(report.html(folder.expanduser()))


COMMANDS = {"score": score, "forget": forget, "verify": verify, "report": html}


def main(arguments: list[str] | None = None) -> None:
  """Runs a command; an error that its user can cure is one line, without a traceback."""
  try:
    tyro.extras.subcommand_cli_from_dict(
      COMMANDS, prog="jaxmul", description=__doc__, args=arguments
    )
  except (ValueError, OSError, ImportError, RuntimeError, FloatingPointError) as error:
    sys.exit(f"error: {' '.join(str(error).split())}")


def _recipe(name: str) -> train.Recipe:
  """Returns the `train.Recipe` that "package.module:name" is, or that this function returns.

  Raises:
    ValueError: there is no such name, or it is something else.
  """
  module, _, attribute = name.partition(":")
  if not module or not attribute:
    raise ValueError(f"--network {name}: name it as package.module:name, a recipe or its function.")
  if "" not in sys.path:
    sys.path.insert(0, "")  # as for `python -m`: the console script does not see this folder
  try:
    found = getattr(importlib.import_module(module), attribute)
    found = found() if callable(found) else found
  except (ImportError, AttributeError, TypeError) as error:
    raise ValueError(
      f"--network {name}: {error}. It must be importable, and a function takes no argument."
    ) from error
  if not isinstance(found, train.Recipe):
    raise ValueError(
      f"--network {name} gives a {type(found).__name__}, must give a train.Recipe: the "
      "network, and how it was trained."
    )
  return found


def _dataset(source: str) -> sources.Dataset:
  """Returns an .npz of arrays, a folder of images by class, or a prepared TFDS data set."""
  path = Path(source).expanduser()
  if path.suffix == ".npz":
    return sources.from_npz(path)
  if path.is_dir():
    return sources.from_folder(path)
  return sources.from_tfds(source, "train")


def read_ids(path: Path) -> np.ndarray:
  """Returns the ids int64 [k] of a file: .npy, .json (a list), .csv (first column), or text.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds something else.
  """
  path = path.expanduser()
  try:
    if path.suffix == ".npy":
      found = np.load(path, allow_pickle=False)
    elif path.suffix == ".json":
      found = json.loads(path.read_text())
    elif path.suffix == ".csv":
      rows = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
      cells = [row[0].strip() for row in rows if row]
      has_header = bool(cells) and not any(letter.isdigit() for letter in cells[0])
      found = [int(cell) for cell in cells[has_header:]]
    else:
      found = [int(word) for word in path.read_text(encoding="utf-8-sig").split()]
    ids = np.asarray(found)
    if ids.ndim != 1 or (ids.size and not np.can_cast(ids.dtype, np.int64)) or ids.dtype == bool:
      raise ValueError(f"an array {ids.dtype} {list(ids.shape)}")
  except (ValueError, TypeError, EOFError, OverflowError) as error:
    raise ValueError(f"{path} holds no ids ({error}): write one integer a line.") from error
  return ids.astype(np.int64)


def _network(recipe: train.Recipe, dataset: sources.Dataset, folder: Path) -> Network:
  """Returns the network of a checkpoint, in the shapes of a recipe's."""
  like = models.init(recipe.model, jax.random.key(0), dataset.example)
  return checkpoints.load(folder.expanduser(), like)


def _show(figures: Iterable[Figure]) -> None:
  table = Table("figure", "network", "examples", "value", "95 % interval", box=None)
  for figure in figures:
    interval = "none" if np.isnan(figure.low) else f"{figure.low:.3f} … {figure.high:.3f}"
    name = f"{figure.name} {figure.kind}".strip()
    table.add_row(name, figure.of, figure.part, f"{figure.value:.3f}", interval)
  Console().print(table)
