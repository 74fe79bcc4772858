"""Finished chunks on disk: whole or absent, each with its schedule's hash and its own SHA-256.

A file is sealed, and begins with a line of the schedule's hash. `schedule.jaxmul` says in JSON what
the chunks belong to. Nothing read can execute, and nothing larger than such a file can be is read.
"""

import contextlib
import dataclasses
import json
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

from jaxmul._files import npz, read_npz, read_sealed, write_sealed
from jaxmul._identity import describe
from jaxmul._paths import local
from jaxmul.retraining.chunk import TALLIES, Chunk
from jaxmul.retraining.leave_out_schedule import Schedule

_NAMES = tuple(field.name for field in dataclasses.fields(Chunk))
_DESCRIPTION = "schedule.jaxmul"
_DESCRIPTION_LIMIT = 2**20
_MAX_CLASSES = 2**14
_ABANDONED_SECONDS = 24 * 3600


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
  """What is in a store.

  Attributes:
    design: one line on what is trained, or None where `schedule.jaxmul` is damaged or missing.
    num_models: models asked for last, or None.
    done: models in whole chunks.
    damaged: names of damaged files.
  """

  design: str | None
  num_models: int | None
  done: int
  damaged: tuple[str, ...]


class Store:
  """The chunks of one schedule in one folder.

  Args:
    path: the folder; made when the first file is committed.
    schedule: what the chunks belong to. More models of the same schedule may be asked for later.

  Raises:
    ValueError: the folder holds chunks of another schedule, or is a URL.

  Example:
    >>> import jax, numpy as np, tempfile
    >>> from jaxmul import data, models, retraining, train
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=1, batch_size=4)
    >>> schedule = retraining.leave_out(recipe, toy, jax.random.key(0), num_models=16)
    >>> store = retraining.Store(tempfile.mkdtemp(), schedule)
    >>> for number, chunk in retraining.serial(schedule, [1]): store.commit(number, chunk)
    >>> store.missing()
    [0]
  """

  def __init__(self, path: Path | str, schedule: Schedule):
    self.path, self.schedule = local(path), schedule
    for file in _files(self.path):
      with file.open("rb") as opened:
        _, _, rest = opened.read(256).partition(b"\n")
      own = rest.partition(b"\n")[0].decode("ascii", "replace")
      if own != schedule.hash and _content(file, file.stat().st_size) is not None:
        raise ValueError(
          f"{self.path} was made by another schedule ({own[:12]}, this one is "
          f"{schedule.hash[:12]}): recipe, data, key, settings or versions differ"
          f"{self._changed()}. Use another folder."
        )

  def describe(self) -> None:
    """Writes what the chunks belong to beside them, for `status`; damage is named in a warning.

    Raises:
      OSError: the folder cannot be written.
    """
    schedule, file = self.schedule, self.path / _DESCRIPTION
    for left in self.path.glob(".*.jaxmul.*.tmp"):  # by writers that were killed
      with contextlib.suppress(OSError):  # somebody else's, or gone already
        if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
          left.unlink()
    facts = {
      "design": schedule.design,
      "num_models": schedule.num_models,
      "recipe": describe(schedule.recipe)[:10_000],
      "settings": dict(schedule.settings),
      "versions": schedule.versions,
    }
    content = json.dumps(facts, indent=2).encode()
    before = _content(file, _DESCRIPTION_LIMIT) if file.exists() else b""
    if before is None:
      warnings.warn(f"{file} was damaged and is written again.", stacklevel=2)
    if before != content:
      self._write(file, content, _DESCRIPTION_LIMIT)

  def commit(self, number: int, chunk: Chunk) -> None:
    """Writes a chunk: under a temporary name, synced, then renamed. Twice does no harm.

    Raises:
      OSError: the folder cannot be written or the disk is full; what was finished stays.
      ValueError: it is larger than what is read, or an array would not come back as it is.
    """
    content = npz({name: getattr(chunk, name) for name in _NAMES})
    try:
      self._write(self._file(number), content, self._limit)
    except ValueError as error:
      raise ValueError(f"{error} Keep the outputs on fewer test examples.") from None

  def load(self, numbers: Iterable[int]) -> dict[int, Chunk]:
    """Returns the whole chunks among the given numbers.

    Damaged ones, and those of an older version, which lack what is kept now, are named in a
    warning.
    """
    chunks, damaged = {}, []
    for number in numbers:
      file = self._file(number)
      if file.exists():
        chunk = _read(file, self._limit)
        if chunk is None or not self._fits(chunk):
          damaged.append(file.name)
        elif set(chunk.models) | set(chunk.diverged) == set(self.schedule.models(number)):
          chunks[number] = chunk
    if damaged:
      warnings.warn(
        f"{len(damaged)} damaged chunks in {self.path}, or chunks of an older version, are "
        f"computed again: {', '.join(damaged)}.",
        stacklevel=2,
      )
    return chunks

  def missing(self) -> list[int]:
    """Returns the numbers of chunks that are not there or damaged, in order."""
    numbers = range(self.schedule.num_chunks)
    return [number for number in numbers if number not in self.load([number])]

  def _write(self, file: Path, content: bytes, limit: int) -> None:
    write_sealed(file, self.schedule.hash.encode() + b"\n" + content, "line", limit)

  def _changed(self) -> str:
    """Says which settings and versions are others than those that `schedule.jaxmul` names."""
    file = self.path / _DESCRIPTION
    facts = json.loads((file.exists() and _content(file, _DESCRIPTION_LIMIT)) or "{}")
    now = dict(self.schedule.settings) | self.schedule.versions
    before = facts.get("settings", {}) | facts.get("versions", {})
    names = [name for name in before if now.get(name) != before[name]]
    said = (f"{name} was {before[name]} and is {now.get(name)}" for name in names)
    return f" ({', '.join(said)})" if names else ""

  def _fits(self, chunk: Chunk) -> bool:
    size = (len(self.schedule.dataset),)
    return all(getattr(chunk, name).shape == size for name in TALLIES)

  @property
  def _limit(self) -> int:
    data, test = self.schedule.dataset, self.schedule.test
    of_model = len(data) // 8 + 1
    if test:
      of_model += len(test) // 8 + 1
      if self.schedule.target == "logits":
        of_model += 8 * len(test) * max(_MAX_CLASSES, 2 * data.num_classes)
      if self.schedule.target in ("confidence", "log_odds"):
        of_model += 16 * len(test)
    return 2**16 + 160 * len(data) + (16 + of_model) * self.schedule.chunk_size

  def _file(self, number: int) -> Path:
    # A last chunk that is not full has a name of its own: asking for other numbers of models never
    # replaces what is finished.
    count = len(self.schedule.models(number))
    part = "" if count == self.schedule.chunk_size else f"-{count}"
    return self.path / f"chunk-{number:06d}{part}.jaxmul"


