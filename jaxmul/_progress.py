"""Bars on stderr for what takes long, and nothing at all where nobody looks.

All bars share one console, so that a bar inside a bar keeps its place. What is printed meanwhile
goes to its own stream: rich would send it to stderr with the bars.
"""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
  from rich.console import Console
  from rich.progress import Progress, ProgressColumn

Item = TypeVar("Item")

_MEMORY = 3600.0  # seconds over which rates are taken: one stage may take minutes


@functools.cache
def _console() -> "Console":
  from rich.console import Console

  return Console(stderr=True)


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
  """Yields the items; where stderr is a terminal a bar shows how many, after so many seconds."""
  if not sys.stderr.isatty():
    yield from items
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

  Where stderr is a terminal a bar names the stage and shows how many are done and the time left.
  """
  if not total or not sys.stderr.isatty():
    yield lambda name: None
    return
  from rich.markup import escape
  from rich.progress import TextColumn

  begun = 0
  with _counting(TextColumn("{task.description}")) as progress:
    task = progress.add_task("starting", total=total)

    def begin(name: str) -> None:
      nonlocal begun
      progress.update(task, completed=begun, description=escape(name), refresh=True)
      begun += 1

    yield begin
    progress.update(task, completed=begun)
