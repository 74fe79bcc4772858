"""Bars on stderr for what takes long: on terminals and in notebooks; a line a minute in a log.

All bars share one console, so that a bar inside a bar keeps its place. What is printed meanwhile
goes to its own stream: rich would send it to stderr with the bars.
"""

import contextlib
import datetime
import functools
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
  from rich.console import Console
  from rich.progress import Progress, ProgressColumn

Item = TypeVar("Item")

_MEMORY = 3600.0  # seconds over which rates are taken: one stage may take minutes
LINE_SECONDS = 60.0  # from one line of a log to the next


@functools.cache
def _console() -> "Console":
  from rich.console import Console

  return Console(stderr=True)


def watched() -> bool:
  """Whether somebody sees bars: stderr is a terminal, or that of a notebook which can draw them."""
  if sys.stderr.isatty():
    return True
  has_widgets = "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None
  return has_widgets and _console().is_jupyter


def duration(seconds: float) -> str:
  """Returns a time in words.

  Example:
    >>> duration(7.3), duration(150), duration(9000)
    ('7 seconds', '2.5 minutes', '2.5 hours')
  """
  if seconds < 60:
    return f"{seconds:.0f} seconds"
  return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


class _Lines:
  """A line a minute on stderr, of how many are done and the time left."""

  def __init__(self, total: int):
    self._total, self._start = total, time.monotonic()
    self._last = self._start

  def reached(self, done: int, label: str) -> None:
    now = time.monotonic()
    if now - self._last >= LINE_SECONDS:
      self._last = now
      said = f"{label}: {done} of {self._total}"
      if done:
        seconds = round((self._total - done) * (now - self._start) / done)
        said += f", {datetime.timedelta(seconds=seconds)} left"
      print(said, file=sys.stderr, flush=True)


def bar(*columns: "ProgressColumn", transient: bool = False, disable: bool = False) -> "Progress":
  """Returns a `rich.progress.Progress` of these columns on stderr."""
  from rich.progress import Progress

  return Progress(
    *columns,
    console=_console(),
    transient=transient,
    disable=disable,
    speed_estimate_period=_MEMORY,
    redirect_stdout=sys.stdout.isatty(),
  )


def _counting(description: "ProgressColumn") -> "Progress":
  from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

  columns = (description, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
  return bar(*columns, transient=True)


def shown(items: Sequence[Item], label: str, after: float = 2.0) -> Iterator[Item]:
  """Yields the items; a bar shows how many, after so many seconds, or a line a minute."""
  if not watched():
    lines = _Lines(len(items))
    for done, item in enumerate(items, 1):
      yield item
      lines.reached(done, label)
    return
  from rich.progress import TextColumn

  progress = _counting(TextColumn(label))
  task = progress.add_task(label, total=len(items))
  start = time.monotonic()
  try:
    for item in items:
      yield item
      progress.advance(task)
      if time.monotonic() - start > after:
        progress.start()
  finally:
    if progress.live.is_started:  # else rich ends a line on a terminal that cannot redraw
      progress.stop()


@contextlib.contextmanager
def stages(total: int) -> Iterator[Callable[[str], None]]:
  """Yields `begin(name)`, to be called as each of the stages of a long job begins.

  A bar names the stage and shows how many are done and the time left, or a line a minute does. Of
  no stages nothing is said.
  """
  begun = 0
  if not total:
    yield lambda name: None
    return
  if not watched():
    lines = _Lines(total)

    def say(name: str) -> None:
      nonlocal begun
      lines.reached(begun, name)
      begun += 1

    yield say
    return
  from rich.markup import escape
  from rich.progress import TextColumn

  with _counting(TextColumn("{task.description}")) as progress:
    task = progress.add_task("starting", total=total)

    def begin(name: str) -> None:
      nonlocal begun
      progress.update(task, completed=begun, description=escape(name), refresh=True)
      begun += 1

    yield begin
    progress.update(task, completed=begun)
