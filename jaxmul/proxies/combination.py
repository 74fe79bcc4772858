"""One proxy out of many: ground truth on a small sample says how to weigh them for the rest.

Proxies and truth are replaced by their ranks in [0, 1], so that no unit matters, and a ridge
regression maps one to the other. Its penalty minimises the leave-one-out error, in closed form.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from jaxmul.proxies.rank_agreement import Agreement, agreement

_PENALTIES = 10.0 ** np.arange(-4, 4)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Combined:
  """What `combined` returns.

  Attributes:
    scores: float64 [n], the predicted rank of every example; higher means more memorized.
    weights: {name: float}, of the proxies' ranks.
    agreement: of predictions with the truth, each from a fit that did not see the example.
    best: name of the single proxy with the largest ρ on the same examples, chosen in hindsight.
    best_agreement: of that proxy.
  """

  scores: np.ndarray
  weights: dict[str, float]
  agreement: Agreement
  best: str
  best_agreement: Agreement


def combined(
  scores: Mapping[str, ArrayLike], truth: ArrayLike, *, folds: int = 10, seed: int = 0
) -> Combined:
  """Predicts memorization of all examples from proxies, and the truth of a few.

  Args:
    scores: {name: [n]}, proxies of the same examples in the same order, without NaN.
    truth: [n], such as memorization; NaN where it is not known. The known ones should be a random
      sample: they stand for the rest.
    folds: of the cross-validation over the known examples.
    seed: of the folds.

  Returns:
    A `Combined`. Whether the combination is worth it: compare `agreement` with `best_agreement`.

  Raises:
    ValueError: no proxy, lengths differ, a proxy holds NaN or is constant, fewer than 3 · `folds`
      examples are known, or on these each proxy, or the truth, is constant.

  Example:
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=400)
    >>> noisy = {name: truth + rng.normal(size=400) for name in "abc"}
    >>> known = np.where(np.arange(400) < 60, truth, np.nan)
    >>> result = combined(noisy, known)
    >>> result.agreement.spearman > result.best_agreement.spearman
    True
  """
  truth = np.asarray(truth, float)
  table = {name: np.asarray(values, float) for name, values in scores.items()}
  if not table:
    raise ValueError("combined got no proxies. Pass at least one.")
  for name, values in table.items():
    if truth.ndim != 1 or values.shape != truth.shape:
      raise ValueError(
        f"combined got {name!r} of shape {values.shape}, truth of {truth.shape}; join by id."
      )
    if not np.isfinite(values).all() or np.ptp(values) == 0:
      raise ValueError(f"combined: {name!r} is constant, NaN or inf somewhere. Leave it out.")
  known = np.flatnonzero(np.isfinite(truth))
  if folds < 2 or len(known) < 3 * folds:
    raise ValueError(
      f"combined got {len(known)} known examples for {folds} folds, needs folds of at least 2 and "
      f"{3 * max(folds, 2)} examples. Estimate the truth of more."
    )
  varied = [name for name, values in table.items() if np.ptp(values[known]) > 0]
  if not varied:
    raise ValueError(
      f"combined: each proxy is constant on the {len(known)} known examples. Estimate the truth of "
      "more."
    )
  x = np.stack([_ranks(values) for values in table.values()], axis=1)
  y = _ranks(truth[known])

  predicted = np.empty(len(known))
  order = np.random.default_rng(seed).permutation(len(known))
  for fold in np.array_split(order, folds):
    rest = np.setdiff1d(order, fold)
    intercept, weights = _ridge(x[known[rest]], y[rest])
    predicted[fold] = intercept + x[known[fold]] @ weights

  best = max(
    varied,
    key=lambda name: agreement(table[name][known], truth[known], resamples=1).spearman,
  )
  intercept, weights = _ridge(x[known], y)
  return Combined(
    scores=intercept + x @ weights,
    weights=dict(zip(table, weights.tolist(), strict=True)),
    agreement=agreement(predicted, truth[known]),
    best=best,
    best_agreement=agreement(table[best][known], truth[known]),
  )


def _ranks(values: np.ndarray) -> np.ndarray:
  """Returns mean ranks scaled to (0, 1)."""
  from scipy.stats import rankdata

  return (rankdata(values) - 0.5) / len(values)


def _ridge(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
  """Returns intercept and weights, penalised as the leave-one-out error likes it best."""
  centre = x.mean(0)
  u, s, vt = np.linalg.svd(x - centre, full_matrices=False)
  along = u.T @ (y - y.mean())
  fits = []
  for penalty in _PENALTIES:
    shrunk = s**2 / (s**2 + penalty)
    leverage = 1 / len(y) + (u**2) @ shrunk
    residual = y - y.mean() - u @ (shrunk * along)
    fits.append((np.mean((residual / (1 - leverage)) ** 2), penalty))
  penalty = min(fits)[1]
  weights = vt.T @ (s / (s**2 + penalty) * along)
  return float(y.mean() - centre @ weights), weights