def status(path: Path | str) -> Status:
  """Returns what is in a store, every file checked; no schedule is needed.

  Raises:
    FileNotFoundError: there is no store at `path`.
  """
  path = local(path)
  description, files = path / _DESCRIPTION, _files(path)
  if not files and not description.exists():
    raise FileNotFoundError(f"there is no store at {path}. Name the folder given as store=.")
  facts = _content(description, _DESCRIPTION_LIMIT) if description.exists() else None
  damaged = [description.name] if description.exists() and facts is None else []
  done: set[int] = set()
  for file in files:
    chunk = _read(file, file.stat().st_size)
    if chunk is None:
      damaged.append(file.name)
    else:
      done.update(chunk.models.tolist(), chunk.diverged.tolist())
  known = json.loads(facts) if facts else {}
  return Status(
    design=known.get("design"),
    num_models=known.get("num_models"),
    done=len(done),
    damaged=tuple(damaged),
  )


def _files(path: Path) -> list[Path]:
  return sorted(path.glob("chunk-*.jaxmul"))


def _content(file: Path, limit: int) -> bytes | None:
  """Returns what follows the schedule's hash, or None where the file is damaged or too large."""
  try:
    return read_sealed(file, "line", limit).partition(b"\n")[2]
  except ValueError:
    return None


def _read(file: Path, limit: int) -> Chunk | None:
  """Returns a chunk, or None where the file is not what `commit` wrote."""
  content = _content(file, limit)
  if content is None:
    return None
  try:
    return Chunk(**read_npz(file, _NAMES, content))
  except ValueError:
    return None
