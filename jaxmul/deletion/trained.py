"""Trainings of a request: kept, so that the same call goes on after a kill, and timed."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxmul import checkpoint, train
from jaxmul._files import npz, read_npz, read_sealed, write_sealed
from jaxmul.binding import Network
from jaxmul.retraining import Chunk, Schedule, executors

_SCORES, _NETWORK = "scores.npz", "network"


def kept(folder: Path | None, like: Network, fit: Callable[[], train.Fit]) -> train.Fit:
  """Returns a training run, read back where an earlier call has finished it.

  Args:
    folder: of this run alone, named by all that decides it; None keeps nothing.
    like: the shapes of its network.
    fit: trains.

  Raises:
    ValueError: what was kept is damaged.
  """
  if folder is None:
    return fit()
  if not (folder / _NETWORK).exists():
    done = fit()
    arrays = done.scores | done.history._asdict() | {"ids": done.ids}
    write_sealed(folder / _SCORES, npz(arrays), "zip")
    checkpoint.save(folder / _NETWORK, done.network)  # last: where it is, all is
  content = read_sealed(folder / _SCORES, "zip")
  arrays = read_npz(folder / _SCORES, content=content)
  loss, accuracy = (jnp.asarray(arrays.pop(name)) for name in train.History._fields)
  ids, network = arrays.pop("ids"), checkpoint.load(folder / _NETWORK, like)
  return train.Fit(network, arrays, ids, train.History(loss, accuracy))


class Clock:
  """Measures what a training takes: as many at a time as the executor trains.

  Attributes:
    seconds: of a training; None until one was trained.
  """

  seconds: float | None = None

  def timed(self, schedule: Schedule, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
    """The default executor, timed."""
    start, done = time.monotonic(), 0
    for number, chunk in executors.default()(schedule, chunks):
      done += len(schedule.models(number))
      self.seconds = (time.monotonic() - start) / done
      yield number, chunk
