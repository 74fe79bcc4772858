"""The table of a job as a file for a paper or another program, every number with its interval."""

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxmul._command import tables
from jaxmul._files import write_atomic
from jaxmul.metrics import Figure, find

Kind = Literal["csv", "latex", "parquet"]
_COLUMNS = ("method", "figure", "part", "value", "low", "high", "interval", "seeds")


def check(kind: Kind | None) -> None:
  """Raises ImportError where what a kind of file needs is not installed."""
  missing = [name for name in ("pandas", "pyarrow") if importlib.util.find_spec(name) is None]
  if kind == "parquet" and missing:
    raise ImportError(f"--export parquet needs {missing[0]}. Run: pip install pandas pyarrow")


def write(
  out: Path, kind: Kind, methods: Mapping[str, Sequence[Figure]], shown: Sequence[str]
) -> Path:
  """Writes the figures of all methods as table.csv or table.parquet, or as table.tex.

  Args:
    out: the run directory.
    kind: csv and parquet hold one row for each figure of a method, latex a row for each method.
    methods: {name: figures}.
    shown: names of the columns of latex.
  """
  if kind == "latex":
    path = out / "table.tex"
    write_atomic(path, _latex(methods, shown).encode())
    return path
  rows = [
    (name, f.name, f.part, f.value, f.low, f.high, f.note, len(f.seeds))
    for name, figures in methods.items()
    for f in figures
  ]
  path = out / f"table.{kind}"
  if kind == "csv":
    tables.write_rows(path, _COLUMNS, rows)
    return path
  import pandas as pd

  content = io.BytesIO()
  pd.DataFrame(rows, columns=list(_COLUMNS)).to_parquet(content)
  write_atomic(path, content.getvalue())
  return path


def _latex(methods: Mapping[str, Sequence[Figure]], shown: Sequence[str]) -> str:
  lines = [
    "% mean and half width of the 95 % t-interval over training seeds",
    f"\\begin{{tabular}}{{l{'r' * len(shown)}}}",
    "\\hline",
    " & ".join(("method", *shown)) + r" \\",
    "\\hline",
  ]
  for name, figures in methods.items():
    cells = [name.replace("_", r"\_"), *(_cell(find(figures, figure)) for figure in shown)]
    lines.append(" & ".join(cells) + r" \\")
  return "\n".join([*lines, "\\hline", "\\end{tabular}", ""])


def _cell(figure: Figure) -> str:
  half = figure.half_width
  return f"${figure.value:.3f} \\pm {half:.3f}$" if np.isfinite(half) else f"${figure.value:.3f}$"
