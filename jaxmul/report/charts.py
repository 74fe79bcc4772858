"""The numbers behind the page's SVG charts: plain lists with coordinates in [0, 1]."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxmul.metrics import Figure

_BINS = 40
_DENSITY = (28, 18)  # bins of the proxy's rank and of memorization


def histogram(memorization: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Counts examples by memorization, all and in each group, with heights on one log axis.

  Args:
    memorization: [n]; NaN is left out.
    groups: {name: scores of that group}, disjoint.

  Returns:
    {"low", "high": ends of the axis, "total", "chosen": how many examples are counted, and how many
    of them are in a group, "ticks": [(height, count)], "bars": [{"x", "width", "height",
    "chosen_height": that of all groups together, "from", "to", "count", "groups": {name: count}}]}.

  Example:
    >>> found = histogram(np.array([0.0, 0.0, 1.0]), {"high": np.array([1.0])})
    >>> found["total"], found["chosen"], found["bars"][-1]["groups"]
    (3, 1, {'high': 1})
  """
  scores = memorization[np.isfinite(memorization)]
  low = float(min(0, scores.min(initial=0)))
  edges = np.linspace(low, 1, _BINS + 1)
  counts = np.histogram(scores, edges)[0]
  inside = {name: np.histogram(values, edges)[0] for name, values in groups.items()}
  chosen = sum(inside.values(), np.zeros(_BINS, int))
  top = max(1, int(counts.max()))

  def height(count: int) -> float:
    return float(np.log1p(count) / np.log1p(top))

  bars = [
    {
      "x": i / _BINS,
      "width": 1 / _BINS,
      "height": height(count),
      "chosen_height": height(chosen[i]),
      "from": float(edges[i]),
      "to": float(edges[i + 1]),
      "count": int(count),
      "groups": {name: int(heights[i]) for name, heights in inside.items() if heights[i]},
    }
    for i, count in enumerate(counts)
    if count
  ]
  ticks = [(height(count), count) for count in (10**k for k in range(9)) if count <= top]
  return {
    "low": low,
    "high": 1.0,
    "total": int(counts.sum()),
    "chosen": int(chosen.sum()),
    "ticks": ticks,
    "bars": bars,
  }


def density(scores: np.ndarray, memorization: np.ndarray) -> dict[str, Any]:
  """Counts examples by the rank of a proxy and by memorization, for a chart that scales with n.

  Args:
    scores: [n], a proxy.
    memorization: [n], finite.

  Returns:
    {"cells": [{"x", "y", "width", "height", "opacity", "count"}], "means": [(x, y)], the mean
    memorization in each bin of rank, "low": the least memorization}; y from bottom to top.

  Example:
    >>> density(np.array([1.0, 2.0]), np.array([0.0, 1.0]))["cells"][0]["count"]
    1
  """
  columns, rows = _DENSITY
  rank = mean_rank(scores)
  low = float(min(0, memorization.min(initial=0)))
  height = (memorization - low) / (1 - low)
  counts, _, _ = np.histogram2d(rank, height, _DENSITY, ((0, 1), (0, 1)))
  top = np.log1p(max(1, counts.max()))
  cells = [
    {
      "x": column / columns,
      "y": row / rows,
      "width": 1 / columns,
      "height": 1 / rows,
      "opacity": round(0.15 + 0.85 * float(np.log1p(counts[column, row]) / top), 3),
      "count": int(counts[column, row]),
    }
    for column, row in zip(*np.nonzero(counts), strict=True)
  ]
  bins = np.minimum((rank * columns).astype(int), columns - 1)
  means = [
    ((column + 0.5) / columns, float(height[bins == column].mean()))
    for column in range(columns)
    if (bins == column).any()
  ]
  return {"cells": cells, "means": means, "low": low}


def mean_rank(values: np.ndarray) -> np.ndarray:
  """Returns the rank of each value, [n] in [0, 1]; equal values share the mean of their ranks.

  Example:
    >>> mean_rank(np.array([5.0, 1.0, 5.0])).tolist()
    [0.75, 0.0, 0.75]
  """
  from scipy.stats import rankdata

  return (rankdata(values) - 1) / max(1, len(values) - 1)


def dots(figures: Mapping[str, Figure]) -> dict[str, Any]:
  """Places values and intervals on one axis that holds 0, 1 and all values.

  Args:
    figures: {method: figure}. Ends beyond the axis are cut, and marked so.

  Returns:
    {"left", "right": ends of the axis, "rows": [{"name", "mean", "low", "high", "cut"}]}.

  Example:
    >>> dots({"retrain": Figure(name="ToW", value=0.5)})["rows"][0]["mean"]
    0.5
  """
  known = {name: figure for name, figure in figures.items() if np.isfinite(figure.value)}
  means = [figure.value for figure in known.values()]
  left, right = min([0.0, *means]), max([1.0, *means])

  def place(value: float) -> float:
    return min(1.0, max(0.0, (value - left) / (right - left)))

  rows = []
  for name, figure in known.items():
    mean = figure.value
    low, high = (end if np.isfinite(end) else mean for end in (figure.low, figure.high))
    rows.append(
      {
        "name": name,
        "mean": place(mean),
        "low": place(low),
        "high": place(high),
        "cut": low < left or high > right,
      }
    )
  return {"left": left, "right": right, "rows": rows}


def cost(methods: Mapping[str, Sequence[Figure]]) -> list[dict[str, Any]]:
  """Adds the scoring that a method needs to the seconds of unlearning.

  Args:
    methods: {name: figures}: "seconds", and "scoring" of those that are told what is memorized.

  Returns:
    [{"name", "scoring", "unlearning", "together", "retrainings"}], seconds; "retrainings" is
    together over the seconds of "retrain". NaN where something is not known.

  Example:
    >>> seconds = {"retrain": 4.0, "RUM loss": 1.0}
    >>> methods = {name: [Figure(name="seconds", value=each)] for name, each in seconds.items()}
    >>> methods["RUM loss"].append(Figure(name="scoring", value=2.0))
    >>> cost(methods)[1]["retrainings"]
    0.75
  """

  def of(name: str, figure: str, otherwise: float) -> float:
    return next((own.value for own in methods[name] if own.name == figure), otherwise)

  once = of("retrain", "seconds", math.nan) if "retrain" in methods else math.nan
  rows = []
  for name in methods:
    if name == "original":
      continue
    seconds, scoring = of(name, "seconds", math.nan), of(name, "scoring", 0.0)
    rows.append(
      {
        "name": name,
        "scoring": scoring,
        "unlearning": seconds,
        "together": seconds + scoring,
        "retrainings": (seconds + scoring) / once if once else math.nan,
      }
    )
  return rows
