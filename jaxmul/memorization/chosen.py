"""Influence of a few chosen training examples, on correctness or on logits, streamed to disk.

β_i(x) = E[f(x) | i in the training subset] − E[f(x) | i left out], f(x) the outputs, whether x is
predicted right, or its p = e^−ℓ. Datamodel matching takes the logits of a forget set.

References:
  Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020;
  Georgiev et al., [Attribute-to-Delete](https://arxiv.org/abs/2410.23232), 2024.
"""

import dataclasses
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul._files import sha256, sync
from jaxmul._ids import rows_of
from jaxmul._paths import local
from jaxmul.memorization.welch_intervals import Sums, mean_and_error
from jaxmul.retraining.chunk import kept_of, members_of
from jaxmul.retraining.executors import Executor, Submitter
from jaxmul.retraining.leave_out_schedule import Schedule
from jaxmul.retraining.progress import Progress
from jaxmul.retraining.streaming import stream

_BLOCK_NUMBERS = 2**22
_ARRAYS = ("value.npy", "stderr.npy", "ids.npy", "test_ids.npy")
_DIGESTS = "sha256.json"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ChosenInfluence:
  """Influence of r chosen training examples on t examples.

  Attributes:
    ids: int64 [r], the chosen training examples.
    test_ids: int64 [t].
    value: float32 [t, r] in [−1, 1], or [t, r, ...] in logits or other outputs; NaN where an
      example was never in or never out. On disk where a folder was given.
    stderr: float32, its standard error, of the same shape; NaN too where there was one model.
  """

  ids: np.ndarray
  test_ids: np.ndarray
  value: np.ndarray
  stderr: np.ndarray

  @classmethod
  def load(cls, path: Path | str) -> "ChosenInfluence":
    """Returns what `influence` wrote to its folder `out`, with memory-mapped arrays.

    Every byte is read once and checked against the SHA-256 that `influence` wrote beside it.

    Raises:
      ValueError: the folder is not one that `influence` wrote, or a file in it is damaged.
    """
    path = local(path)
    try:
      expected = json.loads((path / _DIGESTS).read_bytes())
      for name in _ARRAYS:
        if sha256(path / name) != expected[name]:
          raise ValueError(f"{name} is damaged")
      value, stderr, ids, test_ids = (np.load(path / name, mmap_mode="r") for name in _ARRAYS)
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{path} is not a whole result of influence ({type(error).__name__}: {error}). Name the "
        "folder given as out=, or compute it again."
      ) from error
    return cls(ids=np.asarray(ids), test_ids=np.asarray(test_ids), value=value, stderr=stderr)


def influence(
  schedule: Schedule,
  ids: ArrayLike,
  *,
  out: Path | str | None = None,
  store: Path | str | None = None,
  executor: Executor | Submitter | None = None,
  progress: bool = True,
) -> ChosenInfluence:
  """Estimates what chosen training examples do to the outputs on others, by leaving them out.

  Args:
    schedule: of `retraining.leave_out`. Its `test` holds the t examples whose outputs are compared,
      such as the training set itself; its `target` says what of them: "correct", "confidence" for
      p = e^−ℓ, "logits", or "log_odds", of which it is φ.
    ids: int [r], the chosen training examples, such as a forget set; the schedule's candidates.
    out: folder for the result, written block by block and renamed when whole; its arrays come back
      memory-mapped. An earlier result there is replaced. In memory by default, with 24 bytes for
      each of t × r (× outputs) numbers while it works.
    store, executor, progress: as `memorization.estimate`.

  Returns:
    A `ChosenInfluence`.

  Raises:
    ValueError: the schedule keeps no outputs, an id is not in its data or is never left out, the
      store was made by another schedule, or `out` is a folder of something else.
    OSError: the store or `out` cannot be written.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, memorization, models, retraining, train
    >>> toy = data.Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=10, batch_size=4)
    >>> schedule = retraining.leave_out(
    ...   recipe, toy, jax.random.key(0), num_models=16, test=toy, target="logits")
    >>> effects = memorization.influence(schedule, [1, 4], executor=retraining.serial)
    >>> effects.value.shape
    (6, 2, 2)
  """
  dataset, test = schedule.dataset, schedule.test
  ids = np.asarray(ids).reshape(-1)
  columns = dataset.rows(ids)
  if not len(ids):
    raise ValueError("influence got no ids. Name at least one training example.")
  if not test:
    raise ValueError(
      f"influence got a schedule that keeps no outputs: {schedule.design}. "
      "Make it with retraining.leave_out(..., test=dataset)."
    )
  lack = f"is in every subset of this schedule, {schedule.design}"
  cure = "Make it with retraining.leave_out, and with the ids among its candidates."
  rows_of(schedule.candidates, ids, "influence", lack, cure)
  ids = ids.astype(np.int64)
  if out is not None:
    out = local(out)
    _refuse_foreign(out, store)
    out = out if jax.process_index() == 0 else None
  with (
    tempfile.TemporaryDirectory(dir=None if out is None else _parent(out)) as folder,
    Progress(schedule.num_models, progress, "ground truth") as bar,
  ):
    sums, shape = None, ()
    for chunk in stream(schedule, store=store, executor=bar.counting(executor)):
      outputs = kept_of(schedule, chunk)
      shape = (len(test), len(ids), *outputs.shape[2:])
      outputs = outputs.reshape(len(outputs), len(test), -1)
      sums = sums or _Sums(outputs.shape[1:], len(ids), Path(folder) if out else None)
      sums.add(members_of(schedule, chunk)[:, columns], outputs)
    assert sums is not None
    sums.warn()
    if out is None:
      value, stderr = (np.empty(shape, np.float32) for _ in range(2))
      sums.finish(value, stderr)
      return ChosenInfluence(ids=ids, test_ids=test.ids, value=value, stderr=stderr)
    whole = Path(folder) / "whole"
    whole.mkdir()
    value, stderr = (_memmap(whole / f"{name}.npy", shape, "f4") for name in ("value", "stderr"))
    sums.finish(value, stderr)
    value.flush()
    stderr.flush()
    np.save(whole / "ids.npy", ids)
    np.save(whole / "test_ids.npy", test.ids)
    digests = {name: sha256(whole / name) for name in _ARRAYS}
    (whole / _DIGESTS).write_text(json.dumps(digests, indent=2))
    for file in whole.iterdir():
      sync(file)
    if out.exists():
      out.rename(Path(folder) / "before")
    whole.rename(out)
    sync(out.parent)
  return ChosenInfluence.load(out)


