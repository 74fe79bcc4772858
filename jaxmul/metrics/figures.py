"""Figures as rows: every number that a user sees, with what it is of and how sure it is.

Tables, comparisons, JSON and reports are lists of them. Nothing is told by how a name is spelled.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxmul.metrics.intervals import Interval, paired, t_interval

# What `jaxmul.metrics` does not already export.
__all__ = ["difference", "over_seeds", "read", "with_interval"]

SEEDS = "95 % t over training seeds"
EXAMPLES = "95 % bootstrap over examples"
_NAN = float("nan")
_ONE = "one seed gives no interval"
ANYWHERE = (-np.inf, np.inf)
RATE = (0.0, 1.0)
"""Where accuracies, shares, ToW, gaps and AUC lie."""
SHARED = ("accuracy", "attack rate")
"""Figures of oracles that two methods beside the same oracles have alike."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
  """One number.

  Attributes:
    name: what was measured: "accuracy", "ToW", "attack lira", "KLoM".
    of: whose it is: "unlearned" models, the "oracle" models beside them, or the "original" ones.
    part: the examples that it is of: "forget", "retain", "test", a group of the forget set, or
      "all".
    kind: which statistic of the measure, where there are several: "auc", "p95"; else "".
    value: the number.
    low, high: ends of its interval; NaN where there is none.
    note: what the interval is over, or why a number is missing; else "".
    seeds: the value of each training seed, where there are any: `compare` takes their differences.
    p: of a difference, the p-value of a sign-flip test over seeds; else NaN.

  Example:
    >>> Figure(name="accuracy", of="oracle", part="test", value=0.9).title
    'oracle accuracy'
  """

  name: str
  of: str = "unlearned"
  part: str = "all"
  kind: str = ""
  value: float
  low: float = _NAN
  high: float = _NAN
  note: str = ""
  seeds: tuple[float, ...] = ()
  p: float = _NAN

  @property
  def title(self) -> str:
    """The name, after whose it is if not of unlearned models."""
    return self.name if self.of == "unlearned" else f"{self.of} {self.name}"

  @property
  def half_width(self) -> float:
    """Half of its interval, whole where an end is cut at a bound; NaN where there is none."""
    if self.note == SEEDS and self.seeds:
      mean, _, high = t_interval(self.seeds)
      return high - mean
    return max(self.high - self.value, self.value - self.low)


@dataclasses.dataclass(frozen=True)
class Blind:
  """What told nothing apart in an audit: a whole figure, or one part or kind of it.

  Attributes:
    name: of the figure.
    part: of it; None for all parts.
    kind: of it; None for all kinds.

  Example:
    >>> str(Blind("attack svc")), str(Blind("attack svc", kind="auc"))
    ('attack svc', 'attack svc/auc')
  """

  name: str
  part: str | None = None
  kind: str | None = None

  @property
  def whole(self) -> bool:
    """Whether it is all of the figure."""
    return self.part is None and self.kind is None

  def hides(self, figure: Figure) -> bool:
    """Whether a figure says nothing here, whosever it is."""
    return (
      figure.name == self.name
      and self.part in (None, figure.part)
      and self.kind in (None, figure.kind)
    )

  def __str__(self) -> str:
    name = f"{self.name} {self.part}" if self.part and self.kind else self.name
    rest = self.kind or self.part
    return f"{name}/{rest}" if rest else name


def over_seeds(
  values: Sequence[float] | np.ndarray, *, within: tuple[float, float] = ANYWHERE, **what: Any
) -> Figure:
  """Returns the mean over training seeds with its t-interval; one seed gives no interval.

  Args:
    values: [k], one for each seed.
    within: where such values lie, such as (0, 1); the interval is cut there, and covers as often.
    what: name, and perhaps of, part and kind.

  Raises:
    ValueError: as `intervals.t_interval`.

  Example:
    >>> figure = over_seeds([0.9, 0.98, 0.97], within=(0, 1), name="ToW")
    >>> round(figure.value, 3), round(figure.low, 3), figure.high
    (0.95, 0.842, 1.0)
  """
  seeds = tuple(float(value) for value in values)
  mean, *ends = t_interval(seeds)
  interval = Interval(mean, *np.clip(ends, *within).tolist())
  figure = with_interval(interval, SEEDS, seeds=seeds, **what)
  return figure if len(seeds) > 1 else dataclasses.replace(figure, note=_ONE)


def with_interval(value: Interval, note: str, **what: Any) -> Figure:
  """Returns a figure with an interval, and the note only where there is one.

  Args:
    value: mean, low and high.
    note: what the interval is over.
    what: the other attributes.
  """
  mean, low, high = value
  return Figure(value=mean, low=low, high=high, note=note if np.isfinite(low) else "", **what)


