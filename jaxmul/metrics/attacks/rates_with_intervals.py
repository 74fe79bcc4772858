"""How well a score tells members from non-members: AUC, balanced accuracy, TPR at a low FPR.

A score is higher for members. Ties count half, as if they were broken at random. Intervals are
percentile bootstraps over examples; models, where there are several, are kept as they are.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from jaxmul.metrics._given import of_models
from jaxmul.metrics.intervals import Interval

KINDS = ("auc", "balanced_accuracy", "tpr_at_1", "tpr_at_01")
_BLOCK_NUMBERS = 2**21
_NAN = float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
  """An attack's success in [0, 1]; chance is 0.5, 0.5, 0.01 and 0.001.

  Attributes:
    auc: area under the ROC curve.
    balanced_accuracy: ½(TPR + TNR) at a threshold chosen elsewhere; NaN where none was given.
    tpr_at_1, tpr_at_01: TPR at 1 % and 0.1 % FPR; NaN below 10/FPR non-members.
    notes: {figure: why it is NaN}, one line each.
  """

  auc: Interval
  balanced_accuracy: Interval
  tpr_at_1: Interval
  tpr_at_01: Interval
  notes: dict[str, str]


def rates(
  members: npt.ArrayLike,
  nonmembers: npt.ArrayLike,
  *,
  threshold: float | None = None,
  paired: bool = False,
  resamples: int = 1000,
  seed: int = 0,
) -> Rates:
  """Returns how well scores tell members from non-members.

  Args:
    members: [n] or [K, n], scores of n examples under K models that saw them.
    nonmembers: [m] or [L, m], scores of examples under models that did not see them.
    threshold: members are called where the score reaches it; from other examples, or 0 for a
      log-likelihood ratio.
    paired: both are the same examples in the same order, under other models: an example is
      resampled with its whole column in both.
    resamples: of the bootstrap over examples; 0 gives no intervals.
    seed: of the resampling.

  Returns:
    `Rates`. TPR at FPR α is taken at the k-th largest non-member, k = ⌊αm⌋: k/(m + 1) on average
    where nothing tells them apart.

  Raises:
    ValueError: empty, more than two axes, NaN, or `paired` with different numbers of examples.

  Example:
    >>> found = rates([2.0, 3.0, 4.0], [1.0, 0.0, 3.0], threshold=1.5, resamples=0)
    >>> round(found.auc.mean, 3), round(found.balanced_accuracy.mean, 3)
    (0.833, 0.833)
    >>> found.notes["tpr_at_1"]
    'TPR at 1 % FPR needs 1000 non-members, got 3'
  """
  positive, negative = _scores(members, "members"), _scores(nonmembers, "nonmembers")
  if paired and positive.shape[1] != negative.shape[1]:
    raise ValueError(
      f"rates: paired scores of {positive.shape[1]} and {negative.shape[1]} examples. "
      "Take both by the same ids, or leave out paired."
    )
  curve = Curve(positive, negative, threshold)
  value = curve(np.ones((1, positive.shape[1])), np.ones((1, negative.shape[1])))[0]
  # Not scipy.stats.bootstrap: it would sort the scores anew for each resample.
  rng = np.random.default_rng(seed)
  drawn = [
    curve(*weights)
    for weights in _resampled(rng, resamples, positive.shape, negative.shape, paired)
  ]
  low, high = np.full((2, len(value)), _NAN)
  if drawn:
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
  notes = {}
  for kind, (percent, needed) in enumerate((("1 %", 1000), ("0.1 %", 10_000)), start=2):
    if negative.size < needed:
      value[kind] = low[kind] = high[kind] = _NAN
      notes[KINDS[kind]] = f"TPR at {percent} FPR needs {needed} non-members, got {negative.size}"
  if threshold is None:
    notes["balanced_accuracy"] = "balanced accuracy needs a threshold, chosen on other examples"
  ends = zip(value.tolist(), low.tolist(), high.tolist(), strict=True)
  intervals = {kind: Interval(*numbers) for kind, numbers in zip(KINDS, ends, strict=True)}
  return Rates(**intervals, notes=notes)


def best_threshold(members: npt.ArrayLike, nonmembers: npt.ArrayLike) -> float:
  """Returns the threshold with the largest balanced accuracy on known examples, not to be scored.

  Half way between two scores; the lowest one wins a tie.

  Args:
    members: [k] or [K, k], scores of known members.
    nonmembers: [l] or [L, l], scores of known non-members.

  Raises:
    ValueError: empty, more than two axes, or NaN.

  Example:
    >>> best_threshold([2.0, 3.0], [0.0, 1.0])
    1.5
  """
  positive, negative = _scores(members, "members"), _scores(nonmembers, "nonmembers")
  values = np.unique(np.concatenate([positive.ravel(), negative.ravel()]))
  cuts = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
  above = 1 - np.searchsorted(np.sort(positive.ravel()), cuts) / positive.size
  below = np.searchsorted(np.sort(negative.ravel()), cuts) / negative.size
  return float(cuts[np.argmax(above + below)])


class Curve:
  """AUC, balanced accuracy and TPRs [R, 4] as functions of example weights [R, n] and [R, m]."""

  def __init__(self, positive: np.ndarray, negative: np.ndarray, threshold: float | None):
    values = np.concatenate([positive.ravel(), negative.ravel()])
    order = np.argsort(-values, kind="stable")
    self._ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    member = order < positive.size
    self._places = np.flatnonzero(member), np.flatnonzero(~member)
    example = (order[member] % positive.shape[1], (order[~member] - positive.size))
    self._example = example[0], example[1] % negative.shape[1]
    self._called = None
    if threshold is not None:
      self._called = [(scores >= threshold).mean(0) for scores in (positive, negative)]

  def __call__(self, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    true, false = (
      self._cumulative(weights, places, example)
      for weights, places, example in zip(
        (positive, negative), self._places, self._example, strict=True
      )
    )
    auc = np.sum(np.diff(false, axis=1) * (true[:, 1:] + true[:, :-1]), 1) / 2
    auc = auc / (true[:, -1] * false[:, -1])
    accuracy = np.full(len(auc), _NAN)
    if self._called is not None:
      tpr, fpr = (
        weights @ called / weights.sum(1)
        for weights, called in zip((positive, negative), self._called, strict=True)
      )
      accuracy = (tpr + 1 - fpr) / 2
    return np.stack([auc, accuracy, *(_tpr(true, false, rate) for rate in (0.01, 0.001))], 1)

  def _cumulative(self, weights: np.ndarray, places: np.ndarray, example: np.ndarray) -> np.ndarray:
    """Weight [R, 1 + groups] of scores at or above each distinct value, from the largest down."""
    of_scores = np.zeros((len(weights), sum(map(len, self._places))))
    of_scores[:, places] = weights[:, example]
    reached = np.cumsum(of_scores, 1)[:, self._ends]
    return np.pad(reached, ((0, 0), (1, 0)))


def _tpr(true: np.ndarray, false: np.ndarray, rate: float) -> np.ndarray:
  """TPR [R] at the value where the false positives reach ⌊rate · m⌋, ties shared."""
  allowed = np.floor(rate * false[:, -1] + 1e-9)
  reached = np.maximum(np.argmax(false >= allowed[:, None], 1), 1)
  row = np.arange(len(reached))
  before, after = false[row, reached - 1], false[row, reached]
  share = (allowed - before) / np.maximum(after - before, 1e-9)
  share = np.where(allowed > 0, share, 0)
  return (true[row, reached - 1] + share * (true[row, reached] - true[row, reached - 1])) / true[
    :, -1
  ]


def _resampled(rng, resamples, positive, negative, paired) -> Iterator[tuple[np.ndarray, ...]]:
  """Yields how often each example is drawn, float [R, n] and [R, m], in blocks of bounded size."""
  (k, n), (l, m) = positive, negative
  size = max(1, _BLOCK_NUMBERS // (k * n + l * m))
  for start in range(0, resamples, size):
    count = min(size, resamples - start)
    first = rng.multinomial(n, np.full(n, 1 / n), count).astype(float)
    yield first, first if paired else rng.multinomial(m, np.full(m, 1 / m), count).astype(float)


def _scores(scores: npt.ArrayLike, name: str) -> np.ndarray:
  """Returns scores [K, n], those [n] of one model as [1, n]."""
  return of_models(np.atleast_2d(np.asarray(scores, dtype=np.float64)), "rates", name)
