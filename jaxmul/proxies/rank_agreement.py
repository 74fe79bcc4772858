"""How well a proxy orders examples as the ground truth does."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check
from jaxmul._ranks import spearman


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
  """Rank agreement of a proxy with the truth.

  Attributes:
    spearman: ρ in [−1, 1], or its mean within classes.
    low, high: 95 % bootstrap interval of it over examples.
    precision_at_k: share in [0, 1] of the truth's top k found in the proxy's, or None.
  """

  spearman: float
  low: float
  high: float
  precision_at_k: float | None


def agreement(
  scores: ArrayLike,
  truth: ArrayLike,
  *,
  top_k: int | None = None,
  classes: ArrayLike | None = None,
  resamples: int = 1000,
  seed: int = 0,
) -> Agreement:
  """Spearman's ρ between scores and truth with a bootstrap interval, and precision at k.

  Args:
    scores: [n], a proxy.
    truth: [n], such as memorization scores, of the same examples in the same order.
    top_k: also report the share of the truth's k largest that are among the proxy's k largest. What
      ties at the edge of the k counts in expectation, as if ties were broken at random in each.
    classes: [n], the class of each example: ρ is then that within a class, the mean over classes by
      their sizes. Some of the ρ between all examples is of classes that are harder than others.
      Left out are classes of fewer than 3 examples, or with a constant for scores or truth. The k
      largest are those of all.
    resamples: of the percentile bootstrap over examples, those of a class by themselves.
    seed: of the resampling.

  Returns:
    An `Agreement`.

  Raises:
    ValueError: lengths differ, fewer than 3 examples, NaN, constants, top_k not in [1, n], no
      resamples, or no class has a ρ.

  Example:
    >>> result = agreement([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0], top_k=2)
    >>> round(result.spearman, 3), result.precision_at_k
    (0.8, 1.0)
    >>> kinds = [0, 0, 0, 1, 1, 1]
    >>> agreement([1, 2, 3, 7, 8, 9], [3, 2, 1, 9, 8, 7], classes=kinds).spearman
    -1.0
  """
  scores = _checked(scores, "scores")
  truth = _checked(truth, "truth")
  if len(scores) != len(truth):
    raise ValueError(f"agreement got {len(scores)} scores, {len(truth)} truths; join them by id.")
  if top_k is not None:
    _check.in_range("agreement", 1, len(scores), top_k=top_k)
    _check.count(top_k, "top_k", "agreement")
  _check.count(resamples, "resamples", "agreement")

  groups = [np.arange(len(scores))]
  if classes is not None:
    groups = rows_by_class(scores, truth, classes)
    if not groups:
      raise ValueError(
        f"agreement: in none of {np.unique(classes).size} classes at least 3 examples differ in "
        "scores and in truth. Leave out classes."
      )

  # Not scipy.stats.bootstrap: one resample without a ρ would leave it no interval.
  rng = np.random.default_rng(seed)
  resampled = []
  with np.errstate(invalid="ignore"):  # a resample of a single value has no ρ
    for size in np.diff(np.r_[0 : resamples : max(1, 2_000_000 // len(scores)), resamples]):
      drawn = [rows[rng.integers(len(rows), size=(size, len(rows)))] for rows in groups]
      resampled.append(_mean_spearman(scores, truth, drawn))
  low, high = np.nanpercentile(np.concatenate(resampled), [2.5, 97.5])
  precision = None
  if top_k is not None:
    precision = float(_share_of_top(scores, top_k) @ _share_of_top(truth, top_k)) / top_k
  return Agreement(
    spearman=float(_mean_spearman(scores, truth, groups)),
    low=float(low),
    high=float(high),
    precision_at_k=precision,
  )


def _mean_spearman(scores: np.ndarray, truth: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
  """Returns the mean ρ of groups of rows [..., k] by their sizes, of those that have one."""
  found = np.stack([spearman(scores[rows], truth[rows]) for rows in groups])
  sizes = np.array([rows.shape[-1] for rows in groups])
  known = np.isfinite(found)
  weights = known * sizes.reshape(-1, *[1] * (found.ndim - 1))
  return (np.where(known, found, 0) * (weights / weights.sum(axis=0))).sum(axis=0)


def rows_by_class(scores: np.ndarray, truth: np.ndarray, classes: ArrayLike) -> list[np.ndarray]:
  """Returns the rows of each class that has a ρ: 3 examples, scores and truth not constant."""
  classes = np.asarray(classes)
  if classes.shape != scores.shape:
    raise ValueError(
      f"agreement got classes {list(classes.shape)}, must be [{len(scores)}], one for each example."
    )
  groups = [np.flatnonzero(classes == each) for each in np.unique(classes)]
  return [
    rows
    for rows in groups
    if len(rows) >= 3 and np.ptp(scores[rows]) > 0 and np.ptp(truth[rows]) > 0
  ]


def _share_of_top(values: np.ndarray, k: int) -> np.ndarray:
  """Returns the probability [n] of each to be among the k largest, ties broken at random."""
  edge = np.sort(values)[-k]
  above, level = values > edge, values == edge
  return above + level * (k - above.sum()) / level.sum()


def _checked(given: ArrayLike, name: str) -> np.ndarray:
  values = np.asarray(given, dtype=float)
  if values.ndim != 1 or len(values) < 3:
    raise ValueError(f"agreement needs {name} [n] with n of at least 3, got {values.shape}.")
  bad = np.flatnonzero(~np.isfinite(values))
  if len(bad):
    raise ValueError(
      f"agreement: {name}[{bad[0]}] is {values[bad[0]]} ({len(bad)} such values). "
      "Drop these examples from both."
    )
  if (values == values[0]).all():
    raise ValueError(f"agreement: all {name} are {values[0]}; a constant orders nothing.")
  return values
