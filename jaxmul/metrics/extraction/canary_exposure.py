"""How much a network prefers what was planted in its data to what could have been."""

import numpy as np
from numpy.typing import ArrayLike


def exposure(canary_loss: ArrayLike, other_losses: ArrayLike) -> np.ndarray:
  """Returns log₂|R| − log₂ rank of canaries in bits, float64 [k], from 0 to log₂|R|.

  R is a canary and the others, which could have been planted as well and were not. The rank is by
  loss, lowest first, and among equal losses the middle one.

  Args:
    canary_loss: [k], the network's loss on each planted canary, such as `proxies.loss`.
    other_losses: [m], on others of the same form; no exposure is above log₂(m + 1).

  Raises:
    ValueError: not one axis each, there are no others, or a loss is NaN.

  References:
    Carlini et al., [The Secret Sharer](https://arxiv.org/abs/1802.08232), 2018.

  Example:
    >>> exposure([0.1, 2.0], [1.0, 3.0, 4.0]).tolist()
    [2.0, 1.0]
  """
  own, others = np.asarray(canary_loss, np.float64), np.asarray(other_losses, np.float64)
  for name, given in (("canary_loss", own), ("other_losses", others)):
    if given.ndim != 1 or not len(given) or np.isnan(given).any():
      raise ValueError(
        f"exposure needs {name} [k], not empty and without NaN, got {list(given.shape)} with "
        f"{np.isnan(given).sum()} NaN."
      )
  ordered = np.sort(others)
  below, up_to = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
  rank = 1 + (below + up_to) / 2
  return np.log2(len(others) + 1) - np.log2(rank)
