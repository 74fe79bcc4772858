"""The pictures of a run directory."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxmul._ties import SOFT_DECIMALS
from jaxmul.metrics import Figure, find
from jaxmul.metrics.intervals import t_interval
from jaxmul.proxies import Agreement
from jaxmul.report._drawing import ACCENT, INK, WARM, pyplot, save
from jaxmul.report.charts import mean_rank
from jaxmul.report.texts import cut, of_inputs


def memorization_histogram(
  path: Path, memorization: np.ndarray, groups: Mapping[str, np.ndarray]
) -> None:
  """Draws how many examples have which memorization score, and where the forget groups lie.

  Args:
    path: of the PNG.
    memorization: [n]; NaN is left out.
    groups: {name: scores of that forget group}.
  """
  plt = pyplot()
  figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
  scores = memorization[np.isfinite(memorization)]
  bins = np.linspace(min(-0.05, scores.min()), 1, 45).tolist()
  axes.hist(scores, bins, color="#c9d6e6", label=f"all {len(scores):,} training examples")
  for (name, members), colour in zip(groups.items(), ("#5aa469", "#e0a030", WARM), strict=False):
    axes.hist(members, bins, histtype="step", linewidth=1.8, color=colour, label=f"forget: {name}")
  axes.set(
    yscale="log",
    xlabel="memorization (accuracy when in − when left out)",
    ylabel="examples (log scale)",
  )
  axes.legend(frameon=False)
  save(figure, path)


def proxies_against_truth(
  path: Path,
  memorization: np.ndarray,
  scores: Mapping[str, np.ndarray],
  agreements: Mapping[str, Agreement],
  title: str,
) -> None:
  """Draws each proxy against the ground truth with its Spearman ρ and 95 % interval.

  Args:
    path: of the PNG.
    memorization: [n], finite.
    scores: {proxy: [n]}, of the same examples.
    agreements: {proxy: Agreement}.
    title: what the scores are of and what the intervals are over.
  """
  plt = pyplot()
  columns = min(4, len(scores))
  rows = -(-len(scores) // columns)
  size = (3.1 * columns, 3.0 * rows)
  figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
  for axes in grid.flat[len(scores) :]:
    axes.axis("off")
  for axes, (name, values) in zip(grid.flat, scores.items(), strict=False):
    agreement = agreements[name]
    rank = mean_rank(values)
    axes.scatter(rank, memorization, s=5, alpha=0.35, color=ACCENT, linewidths=0)
    axes.set_title(
      f"{name}\nρ = {agreement.spearman:.2f}  [{agreement.low:.2f}, {agreement.high:.2f}]",
      fontsize=10,
    )
    axes.set(xlabel="rank of proxy, 0 to 1", ylabel="memorization")
  figure.suptitle(title, fontsize=11)
  save(figure, path)


def method_intervals(
  path: Path,
  results: Mapping[str, Sequence[Figure]],
  shown: Sequence[str],
  refined: Collection[str] = (),
) -> None:
  """Draws a row of dots with intervals for each figure.

  Args:
    path: of the PNG.
    results: {method: its figures}, from top to bottom.
    shown: names of figures, one panel each.
    refined: methods that are drawn in another colour, such as those that refine the forget set.
  """
  plt = pyplot()
  names = list(results)
  size = (3.4 * len(shown) + 1.8, 0.36 * len(names) + 1.2)
  figure, grid = plt.subplots(
    1, len(shown), figsize=size, sharey=True, layout="constrained", squeeze=False
  )
  for axes, metric in zip(grid.flat, shown, strict=True):
    for row, name in enumerate(names):
      value = find(results[name], metric)
      colour = WARM if name in refined else INK
      if np.isfinite(value.low):
        axes.plot([value.low, value.high], [row, row], color=colour, linewidth=1.6, alpha=0.6)
      axes.plot(value.value, row, "o", color=colour, markersize=5)
    best = "0 is best" if metric == "example gap" else "1 = as retrained"
    axes.set(xlabel=f"{metric} ({best})", yticks=range(len(names)), yticklabels=names)
    axes.grid(axis="x", alpha=0.25)
  grid.flat[0].invert_yaxis()
  save(figure, path)


def gallery(
  path: Path,
  images: np.ndarray,
  labels: np.ndarray,
  memorization: np.ndarray,
  soft: np.ndarray,
  *,
  columns: int = 12,
) -> None:
  """Draws the most and the least memorized images, two rows each, with label and score.

  Of sequences it shows the texts, one a line.

  Args:
    path: of the PNG.
    images: [n, H, W] or [n, H, W, 3]; or tokens [n, T], or texts [n].
    labels: [n]; those of sequences, [n, ...], are not shown.
    memorization: [n]; NaN is left out.
    soft: [n], tells ties apart, in steps of 0.01.
    columns: images a row; or texts of each kind.
  """
  plt = pyplot()
  known = np.flatnonzero(np.isfinite(memorization))
  anyhow = np.random.default_rng(0).permutation(len(known))  # ties follow neither place nor class
  order = known[np.lexsort((anyhow, -np.round(soft[known], SOFT_DECIMALS), -memorization[known]))]
  texts = of_inputs(images)
  count = min(2 * columns if texts is None else columns, len(order) // 2)
  halves = {"most memorized": order[:count], "least memorized": order[::-1][:count]}
  figure, parts = plt.subplots(2, 1, figsize=(columns * 0.85, 4.8), layout="constrained")
  for axes, (title, rows) in zip(parts, halves.items(), strict=True):
    axes.axis("off")
    axes.set_title(title, fontsize=11)
    if texts is not None:
      lines = [f"{memorization[row]:5.2f}  {' '.join(texts[row].split())}" for row in rows]
      said = "\n".join(cut(line, 10 * columns) for line in lines)
      axes.text(0, 1, said, fontsize=7, family="monospace", va="top", parse_math=False)
      continue
    sheet, corners = _sheet(images[rows], 2, columns)
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    for row, (top, left) in zip(rows, corners, strict=True):
      said = f"{labels[row]}   {memorization[row]:.2f}"
      middle = left + (images.shape[2] - 1) / 2
      axes.text(middle, top - 0.06 * images.shape[1] - 0.5, said, fontsize=8, ha="center")
  save(figure, path)


def sheets(path: Path, images: Mapping[str, np.ndarray], *, columns: int = 20) -> None:
  """Draws sheets of images under their titles, in the order in which they are given.

  Args:
    path: of the PNG.
    images: {title: [n, H, W] or [n, H, W, 3]}; floats in [0, 1].
    columns: images a row.
  """
  plt = pyplot()
  rows = [-(-len(part) // columns) for part in images.values()]
  size = (columns * 0.45, sum(0.55 * count + 0.4 for count in rows))
  figure, parts = plt.subplots(
    len(images), 1, figsize=size, layout="constrained", squeeze=False, height_ratios=rows
  )
  for axes, (title, part), count in zip(parts.flat, images.items(), rows, strict=True):
    axes.axis("off")
    axes.set_title(title, fontsize=10)
    axes.imshow(_sheet(part, count, columns)[0], cmap="gray_r", vmin=0, vmax=1)
  save(figure, path)


def by_kind(path: Path, scores: Mapping[str, Mapping[str, np.ndarray]], label: str) -> None:
  """Draws every score of each kind of example, with the mean of the kind and its 95 % interval.

  Args:
    path: of the PNG.
    scores: {score: {kind: its values}}, a panel for each score; a kind without values is left out.
    label: what the scores are of.
  """
  plt = pyplot()
  size = (3.6 * len(scores) + 0.8, 3.6)
  figure, grid = plt.subplots(1, len(scores), figsize=size, layout="constrained", squeeze=False)
  for axes, (score, kinds) in zip(grid.flat, scores.items(), strict=True):
    known = {kind: values for kind, values in kinds.items() if len(values)}
    for place, values in enumerate(known.values()):
      aside = np.random.default_rng(place).uniform(-0.28, 0.28, len(values))
      axes.scatter(place + aside, values, s=6, alpha=0.3, color=ACCENT, linewidths=0)
      mean = t_interval(values)
      if np.isfinite(mean.low):
        axes.plot([place, place], [mean.low, mean.high], color=WARM, linewidth=2)
      axes.plot(place, mean.mean, "o", color=WARM, markersize=6)
    names = [f"{kind}\n{len(values)}" for kind, values in known.items()]
    axes.set(title=score, xticks=range(len(names)), xticklabels=names, ylabel=label)
    axes.grid(axis="y", alpha=0.25)
  save(figure, path)


def _sheet(images: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
  """Lays images on one white sheet, with room above each for a line: one drawing, not a hundred.

  Args:
    images: [k, H, W] or [k, H, W, 3], k up to rows × columns.
    rows, columns: of the sheet.

  Returns:
    The sheet, float in [0, 1], for grey images in ink, from each image's lightest to its darkest;
    and the (top, left) of each image [k, 2] in its pixels.
  """
  images = images / 255 if images.dtype == np.uint8 else images.astype(float)
  if images.ndim == 3:
    low, high = (f(images, (1, 2), keepdims=True) for f in (np.min, np.max))
    images = (images - low) / np.where(high > low, high - low, 1)
  height, width = images.shape[1:3]
  above, beside = -(-height // 3), -(-width // 6)
  paper = float(images.ndim == 4)
  sheet = np.full((rows * (height + above), columns * (width + beside), *images.shape[3:]), paper)
  places = np.divmod(np.arange(len(images)), columns)
  corners = np.stack([places[0] * (height + above) + above, places[1] * (width + beside)], 1)
  for (top, left), image in zip(corners, images, strict=True):
    sheet[top : top + height, left : left + width] = image
  return sheet, corners
