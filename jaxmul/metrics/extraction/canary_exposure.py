"""How much a network prefers what was planted in its data to what could have been."""

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check
from jaxmul.metrics.intervals import Interval


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
  below, up_to, count = _ranked("exposure", canary_loss=canary_loss, other_losses=other_losses)
  rank = 1 + (below + up_to) / 2
  return np.log2(count + 1) - np.log2(rank)


def exposure_of_drawn(canary_loss: ArrayLike, drawn_losses: ArrayLike, size: int) -> list[Interval]:
  """Returns the exposure of canaries among |R| by m that were drawn, with exact 95 % intervals.

  A canary's rank among all of R is 1 + q (|R| − 1), q the share of the others with a lower loss.
  Among m drawn ones that share is binomial, and Clopper and Pearson's interval of q is one of
  exposure = log₂|R| − log₂ rank, in bits from 0 to log₂|R|. Equal losses count half for the value;
  the low end counts them all and the high end none.

  Args:
    canary_loss: [k], the network's loss on each planted canary.
    drawn_losses: [m], on others that were drawn from R at random and not planted. Drawn without
      replacement, the interval covers more often than it says.
    size: |R|, how many canaries there could have been, more than m. All of them are no sample: they
      have a rank and no interval, see `exposure`.

  Returns:
    An `Interval` for each canary: of the draw, not of other networks.

  Raises:
    ValueError: as `exposure`, or the size is not above m.

  References:
    Carlini et al., [The Secret Sharer](https://arxiv.org/abs/1802.08232), 2018, which estimates
    exposure by sampling; the interval is ours.

  Example:
    >>> exposure = exposure_of_drawn([0.1], np.linspace(1, 2, 99), size=2**20)[0]
    >>> exposure.mean, round(exposure.low, 2), exposure.high
    (20.0, 4.77, 20.0)
  """
  below, up_to, count = _ranked(
    "exposure_of_drawn", canary_loss=canary_loss, drawn_losses=drawn_losses
  )
  _check.at_least("exposure_of_drawn", count + 1, size=size)
  from scipy.special import betaincinv

  if size == count + 1:
    raise ValueError(
      f"exposure_of_drawn got {count} drawn losses of size={size}: with the canary these are all, "
      "whose rank is known. Use exposure."
    )
  # The quantiles of Beta(k, m − k + 1) and Beta(k + 1, m − k); none at the ends.
  fewest = np.where(below > 0, betaincinv(np.maximum(below, 1), count - below + 1, 0.025), 0)
  most = np.where(up_to < count, betaincinv(up_to + 1, np.maximum(count - up_to, 1), 0.975), 1)
  ends = [
    np.log2(size) - np.log2(1 + share * (size - 1))
    for share in ((below + up_to) / 2 / count, most, fewest)
  ]
  return [Interval(*map(float, triple)) for triple in zip(*ends, strict=True)]


def _ranked(caller: str, **losses: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
  """Returns how many others are below each canary and up to it, int [k], and how many are there."""
  arrays = {name: np.asarray(given, np.float64) for name, given in losses.items()}
  for name, given in arrays.items():
    if given.ndim != 1 or not len(given) or np.isnan(given).any():
      raise ValueError(
        f"{caller} needs {name} [k], not empty and without NaN, got {list(given.shape)} with "
        f"{np.isnan(given).sum()} NaN."
      )
  own, others = arrays.values()
  ordered = np.sort(others)
  below, up_to = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
  return below, up_to, len(others)
