"""What all pictures share. matplotlib is loaded only when one is drawn."""

from pathlib import Path

INK, ACCENT, WARM = "#333333", "#2f6db3", "#c8553d"


def pyplot():
  try:
    import matplotlib
  except ImportError as error:
    raise ImportError("plots need matplotlib: pip install 'jaxmul[plots]'.") from error
  matplotlib.use("agg")
  import matplotlib.pyplot as plt

  return plt


def save(figure, path: Path) -> None:
  figure.savefig(path, dpi=150)
  pyplot().close(figure)