class _Sums:
  """Sums of outputs [t, C] and of their squares, over models with and without each example."""

  def __init__(self, shape: tuple[int, ...], count: int, folder: Path | None):
    self._t, classes = shape
    self._count_in, self._models = np.zeros(count), 0
    size = (self._t, count, classes)
    self._inside = [
      np.zeros(size) if folder is None else _memmap(folder / f"sum-{power}.npy", size, "f8")
      for power in (1, 2)
    ]
    self._all = [np.zeros(shape) for _ in range(2)]
    self._block = max(1, _BLOCK_NUMBERS // (count * classes))

  def blocks(self) -> Iterator[slice]:
    """Yields slices of the t examples that bound the memory."""
    for start in range(0, self._t, self._block):
      yield slice(start, min(start + self._block, self._t))

  def add(self, member: np.ndarray, outputs: np.ndarray) -> None:
    """Adds models: member bool [k, r], outputs [k, t, C]."""
    self._models += len(member)
    self._count_in += member.sum(0)
    weights = member.T.astype(float)
    for rows in self.blocks():
      block = outputs[:, rows].astype(float)
      for inside, whole, power in zip(self._inside, self._all, (block, block**2), strict=True):
        inside[rows] += np.tensordot(weights, power, 1).swapaxes(0, 1)
        whole[rows] += power.sum(0)

  def warn(self) -> None:
    """Says how many examples have no result."""
    undefined = int(np.sum((self._count_in == 0) | (self._count_in == self._models)))
    if undefined:
      warnings.warn(
        f"{undefined} of {len(self._count_in)} chosen examples were never in or never out of a "
        "subset; their influence is NaN. Train more models.",
        stacklevel=3,
      )

  def finish(self, value: np.ndarray, stderr: np.ndarray) -> None:
    """Writes the difference of means and its standard error into [t, r, ...] arrays."""
    count_in = self._count_in[:, None]
    count_out = self._models - count_in
    for rows in self.blocks():
      sums, squares = (part[rows] for part in self._inside)
      whole, whole_squares = (part[rows][:, None] for part in self._all)
      mean_in, error_in = mean_and_error(Sums(count_in, sums, squares))
      outside = Sums(count_out, whole - sums, whole_squares - squares)
      mean_out, error_out = mean_and_error(outside)
      value[rows] = (mean_in - mean_out).reshape(value[rows].shape)
      stderr[rows] = np.sqrt(error_in + error_out).reshape(stderr[rows].shape)


def _memmap(path: Path, shape: tuple[int, ...], dtype: str) -> np.memmap:
  return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)


def _refuse_foreign(out: Path, store: Path | str | None) -> None:
  """Raises ValueError where `out` is there and is not an earlier result, or holds the store."""
  known = {*_ARRAYS, _DIGESTS}
  if out.exists() and (not out.is_dir() or {file.name for file in out.iterdir()} != known):
    raise ValueError(f"influence would replace {out}, which is not its own. Name a new folder.")
  if store is not None and local(store).absolute().is_relative_to(out.absolute()):
    raise ValueError(f"influence got out={out}, which holds store={store}. Name another folder.")


def _parent(out: Path) -> Path:
  folder = out.absolute().parent
  folder.mkdir(parents=True, exist_ok=True)
  return folder
