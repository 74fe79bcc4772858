"""Files that are whole or absent: written beside, synced, then renamed into place."""

import hashlib
import os
import tempfile
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
  """Writes bytes so that a kill at any time leaves the old file or the new one, never a part.

  Raises:
    OSError: the folder cannot be written or the disk is full; nothing is left behind.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    Path(temporary).unlink(missing_ok=True)
    raise
  sync(path.parent)


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
