"""Finished chunks on disk: whole or absent, each with its plan's hash and a SHA-256 of its own.

A file is one line of SHA-256, one line of the plan's hash, then an `.npz`; the digest covers all
that follows it. Nothing read can execute, and nothing larger than such a chunk can be is read.
"""

import dataclasses
import hashlib
import io
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxmul._files import write_atomic
from jaxmul.memorization.chunk import Chunk
from jaxmul.memorization.plan import Plan

_NAMES = tuple(field.name for field in dataclasses.fields(Chunk))
_LIST_NAMES = ("models", "diverged")


class Store:
  """The chunks of one plan in one folder.

  Args:
    path: the folder; made when the first chunk is committed.
    plan: what the chunks belong to. More models of the same plan may be asked for later.

  Raises:
    ValueError: the folder holds chunks of another plan.
  """

  def __init__(self, path: Path | str, plan: Plan):
    self.path, self.plan = Path(path), plan
    for file in self._files():
      with file.open("rb") as opened:
        _, _, rest = opened.read(256).partition(b"\n")
      found = rest.partition(b"\n")[0].decode("ascii", "replace")
      if found != plan.hash and _body(file, file.stat().st_size) is not None:
        raise ValueError(
          f"{self.path} was made by another plan ({found[:12]}, this one is {plan.hash[:12]}): "
          "recipe, data or key differ. Use another folder."
        )

  def commit(self, number: int, chunk: Chunk) -> None:
    """Writes a chunk: under a temporary name, synced, then renamed. Twice does no harm.

    Raises:
      OSError: the folder cannot be written or the disk is full; what was finished stays.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(chunk, name) for name in _NAMES})
    body = self.plan.hash.encode() + b"\n" + buffer.getvalue()
    write_atomic(self._file(number), hashlib.sha256(body).hexdigest().encode() + b"\n" + body)

  def load(self, numbers: Iterable[int]) -> dict[int, Chunk]:
    """Returns the whole chunks among the given numbers; damaged ones are named in a warning."""
    chunks, damaged = {}, []
    for number in numbers:
      file = self._file(number)
      if file.exists():
        chunk = _read(file, self._limit)
        if chunk is None or not self._fits(chunk):
          damaged.append(file.name)
        elif set(chunk.models) | set(chunk.diverged) == set(self.plan.models(number)):
          chunks[number] = chunk
    if damaged:
      warnings.warn(
        f"{len(damaged)} damaged chunks in {self.path} are computed again: {', '.join(damaged)}.",
        stacklevel=2,
      )
    return chunks

  def _fits(self, chunk: Chunk) -> bool:
    size = (len(self.plan.dataset),)
    return all(getattr(chunk, name).shape == size for name in _NAMES if name not in _LIST_NAMES)

  @property
  def _limit(self) -> int:
    return 2**16 + 100 * len(self.plan.dataset) + 16 * self.plan.chunk_size

  def _file(self, number: int) -> Path:
    return self.path / f"chunk-{number:06d}.jaxmul"

  def _files(self) -> list[Path]:
    return sorted(self.path.glob("chunk-*.jaxmul"))


def _body(file: Path, limit: int) -> bytes | None:
  """Returns what the digest covers, or None where it does not fit."""
  if file.stat().st_size > limit:
    return None
  digest, _, body = file.read_bytes().partition(b"\n")
  return body if hashlib.sha256(body).hexdigest().encode() == digest else None


def _read(file: Path, limit: int) -> Chunk | None:
  """Returns a chunk, or None where the file is not what `commit` wrote."""
  body = _body(file, limit)
  if body is None:
    return None
  try:
    with np.load(io.BytesIO(body.partition(b"\n")[2]), allow_pickle=False) as arrays:
      return Chunk(**{name: arrays[name] for name in _NAMES})
  except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile):
    return None
