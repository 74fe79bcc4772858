"""Work in processes of their own: references that wait in between, and what one process tells."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Work = Callable[[int], object]


def told(*arguments: str, **variables: str) -> Any:
  """Returns what a fresh Python prints on its last line, JSON; it gets these variables, too."""
  command, environment = [sys.executable, *arguments], os.environ | variables
  done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


class Workers:
  """`count` processes that do the same work at the same time.

  Args:
    make: module-level `make(*arguments) -> work`, called once in each process; `work(number)` is
      one finished unit of work.
    arguments: of `make`; sent once.
    count: number of processes.
    environment: variables to set in them first.
  """

  def __init__(
    self,
    make: Callable[..., Work],
    *arguments: Any,
    count: int = 1,
    environment: Mapping[str, str] | None = None,
  ):
    context = multiprocessing.get_context("spawn")
    self._ends = []
    for number in range(count):
      ours, theirs = context.Pipe()
      given = (theirs, number * 10**6, dict(environment or {}), make, arguments)
      context.Process(target=_serve, args=given, daemon=True).start()
      self._ends.append(ours)
    for end in self._ends:
      end.recv()  # warmed up

  def __enter__(self):
    return self

  def __exit__(self, *exception):
    for end in self._ends:
      end.send(None)

  def rate(self, seconds: float) -> float:
    """Returns units of work a second, all processes together, from at least `seconds` in each."""
    for end in self._ends:
      end.send(seconds)
    found = [end.recv() for end in self._ends]
    return sum(units / passed for units, passed in found)


def _serve(end, number: int, environment: dict[str, str], make, arguments) -> None:
  os.environ.update(environment)
  work = make(*arguments)
  work(number)
  end.send("ready")
  while (seconds := end.recv()) is not None:
    units, start = 0, time.perf_counter()
    while not units or time.perf_counter() - start < seconds:
      units += 1
      work(number + units)
    end.send((units, time.perf_counter() - start))