def find(
  figures: Iterable[Figure],
  name: str,
  part: str | None = None,
  *,
  kind: str | None = None,
  of: str = "unlearned",
) -> Figure:
  """Returns the one figure that is asked for.

  Args:
    figures: of `beside_oracles`, for example.
    name, of: of the figure.
    part, kind: of it; None where there is only one.

  Raises:
    ValueError: there is none, or more than one.

  Example:
    >>> found = [over_seeds([0.5, 0.7], name="accuracy", part=part) for part in ("forget", "test")]
    >>> find(found, "accuracy", "test").value
    0.6
  """
  fitting = [
    figure
    for figure in figures
    if (figure.name, figure.of) == (name, of)
    and part in (None, figure.part)
    and kind in (None, figure.kind)
  ]
  if len(fitting) != 1:
    raise ValueError(
      f"there are {len(fitting)} figures {name!r} of {of}, part {part}, kind {kind}. "
      "Name one: metrics.table(figures) shows them all."
    )
  return fitting[0]


def compare(first: Iterable[Figure], second: Iterable[Figure]) -> list[Figure]:
  """Returns first − second, seed by seed, of every figure that both have for each seed.

  Args:
    first: of `beside_oracles`, or `read` from the "figures" of an evaluation.json.
    second: of another method, unlearned from the same originals in the same order, beside the same
      oracles.

  Returns:
    Figures whose value is the mean difference, with its 95 % t-interval, the difference of each
    seed, and the p-value of a sign-flip test, as `intervals.paired`.

  Raises:
    ValueError: the two were judged beside different oracles or with different keys, or their
      numbers of seeds differ.

  Example:
    >>> one, other = ([over_seeds(s, name="ToW")] for s in ([0.9, 0.8, 0.9], [0.7, 0.7, 0.8]))
    >>> round(compare(one, other)[0].value, 3)
    0.133
  """
  first, second = list(first), list(second)
  own, others = (
    {_key(figure): figure.seeds for figure in figures if _is_shared(figure)}
    for figures in (first, second)
  )
  if own != others:
    raise ValueError(
      "compare: the two were judged beside different oracles or by attacks fitted on others, so "
      "that a part of their difference is not theirs. Judge both with one ensemble, split and key."
    )
  ours, theirs = (
    {_key(figure): figure for figure in figures if figure.of == "unlearned" and figure.seeds}
    for figures in (first, second)
  )
  return [difference(figure, theirs[key]) for key, figure in ours.items() if key in theirs]


def difference(first: Figure, second: Figure) -> Figure:
  """Returns first − second of two figures that have a value for each of the same seeds.

  Raises:
    ValueError: as `intervals.paired`.

  Example:
    >>> good, bad = over_seeds([0.9, 0.8], name="ToW"), over_seeds([0.7, 0.6], name="ToW")
    >>> difference(good, bad).p
    0.5
  """
  further = paired(first.seeds, second.seeds)
  seeds = tuple(a - b for a, b in zip(first.seeds, second.seeds, strict=True))
  where = {"name": first.name, "of": first.of, "part": first.part, "kind": first.kind}
  interval = Interval(further.mean, further.low, further.high)
  return with_interval(interval, SEEDS, seeds=seeds, p=further.p, **where)


def table(figures: Iterable[Figure]) -> Any:
  """Returns one row for each figure: a pandas DataFrame if pandas is there, else a list of dicts.

  Args:
    figures: of `beside_oracles` or `compare`; the values of each seed are left out.

  Example:
    >>> len(table([Figure(name="ToW", value=0.9), Figure(name="ToW-MIA", value=0.8)]))
    2
  """
  rows = [dataclasses.asdict(figure) for figure in figures]
  for row in rows:
    del row["seeds"]
  try:
    import pandas as pd  # pyright: ignore[reportMissingImports]
  except ImportError:
    return rows
  return pd.DataFrame(rows)


def read(rows: Iterable[Mapping[str, Any]]) -> list[Figure]:
  """Returns figures from the objects that `report.write_json` made of them; null is NaN.

  Raises:
    ValueError: a row is no figure.

  Example:
    >>> read([{"name": "ToW", "value": 0.9, "low": None, "seeds": [0.9]}])[0].seeds
    (0.9,)
  """
  figures = []
  for row in rows:
    try:  # no other attribute can be None
      given: dict[str, Any] = {k: _NAN if value is None else value for k, value in row.items()}
      given["seeds"] = tuple(row.get("seeds", ()))
      figures.append(Figure(**given))
    except (TypeError, AttributeError) as error:
      raise ValueError(f"{row!r} is no figure. Run the command that wrote it again.") from error
  return figures


def _key(figure: Figure) -> tuple[str, str, str]:
  return figure.name, figure.part, figure.kind


def _is_shared(figure: Figure) -> bool:
  """Whether two methods that are judged beside the same oracles have it alike."""
  return figure.of == "oracle" and figure.name in SHARED
