"""Files that are whole or absent, and seals by which damage to a file is noticed.

A file is written beside its place, read back, synced, then renamed. A sealed one also holds the
SHA-256 of everything else in it: on a line before the content, in the comment of a zip archive
(which `numpy.load` skips), or as one more entry of a JSON object. A seal guards against accidents,
not against someone who makes a new one. Nothing that is read here can execute.
"""

import hashlib
import io
import json
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from jaxmul._identity import hashed

Place = Literal["line", "zip", "json"]

_LONGEST = 180  # bytes of a name that gets a few more; file systems take 255
_SEAL_LENGTH = 64
_LARGEST = 2**32
# What NumPy, zipfile and zlib raise for a damaged archive, or what is none. RuntimeError is also a
# method of compression, or an encryption, that a flipped bit in the flags of an entry asks for.
# TokenError: what NumPy takes for the header of an array ends in the middle of a word.
_UNREADABLE = (
  *(OSError, ValueError, AttributeError, TypeError, EOFError, KeyError, RuntimeError),
  *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


def write_sealed(path: Path, content: bytes, place: Place, limit: int = _LARGEST) -> None:
  """Writes a file with a seal, whole or not at all.

  Args:
    path: of the file.
    content: any bytes for "line", an archive for "zip", an object for "json".
    place: where the seal is.
    limit: bytes of the largest file that `read_sealed` is going to read.

  Raises:
    OSError: as `write_atomic`.
    ValueError: it is larger than that.
  """
  data = sealed(content, place)
  if len(data) > limit:
    raise ValueError(f"{path} has {len(data)} bytes, and no more than {limit} are read.")
  write_atomic(path, data)


def read_sealed(path: Path, place: Place, limit: int = _LARGEST) -> bytes:
  """Returns the content of a file that `write_sealed` wrote; of "zip" with its comment.

  Raises:
    OSError: it cannot be read.
    ValueError: it is larger than `limit`, or its seal does not fit.
  """
  size = path.stat().st_size
  if size > limit:
    raise ValueError(f"{path} has {size} bytes, and no more than {limit} are read.")
  data = path.read_bytes()
  if place == "line":
    seal, _, content = data.partition(b"\n")
    is_whole = seal == hashed(content).encode()
  elif place == "zip":
    content = data
    is_whole = data[-_SEAL_LENGTH:] == hashed(data[:-_SEAL_LENGTH]).encode()
  else:
    content = _unsealed_json(data)
    is_whole = sealed(content, "json") == data  # other bytes can spell the same object
  if not is_whole:
    raise ValueError(f"{path} is damaged, or not such a file: its SHA-256 does not fit.")
  return content


def sealed(content: bytes, place: Place) -> bytes:
  """Returns content with its seal, as `write_sealed` writes it."""
  if place == "line":
    return hashed(content).encode() + b"\n" + content
  if place == "json":
    entries = json.loads(content)
    return _dump(entries | {"sha256": hashed(_dump(entries))})
  archive = io.BytesIO(content)
  with zipfile.ZipFile(archive, "a") as file:
    file.comment = b"0" * _SEAL_LENGTH
  body = archive.getvalue()[:-_SEAL_LENGTH]
  return body + hashed(body).encode()


def _unsealed_json(data: bytes) -> bytes:
  """Returns an object without its seal; {} where it has none."""
  try:
    entries = json.loads(data)
    del entries["sha256"]
    return _dump(entries)
  except (ValueError, KeyError, TypeError, RecursionError):
    return b"{}"


def _dump(entries: object) -> bytes:
  return json.dumps(entries, indent=1, sort_keys=True).encode()


def write_atomic(path: Path, data: bytes) -> None:
  """Writes bytes so that a kill at any time leaves the old file or the new one, never a part.

  Raises:
    OSError: the folder cannot be written, the disk is full, or what is read back is something else;
      nothing is left behind.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  start = f".{short(path.name)}."
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=start, suffix=".tmp")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    if Path(temporary).read_bytes() != data:
      raise OSError(f"{path}: what is read back is not what was written. Check the disk.")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    Path(temporary).unlink(missing_ok=True)
    raise
  sync(path.parent)


def npz(arrays: Mapping[str, ArrayLike], *, compressed: bool = True) -> bytes:
  """Returns the content of an `.npz`, from which every array was read back, bit by bit.

  Args:
    arrays: by name.
    compressed: not worth its time for params, which hardly get smaller.

  Raises:
    ValueError: an array does not come back as it is: it holds objects, or its dtype is none of
      NumPy's own, such as bfloat16.
  """
  buffer = io.BytesIO()
  given = {name: np.asarray(array) for name, array in arrays.items()}
  save = np.savez_compressed if compressed else np.savez
  save(buffer, **given)  # pyright: ignore[reportArgumentType]
  buffer.seek(0)
  with np.load(buffer, allow_pickle=False) as file:
    for name, array in given.items():
      if array.dtype.hasobject or name not in file.files or not equal(file[name], array):
        raise ValueError(
          f"array {name!r} of {array.dtype} does not come back from an .npz as it is. Convert it "
          "first, numbers to float32 or int64, text to str."
        )
  return buffer.getvalue()


def read_npz(
  path: Path, names: Sequence[str] | None = None, content: bytes | None = None
) -> dict[str, np.ndarray]:
  """Returns the arrays of an `.npz`, or those with these names.

  Args:
    path: of the file.
    names: all by default.
    content: of the file, where it was read already.

  Raises:
    OSError: there is no such file.
    ValueError: it is damaged, holds objects, or lacks a name.
  """
  file = path.open("rb") if content is None else io.BytesIO(content)
  try:
    with file, np.load(file, allow_pickle=False) as archive:
      missing = [name for name in names or () if name not in archive.files]
      if missing:
        raise ValueError(f"no key {missing[0]!r}")
      return {name: archive[name] for name in (names or archive.files)}
  except _UNREADABLE as error:
    raise ValueError(
      f"{path} is damaged or not such an .npz ({type(error).__name__}: {error}). Fetch or make it "
      "again."
    ) from error


def equal(one: np.ndarray, other: np.ndarray) -> bool:
  """Whether two arrays have the same dtype and shape, and every bit the same."""
  same = one.dtype == other.dtype and one.shape == other.shape
  return same and one.tobytes() == other.tobytes()


def short(name: str) -> str:
  """Returns the name of a file, or one of its own for it that leaves room for more letters."""
  if len(os.fsencode(name)) <= _LONGEST:
    return name
  return hashed(os.fsencode(name))


def sha256(path: Path) -> str:
  """Returns the SHA-256 of a file's content, 64 hex digits; the file is never held whole."""
  with path.open("rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
  """Makes a file's content, or a rename inside a folder, last through a power cut.

  Some network file systems, and Windows, do that for files alone and refuse it for folders; Windows
  for what is open for writing.
  """
  try:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)
  except OSError:
    if not path.is_dir():
      raise
