"""Reads the examples of a `Streamed`, batch by batch, ahead of the steps by threads of Grain's.

An element of Grain's pipeline is a batch, made whole in one of its threads: an example each cost
three to a hundred times as much.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmul import _article, _check
from jaxmul._arrays import Inputs
from jaxmul._dataset import kept_inputs
from jaxmul._streamed import Streamed, part_of

_CURE = "Pass a source of arrays and classes: grain.MapDataset.source(source).map(decode)."


class Read(NamedTuple):
  """Some examples of a `Streamed`.

  Attributes:
    inputs: [B, ...], uint8, float32 or int32, or a dict of such.
    labels: int32 [B, *P].
  """

  inputs: Inputs
  labels: np.ndarray


def first_of(dataset: Streamed) -> Read:
  """Returns the first example, B = 1, which says of what shape and dtype all are.

  Raises:
    ImportError: Grain is not installed.
    ValueError: as `read`.
  """
  if importlib.util.find_spec("grain") is None:
    raise ImportError(
      "fit needs grain to read a Streamed, which is not installed. Run: pip install 'jaxmul[grain]'"
    )
  return read(dataset, np.arange(1))


def content_of(dataset: Streamed, first: Read) -> list[Any]:
  """Returns what tells a data set from others without reading it: its first example, and keys."""
  return [first.inputs, first.labels, dataset.num_classes, dataset.inputs, dataset.label]


def read(dataset: Streamed, rows: np.ndarray, like: Read | None = None) -> Read:
  """Returns the examples at these rows [B] of a data set; of none, no row of `like`.

  Args:
    dataset: whose source is asked for each of them once.
    rows: in 0 … n − 1.
    like: what all examples must be like in shape and dtype.

  Raises:
    ValueError: the source fails, an example holds no inputs or no label, or others than the first
      one in shape or dtype, NaN or inf, or a label that is no class; the message names the id.
  """
  if not len(rows):
    return jax.tree.map(lambda leaf: leaf[:0], like)
  ids = dataset.ids[rows]
  examples = [_example(dataset, int(id)) for id in ids]
  try:
    return _stacked(examples, dataset.num_classes, like)
  except ValueError:
    for id, example in zip(ids, examples, strict=True):
      try:
        like = _stacked([example], dataset.num_classes, like)
      except ValueError as error:
        raise ValueError(f"fit read example {id} of the source: {error}") from None
    raise


def batches(dataset: Streamed, first: Read, places: np.ndarray) -> Iterator[Read]:
  """Yields batches, read ahead.

  Args:
    dataset: that is read.
    first: its first example, which also stands where a place is padding.
    places: int [steps, B], rows of the data set; what is n or more is padding, and is not read.

  Raises:
    ValueError: as `read`, when the batch is next.
  """
  import grain

  options = grain.ReadOptions(num_threads=dataset.threads, prefetch_buffer_size=dataset.threads)
  source = grain.MapDataset.source(_Batches(dataset, first, places))
  for element in source.to_iter_dataset(options):
    if isinstance(element, ValueError):
      raise element
    yield element


class _Batches:
  """Grain's source of the batches of an epoch."""

  def __init__(self, dataset: Streamed, first: Read, places: np.ndarray):
    self._dataset, self._first, self._places = dataset, first, places

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, step: int) -> Read | ValueError:
    places = self._places[step]
    is_read = places < len(self._dataset)
    try:
      own = read(self._dataset, places[is_read], self._first)
    except ValueError as error:
      return error  # to one that is raised in its threads Grain adds lines of its own
    if is_read.all():
      return own
    rows = np.cumsum(is_read) * is_read  # 0 is the first example, k the k-th one that is read
    return jax.tree.map(lambda one, more: np.concatenate([one, more])[rows], self._first, own)


def _example(dataset: Streamed, id: int) -> tuple[Inputs, np.ndarray]:
  """Inputs [...] and label [*P] of one example, as its source has them."""
  try:
    example = dataset.source[id]
  except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    name = type(error).__name__
    raise ValueError(f"fit cannot read example {id} of the source: {name}: {lines[0]}") from error
  try:
    inputs = part_of(example, dataset.inputs, "image", 0)
    return _numbers(inputs), _numbers(part_of(example, dataset.label, "label", 1))
  except ValueError as error:
    raise ValueError(f"fit cannot read example {id} of the source: {error}. {_CURE}") from error


def _numbers(value: Any) -> Inputs:
  """A value as an array of numbers, a dict as one of arrays."""
  if isinstance(value, Mapping):
    return {key: _numbers(part) for key, part in value.items()}
  array = np.asarray(value)
  if array.dtype.kind not in "biuf":
    raise ValueError(f"it holds {_article.of(value)}, must be an array of numbers")
  return array


def _stacked(
  examples: Sequence[tuple[Inputs, np.ndarray]], num_classes: int, like: Read | None
) -> Read:
  """Examples as a batch in the dtypes of a `Dataset`, or ValueError."""
  try:
    inputs, labels = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
  except ValueError as error:  # several lines of NumPy's or JAX's
    raise ValueError("examples differ in shape") from error
  if len({tuple(leaf.dtype for leaf in jax.tree.leaves(inputs)) for inputs, _ in examples}) > 1:
    raise ValueError("examples differ in dtype")
  found = Read(kept_inputs(inputs), labels)
  if like is not None and _kind(found) != _kind(like):
    raise ValueError(f"it holds {_kind(found)}, but the first one {_kind(like)}. {_CURE}")
  _check.class_numbers(labels, num_classes, "fit")
  return found._replace(labels=labels.astype(np.int32))


def _kind(found: Read) -> str:
  """What each example holds, in words."""
  inputs = found.inputs if isinstance(found.inputs, Mapping) else {"inputs": found.inputs}
  named = [f"{name} {leaf.dtype} {list(leaf.shape[1:])}" for name, leaf in sorted(inputs.items())]
  return f"{', '.join(named)} and label {list(found.labels.shape[1:])}"
