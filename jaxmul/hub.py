"""Networks and scores in the file format of the Hugging Face Hub, safetensors.

Such a file holds named arrays and nothing that can execute, and any library reads it. It has no
checksum of its own: ours has the SHA-256 of all names, dtypes, shapes and bits in its metadata.
Within jaxmul `checkpoint` does the same for networks, and does not need the extra `hub`.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmul._check import is_concrete
from jaxmul._files import equal, write_atomic
from jaxmul._identity import tree_digest
from jaxmul._ids import check_ids
from jaxmul._paths import local
from jaxmul.binding import Network

_NETWORK, _SCORES = "network 1", "scores 1"
_DTYPES = {
  "BOOL": np.dtype(bool),
  "BF16": np.dtype(jnp.bfloat16),
  **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
  **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
  **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def save_network(path: str | os.PathLike, network: Network) -> None:
  """Writes params and state to one file, whole or not at all.

  Arrays are named by the way to them, such as "params.head.kernel" and
  "state.batch_stats.norm.mean". Functions are not stored.

  Args:
    path: such as "model.safetensors".
    network: of arrays on any devices.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: `network` is no `Network`, or a leaf is no array that the format holds.

  Example:
    >>> import jax, jaxmul, tempfile
    >>> from jaxmul import hub
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> hub.save_network(path, jaxmul.bind(lambda w, x: x @ w, jax.numpy.eye(2)))
    >>> hub.load_network(path, jaxmul.bind(lambda w, x: x @ w, jax.numpy.zeros((2, 2)))).params[0]
    Array([1., 0.], dtype=float32)
  """
  if not isinstance(network, Network):
    raise ValueError(
      f"hub.save_network needs a Network, got {type(network).__name__}. "
      "Bind params first: jaxmul.bind(model.apply, params)."
    )
  leaves = _leaves(network)
  if len(leaves) < len(jax.tree.leaves((network.params, network.state))):
    raise ValueError("hub.save_network: two leaves have the same name. Rename one.")
  for name, leaf in leaves.items():
    if not is_concrete(leaf):
      raise ValueError(f"hub.save_network: leaf {name!r} is being traced. Call it outside of jit.")
  _write(path, leaves, _NETWORK, "hub.save_network")


def load_network(path: str | os.PathLike, like: Network) -> Network:
  """Reads a network that `save_network` wrote, after checking every bit of it.

  Args:
    path: of the file.
    like: the same network, for its structure, functions and devices; its values are not used, so
      `models.shapes(model, inputs)` will do.

  Returns:
    `like` with the stored params and state.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: safetensors is not installed.
    ValueError: it is damaged, foreign, or of another network.
  """
  if not isinstance(like, Network):
    raise ValueError(
      f"hub.load_network needs like to be a Network, got {type(like).__name__}. Pass "
      "models.shapes(model, inputs), or jaxmul.bind(apply_fn, params)."
    )
  stored, wanted = _read(path, _NETWORK, "hub.load_network"), _leaves(like)
  odd = sorted(stored.keys() ^ wanted.keys())
  if odd:
    whose = "the file, but not in like" if odd[0] in stored else "like, but not in the file"
    raise ValueError(f"hub.load_network: {path} is of another network: {odd[0]!r} is in {whose}.")
  for name, value in stored.items():
    leaf = wanted[name] if hasattr(wanted[name], "dtype") else np.asarray(wanted[name])
    if (value.dtype, value.shape) != (np.dtype(leaf.dtype), tuple(leaf.shape)):
      raise ValueError(
        f"hub.load_network: {path} is of another network: {name!r} is {value.dtype} {value.shape}, "
        f"but like has {np.dtype(leaf.dtype)} {tuple(leaf.shape)}."
      )
  tree = _tree(like)
  placed = [_placed(stored[name], leaf) for name, leaf in wanted.items()]
  return like.replace(**jax.tree.unflatten(jax.tree.structure(tree), placed))


def save_scores(path: str | os.PathLike, ids: ArrayLike, scores: Mapping[str, ArrayLike]) -> None:
  """Writes scores with the ids that they are of to one file, such as those of a `train.Fit`.

  Args:
    path: such as "scores.safetensors".
    ids: int64 [n], each its own.
    scores: {name: [n, ...]}, numbers.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: ids are no integers or repeat, there are no scores, or their number is another.

  Example:
    >>> import tempfile
    >>> from jaxmul import hub
    >>> path = tempfile.mkdtemp() + "/scores.safetensors"
    >>> hub.save_scores(path, [7, 5], {"confidence": [0.25, 0.5]})
    >>> ids, scores = hub.load_scores(path)
    >>> ids.tolist(), scores["confidence"].tolist()
    ([7, 5], [0.25, 0.5])
  """
  ids = np.asarray(ids)
  check_ids(ids, ids.size, "hub.save_scores")
  if not len(ids) or not scores:
    raise ValueError("hub.save_scores got nothing to save. Pass ids and {name: scores}.")
  for name, values in scores.items():
    if name == "ids" or np.shape(values)[:1] != ids.shape:
      raise ValueError(
        f"hub.save_scores got {name!r} of shape {np.shape(values)}, must be [{len(ids)}, ...], one "
        "an id, and not be called 'ids'."
      )
  _write(path, {"ids": ids.astype(np.int64), **scores}, _SCORES, "hub.save_scores")


def load_scores(path: str | os.PathLike) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Reads what `save_scores` wrote, after checking every bit of it.

  Returns:
    Ids int64 [n] and {name: scores [n, ...]}.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: safetensors is not installed.
    ValueError: it is damaged or foreign.
  """
  arrays = _read(path, _SCORES, "hub.load_scores")
  return arrays.pop("ids"), arrays


