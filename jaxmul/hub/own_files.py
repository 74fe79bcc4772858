"""Networks and scores of ours in files that come back bit for bit."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmul._check import is_concrete
from jaxmul._ids import check_ids
from jaxmul.binding import Network
from jaxmul.hub import _safetensors

_NETWORK, _SCORES = "network 1", "scores 1"


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
  _safetensors.write(path, leaves, {"jaxmul": _NETWORK}, "hub.save_network")


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
  arrays = {"ids": ids.astype(np.int64), **scores}
  _safetensors.write(path, arrays, {"jaxmul": _SCORES}, "hub.save_scores")


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


def _read(path: str | os.PathLike, kind: str, caller: str) -> dict[str, np.ndarray]:
  arrays, notes = _safetensors.read(path, caller)
  written = notes.get("jaxmul")
  if written != kind:
    raise ValueError(
      f"{caller}: {path} is {written or 'a file of another program'!r}, not {kind!r}, or damaged. "
      "Weights of PyTorch are read by jaxmul.models.from_torch, folders of transformers by "
      "hub.load_gpt."
    )
  _safetensors.refuse_damaged(path, arrays, notes, caller)
  return arrays
