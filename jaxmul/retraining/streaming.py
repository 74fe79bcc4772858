"""Every chunk of a schedule in order: what is in the store is read, what is missing is computed.

What counts as missing, and why a damaged chunk is computed again, is in `store`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxmul.retraining import executors
from jaxmul.retraining.chunk import Chunk
from jaxmul.retraining.executors import Executor, Submitter
from jaxmul.retraining.leave_out_schedule import Schedule
from jaxmul.retraining.stored_chunks import Store

_POLL_SECONDS = 0.5


def stream(
  schedule: Schedule,
  *,
  store: Path | str | None = None,
  executor: Executor | Submitter | None = None,
) -> Iterator[Chunk]:
  """Yields every chunk of a schedule in the order of their numbers, computing what is missing.

  Chunks that were finished before, or out of turn, are read from the store when their turn comes.
  Without a store, those that workers finished out of turn are held.

  Args:
    schedule: what to compute.
    store: folder for finished chunks, or None. A killed run goes on from there: chunks that are
      whole are not computed again, damaged ones are reported and are. It knows functions by their
      names: after a change inside one use another folder.
    executor: who computes, or any object with `submit`; by default one single-threaded process per
      core on CPU, all devices elsewhere.

  Raises:
    ValueError: the store was made by another schedule, or a job of several processes has no store.
    OSError: the store cannot be written; what was finished stays.
  """
  kept = None if store is None else Store(store, schedule)
  missing = list(range(schedule.num_chunks)) if kept is None else kept.missing()
  if kept is not None:
    kept.describe()
  execute = executors.of(executor)
  computed = iter(execute(schedule, missing) if missing else ())
  if jax.process_count() > 1:
    if kept is None:
      raise ValueError("a job of several processes needs a store= that all of them see.")
    for number, chunk in computed:  # its own share first: nobody waits for anybody before the end
      kept.commit(number, chunk)
    for number in range(schedule.num_chunks):
      yield _awaited(kept, number)
    return
  ahead, waiting = set(missing), {}
  for number in range(schedule.num_chunks):
    while number in ahead:
      done, chunk = next(computed)
      ahead.remove(done)
      if kept is not None:
        kept.commit(done, chunk)
      if kept is None or done == number:
        waiting[done] = chunk
    # With a store, what came before its turn was not held: it is read back.
    yield waiting.pop(number) if number in waiting else _awaited(kept, number)


def _awaited(kept: Store | None, number: int) -> Chunk:
  """Returns a chunk from the store, waiting until another process has put it there."""
  assert kept is not None
  while True:
    chunks = kept.load([number])
    if number in chunks:
      return chunks[number]
    if jax.process_count() == 1:
      raise OSError(f"chunk {number} has vanished from {kept.path}. Run the same again.")
    time.sleep(_POLL_SECONDS)
