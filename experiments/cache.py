"""Names for results that a script keeps, so that they are read back only where nothing changed."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

import jaxmul
from jaxmul import report


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
