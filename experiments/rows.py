"""Rows of tables of algorithms: each is a file that is computed once and read back later."""

import dataclasses
import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

from experiments import cache, logs, tables
from experiments.judge import over_seeds
from jaxmul import metrics, report
from jaxmul._progress import stages
from jaxmul.binding import Network
from jaxmul.metrics import Figure, find

Results = dict[str, dict[str, list["Row"]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """What one network scored, kept as a file.

  Attributes:
    figures: of a `Judge`, and what a script adds; none where it diverged.
    first_call: seconds of the first run, compilation included, where it ran twice.
    chosen: name of the setting that the autopilot chose.
    surrogate: what it was chosen by.
  """

  figures: list[Figure] = dataclasses.field(default_factory=list)
  first_call: float | None = None
  chosen: str | None = None
  surrogate: float | None = None

  @classmethod
  def read(cls, path: Path) -> "Row":
    """Returns what is kept in a file."""
    row = json.loads(path.read_text())
    return cls(**row | {"figures": metrics.figures.read(row["figures"])})


def path_of(out: Path, version: str, name: str, seed: int, row: str) -> Path:
  """Returns the file of a row, of a run directory and what names all that decides its rows."""
  label = row.replace(", ", "-").replace(" ", "-").replace("%", "percent")
  return out / "cache" / f"{name}-{seed}-{label}-{version}.json"


def computed(
  work: Mapping[tuple[int, str], Mapping[str, Callable[[], Row]]],
  path_of: Callable[[str, int, str], Path],
  log: logs.Log,
) -> Iterator[Results]:
  """Computes the rows that are missing, and yields all there are after each forget set.

  Args:
    work: what computes each row, by its name, of a training seed and a forget set.
    path_of: `(forget set, seed, row) -> file`.
    log: gets what each row scored.

  Yields:
    {forget set: {row: [Row of each seed so far]}}.
  """
  paths = [path_of(name, seed, row) for (seed, name), rows in work.items() for row in rows]
  results: Results = {name: {} for _, name in work}
  with stages(sum(not path.exists() for path in paths)) as begin:
    for (seed, name), rows in work.items():
      for row, compute in rows.items():
        path = path_of(name, seed, row)
        if not path.exists():
          label = f"{name}, seed {seed + 1}, {row}"
          begin(label)
          start = time.perf_counter()
          scored_row = compute()
          report.write_json(path, scored_row)
          seconds, figures = time.perf_counter() - start, scored_row.figures
          outcome = f"ToW {find(figures, 'ToW').value:.3f}" if figures else "diverged"
          print(f"{label}: {outcome}, {seconds:.0f} s", flush=True)
          log(seed, logs.named(figures, name, row))
        results[name].setdefault(row, []).append(Row.read(path))
      yield results


def timed_compiled(
  run: Callable[[], Network], compiled: set[Hashable], shape: Hashable
) -> tuple[Network, float, float | None]:
  """Returns a network, its seconds without compilation, and those of the first run if it ran twice.

  Args:
    run: makes the network.
    compiled: what was compiled before; the shape is added.
    shape: what `run` is compiled for.
  """
  first_call = None
  if shape not in compiled:
    first_call = cache.timed(run)[1]
    compiled.add(shape)
  return *cache.timed(run), first_call


def means_of(methods: Mapping[str, Sequence[Row]]) -> dict[str, list[Figure]]:
  """Returns the means over seeds of each row that diverged with none of them."""
  return {
    method: over_seeds([row.figures for row in of_seeds])
    for method, of_seeds in methods.items()
    if all(row.figures for row in of_seeds)
  }


def worse_than(
  original: Sequence[Row], after: Sequence[Row], utility: tuple[str, str] | None = None
) -> list[str]:
  """Returns the figures in which a row is worse than the original of the same seeds.

  That is where the 95 % t-interval of the differences lies wholly on that side: one seed tells
  nothing.

  Args:
    original: a row of each seed.
    after: a row of each seed.
    utility: name and part of a further figure, of which less is worse.
  """
  ours, theirs = (over_seeds([row.figures for row in rows]) for rows in (after, original))
  further = metrics.figures.difference(find(ours, "example gap"), find(theirs, "example gap"))
  lower = metrics.figures.difference(find(ours, "ToW by group"), find(theirs, "ToW by group"))
  worse = {further.name: further.low > 0, lower.name: lower.high < 0}
  if utility is not None:
    less = metrics.figures.difference(find(ours, *utility), find(theirs, *utility))
    worse["utility"] = less.high < 0
  return [name for name, is_worse in worse.items() if is_worse]


def spread(figure: Figure) -> str:
  """Returns "mean ± half width of the 95 % t-interval", unbroken; one seed gives the mean alone."""
  return tables.with_half_width(figure).replace(" ", "\u00a0")
