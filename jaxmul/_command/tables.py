"""How figures are shown and kept: a table on the terminal, and columns as .csv."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxmul._files import write_atomic
from jaxmul.metrics import Figure

_WIDTH = 110  # of a table where the output is no terminal


def show(figures: Iterable[Figure]) -> None:
  """Prints a row for each figure, with its interval."""
  table = Table("figure", "network", "examples", "value", "95 % interval", "", box=None)
  for figure in figures:
    interval = "none" if np.isnan(figure.low) else f"{figure.low:.3f} … {figure.high:.3f}"
    name = f"{figure.name} {figure.kind}".strip()
    note = figure.note.removeprefix("95 % ")
    table.add_row(name, figure.of, figure.part, f"{figure.value:.3f}", interval, note)
  console = Console(width=None if os.isatty(1) else _WIDTH, highlight=False)
  console.print(table)


def write_csv(path: Path, columns: Mapping[str, np.ndarray]) -> None:
  """Writes columns [n] of one length, with a header; a missing number is an empty cell."""
  write_rows(path, columns, zip(*(column.tolist() for column in columns.values()), strict=True))


def write_rows(path: Path, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
  """Writes rows as .csv, with a header; a missing number is an empty cell."""
  text = io.StringIO()
  lines = csv.writer(text, lineterminator="\n")
  lines.writerow(names)
  lines.writerows(["" if cell != cell else cell for cell in row] for row in rows)
  write_atomic(path, text.getvalue().encode())