def _tree(network: Network) -> dict[str, Any]:
  return {"params": network.params, "state": network.state}


def _leaves(network: Network) -> dict[str, Any]:
  """Returns the leaves of a network by their names, in the order of `flatten`."""
  return {
    ".".join(jax.tree_util.keystr((key,), simple=True) for key in keys): leaf
    for keys, leaf in jax.tree_util.tree_leaves_with_path(_tree(network))
  }


def _placed(value: np.ndarray, leaf: object) -> jax.Array | np.ndarray:
  if isinstance(leaf, jax.Array) and leaf.committed:
    return jax.device_put(value, leaf.sharding)
  return jnp.asarray(value) if hasattr(leaf, "sharding") else value


def _write(path: str | os.PathLike, values: Mapping[str, Any], kind: str, caller: str) -> None:
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
  content = safetensors.save(arrays, {"jaxmul": kind, "sha256": tree_digest(arrays)})
  again = _arrays_of(content)
  if again.keys() != arrays.keys() or not all(equal(again[n], arrays[n]) for n in arrays):
    raise ValueError(f"{caller}: safetensors does not read what it wrote. Install another version.")
  write_atomic(local(path), content)


def _read(path: str | os.PathLike, kind: str, caller: str) -> dict[str, np.ndarray]:
  _import_safetensors(caller)
  if not local(path).is_file():
    raise FileNotFoundError(f"{caller}: there is no file {path}. Check the name.")
  content = local(path).read_bytes()
  try:
    size = int.from_bytes(content[:8], "little")
    notes = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    arrays = _arrays_of(content)
  except Exception as error:  # the library's own kinds, and what NumPy and json raise
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(
      f"{caller}: {path} is damaged, or no such file ({reason}). Copy it again."
    ) from error
  written = notes.get("jaxmul")
  if written != kind:
    raise ValueError(
      f"{caller}: {path} is {written or 'a file of another program'!r}, not {kind!r}, or damaged. "
      "Weights of PyTorch are read by jaxmul.models.from_torch."
    )
  if notes.get("sha256") != tree_digest(arrays):
    raise ValueError(f"{caller}: {path} is damaged: its SHA-256 does not fit. Copy it again.")
  return arrays


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
