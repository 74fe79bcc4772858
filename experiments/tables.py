"""Tables on the terminal, as wide as a page where the output is no terminal."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxmul.metrics import Figure

if TYPE_CHECKING:
  from rich.console import Console

Cell = str | float | Figure


def show(title: str, names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
  """Prints rows: text on the left, numbers on the right with three digits; NaN leaves a gap.

  A figure is shown with the half width of its interval.
  """
  from rich.table import Table

  table = Table(title=title)
  for name, first in zip(names, rows[0], strict=True):
    table.add_column(name, justify="left" if isinstance(first, str) else "right")
  for row in rows:
    table.add_row(*map(_cell, row))
  console().print(table)


def console() -> "Console":
  """Returns the rich console that tables are printed on."""
  from rich.console import Console

  terminal = Console()
  return terminal if terminal.is_terminal else Console(width=130)


def _cell(value: Cell) -> str:
  if isinstance(value, str):
    return value
  if isinstance(value, Figure):
    return "" if math.isnan(value.value) else with_half_width(value)
  return f"{value:.3f}" if not math.isnan(value) else ""


def with_half_width(figure: Figure) -> str:
  """Returns "value ± half width", or the value alone where one seed gives no interval."""
  if not np.isfinite(figure.low):
    return f"{figure.value:.3f}"
  return f"{figure.value:.3f} ± {figure.half_width:.3f}"
