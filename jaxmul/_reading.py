"""Reads the examples of a `Streamed`, batch by batch, ahead of the steps by threads of Grain's.

An element of Grain's pipeline is a batch, made whole in one of its threads: an example each cost
twice as much or more. An example goes to its place in the batch at once, so that not much
more than the batches themselves is ever held.
"""

import contextlib
import importlib.util
import mmap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmul import _arrays, _article, _check
from jaxmul._arrays import Inputs
from jaxmul._dataset import Dataset, kept_inputs
from jaxmul._streamed import Streamed, part_of

_CURE = "Pass a source of arrays and classes: grain.MapDataset.source(source).map(decode)."


class Read(NamedTuple):
  """Some examples of a `Streamed`, as their source has them or as a `Dataset` would keep them.

  Attributes:
    inputs: [B, ...], or a dict of such.
    labels: int [B, *P].
  """

  inputs: Inputs
  labels: np.ndarray


class Reader(NamedTuple):
  """A data set of which the first example was read.

  Attributes:
    dataset: the rest of it.
    first: its first example as its source has it, B = 1: all are of its shape and dtype.
  """

  dataset: Streamed
  first: Read

  @property
  def ids(self) -> np.ndarray:
    """Of the data set, int64 [n]."""
    return self.dataset.ids

  @property
  def sample(self) -> Dataset:
    """The first example, with the last class as its label, which a network must be able to say."""
    labels = np.full_like(self.first.labels, self.dataset.num_classes - 1)
    return Dataset(self.first.inputs, labels, num_classes=self.dataset.num_classes)

  @property
  def content(self) -> list[Any]:
    """What tells the data set from others without reading it."""
    return [*self.first, self.dataset.num_classes, self.dataset.inputs, self.dataset.label]


def opened(dataset: Streamed) -> Reader:
  """Reads the first example.

  Raises:
    ImportError: Grain is not installed.
    ValueError: as `read`.
  """
  if importlib.util.find_spec("grain") is None:
    raise ImportError(
      "fit needs grain to read a Streamed, which is not installed. Run: pip install 'jaxmul[grain]'"
    )
  id = int(dataset.ids[0])
  with _named(id):
    first = jax.tree.map(lambda leaf: leaf[None], _example(dataset, id))
    _kept(first, dataset.num_classes)
  return Reader(dataset, first._replace(labels=first.labels.astype(np.int64)))


def read(reader: Reader, places: np.ndarray) -> Read:
  """Returns the examples at these places [B] in the dtypes of a `Dataset`.

  Args:
    reader: whose source is asked for each of them once.
    places: rows of the data set; n or more is padding, where the first example stands.

  Raises:
    ValueError: the source fails, an example has no inputs or no label, or others than the first one
      in shape or dtype, NaN or inf, or a label that is no class; the message names the id.
  """
  ids, count = reader.dataset.ids, len(reader.dataset)
  batch = jax.tree.map(lambda leaf: _repeated(leaf, len(places)), reader.first)
  wanted = [(place, int(ids[row])) for place, row in enumerate(places) if row < count]
  for place, id in wanted:
    with _named(id):
      _put(batch, place, _example(reader.dataset, id))
  try:
    return _kept(batch, reader.dataset.num_classes)
  except ValueError:
    for place, id in wanted:
      with _named(id):
        _kept(_arrays.rows(batch, slice(place, place + 1)), reader.dataset.num_classes)
    raise


def batches(reader: Reader, places: np.ndarray) -> Iterator[Read]:
  """Yields the batches at these places [steps, B] as `read` does, read ahead.

  Raises:
    ValueError: as `read`, when the batch is next.
  """
  import grain

  threads = reader.dataset.threads
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  source: Any = _Batches(reader, places)
  for batch in grain.MapDataset.source(source).to_iter_dataset(options):
    if isinstance(batch, ValueError):
      raise batch
    yield batch


class _Batches:
  """Grain's source of the batches of an epoch."""

  def __init__(self, reader: Reader, places: np.ndarray):
    self._reader, self._places = reader, places

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, step: int) -> Read | ValueError:
    try:
      return read(self._reader, self._places[step])
    except ValueError as error:
      return error  # to one that is raised in its threads Grain adds lines of its own


@contextlib.contextmanager
def _named(id: int) -> Iterator[None]:
  """Lets an error say which example it is about."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"fit read example {id} of the source: {error}") from error


def _example(dataset: Streamed, id: int) -> Read:
  """Inputs [...] and label [*P] of one example, as its source has them."""
  try:
    example = dataset.source[id]
  except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    raise ValueError(f"it failed with {type(error).__name__}: {lines[0]}") from error
  inputs = _numbers(part_of(example, dataset.inputs, "image", 0))
  return Read(inputs, _numbers(part_of(example, dataset.label, "label", 1)))


def _numbers(value: Any) -> Inputs:
  """A value as an array of numbers, a dict as one of arrays."""
  if isinstance(value, Mapping):
    return {key: _numbers(part) for key, part in value.items()}
  array = np.asarray(value)
  if array.dtype.kind not in "biuf":
    raise ValueError(f"it holds {_article.of(value)}, must be an array of numbers. {_CURE}")
  return array


def _repeated(leaf: np.ndarray, size: int) -> np.ndarray:
  """One row [1, ...] as often as asked, in memory that goes back to the system when it is freed.

  That of `malloc` stayed: threads that read and a step that runs left holes in one another's, which
  grew by a tenth of a batch a step.
  """
  room = mmap.mmap(-1, max(1, leaf.nbytes * size))
  rows = np.frombuffer(room, leaf.dtype, leaf.size * size).reshape(size, *leaf.shape[1:])
  rows[:] = leaf
  return rows


def _put(batch: Read, place: int, example: Read) -> None:
  """Writes an example to its place, or raises ValueError where it is not like the first one."""
  whole, structure = jax.tree.flatten(batch)
  own, own_structure = jax.tree.flatten(example)
  is_like = (
    structure == own_structure
    and all(a.shape == b.shape[1:] for a, b in zip(own, whole, strict=True))
    and all(a.dtype == b.dtype for a, b in zip(own[:-1], whole[:-1], strict=True))
    and own[-1].dtype.kind in "iu"
  )
  if not is_like:
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    raise ValueError(f"it has {_kind(example)}, but the first one {_kind(first)}. {_CURE}")
  for leaf, to in zip(own, whole, strict=True):
    to[place] = leaf


def _kind(example: Read) -> str:
  """Dtypes and shapes of an example, in words."""
  inputs = example.inputs if isinstance(example.inputs, Mapping) else {"inputs": example.inputs}
  named = [*inputs.items(), ("label", example.labels)]
  return ", ".join(f"{name} {leaf.dtype} {list(leaf.shape)}" for name, leaf in named)


def _kept(batch: Read, num_classes: int) -> Read:
  """Examples in the dtypes of a `Dataset`, or ValueError where they hold what it refuses."""
  _check.class_numbers(batch.labels, num_classes, "fit")
  return Read(kept_inputs(batch.inputs), batch.labels.astype(np.int32))
