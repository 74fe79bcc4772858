"""Does a unit of work cost the same when there is more of it, in time and in memory?

Three things grow, one at a time: simulated devices that share one and the same work; the models of
a ground truth; the examples of a data set. Each line at each size has a process of its own (see
`growing`). Seconds are the processor's, of all threads: eight devices on two cores cannot be
faster, but must not cost more. What Python, the library and JAX take before anything is done is
left out of all memory; programs are compiled by a process before, which fills a cache.

A line of which the dearest unit costs more than 1.15 times the cheapest is marked: "rises" where
the largest size is too dear, "falls" where only smaller ones are, as work has a part that does not
grow. What rises is measured once more, and the lower figures count: another program on the machine
can only add to them. Linux only.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.bench import workers

MOST = 1.15
GOALS = {"dearest_over_cheapest": f"at most {MOST}; none rises"}
# So much further memory can be told from what the allocator keeps.
LEAST_BYTES = 2**23


class Axis(NamedTuple):
  """What grows.

  Attributes:
    sizes: of it, rising.
    lines: of `growing.WORKS`.
    rows: {what a unit costs: (facts of all sizes, their sizes) -> costs, None where it is unknown}.
  """

  sizes: tuple[int, ...]
  lines: tuple[str, ...]
  rows: dict[str, Callable[[Sequence[dict[str, float]], Sequence[int]], list[float | None]]]


def per_unit(name: str, scale: float):
  """Returns the costs of a fact that a whole size has, for each unit of it."""
  return lambda facts, sizes: [
    scale * fact[name] / size for fact, size in zip(facts, sizes, strict=True)
  ]


def seconds_of_all(facts, sizes) -> list[float | None]:
  del sizes
  return [fact["seconds"] for fact in facts]


def mebibytes_of_all(facts, sizes) -> list[float | None]:
  del sizes
  return [fact["bytes"] / 2**20 for fact in facts]


def per_further_unit(name: str, scale: float, least: float = 0.0):
  """Returns costs for each unit more than the smallest size has; None where they are too little."""

  def costs(facts, sizes) -> list[float | None]:
    more = [fact[name] - facts[0][name] for fact in facts]
    counts = [size - sizes[0] for size in sizes]
    return [
      scale * taken / count if taken > least else None
      for taken, count in zip(more, counts, strict=True)
    ]

  return costs


OF_DEVICES = {"s, whole work": seconds_of_all, "MiB, whole work": mebibytes_of_all}
OF_MODELS = {
  "ms a model": per_unit("seconds", 1e3),
  "ms a further model": per_further_unit("seconds", 1e3),
  "MiB, whole process": mebibytes_of_all,
  "stored kB a model": per_unit("stored", 1e-3),
}
OF_EXAMPLES = {
  "µs an example": per_unit("seconds", 1e6),
  "µs a further example": per_further_unit("seconds", 1e6),
  "kB a further example": per_further_unit("bytes", 1e-3, LEAST_BYTES),
}
AXES = {
  "devices": Axis((1, 2, 4, 8), ("fit over devices", "models over devices"), OF_DEVICES),
  "models": Axis(
    (100, 400, 1600, 3200), ("ground truth", "ground truth from its store"), OF_MODELS
  ),
  "examples": Axis(
    (1000, 5000, 20_000, 50_000),
    (
      *("data, splits, groups", "fit", "GraND", "curvature", "unlearning", "estimate"),
      *("loss and LiRA, judged", "other attacks", "SVC, the game's", "SVC, RUM's"),
    ),
    OF_EXAMPLES,
  ),
}
QUICK = {
  "devices": Axis((1, 2), ("models over devices",), OF_DEVICES),
  "models": Axis((16, 32), ("ground truth from its store",), OF_MODELS),
  "examples": Axis((500, 1000), ("GraND",), OF_EXAMPLES),
}


def measure(pairs: int, seconds: float) -> dict[str, Any]:
  """Returns {"lines": {axis: {line: {cost: {"costs", "ratio", "mark"}}}}, "sizes"}."""
  del pairs
  axes = QUICK if seconds < 10 else AXES
  lines: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as cache:
    for name, axis in axes.items():
      sizes = " | ".join(f"{size:,}" for size in axis.sizes)
      head = f"| {name} | a unit's cost | {sizes} | dearest over cheapest | |"
      print(f"{head}\n|{'---|' * head.count(' |')}", file=sys.stderr)
      lines[name] = {line: line_of(axis, name, line, seconds / 20, cache) for line in axis.lines}
  return {
    "lines": lines,
    "sizes": {name: axis.sizes for name, axis in axes.items()},
  }


def line_of(axis: Axis, name: str, line: str, seconds: float, cache: str) -> dict[str, Any]:
  """Measures a line at all sizes, and once more where it rises; prints and returns it."""

  def told(seconds):
    return [in_process(name, line, size, seconds, cache) for size in axis.sizes]

  told(0.0)  # compiles: what the allocator keeps of that would hide what is measured
  facts = told(seconds)
  rows = rows_of(axis, facts)
  if any(row["mark"] == "rises" for row in rows.values()):
    pairs = zip(facts, told(seconds), strict=True)
    facts = [{fact: min(one[fact], other[fact]) for fact in one} for one, other in pairs]
    rows = rows_of(axis, facts)
  for cost, row in rows.items():
    shown = " | ".join("–" if one is None else f"{one:.3g}" for one in row["costs"])
    ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
    print(f"| {line} | {cost} | {shown} | {ratio} | {row['mark']} |", file=sys.stderr, flush=True)
  return rows


def rows_of(axis: Axis, facts: Sequence[dict[str, float]]) -> dict[str, Any]:
  """Returns {what a unit costs: {"costs", "ratio", "mark"}} of what processes told."""
  found = {}
  for cost, costs_of in axis.rows.items():
    costs = costs_of(facts, axis.sizes)
    found[cost] = {"costs": costs, "ratio": ratio(costs), "mark": mark(costs)}
  return found


def ratio(costs: Sequence[float | None]) -> float | None:
  """Returns the dearest over the cheapest; None of fewer than two.

  Example:
    >>> ratio([2.0, None, 3.0])
    1.5
  """
  known = [cost for cost in costs if cost is not None]
  return max(known) / min(known) if len(known) > 1 else None


def mark(costs: Sequence[float | None]) -> str:
  """Returns "" of costs that are flat, "rises" where the last is dear, "falls" where others are.

  Example:
    >>> mark([1.0, 1.1, 1.1]), mark([1.0, 1.2, 1.2]), mark([1.2, 1.0, 1.1])
    ('', 'rises', 'falls')
  """
  known = [cost for cost in costs if cost is not None]
  if (ratio(costs) or 1.0) <= MOST:
    return ""
  return "rises" if known[-1] > MOST * min(known) else "falls"


def in_process(axis: str, line: str, size: int, seconds: float, cache: str) -> dict[str, float]:
  """Returns what a fresh process tells of a line at a size."""
  devices = size if axis == "devices" else 1
  flags = os.environ.get("XLA_FLAGS", "").split()
  kept = [flag for flag in flags if "host_platform_device_count" not in flag]
  variables = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"]),
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  return workers.told("-m", "experiments.bench.growing", line, str(size), str(seconds), **variables)
