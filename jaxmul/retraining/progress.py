"""How far the training of many models is: a bar where somebody looks, a line a minute in a log.

The rate counts what is computed now: chunks that an earlier run left in the store do not flatter
the time that is left.
"""

import contextlib
import datetime
import time
from collections.abc import Iterator, Sequence

import jax

from jaxmul._progress import LINE_SECONDS, Lines, bar, watched
from jaxmul.retraining.chunk import Chunk
from jaxmul.retraining.executors import Executor, Submitter, of
from jaxmul.retraining.leave_out_schedule import Schedule


class Progress:
  """Models done, models per second, time left and a word of the caller's, on stderr.

  Args:
    total: models in all.
    shown: whether anything is written.
    label: what the models are for.
    every: seconds from one line to the next where stderr is no terminal.
  """

  def __init__(self, total: int, shown: bool, label: str, every: float = LINE_SECONDS):
    from rich.progress import BarColumn, TextColumn

    self._shown = shown and jax.process_index() == 0
    self.terminal = self._shown and watched()
    self._total = total
    self._done, self._computed, self._start, self._latest = 0, 0, 0.0, 0.0
    self._said, self._earlier = "", 0
    self._bar = bar(
      TextColumn(label),
      BarColumn(),
      TextColumn("{task.description}"),
      disable=not self.terminal,
    )
    self._task = self._bar.add_task("starting", total=total)
    self._lines = Lines(lambda: f"{label}: {self._text()}", every)
    self._open = contextlib.ExitStack()

  def __enter__(self):
    self._open.enter_context(self._bar)
    if self._shown and not self.terminal:
      self._open.enter_context(self._lines)
    return self

  def __exit__(self, *exception):
    self._open.close()

  def counting(self, executor: Executor | Submitter | None) -> Executor:
    """Returns an executor that does the same as the given one and is counted.

    Args:
      executor: an executor, an object with `submit`, or None for the default.

    Raises:
      ValueError: it is none of these.
    """
    execute = of(executor)
    # In a job of several processes each computes its share of a schedule, at about the same rate.
    share = jax.process_count()

    def counted(schedule: Schedule, chunks: Sequence[int]) -> Iterator[tuple[int, Chunk]]:
      stored = schedule.num_models - sum(len(schedule.models(number)) for number in chunks)
      self._done = max(self._done, self._earlier + stored)
      if not self._start:
        self._start = time.monotonic()
      self._show()
      for number, chunk in execute(schedule, chunks):
        new = share * len(schedule.models(number))
        self._done, self._computed = self._done + new, self._computed + new
        self._latest = time.monotonic()
        self._show()
        yield number, chunk

    return counted

  def reached(self, models: int, said: str = "") -> None:
    """Says that so many models are done, stored ones included, and what is known of them now."""
    self._done, self._said = max(models, self._done), said
    self._show()

  def next_round(self, models: int) -> None:
    """Says that earlier schedules, of so many models, are done and another one begins."""
    self._earlier = models
    self.reached(models)

  def _show(self) -> None:
    if self.terminal:
      self._bar.update(self._task, completed=self._done, description=self._text())
    elif self._shown and self._start:  # what is read back is not worth a line
      self._lines.show()

  def _text(self) -> str:
    done = min(self._done, self._total)  # shares of a schedule may differ by a chunk
    text = f"{done} of {self._total} models"
    if self._computed:
      rate = self._computed / (self._latest - self._start)
      seconds = (self._total - done) / rate - (time.monotonic() - self._latest)
      left = datetime.timedelta(seconds=max(0, round(seconds)))
      said = f"{rate:.{0 if rate >= 10 else 2}f} /s" if rate >= 0.1 else f"{3600 * rate:.0f} /h"
      text += f", {said}, {left} left"
    return f"{text}, {self._said}" if self._said else text
