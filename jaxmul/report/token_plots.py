"""Pictures of what networks say of each token of some texts."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmul.metrics.intervals import t_interval
from jaxmul.report._drawing import INK, pyplot, save


def by_position(path: Path, probability: Mapping[str, np.ndarray]) -> None:
  """Draws the mean probability of the right token at each position, a line for each network.

  Args:
    path: of the PNG.
    probability: {network: [seeds, k, T]}, NaN where a token is not scored. The band is a 95 %
      t-interval over seeds of the mean over the k texts.
  """
  plt = pyplot()
  figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
  for (name, of_seeds), mark in zip(probability.items(), "os^Dv<>P", strict=False):
    scored = ~np.isnan(of_seeds).all(axis=(0, 1))
    places = np.flatnonzero(scored) + 1
    means = [t_interval(each) for each in np.nanmean(of_seeds[..., scored], axis=1).T]
    (line,) = axes.plot(places, [m.mean for m in means], marker=mark, markersize=4, label=name)
    low, high = ([np.clip(getattr(m, end), 0, 1) for m in means] for end in ("low", "high"))
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
  axes.set(
    xlabel="position of the token", ylabel="mean probability of the right token", ylim=(0, 1)
  )
  axes.grid(alpha=0.25)
  axes.legend(frameon=False, fontsize=9)
  save(figure, path)


def token_heat_map(path: Path, tokens: np.ndarray, probability: Mapping[str, np.ndarray]) -> None:
  """Draws what each network says of every token of some texts, as a colour behind the token.

  Args:
    path: of the PNG.
    tokens: str [k, T], what is predicted.
    probability: {network: [k, T]}, NaN where a token is not scored.
  """
  plt = pyplot()
  rows, columns = tokens.shape
  beside = min(2, len(probability))
  below = -(-len(probability) // beside)
  size = (0.26 * columns * beside + 1.2, (0.26 * rows + 0.5) * below + 0.2)
  figure, grid = plt.subplots(below, beside, figsize=size, layout="constrained", squeeze=False)
  for axes in grid.flat[len(probability) :]:
    axes.axis("off")
  for axes, (name, values) in zip(grid.flat, probability.items(), strict=False):
    axes.imshow(values, vmin=0, vmax=1, cmap="Oranges", aspect="equal")
    for (row, column), token in np.ndenumerate(tokens):
      ink = "white" if values[row, column] > 0.7 else INK
      shown = token if token.isprintable() else "·"
      axes.text(
        column, row, shown, ha="center", va="center", fontsize=7, color=ink, parse_math=False
      )
    axes.set(title=name, xticks=[], yticks=[])
    axes.set_facecolor("#eeeeee")
  figure.colorbar(grid[0, 0].images[0], ax=grid.ravel().tolist(), label="probability", shrink=0.8)
  save(figure, path)
