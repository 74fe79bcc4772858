"""Reads the examples of a `Streamed` into the rows of a batch.

An example goes to its place at once, so that nothing but the batch is held. It is taken for one
like the first unless its type, dtypes or shapes are others: then it is looked at part by part.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmul import _arrays, _article, _check
from jaxmul._arrays import Inputs
from jaxmul._dataset import Dataset, kept_inputs
from jaxmul._streamed import Key, Streamed, key_of, part_of

_LARGEST = np.iinfo(np.int64).max
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
    kept: the same as a `Dataset` would keep it.
    kind: the type of its first example.
    keys: of inputs and label in an example of that type.
  """

  dataset: Streamed
  first: Read
  kept: Read
  kind: type
  keys: tuple[Key, Key]

  @property
  def ids(self) -> np.ndarray:
    """Of the data set, int64 [n]."""
    return self.dataset.ids

  @property
  def sample(self) -> Dataset:
    """The first example as a data set of its own."""
    return Dataset(*self.first, num_classes=self.dataset.num_classes)

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
  try:
    example = _example(dataset, id)
    first = jax.tree.map(lambda leaf: leaf[None], _parts(dataset, example))
    kept = _kept(first, dataset.num_classes)
  except ValueError as error:
    raise _named(id, error) from error
  first = first._replace(labels=first.labels.astype(np.int64))
  keys = key_of(example, dataset.inputs, "image", 0), key_of(example, dataset.label, "label", 1)
  return Reader(dataset, first, kept, type(example), keys)


def read(reader: Reader, places: np.ndarray, to: Read) -> None:
  """Reads the examples at these places [B] into the rows of `to`.

  Args:
    reader: whose source is asked for each of them once.
    places: rows of the data set; n or more is padding, where the first example is put.
    to: arrays [B, ...] in the dtypes of `reader.kept`; what they held does not matter.

  Raises:
    ValueError: the source fails, an example has no inputs or no label, or others than the first one
      in shape or dtype, NaN or inf, or a label that is no class; the message names the id.
  """
  dataset = reader.dataset
  batch = jax.tree.map(_as_read, reader.first, to)
  is_padding = places >= len(dataset)
  if is_padding.any():
    for like, leaf in zip(*map(jax.tree.leaves, (reader.first, batch)), strict=True):
      leaf[is_padding] = like
  wanted = np.flatnonzero(~is_padding)
  for place, id in zip(wanted.tolist(), dataset.ids[places[wanted]].tolist(), strict=True):
    try:
      _put(reader, _example(dataset, id), batch, place)
    except ValueError as error:
      raise _named(id, error) from error
  try:
    kept = _kept(batch, dataset.num_classes)
  except ValueError:
    _raise_named(reader, places, batch)
    raise
  for own, source, leaf in zip(*map(jax.tree.leaves, (kept, batch, to)), strict=True):
    if source is not leaf:
      leaf[...] = own


def _as_read(first: np.ndarray, to: np.ndarray) -> np.ndarray:
  """Where rows go in the dtype of their source: to their place if that is the place's, too."""
  return to if first.dtype == to.dtype else np.empty(to.shape, first.dtype)


def _raise_named(reader: Reader, places: np.ndarray, batch: Read) -> None:
  """Raises the ValueError of the first example that a `Dataset` would refuse, with its id."""
  for place, row in enumerate(places):
    try:
      _kept(_arrays.rows(batch, slice(place, place + 1)), reader.dataset.num_classes)
    except ValueError as error:
      raise _named(int(reader.ids[row]), error) from error


def _named(id: int, error: ValueError) -> ValueError:
  """An error that says which example it is about."""
  return ValueError(f"fit read example {id} of the source: {error}")


def _example(dataset: Streamed, id: int) -> Any:
  """One example, whatever it is."""
  try:
    return dataset.source[id]
  except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    raise ValueError(f"it failed with {type(error).__name__}: {lines[0]}") from error


def _parts(dataset: Streamed, example: Any) -> Read:
  """Inputs [...] and label [*P] of one example, as its source has them."""
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


def _put(reader: Reader, example: Any, batch: Read, place: int) -> None:
  """Writes an example to its place, or raises ValueError where it is not like the first one."""
  if type(example) is reader.kind:
    inputs, label = reader.keys
    try:
      own = Read(example[inputs], example[label])
      if _is_written(own, batch, place):
        return
    except (KeyError, IndexError, TypeError, ValueError):
      pass  # what is wrong with it is said below
  own = _parts(reader.dataset, example)
  if own.labels.dtype == np.uint64:
    _check.class_numbers(own.labels[None], reader.dataset.num_classes, "it")
  if not _is_written(own, batch, place):
    first = jax.tree.map(lambda leaf: leaf[0], reader.first)
    raise ValueError(f"it has {_kind(own)}, but the first one {_kind(first)}. {_CURE}")


def _is_written(example: Read, batch: Read, place: int) -> bool:
  """Writes an example to its place, and returns whether it is like the others there."""
  label = np.asarray(example.labels)
  if label.dtype.kind not in "iu" or label.shape != batch.labels.shape[1:]:
    return False
  if label.dtype == np.uint64 and label.max(initial=0) > _LARGEST:
    return False  # as int64 it would be a number below 0
  batch.labels[place] = label
  return _are_written(example.inputs, batch.inputs, place)


def _are_written(inputs: Any, to: Inputs, place: int) -> bool:
  if isinstance(to, dict):
    return (
      isinstance(inputs, Mapping)
      and inputs.keys() == to.keys()
      and all(_are_written(inputs[key], part, place) for key, part in to.items())
    )
  array = np.asarray(inputs)
  if array.dtype != to.dtype or array.shape != to.shape[1:]:
    return False
  to[place] = array
  return True


def _kind(example: Read) -> str:
  """Dtypes and shapes of an example, in words."""
  inputs = example.inputs if isinstance(example.inputs, Mapping) else {"inputs": example.inputs}
  named = [*inputs.items(), ("label", example.labels)]
  return ", ".join(f"{name} {leaf.dtype} {list(leaf.shape)}" for name, leaf in named)


def _kept(batch: Read, num_classes: int) -> Read:
  """Examples in the dtypes of a `Dataset`, or ValueError where they hold what it refuses."""
  _check.class_numbers(batch.labels, num_classes, "it")
  return Read(kept_inputs(batch.inputs), batch.labels.astype(np.int32))
