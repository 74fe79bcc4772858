"""Bars on stderr for what takes long: on terminals and in notebooks; a line a minute in a log.

All bars share one console, so that a bar inside a bar keeps its place. What is printed meanwhile
goes to its own stream: rich would send it to stderr with the bars.
"""

import contextlib
import datetime
import functools
import importlib.util
import sys
import threading
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


class Lines:
  """A line on stderr, at most every so many seconds: where `show` is called, or nothing happens.

  A thread of its own speaks while one stage takes longer than that, until the block ends.

  Args:
    text: makes the line.
    every: seconds from one line to the next; at 0 each `show` writes one, and no thread does.
  """

  def __init__(self, text: Callable[[], str], every: float):
    self._text, self._every, self._last = text, every, time.monotonic()
    self._lock, self._ended = threading.Lock(), threading.Event()
    self._thread = threading.Thread(target=self._speak, daemon=True)

  def __enter__(self) -> "Lines":
    if self._every:
      self._thread.start()
    return self

  def __exit__(self, *exception: object) -> None:
    self._ended.set()
    if self._every:
      self._thread.join()

  def show(self) -> None:
    """Writes the line, if it is time."""
    with self._lock:
      now = time.monotonic()
      if now - self._last >= self._every:
        self._last = now
        print(self._text(), file=sys.stderr, flush=True)

  def _speak(self) -> None:
    while not self._ended.wait(self._every):
      self.show()


@contextlib.contextmanager
def _lines(total: int) -> Iterator[Callable[[int, str], None]]:
  """Yields `reached(done, label)`; a line a minute says how many are done and the time left."""
  done, label, start = 0, "starting", time.monotonic()

  def text() -> str:
    said = f"{label}: {done} of {total}"
    if done:
      seconds = round((total - done) * (time.monotonic() - start) / done)
      said += f", {datetime.timedelta(seconds=seconds)} left"
    return said

  def reached(done_now: int, label_now: str) -> None:
    nonlocal done, label
    done, label = done_now, label_now
    lines.show()

  with Lines(text, LINE_SECONDS) as lines:
    yield reached


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
    with _lines(len(items)) as reached:
      for done, item in enumerate(items):
        reached(done, label)
        yield item
      reached(len(items), label)
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
    with _lines(total) as reached:

      def say(name: str) -> None:
        nonlocal begun
        reached(begun, name)
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
