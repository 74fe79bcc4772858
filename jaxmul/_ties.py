"""How ties between equal scores are broken: by an order of ids that follows nothing.

Data sets are often sorted by class, and ids are often positions. So what ranks examples and finds
two of them equal must not fall back on the order of their ids: it would choose a class.
"""

import numpy as np
from numpy.typing import ArrayLike

# Equal scores go by `soft`, rounded to so many decimals, and then by `scattered` with this key.
SOFT_DECIMALS = 2
TIES = 0

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def scattered(ids: ArrayLike, key: int = TIES) -> np.ndarray:
  """Returns the place uint64 [n] of each id in a fixed random permutation of all 64-bit integers.

  The place of an id depends on the id and the key alone: not on the other ids, their order, or the
  machine. No two ids share one.

  Args:
    ids: int [n].
    key: another number gives another permutation.

  Example:
    >>> order = np.argsort(scattered(np.arange(8)))
    >>> order.tolist()
    [2, 4, 6, 5, 1, 7, 0, 3]
  """
  x = np.asarray(ids).reshape(-1).astype(np.int64).view(np.uint64) * np.uint64(_GOLDEN)
  x = _mixed(x + np.uint64(_GOLDEN))
  if key:  # between two rounds: another key is not the same order of shifted ids
    x = _mixed(x ^ _mixed(np.array([key & _MASK], np.uint64)))
  return x


def _mixed(x: np.ndarray) -> np.ndarray:
  """One round of SplitMix64, a permutation of all 64-bit integers."""
  for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
    x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
  return x ^ (x >> np.uint64(31))
