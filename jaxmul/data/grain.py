"""What gives example i when asked for it: Grain's sources, and whatever else is read that way.

Nothing of Grain is imported: a source is whatever has a length and `source[i]`, as Grain's
`RandomAccessDataSource` and `MapDataset`, TFDS's `data_source` and PyTorch's data sets have.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from jaxmul._dataset import Dataset
from jaxmul._streamed import Key, Source, part_of, refuse_without_access
from jaxmul.data import sources


def from_grain(
  source: Source,
  *,
  inputs: Key | None = None,
  label: Key | None = None,
  ids: Key | None = None,
  num_classes: int = 0,
) -> Dataset:
  """Reads every example of a source with random access into memory, in its order.

  Args:
    source: of single examples: take it before it is shuffled, repeated or batched. An example is a
      dict or a tuple; None, as `MapDataset.filter` leaves for what it drops, is left out.
    inputs: its key in an example; "image" of a dict, 0 of a tuple by default.
    label: its key; "label" of a dict, 1 of a tuple by default.
    ids: key of an integer; by default the position in the source, also where some are left out.
    num_classes: C; by default one more than the largest label.

  Raises:
    ValueError: it has no length or cannot be asked for example i, an example lacks a key, examples
      are batches, differ in shape or dtype, or need more than `sources.MAX_BYTES`.

  Example:
    >>> import numpy as np
    >>> pairs = [(np.zeros((8, 8), np.uint8), 1), (np.ones((8, 8), np.uint8), 0)]
    >>> from_grain(pairs).labels.tolist()
    [1, 0]
  """
  refuse_without_access(source, "from_grain")
  labels, names = [], []

  def values() -> Iterator[ArrayLike]:
    for row in range(len(source)):
      example = source[row]
      if example is None:
        continue
      value = part_of(example, inputs, "image", 0)
      labels.append(np.asarray(part_of(example, label, "label", 1)))
      names.append(row if ids is None else part_of(example, ids, "id", 0))
      if labels[-1].ndim and np.ndim(value) > 2:
        raise ValueError(f"its label has shape {labels[-1].shape}: it is a batch, not one example")
      yield value

  with sources.reading(
    "from_grain: the source", "Pass single examples: {'image': ..., 'label': ...}."
  ):
    stacked = sources.stack(values(), len(source))
    if not labels:
      raise ValueError("it holds no example")
    return Dataset(stacked, np.stack(labels), np.asarray(names), num_classes)
