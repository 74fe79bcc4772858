"""What a run directory holds besides pictures: resolved config, versions, scores by id, metrics."""

import dataclasses
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import _identity
from jaxmul._files import npz, write_atomic

_PACKAGES = ("orbax-checkpoint", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
  """Returns what the numbers of a run depend on: package versions, Python, device."""
  device = jax.devices()[0]
  return {
    **_identity.versions(*_PACKAGES),
    "python": platform.python_version(),
    "device": f"{len(jax.devices())} × {device.device_kind} ({device.platform})",
  }


def write_json(path: Path, value: object) -> None:
  """Writes JSON whole or not at all; NaN becomes null, as JSON has none."""
  text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
  write_atomic(path, (text + "\n").encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes named arrays as a compressed `.npz`, whole or not at all.

  Raises:
    ValueError: an array would not come back as it is, such as one of objects or of bfloat16.
  """
  write_atomic(path, npz(arrays))


def _plain(value: object) -> Any:
  """Returns value as JSON types."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {str(name): _plain(item) for name, item in value.items()}
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, tuple | list):
    return [_plain(item) for item in value]
  if isinstance(value, float | np.floating):
    return float(value) if np.isfinite(value) else None
  if isinstance(value, np.integer):
    return int(value)
  if value is None or isinstance(value, bool | int | str):
    return value
  return str(value) if isinstance(value, Path) else _identity.describe(value)
