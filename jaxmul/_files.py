"""Files that are whole or absent: written beside, read back, synced, then renamed into place."""

import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_LONGEST = 180  # bytes of a name that gets a few more; file systems take 255


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


def npz(arrays: Mapping[str, Any]) -> bytes:
  """Returns the content of a compressed `.npz`, from which every array was read back, bit by bit.

  Raises:
    ValueError: an array does not come back as it is: it holds objects, or its dtype is none of
      NumPy's own, such as bfloat16.
  """
  buffer = io.BytesIO()
  given = {name: np.asarray(array) for name, array in arrays.items()}
  np.savez_compressed(buffer, **given)  # pyright: ignore[reportArgumentType]
  buffer.seek(0)
  with np.load(buffer, allow_pickle=False) as file:
    for name, array in given.items():
      if array.dtype.hasobject or name not in file.files or not equal(file[name], array):
        raise ValueError(
          f"array {name!r} of {array.dtype} does not come back from an .npz as it is. Convert it "
          "first, numbers to float32 or int64, text to str."
        )
  return buffer.getvalue()


def equal(one: np.ndarray, other: np.ndarray) -> bool:
  """Whether two arrays have the same dtype and shape, and every bit the same."""
  same = one.dtype == other.dtype and one.shape == other.shape
  return same and one.tobytes() == other.tobytes()


def short(name: str) -> str:
  """Returns the name of a file, or one of its own for it that leaves room for more letters."""
  if len(os.fsencode(name)) <= _LONGEST:
    return name
  return hashlib.sha256(os.fsencode(name)).hexdigest()


def sha256(path: Path) -> str:
  """Returns the SHA-256 of a file's content, 64 hex digits; the file is never held whole."""
  with path.open("rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
  """Makes a file's content, or a rename inside a folder, last through a power cut."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)
