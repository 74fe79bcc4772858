"""A bar on stderr for loops that take long, and nothing at all where nobody looks."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shown(items: Sequence[Item], label: str, after: float = 2.0) -> Iterator[Item]:
  """Yields the items; where stderr is a terminal a bar shows how many, after so many seconds."""
  if not sys.stderr.isatty():
    yield from items
    return
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

  columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
  bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
  task = bar.add_task(label, total=len(items))
  start = time.monotonic()
  try:
    for item in items:
      yield item
      bar.advance(task)
      if time.monotonic() - start > after:
        bar.start()
  finally:
    bar.stop()
