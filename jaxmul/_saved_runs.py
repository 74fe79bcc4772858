"""A training run that is saved after each epoch, so that the same call goes on after a kill.

`epoch-000003.npz` holds what the run carries after three epochs, its history so far, and digests of
all that decides it. It is whole or absent, sealed, and nothing in it can execute. The last two are
kept: where the last is damaged, the one before it is used.
"""

import dataclasses
import functools
import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _identity, _runs, _settings
from jaxmul._dataset import Dataset
from jaxmul._examples import Examples
from jaxmul._files import npz, read_npz, read_sealed, write_sealed
from jaxmul._reading import Reader
from jaxmul._steps import History

_NAME = re.compile(r"epoch-(\d{6,})\.npz")
_ABANDONED = re.compile(r"\.epoch-\d{6,}\.npz\..*\.tmp")  # by writes that were killed
_KEPT = 2
_LARGEST = 1 << 44


@dataclasses.dataclass(frozen=True)
class Folder:
  """The epochs of one run in a folder.

  Attributes:
    path: made when the first is written.
    identity: digests by name, of `identity_of`.
  """

  path: Path
  identity: Mapping[str, str]

  def last(self, like: _runs.State) -> tuple[int, _runs.State, np.ndarray] | None:
    """Returns the number of whole epochs, what is carried after them, and the history [2, E].

    None where there is none.

    A damaged file is named in a warning, and the one before it is used.

    Args:
      like: a state of the same run, for structure, dtypes and devices.

    Raises:
      ValueError: the folder holds another run.
    """
    for number, path in sorted(self._files().items(), reverse=True):
      try:
        arrays = read_npz(path, content=read_sealed(path, "zip", _LARGEST))
      except ValueError:
        arrays = {}
      if int(arrays.get("epochs", -1)) == number:  # the seal does not know the name of its file
        self._refuse_other(json.loads(str(arrays["run"])))
        leaves, structure = jax.tree.flatten(like)
        restored = [_restored(arrays[f"{at}"], leaf) for at, leaf in enumerate(leaves)]
        return number, jax.tree.unflatten(structure, restored), arrays["history"]
      warnings.warn(
        f"{path} is damaged: training goes on from the epoch before it that is whole, or starts "
        "again.",
        stacklevel=4,
      )
    return None

  def write(self, number: int, state: _runs.State, history: np.ndarray) -> None:
    """Writes what a run carries after so many epochs, and removes all but the one before.

    Raises:
      OSError: the folder cannot be written, or the disk is full; what was written before stays.
    """
    arrays = {f"{at}": _stored(leaf) for at, leaf in enumerate(jax.tree.leaves(state))}
    run = np.asarray(json.dumps(dict(self.identity)))
    arrays |= {"epochs": np.asarray(number), "run": run, "history": history}
    path = self.path / f"epoch-{number:06d}.npz"
    write_sealed(path, npz(arrays, compressed=False), "zip", _LARGEST)
    for other, file in self._files().items():
      if other <= number - _KEPT:
        file.unlink()

  def clean(self) -> None:
    """Removes what writes left that were killed."""
    if self.path.is_dir():
      for file in self.path.iterdir():
        if _ABANDONED.fullmatch(file.name):
          file.unlink()

  def _files(self) -> dict[int, Path]:
    files = self.path.iterdir() if self.path.is_dir() else ()
    found = ((_NAME.fullmatch(file.name), file) for file in files)
    return {int(name[1]): file for name, file in found if name}

  def _refuse_other(self, identity: Mapping[str, str]) -> None:
    others = [name for name, text in self.identity.items() if identity.get(name) != text]
    if others:
      raise ValueError(
        f"fit got checkpoints={str(self.path)!r} of another run: {', '.join(others)} differ. Use "
        "another folder."
      )


