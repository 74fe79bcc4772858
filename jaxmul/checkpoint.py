"""Trained params on disk: a flipped bit is an error, not a different model.

A checkpoint is a folder: `arrays/`, written by Orbax, and `manifest.json` with the size and SHA-256
of every file, the dtype and shape of every leaf, and a SHA-256 of itself. Orbax restores damaged
files without noticing, so everything is verified before Orbax sees it. The hashes guard against
accidents, not against someone who rewrites them.

Functions are not stored. `load(path, like)` takes them, and the structure, from a `Network` such as
`models.init` makes; `load(path)` returns plain arrays.
"""

import collections
import json
import os
import shutil
import uuid
import warnings
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _article, _check
from jaxmul._files import equal, read_sealed, sha256, short, sync, write_sealed
from jaxmul._paths import local
from jaxmul.binding import Network, is_a

MANIFEST = "manifest.json"
ARRAYS = "arrays"
FORMAT = "jaxmul checkpoint 1"
MAX_MANIFEST_BYTES = 1 << 26
AGAIN = "Copy the checkpoint again, or save it again."

Spec = tuple[str, tuple[int, ...]]
Names = tuple[str, ...]
PathLike = str | os.PathLike[str]


def save(path: PathLike, network: Network) -> None:
  """Writes params and state to a folder; what is under `path` is whole at all times.

  The new checkpoint is written beside `path`, read back, compared bit by bit, fsynced, and then
  renamed. One that is there stays until then; if a kill comes between the two renames, `load` reads
  it from where it was put aside. A killed save can leave a folder `.NAME.*.tmp` beside it, which
  may be deleted.

  Args:
    path: folder on a local or mounted file system, made with its parents.
    network: any tree of arrays, on any devices. Its functions are not stored, and lists and the
      like are stored as dicts: `load` needs `like` to make them again.

  Raises:
    ValueError: `network` is not a `Network` or holds a leaf that is no array, `path` is refused by
      `refuse_path` or holds other files, Orbax does not read back what it wrote, or this is not
      process 0 of a `jax.distributed` job.

  Example:
    >>> import jax, tempfile
    >>> from jaxmul import checkpoint, models
    >>> params = models.init(models.mlp((8,)), jax.random.key(0), jax.numpy.ones((1, 2, 2)))
    >>> path = tempfile.mkdtemp() + "/original"
    >>> checkpoint.save(path, params)
    >>> checkpoint.load(path, params)(jax.numpy.ones((3, 2, 2))).shape
    (3, 10)
  """
  refuse_path(path)
  path = _absolute(path)
  arrays = _arrays_of(network)
  _refuse_foreign(path)
  if jax.process_index():
    raise ValueError(
      f"checkpoint.save was called on process {jax.process_index()}; one process writes. "
      "Call it where jax.process_index() == 0."
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{short(path.name)}.{uuid.uuid4().hex}.tmp")
  try:
    temporary.mkdir()
    version = _write(temporary / ARRAYS, _nested(arrays))
    leaves = {_name(names): _spec(value) for names, value in arrays.items()}
    write_sealed(temporary / MANIFEST, _manifest(temporary, leaves, version), "json")
    _compare(temporary, arrays, path)
    for written in (*temporary.rglob("*"), temporary):
      sync(written)
    _install(temporary, path)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise


@overload
def load(path: PathLike, like: None = None) -> dict[str, Any]: ...
@overload
def load(path: PathLike, like: Network) -> Network: ...
def load(path: PathLike, like: Network | None = None) -> Network | dict[str, Any]:
  """Reads a checkpoint after verifying every file of it.

  Args:
    path: what was given to `save`.
    like: a `Network` of the same network, for the structure, the functions and the devices; its
      values are not used, so `jax.eval_shape` of `models.init` will do.

  Returns:
    `like` with the stored params and state, on the devices that its own are committed to. Without
    `like`, `{"params": ..., "state": ...}`: nested dicts of NumPy arrays, state None if none was
    stored.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: a file is damaged, missing or foreign, a leaf differs from `like` in name, dtype or
      shape, or `path` is refused by `refuse_path`. Nothing is read by Orbax then.

  Example:
    >>> import jax, jaxmul, tempfile
    >>> from jaxmul import checkpoint
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> checkpoint.save(path, jaxmul.bind(lambda w, x: x @ w, jax.numpy.eye(2)))
    >>> checkpoint.load(path)["params"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  path = _current(_absolute(path))
  if like is not None and not isinstance(like, Network):
    raise ValueError(
      f"checkpoint.load needs like to be a Network, got {type(like).__name__}. "
      "Pass models.init(model, key, inputs), or jaxmul.bind(apply_fn, params)."
    )
  stored = verify(path)
  refuse_path(path)
  if like is not None:
    _refuse_unlike(path, stored, like)
  tree = _read(path / ARRAYS)
  values = {_name(names): value for names, value in _flat(tree).items()}
  if {name: _spec(value) for name, value in values.items()} != stored:
    raise ValueError(f"checkpoint {path}: {ARRAYS} does not hold what {MANIFEST} says. {AGAIN}")
  if like is None:
    return {"params": tree["params"], "state": tree.get("state")}
  placed = [_place(values[_name(names)], leaf) for names, leaf in _flat(_tree(like)).items()]
  return like.replace(**jax.tree.unflatten(jax.tree.structure(_tree(like)), placed))


def verify(path: PathLike) -> dict[str, Spec]:
  """Checks that every file of a checkpoint is there, alone and unchanged; Orbax is not needed.

  Returns:
    (dtype, shape) of each leaf, such as `{"params.Dense_0.bias": ("float32", (8,))}`.

  Raises:
    FileNotFoundError: nothing is there.
    ValueError: a file is damaged, missing or foreign; names the first one.

  Example:
    >>> import jax, jaxmul, tempfile
    >>> from jaxmul import checkpoint
    >>> path = tempfile.mkdtemp() + "/linear"
    >>> checkpoint.save(path, jaxmul.bind(lambda w, x: x @ w, jax.numpy.eye(2)))
    >>> checkpoint.verify(path)
    {'params': ('float32', (2, 2))}
  """
  path = _current(_absolute(path))
  listed, leaves = _read_manifest(path)
  present = _files(path)
  if missing := sorted(listed.keys() - present.keys()):
    raise ValueError(f"checkpoint {path}: file {missing[0]!r} is missing. {AGAIN}")
  if extra := sorted(present.keys() - listed.keys()):
    raise ValueError(f"checkpoint {path}: file {extra[0]!r} is not part of it. Move it elsewhere.")
  for name, file in present.items():
    size, digest = listed[name]
    if file.is_symlink() or not file.is_file():
      raise ValueError(f"checkpoint {path}: {name!r} is not a plain file. {AGAIN}")
    if file.stat().st_size != size:
      raise ValueError(
        f"checkpoint {path}: file {name!r} is damaged: {file.stat().st_size} bytes, "
        f"must be {size}. {AGAIN}"
      )
    if sha256(file) != digest:
      raise ValueError(
        f"checkpoint {path}: file {name!r} is damaged: its SHA-256 is another. {AGAIN}"
      )
  return leaves


def refuse_path(path: PathLike) -> None:
  """Raises ValueError where a checkpoint under a path could be written and not be read again.

  For what saves only after long work: `save` and `load` look by themselves.

  Args:
    path: of a checkpoint, or of a folder for some.

  Raises:
    ValueError: it is a URL, or holds [, ] or a backslash, which Orbax takes for a pattern, a folder
      whose name ends with a colon, which it takes for a URL, or what is no UTF-8.

  Example:
    >>> from jaxmul import checkpoint
    >>> checkpoint.refuse_path("runs/rate=[0.1]/original")
    Traceback (most recent call last):
    ValueError: Orbax cannot read a path with '[', such as 'rate=[0.1]'. Name another folder.
  """
  for part in _absolute(path).parts[1:]:
    odd = next((letter for letter in "[]\\" if letter in part), ":" if part[-1] == ":" else None)
    if odd is None and part.encode(errors="ignore").decode() != part:
      odd = "a letter that is no UTF-8"
    if odd is not None:
      raise ValueError(
        f"Orbax cannot read a path with {odd!r}, such as {part!r}. Name another folder."
      )


def _compare(temporary: Path, arrays: dict[Names, np.ndarray], path: Path) -> None:
  """Raises ValueError where what was written, and is to be renamed to `path`, is not `arrays`."""
  verify(temporary)
  try:
    written = _flat(_read(temporary / ARRAYS))
  except ValueError as error:
    raise ValueError(
      f"checkpoint.save: Orbax cannot read what it wrote for {path}. Name another folder."
    ) from error
  for names, value in arrays.items():
    if names not in written or not equal(np.asarray(written[names]), value):
      raise ValueError(
        f"checkpoint.save: Orbax wrote leaf {_name(names)!r} for {path} and reads something else. "
        "Name another folder, or check the disk."
      )


def _tree(network: Network) -> dict[str, Any]:
  return {"params": network.params, "state": network.state}


def _flat(tree: object) -> dict[Names, Any]:
  """Returns the leaves of a tree by the names on the way to them, in the order of `flatten`."""
  return {
    tuple(jax.tree_util.keystr((key,), simple=True) for key in keys): leaf
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _nested(arrays: dict[Names, np.ndarray]) -> dict[str, Any]:
  root: dict[str, Any] = {}
  for names, value in arrays.items():
    node = root
    for name in names[:-1]:
      node = node.setdefault(name, {})
    node[names[-1]] = value
  return root


def _name(names: Names) -> str:
  return ".".join(names)  # as Orbax names a leaf


def _spec(leaf: jax.Array | np.ndarray) -> Spec:
  leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
  return np.dtype(leaf.dtype).name, tuple(int(size) for size in leaf.shape)


def _arrays_of(network: Network) -> dict[Names, np.ndarray]:
  if not isinstance(network, Network):
    raise ValueError(
      f"checkpoint.save needs a Network, got {type(network).__name__}. Bind it first: "
      f"{_binding_of(network)}."
    )
  arrays = {names: _array(leaf, _name(names)) for names, leaf in _flat(_tree(network)).items()}
  for name, count in collections.Counter(map(_name, arrays)).items():
    if count > 1:  # Orbax would write one over the other, silently.
      raise ValueError(f"checkpoint.save: two leaves are called {name!r} on disk. Rename one.")
  if not any(names[0] == "params" for names in arrays):
    raise ValueError("checkpoint.save got params without a single array: there is nothing to save.")
  return arrays


def _binding_of(value: object) -> str:
  """How what is no Network becomes one."""
  if is_a(value, "flax.nnx"):
    return "jaxmul.bind(lambda module, x: module(x), module)"
  if is_a(value, "equinox"):
    return "jaxmul.bind(lambda module, x: jax.vmap(module)(x), module)"
  if is_a(value, "flax.linen"):
    return "jaxmul.bind(module.apply, params), with the params that were trained"
  return "jaxmul.bind(model.apply, params)"


def _array(leaf: object, name: str) -> np.ndarray:
  if not _check.is_concrete(leaf):
    raise ValueError(f"checkpoint.save: leaf {name!r} is being traced. Call save outside of jit.")
  dtype = getattr(leaf, "dtype", None)
  if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
    raise ValueError(
      f"checkpoint.save: leaf {name!r} is {dtype}. Store keys as jax.random.key_data(key)."
    )
  is_number = dtype is not None or isinstance(leaf, int | float | complex)
  value = np.asarray(leaf if is_number else None)
  if not (jnp.issubdtype(value.dtype, np.number) or value.dtype == bool):
    raise ValueError(
      f"checkpoint.save: leaf {name!r} is {_article.of(leaf)}, not an array of numbers. "
      "Keep it out of the params, or make it static."
    )
  if not value.size:
    raise ValueError(f"checkpoint.save: leaf {name!r} has shape {value.shape}. Drop empty arrays.")
  return value


def _place(value: np.ndarray, leaf: object) -> jax.Array | np.ndarray:
  if isinstance(leaf, jax.Array) and leaf.committed:
    return jax.device_put(value, leaf.sharding)
  return jnp.asarray(value) if hasattr(leaf, "sharding") else value


def _refuse_unlike(path: Path, stored: dict[str, Spec], like: Network) -> None:
  wanted = {_name(names): _spec(leaf) for names, leaf in _flat(_tree(like)).items()}
  cure = "Pass the like of the model that was saved, or none to get plain arrays."
  if extra := sorted(stored.keys() - wanted.keys()):
    raise ValueError(f"checkpoint {path}: leaf {extra[0]!r} is stored, but like has none. {cure}")
  if missing := sorted(wanted.keys() - stored.keys()):
    raise ValueError(f"checkpoint {path}: leaf {missing[0]!r} of like is not stored. {cure}")
  for name, (dtype, shape) in stored.items():
    if (dtype, shape) != wanted[name]:
      other, size = wanted[name]
      raise ValueError(
        f"checkpoint {path}: leaf {name!r} is {dtype} {shape}, but like has {other} {size}. {cure}"
      )


def _checkpointer():
  """Returns Orbax on its own in this process: it waits for no other."""
  import orbax.checkpoint as ocp

  me = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
    primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"jaxmul_{me}"
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _write(folder: Path, tree: dict[str, Any]) -> str:
  """Writes nested dicts of NumPy arrays; returns the version of Orbax."""
  import orbax.checkpoint as ocp

  with _checkpointer() as checkpointer:
    checkpointer.save(folder, tree)
  return ocp.__version__


def _read(folder: Path) -> dict[str, Any]:
  try:
    with _checkpointer() as checkpointer:
      return checkpointer.restore(folder)
  except Exception as error:
    reason = (str(error).splitlines() or [""])[0]
    raise ValueError(
      f"checkpoint {folder.parent}: its files are whole, but Orbax cannot read them "
      f"({type(error).__name__}: {reason}). Install the Orbax that {MANIFEST} names."
    ) from error


def _manifest(folder: Path, leaves: dict[str, Spec], version: str) -> bytes:
  manifest = {
    "format": FORMAT,
    "orbax": version,
    "leaves": {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in leaves.items()},
    "files": {
      name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
      for name, file in _files(folder).items()
    },
  }
  return json.dumps(manifest).encode()


def _read_manifest(path: Path) -> tuple[dict[str, tuple[int, str]], dict[str, Spec]]:
  """Returns (bytes, SHA-256) of each file and (dtype, shape) of each leaf."""
  file = path / MANIFEST
  if not file.is_file() or file.is_symlink():
    if path.is_dir() and not (path / ARRAYS).exists():
      raise ValueError(
        f"{path} is not a checkpoint of jaxmul: it holds no {MANIFEST!r}. Params that something "
        "else saved are read with it, and bound: jaxmul.bind(apply_fn, params)."
      )
    raise ValueError(f"checkpoint {path}: file {MANIFEST!r} is missing. {AGAIN}")
  try:
    manifest = json.loads(read_sealed(file, "json", MAX_MANIFEST_BYTES))
    written_as = manifest["format"]
    files = {
      name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()
    }
    leaves = {
      name: (str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
      for name, entry in manifest["leaves"].items()
    }
  except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
    raise ValueError(f"checkpoint {path}: file {MANIFEST!r} is damaged. {AGAIN}") from None
  if written_as != FORMAT:
    raise ValueError(
      f"checkpoint {path}: file {MANIFEST!r} is in format {written_as!r}, not {FORMAT!r}. "
      "Load it with the jaxmul that saved it."
    )
  return files, leaves


def _files(folder: Path) -> dict[str, Path]:
  """Returns everything under a folder but folders and the manifest, by relative name."""
  files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
  named = {path.relative_to(folder).as_posix(): path for path in files}
  named.pop(MANIFEST, None)
  return named


def _absolute(path: PathLike) -> Path:
  return local(path).resolve()


def _refuse_foreign(path: Path) -> None:
  """Raises ValueError where saving would delete what is not a checkpoint."""
  if not path.exists():
    return
  inside = set(os.listdir(path)) if path.is_dir() else {path.name}
  if inside and (MANIFEST not in inside or inside - {MANIFEST, ARRAYS}):
    raise ValueError(
      f"checkpoint.save would replace {path}, which is not a checkpoint. Name a new folder."
    )


def _aside(path: Path) -> Path:
  return path.with_name(f".{short(path.name)}.aside")


def _install(temporary: Path, path: Path) -> None:
  aside = _aside(path)
  if path.exists():
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(path, aside)
  os.rename(temporary, path)
  sync(path.parent)
  shutil.rmtree(aside, ignore_errors=True)


def _current(path: Path) -> Path:
  """Returns the folder to read: `path`, or what a save killed between its renames put aside."""
  if path.exists():
    if not path.is_dir():
      raise ValueError(f"checkpoint {path} is a file, must be a folder. {AGAIN}")
    return path
  aside = _aside(path)
  if not aside.exists():
    raise FileNotFoundError(f"no checkpoint at {path}. Save one there, or check the name.")
  warnings.warn(
    f"a save to {path} was cut off; reading the checkpoint before it from {aside}.", stacklevel=3
  )
  return aside
