"""Blocks of batches of a `Streamed`, read ahead of the steps by threads of Grain's.

An element of Grain's pipeline is a batch: an example each cost twice as much or more. A batch is
read into its place in a block, and the memory of blocks is used again: pages that are new to a
process cost several times what it costs to fill them.
"""

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmul._arrays import aligned
from jaxmul._reading import Read, Reader, read

_STEPS = 16
_BYTES = 32 * 2**20


class Block(NamedTuple):
  """Some batches of an epoch, one after another, of K for which there is room.

  Attributes:
    first: the step of the first.
    size: how many, from 1 to K.
    read: inputs and labels, arrays [B, K, ...]; behind these batches is anything.
    places: int32 [B, K], their rows in the data set; behind them is 0.
  """

  first: int
  size: int
  read: Read
  places: np.ndarray


class Rooms:
  """Memory of the blocks of a run, which is used again.

  A room is made when the first batch of a block is to be read and none is free, so that no thread
  waits for one, and there are no more than Grain reads ahead.
  """

  def __init__(self, like: Read):
    """Takes one example as it is kept, arrays [1, ...]."""
    self._like, self._lock = like, threading.Lock()
    self._used: dict[int, Read] = {}
    self._free: list[Read] = []

  def of(self, number: int, shape: tuple[int, int]) -> Read:
    """Returns the room of the block of this number, arrays [B, K, ...]; all have one [B, K]."""
    with self._lock:
      if number not in self._used:
        self._used[number] = self._free.pop() if self._free else self._made(shape)
      return self._used[number]

  def release(self, number: int) -> None:
    """Lets a block be written anew, which nothing reads any more."""
    with self._lock:
      self._free.append(self._used.pop(number))

  def _made(self, shape: tuple[int, int]) -> Read:
    return jax.tree.map(lambda leaf: aligned((*shape, *leaf.shape[1:]), leaf.dtype), self._like)


def blocks(reader: Reader, rooms: Rooms, places: np.ndarray) -> Iterator[Block]:
  """Yields the batches at these places [steps, B] of an epoch in blocks, read ahead.

  The first block has as many batches as there are threads, which read them at the same time: steps
  begin early. When a block is asked for, the one before the last may be written anew, and when an
  epoch begins, all: no step may read them any more.

  Args:
    reader: of the data set.
    rooms: of `reader.kept`.
    places: int32.

  Raises:
    ValueError: as `_reading.read`, when the batch is next.
  """
  import grain

  steps, width = places.shape
  bytes_a_batch = width * sum(leaf.nbytes for leaf in jax.tree.leaves(reader.kept))
  size, threads = max(1, min(_STEPS, steps, _BYTES // bytes_a_batch)), reader.dataset.threads
  starts = [0, *range(min(threads, size), steps, size)]
  options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
  source: Any = _Batches(reader, rooms, places, (starts, size))
  batches = iter(grain.MapDataset.source(source).to_iter_dataset(options))
  for number, (first, end) in enumerate(zip(starts, [*starts[1:], steps], strict=True)):
    for _ in range(first, end):
      if isinstance(failed := next(batches), ValueError):
        raise failed
    own = np.zeros((width, size), np.int32)
    own[:, : end - first] = places[first:end].T
    yield Block(first, end - first, rooms.of(number, own.shape), own)
    if number:
      rooms.release(number - 1)
  rooms.release(len(starts) - 1)


class _Batches:
  """Grain's source of the batches of an epoch, which are read into their blocks."""

  def __init__(self, reader: Reader, rooms: Rooms, places: np.ndarray, cut: tuple[list[int], int]):
    self._reader, self._rooms, self._places = reader, rooms, places
    self._starts, self._size = cut

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, step: int) -> int | ValueError:
    """Returns the step, or its error: to one that is raised in its threads Grain adds lines."""
    number = int(np.searchsorted(self._starts, step, "right")) - 1
    block = self._rooms.of(number, (self._places.shape[1], self._size))
    own = step - self._starts[number]
    try:
      read(self._reader, self._places[step], jax.tree.map(lambda leaf: leaf[:, own], block))
    except ValueError as error:
      return error
    return step
