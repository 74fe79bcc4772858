"""What the command reads: a recipe by its name, a data set, ids, a checkpoint."""

import csv
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import _article, checkpoint, models, train
from jaxmul import data as sources
from jaxmul._ids import rows_of
from jaxmul._paths import local
from jaxmul.binding import Network


def named(name: str, flag: str, *, called: bool = False) -> Any:
  """Returns what "package.module:name" is; if `called` and it is a function, what it returns.

  Raises:
    ValueError: there is no such name, or it cannot be imported or called.
  """
  module, _, attribute = name.partition(":")
  if not module or not attribute:
    raise ValueError(f"--{flag} {name}: name it as package.module:name.")
  if "" not in sys.path:
    sys.path.insert(0, "")  # as for `python -m`: the console script does not see this folder
  try:
    found = getattr(importlib.import_module(module), attribute)
    return found() if called and callable(found) else found
  except Exception as error:  # whatever a module of theirs raises
    frame = traceback.extract_tb(error.__traceback__)[-1]
    theirs = frame.filename != __file__ and not frame.filename.startswith("<frozen")
    where = f" ({frame.filename}, line {frame.lineno})" if theirs else ""
    raise ValueError(
      f"--{flag} {name}: {type(error).__name__}: {error}{where}. It must be importable"
      f"{', and a function takes no argument' if called else ''}."
    ) from error


def recipe(name: str) -> train.Recipe:
  """Returns the `train.Recipe` that "package.module:name" is, or that this function returns.

  Raises:
    ValueError: as `named`, or it is something else.
  """
  found = named(name, "network", called=True)
  if not isinstance(found, train.Recipe):
    raise ValueError(
      f"--network {name} gives {_article.of(found)}, must give a train.Recipe: the "
      "network, and how it was trained."
    )
  return found


def dataset(source: str) -> sources.Dataset:
  """Returns an .npz of arrays, a folder of images by class, or a prepared TFDS data set.

  Raises:
    ValueError: it is none of these.
  """
  kind, _, name = source.partition(":")
  if kind == "tfds" and name:
    return sources.from_tfds(name, "train")
  path = local(source)
  if path.suffix == ".npz":
    return sources.from_npz(path)
  if path.is_dir():
    return sources.from_folder(path)
  raise ValueError(
    f"--data {source}: {'is no .npz' if path.is_file() else 'there is no such folder'}. Name an "
    ".npz of inputs, labels and ids, a folder of images by class, or tfds:NAME."
  )


def ids_in(path: Path, dataset: sources.Dataset, flag: str) -> np.ndarray:
  """Returns the ids int64 [k] of a file of the flag, all of which are in the data.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds something else, or an id that is not in the data.
  """
  if not local(path).is_file():
    raise FileNotFoundError(f"--{flag} {path}: there is no such file. Write one integer a line.")
  ids = read_ids(path)
  refuse_absent(ids, dataset, f"--{flag} {path}")
  return ids


def refuse_absent(ids: np.ndarray, dataset: sources.Dataset, whose: str) -> None:
  """Raises ValueError where an id is not in the data, or is there twice."""
  cure = "Ids are those of the data; without ids there, they are positions from 0."
  rows_of(dataset.ids, ids, whose, f"of {whose} is not in the data", cure)


def read_ids(path: Path) -> np.ndarray:
  """Returns the ids int64 [k] of a file: .npy, .json (a list), .csv (first column), or text.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds something else.
  """
  path = local(path)
  try:
    if path.suffix == ".npy":
      return _as_ids(np.load(path, allow_pickle=False))
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
      return _as_ids(json.loads(text))
    if path.suffix == ".csv":
      cells = [row[0].strip() for row in csv.reader(text.splitlines()) if row]
      has_header = bool(cells) and not any(letter.isdigit() for letter in cells[0])
      return _as_ids([int(cell) for cell in cells[has_header:]])
    return _as_ids([int(word) for word in text.split()])
  except (ValueError, TypeError, EOFError, OverflowError) as error:
    raise ValueError(
      f"{path} holds no ids ({error}): write one integer a line, with NumPy "
      'np.savetxt(path, ids, fmt="%d").'
    ) from error


def read_requests(path: Path) -> dict[str, np.ndarray]:
  """Returns {name: ids} of requests, in their order.

  Args:
    path: a folder, of which each file is a request, in the order of their names; a .json, a list of
      lists of ids; or text, one request a line.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds something else.
  """
  path = local(path)
  if not path.exists():
    raise FileNotFoundError(f"--requests {path}: there is no such file or folder.")
  if path.is_dir():
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    requests = {file.name: read_ids(file) for file in files}
  elif path.suffix in (".csv", ".npy"):
    raise ValueError(
      f"--requests {path}: must be a folder with a file of ids for each request, a .json of lists, "
      "or text with one request a line."
    )
  else:
    text = path.read_text(encoding="utf-8-sig")
    try:
      lists = (
        json.loads(text)
        if path.suffix == ".json"
        else [[int(word) for word in line.split()] for line in text.splitlines() if line.strip()]
      )
      requests = {f"{path.name} {number}": _as_ids(row) for number, row in enumerate(lists)}
    except (ValueError, TypeError, OverflowError) as error:
      raise ValueError(f"{path} holds no requests ({error}): write a list of ids each.") from error
  if not requests:
    raise ValueError(f"--requests {path} holds no request. Add a file of ids.")
  return requests


def network(recipe: train.Recipe, dataset: sources.Dataset, folder: Path) -> Network:
  """Returns the network of a checkpoint, in the shapes of a recipe's."""
  like = models.init(recipe.model, jax.random.key(0), dataset.example)
  return checkpoint.load(folder, like)


def _as_ids(values: Any) -> np.ndarray:
  ids = np.asarray(values)
  if ids.ndim != 1 or (ids.size and not np.can_cast(ids.dtype, np.int64)) or ids.dtype == bool:
    raise ValueError(f"an array {ids.dtype} {list(ids.shape)}")
  return ids.astype(np.int64)
