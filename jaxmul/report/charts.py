"""The numbers behind the page's SVG charts: plain lists with coordinates in [0, 1]."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_BINS = 40
_DENSITY = (28, 18)  # bins of the proxy's rank and of memorization


def histogram(memorization: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Counts examples by memorization, all and in each group, with heights on a log scale.

  Args:
    memorization: [n]; NaN is left out.
    groups: {name: scores of that group}.

  Returns:
    {"low", "high": ends of the axis, "top": largest count, "bars": [{"x", "width", "height",
    "from", "to", "count", "groups": {name: count}}]}.

  Example:
    >>> found = histogram(np.array([0.0, 0.0, 1.0]), {"high": np.array([1.0])})
    >>> found["top"], found["bars"][-1]["groups"]
    (2, {'high': 1})
  """
  scores = memorization[np.isfinite(memorization)]
  low = float(min(0, scores.min(initial=0)))
  edges = np.linspace(low, 1, _BINS + 1)
  counts = np.histogram(scores, edges)[0]
  inside = {name: np.histogram(values, edges)[0] for name, values in groups.items()}
  top = max(1, int(counts.max()))
  bars = [
    {
      "x": i / _BINS,
      "width": 1 / _BINS,
      "height": float(np.log1p(count) / np.log1p(top)),
      "from": float(edges[i]),
      "to": float(edges[i + 1]),
      "count": int(count),
      "groups": {name: int(found[i]) for name, found in inside.items() if found[i]},
    }
    for i, count in enumerate(counts)
    if count
  ]
  return {"low": low, "high": 1.0, "top": top, "bars": bars}


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


def dots(intervals: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Places means and intervals on one axis that holds 0, 1 and all means.

  Args:
    intervals: {method: {"mean", "low", "high"}}; low and high may be None. Ends beyond the axis
      are cut, and marked so.

  Returns:
    {"left", "right": ends of the axis, "rows": [{"name", "mean", "low", "high", "cut"}]}.

  Example:
    >>> dots({"retrain": {"mean": 0.5, "low": None, "high": None}})["rows"][0]["mean"]
    0.5
  """
  means = [found["mean"] for found in intervals.values() if found["mean"] is not None]
  left, right = min([0.0, *means]), max([1.0, *means])

  def place(value: float) -> float:
    return min(1.0, max(0.0, (value - left) / (right - left)))

  rows = []
  for name, found in intervals.items():
    if found["mean"] is None:
      continue
    mean = found["mean"]
    low, high = (mean if found[end] is None else found[end] for end in ("low", "high"))
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


def cost(
  methods: Mapping[str, Mapping[str, Any]],
  proxies: Mapping[str, Mapping[str, Any]],
  truth_seconds: float | None,
) -> list[dict[str, Any]]:
  """Adds the scoring that RUM needs to the seconds of unlearning.

  Args:
    methods: {name: {"seconds": {"mean"}, "scoring": seconds}}; where there is no "scoring", "RUM x"
      is charged that of the proxy x.
    proxies: {name: {"seconds": {"mean"}}}.
    truth_seconds: of the ground truth; None where they are not known.

  Returns:
    [{"name", "scoring", "unlearning", "together", "retrainings"}], seconds; "retrainings" is
    together over the seconds of "retrain". None where something is not known.

  Example:
    >>> methods = {"retrain": {"seconds": {"mean": 4.0}}, "RUM loss": {"seconds": {"mean": 1.0}}}
    >>> cost(methods, {"loss": {"seconds": {"mean": 2.0}}}, None)[1]["retrainings"]
    0.75
  """
  scoring = {f"RUM {name}": found["seconds"]["mean"] for name, found in proxies.items()}
  scoring["RUM ground truth"] = truth_seconds
  once = methods["retrain"]["seconds"]["mean"] if "retrain" in methods else None
  rows = []
  for name, found in methods.items():
    if name == "original":
      continue
    seconds, extra = found["seconds"]["mean"], scoring.get(name, 0.0)
    if "scoring" in found:
      extra = found["scoring"] or 0.0
    together = None if seconds is None or extra is None else seconds + extra
    rows.append(
      {
        "name": name,
        "scoring": extra,
        "unlearning": seconds,
        "together": together,
        "retrainings": together / once if together is not None and once else None,
      }
    )
  return rows
