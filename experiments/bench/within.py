"""Measures cases one after another within a budget of seconds, and says what it left out.

A case that should take longer than what is left is skipped, by what the narrower one of its family
took. After an error, such as too little memory, the wider ones of a family are skipped.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from experiments.bench.pairs import per_call


class Case(NamedTuple):
  """Something to measure.

  Attributes:
    family: cases of one kind, each about twice the work of the one before.
    name: within the family.
    make: returns one call of finished work, and how many units it does.
    unit: of the figure, such as "models/s".
  """

  family: str
  name: str
  make: Callable[[], tuple[Callable[[], object], float]]
  unit: str


def measured(
  cases: Iterable[Case], *, repeats: int, seconds: float, budget: float
) -> Iterable[tuple[str, dict[str, Any]]]:
  """Yields the name of each case and its figure, or why it has none.

  Args:
    cases: in the order in which they are measured.
    repeats: samples of a case.
    seconds: of steady work in each sample, at least one call.
    budget: seconds in all.

  Yields:
    `(name, {"median", "lowest", "highest", "repeats", "unit", "first_call_seconds"})`, in units a
    second; or `(name, {"skipped": why})`.
  """
  start, last = time.perf_counter(), {}
  for case in cases:
    name, left = f"{case.family}, {case.name}", budget - (time.perf_counter() - start)
    before = last.get(case.family, 0.0)
    if isinstance(before, str):
      yield name, {"skipped": f"after an error of {before}"}
      continue
    if left <= 2 * before or left <= 0:
      yield name, {"skipped": f"{left:.0f} s are left, and it may take {2 * before:.0f} s"}
      continue
    began = time.perf_counter()
    try:
      figure = _figure(case, repeats, seconds)
    except Exception as error:  # the next family may have the memory that this one lacks
      last[case.family] = case.name
      lines = str(error).splitlines() or [type(error).__name__]
      yield name, {"skipped": lines[0][:200]}
      continue
    last[case.family] = time.perf_counter() - began
    yield name, figure


def _figure(case: Case, repeats: int, seconds: float) -> dict[str, Any]:
  began = time.perf_counter()
  work, units = case.make()
  work()
  first = time.perf_counter() - began
  rates = sorted(units / per_call(work, seconds) for _ in range(repeats))
  return {
    "median": statistics.median(rates),
    "lowest": rates[0],
    "highest": rates[-1],
    "repeats": repeats,
    "unit": case.unit,
    "first_call_seconds": first,
  }
