"""Paths that people give: of this machine alone."""

import os
import re
from pathlib import Path


def local(path: str | os.PathLike[str]) -> Path:
  """Returns a path of this machine, `~` expanded.

  Raises:
    ValueError: it is empty or no path, or a URL, such as gs://bucket/folder, where no file is
      synced or renamed.
  """
  if not isinstance(path, str | os.PathLike) or not str(path):
    raise ValueError(f"a path is {path!r}, must be a name. Use '.' for the working directory.")
  found = Path(os.path.expanduser(path))
  if found.parts and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", found.parts[0]):
    raise ValueError(
      f"{os.fspath(path)} is a URL, must be a local path. Mount the bucket and name the folder "
      "there, or work in a local folder and copy it."
    )
  return found
