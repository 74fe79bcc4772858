"""Correlation of ranks, for whole arrays of comparisons at once."""

import numpy as np


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns ρ along the last axis: Pearson's correlation of ranks, ties sharing their mean rank.

  NaN where a or b holds one value alone; NumPy says so unless `np.errstate(invalid="ignore")`.

  Example:
    >>> spearman(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), np.array([4.0, 5.0, 9.0])).tolist()
    [1.0, -1.0]
  """
  from scipy.stats import rankdata

  a, b = (rankdata(values, axis=-1) for values in (a, b))
  a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (a, b))
  return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
