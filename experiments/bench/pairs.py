"""Ours and a reference, measured in turn in one process: ratios survive a noisy machine."""

import statistics
import time
from collections.abc import Callable

from jaxmul._progress import shown


def per_call(work: Callable[[], object], seconds: float) -> float:
  """Returns seconds of one call, from as many calls as fill at least `seconds`."""
  calls, start = 0, time.perf_counter()
  while True:
    work()
    calls += 1
    passed = time.perf_counter() - start
    if passed >= seconds:
      return passed / calls


def alternate(
  ours: Callable[[], None], reference: Callable[[], None], *, pairs: int, seconds: float
) -> dict[str, float]:
  """Measures both in alternation, the first to go changing from pair to pair.

  Args:
    ours, reference: one call of finished, warmed-up work each.
    pairs: at least 5 for a figure that is quoted.
    seconds: of steady work in each sample.

  Returns:
    Medians over pairs: seconds of `ours` and of `reference`, and `ratio`, ours over reference.
  """
  for work in (ours, reference):
    work()  # compiles
  samples: dict[str, list[float]] = {"ours": [], "reference": []}
  for pair in shown(range(pairs), "pairs", after=0.0):
    order = [("ours", ours), ("reference", reference)]
    for name, work in order[:: 1 if pair % 2 else -1]:
      samples[name].append(per_call(work, seconds))
  ratios = [a / b for a, b in zip(samples["ours"], samples["reference"], strict=True)]
  return {name: statistics.median(each) for name, each in samples.items()} | {
    "ratio": statistics.median(ratios)
  }
