"""Files of the format safetensors: named arrays, and notes of which one is a checksum of them."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul._files import equal, write_atomic
from jaxmul._identity import tree_digest
from jaxmul._paths import local

_DTYPES = {
  "BOOL": np.dtype(bool),
  "BF16": np.dtype(jnp.bfloat16),
  **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
  **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
  **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def write(
  path: str | os.PathLike, values: Mapping[str, Any], notes: Mapping[str, str], caller: str
) -> None:
  """Writes arrays, notes and the SHA-256 of the arrays to one file, whole or not at all."""
  safetensors = _import_safetensors(caller)
  arrays = {}
  for name, value in values.items():
    is_key = jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended)
    array = np.zeros(0, object) if is_key else np.array(value, order="C")
    if array.dtype not in _DTYPES.values():
      what = value.dtype if is_key else array.dtype
      raise ValueError(
        f"{caller}: {name!r} is {what}, must be floats, integers or booleans. Leave it out, or "
        "convert it; keys with jax.random.key_data(key)."
      )
    arrays[name] = array
  content = safetensors.save(arrays, {**notes, "sha256": tree_digest(arrays)})
  again = _arrays_of(content)
  if again.keys() != arrays.keys() or not all(equal(again[n], arrays[n]) for n in arrays):
    raise ValueError(f"{caller}: safetensors does not read what it wrote. Install another version.")
  write_atomic(local(path), content)


def read(path: str | os.PathLike, caller: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Returns the arrays of a file, and its notes; `refuse_damaged` compares the two."""
  _import_safetensors(caller)
  if not local(path).is_file():
    raise FileNotFoundError(f"{caller}: there is no file {path}. Check the name.")
  content = local(path).read_bytes()
  try:
    size = int.from_bytes(content[:8], "little")
    notes = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return _arrays_of(content), notes
  except Exception as error:  # the library's own kinds, and what NumPy and json raise
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(
      f"{caller}: {path} is damaged, or no such file ({reason}). Copy it again."
    ) from error


def refuse_damaged(
  path: str | os.PathLike,
  arrays: Mapping[str, np.ndarray],
  notes: Mapping[str, str],
  caller: str,
) -> None:
  """Raises ValueError where arrays are not those that the notes have the SHA-256 of."""
  if notes.get("sha256") != tree_digest(arrays):
    raise ValueError(f"{caller}: {path} is damaged: its SHA-256 does not fit. Copy it again.")


def _arrays_of(content: bytes) -> dict[str, np.ndarray]:
  import safetensors

  return {
    name: np.frombuffer(part["data"], _DTYPES[part["dtype"]]).reshape(part["shape"]).copy()
    for name, part in safetensors.deserialize(content)
  }


def _import_safetensors(caller: str) -> Any:
  try:
    import safetensors.numpy
  except ImportError as error:
    raise ImportError(
      f"{caller} needs safetensors, which does not import ({error}). Run: pip install 'jaxmul[hub]'"
    ) from error
  return safetensors.numpy
