"""Which shard and slice an example is in, and how many epochs each slice takes.

The place of an example follows from its id and the key alone, so that it stays where it is when
others are deleted.
"""

import itertools
from collections.abc import Sequence

import jax
import numpy as np

from jaxmul import _identity
from jaxmul._dataset import Dataset
from jaxmul._ties import scattered


def places_of(
  dataset: Dataset, key: jax.Array, shards: int, slices: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the shard and the slice of each example, int64 [n] each.

  Copies of one example, a family of the data set, are in one place, by the number of the family.
  """
  names = dataset.ids if dataset.families is None else dataset.families
  drawn = scattered(names, int(_identity.digest(key)[:16], 16))
  shard, rest = drawn % np.uint64(shards), drawn // np.uint64(shards)
  return shard.astype(np.int64), (rest % np.uint64(slices)).astype(np.int64)


def epochs_of(epochs: int, slices: int) -> list[int]:
  """Returns the epochs of each slice, over which the passes over examples are as many as without.

  Slice r is trained with all slices before it, so that R slices of as many examples make, at e
  epochs each, e (R + 1) / 2 passes over the whole: e = 2 E / (R + 1). Where that is no integer,
  slices take ⌊e r⌋ − ⌊e (r − 1)⌋ epochs, as in the authors' code, for r = 1 … R: less than one pass
  more or less.

  Args:
    epochs: E, of training without slices.
    slices: R, at most 2 E − 1, so that each has an epoch.

  Example:
    >>> epochs_of(10, 1), epochs_of(10, 4), epochs_of(3, 2)
    ([10], [4, 4, 4, 4], [2, 2])
  """
  ends = [2 * epochs * number // (slices + 1) for number in range(slices + 1)]
  return [end - start for start, end in itertools.pairwise(ends)]


def passes_over(slice_of: np.ndarray, epochs: Sequence[int], first: int = 0) -> int:
  """Returns how many examples training goes over from a slice on, an example once an epoch.

  Args:
    slice_of: int [n], the slice of each example of a shard.
    epochs: of each slice.
    first: the slice.
  """
  seen = np.cumsum(np.bincount(slice_of, minlength=len(epochs)))
  return int(np.dot(seen[first:], np.asarray(epochs[first:])))