def identity_of(
  task: _runs.Task, labels: tuple[str, ...], source: Dataset | Reader, key: jax.Array
) -> dict[str, str]:
  """Returns a digest, by name, of each thing that decides the bits of a run but its devices.

  Trackers are told by the names of their functions and what these hold, not by their code.

  Args:
    task: with the recipe and the trackers.
    labels: of the trackers.
    source: what is trained on; of what is read as it goes, the ids and the first example count.
    key: of the run.

  Raises:
    ValueError: the recipe, or what a tracker holds, has no text that is the same in every process.
  """
  parts = {
    "recipe": task.recipe,
    "data": source if isinstance(source, Dataset) else source.content,
    "ids": source.ids,
    "key": key,
    "trackers": [labels, _plain(task.trackers)],
    "settings": _settings.current(),
    "versions": _identity.versions(),
  }
  return {name: _identity.digest(part) for name, part in parts.items()}


def run(task: _runs.Task, examples: Examples, key: jax.Array, folder: Folder) -> _runs.Run:
  """Returns what `_runs.whole` does, epoch by epoch from the last that is saved."""

  def next_epoch(state, number):
    return _epoch(task, examples, key, state, jnp.asarray(number))

  return by_epoch(task, _start(task, examples, key), next_epoch, folder)


def by_epoch(
  task: _runs.Task,
  state: _runs.State,
  next_epoch: Callable[[_runs.State, int], tuple[_runs.State, History]],
  folder: Folder | None,
) -> _runs.Run:
  """Returns what `_runs.whole` does, one call an epoch, from the last epoch of a folder, if any.

  Args:
    task: of the run.
    state: what is carried before the first epoch, in the types that an epoch returns.
    next_epoch: `(state, number) -> (state, history)`.
    folder: where each epoch is saved.
  """
  history, first = np.full((2, task.recipe.epochs), np.nan, np.float32), 0
  if folder is not None:
    folder.clean()
    if (saved := folder.last(state)) is not None:
      first, state, history = saved
  for number in range(first, task.recipe.epochs):
    after, means = next_epoch(state, number)
    if not after.alive:
      break
    state = after
    history[:, number] = means
    if folder is not None:
      folder.write(number + 1, state, history)
  loss, accuracy = map(jnp.asarray, history)
  return _runs.Run(state.carry.network, _scores(task, state), History(loss, accuracy))


@functools.partial(jax.jit, static_argnums=0)
def _start(task: _runs.Task, examples: Examples, key: jax.Array) -> _runs.State:
  return typed(_runs.start(task, examples, key))


def typed(state: _runs.State) -> _runs.State:
  """Returns a first state in the types that an epoch returns.

  With weak types, as of 1.0, the first epoch would be another program than the next.
  """
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state)


_epoch = jax.jit(_runs.epoch, static_argnums=0)
_scores = jax.jit(_runs.scores, static_argnums=0)


def _is_key(leaf: jax.Array) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _stored(leaf: jax.Array) -> np.ndarray:
  """A leaf as an array of NumPy's own: keys as their data, and bfloat16 and the like as bytes."""
  value = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
  return value if value.dtype.isbuiltin == 1 else np.frombuffer(value.tobytes(), np.uint8)


def _restored(value: np.ndarray, like: jax.Array) -> jax.Array:
  """What `_stored` made, as it was, on the devices that a leaf of another state is committed to."""
  if _is_key(like):
    leaf = jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
  else:
    if value.dtype != like.dtype:
      value = np.frombuffer(value.tobytes(), like.dtype).reshape(like.shape)
    leaf = jnp.asarray(value)
  return jax.device_put(leaf, like.sharding) if like.committed else leaf


def _plain(value: Any, within: tuple[Any, ...] = ()) -> Any:
  """A value of which `_identity.describe` has a text, in the place of one with local functions.

  Such a function is where it is made, and what it holds.
  """
  value = inspect.unwrap(value) if callable(value) else value
  if any(value is outer for outer in within):
    return "itself"  # a function that calls itself
  within = (*within, value)
  if inspect.isfunction(value) and "<" in value.__qualname__:
    held = [cell.cell_contents for cell in value.__closure__ or ()]
    defaults = (value.__defaults__, value.__kwdefaults__)
    return f"{value.__module__}.{value.__qualname__}", _plain([held, defaults], within)
  if isinstance(value, functools.partial):
    return "partial", _plain([value.func, value.args, value.keywords], within)
  if isinstance(value, Mapping):
    return {name: _plain(part, within) for name, part in value.items()}
  if isinstance(value, tuple | list):
    return [_plain(part, within) for part in value]
  return value
