"""A data set that stays where it is: a source gives example i when asked for it.

Nothing of Grain is imported: a source is whatever has a length and `source[i]`, as Grain's
`RandomAccessDataSource` and `MapDataset`, TFDS's `data_source` and PyTorch's data sets have.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article, _check
from jaxmul._ids import check_ids, rows_of

Example = Mapping[str, ArrayLike] | Sequence[ArrayLike] | None
Key = str | int


class Source(Protocol):
  """A length and `source[i]`, the example at position i."""

  def __len__(self) -> int: ...
  def __getitem__(self, index: int, /) -> Example: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
  """A data set larger than memory, for `train.fit`: a source with random access, read by Grain.

  An example is read when its batch is next, once an epoch, by threads of Grain's (extra `grain`),
  which ask the source at the same time. A few blocks of batches are in memory, never the data: each
  of 16 at most, and of 32 MiB unless a batch alone is larger.

  Attributes:
    source: has `len(source)` and `source[i]`, the same example whenever it is asked for: a dict or
      a tuple of one example. Take it before it is shuffled, repeated or batched.
    num_classes: C. Labels are seen only when they are read, so they cannot say.
    inputs: key of the inputs in an example; "image" of a dict, 0 of a tuple by default. It holds
      what is one row of a `Dataset`: uint8, float or tokens [T], or a dict of such.
    label: key of the label; "label" of a dict, 1 of a tuple by default. It is a class, or a class
      for each position.
    ids: int64 [n], positions in the source: which examples are of the data set, all by default.
    threads: how many of Grain's read, each a batch at a time; as many batches wait. More of them
      hide slow storage.

  Raises:
    ValueError: the source has no length or cannot be asked for example i, an id is no position in
      it or is there twice, or `num_classes` or `threads` is below 1.

  Example:
    >>> import numpy as np
    >>> pairs = [(np.zeros((8, 8), np.uint8), 1), (np.ones((8, 8), np.uint8), 0)]
    >>> streamed = Streamed(pairs, num_classes=2)
    >>> len(streamed), streamed.take([1]).ids.tolist()
    (2, [1])
  """

  source: Source
  num_classes: int
  inputs: Key | None = dataclasses.field(default=None, kw_only=True)
  label: Key | None = dataclasses.field(default=None, kw_only=True)
  ids: np.ndarray = dataclasses.field(default=None, kw_only=True)  # pyright: ignore[reportAssignmentType]
  threads: int = dataclasses.field(default=4, kw_only=True)

  def __post_init__(self):
    refuse_without_access(self.source, "Streamed")
    _check.count(self.num_classes, "num_classes", "Streamed")
    _check.count(self.threads, "threads", "Streamed")
    size = len(self.source)
    ids = np.arange(size) if self.ids is None else np.asarray(self.ids)
    check_ids(ids, ids.size, "Streamed")
    outside = ids[(ids < 0) | (ids >= size)]
    if len(outside):
      raise ValueError(
        f"Streamed got id {outside[0]}, must be a position in the source, in [0, {size})."
      )
    vars(self)["ids"] = ids.astype(np.int64)

  def __len__(self) -> int:
    return len(self.ids)

  def take(self, ids: ArrayLike) -> "Streamed":
    """Returns the data set of the given ids, in their order; nothing is read.

    Raises:
      ValueError: an id is not in the data, is asked for twice, or is no integer (such as a mask).
    """
    cure = "Ids are positions in the source."
    rows = rows_of(self.ids, ids, "Streamed.take", "is not in the data", cure)
    return dataclasses.replace(self, ids=self.ids[rows])


def refuse_without_access(source: object, caller: str) -> None:
  """Raises ValueError where a source has no length or cannot be asked for example i."""
  if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
    raise ValueError(
      f"{caller} got {_article.of(source)}, needs a source with len(source) and source[i]. "
      "Pass the MapDataset or data source that it is made of."
    )


def key_of(example: Example, key: Key | None, of_dict: str, of_tuple: int) -> Key:
  """Returns a key of what an example holds: the one given, or that of its kind without one.

  Raises:
    ValueError: it is neither a dict nor a tuple.
  """
  is_dict = isinstance(example, Mapping)
  if not is_dict and (not isinstance(example, Sequence) or isinstance(example, str | bytes)):
    raise ValueError(f"an example is {_article.of(example)}, must be a dict or a tuple")
  if key is not None:
    return key
  return of_dict if is_dict else of_tuple


def part_of(example: Example, key: Key | None, of_dict: str, of_tuple: int) -> ArrayLike:
  """Returns what an example holds under a key, without one under that of its kind.

  Raises:
    ValueError: it holds no such thing.
  """
  key = key_of(example, key, of_dict, of_tuple)
  try:
    return example[key]  # pyright: ignore[reportOptionalSubscript, reportCallIssue, reportArgumentType]
  except (KeyError, IndexError, TypeError) as error:
    is_dict = isinstance(example, Mapping)
    keys = sorted(map(str, example)) if is_dict else f"{len(example)} parts"  # pyright: ignore[reportArgumentType]
    raise ValueError(f"an example has no {key!r}, but {keys}") from error
