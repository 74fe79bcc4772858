"""Shares of sequences that are extracted and that a network without them does not give as well.

References:
  Carlini et al., [Quantifying Memorization](https://arxiv.org/abs/2202.07646), 2022, for rates by
  length of prompt and by copies.
"""

import numpy as np
from numpy.typing import ArrayLike

from jaxmul._proportions import wilson
from jaxmul.metrics.intervals import Interval


def rate(extracted: ArrayLike, control: ArrayLike | None = None) -> Interval:
  """Returns the share of sequences that are extracted, with Wilson's 95 % interval, in [0, 1].

  Args:
    extracted: bool [n], as `is_extracted` returns it; give one copy of each text
      (`Dataset.first_of_each`): copies are not independent.
    control: bool [n], the same of a network without the sequences. What it gives does not count as
      extracted, and stays among the n.

  Returns:
    An `Interval`: over other sequences of the same kind, not other networks.

  Raises:
    ValueError: no sequences, of another type, or the control is of others.

  Example:
    >>> [round(x, 3) for x in rate([True, True, False, False])]
    [0.5, 0.15, 0.85]
    >>> rate([True, True, False, False], control=[True, False, False, False]).mean
    0.25
  """
  found = _memorized(extracted, control, "rate")
  return _interval(found)


def rates_by(
  groups: ArrayLike, extracted: ArrayLike, control: ArrayLike | None = None
) -> dict[int, Interval]:
  """Returns the rate of each group of sequences, such as those of equally many copies.

  Args:
    groups: int [n], such as `Dataset.num_copies(ids)`.
    extracted, control: as `rate`.

  Returns:
    {group: `Interval`}, sorted by group.

  Raises:
    ValueError: as `rate`, or groups are not one whole number a sequence.

  Example:
    >>> found = rates_by([1, 1, 10, 10], [False, True, True, True])
    >>> {copies: each.mean for copies, each in found.items()}
    {1: 0.5, 10: 1.0}
  """
  found, of_each = _memorized(extracted, control, "rates_by"), np.asarray(groups)
  if of_each.shape != found.shape or not np.issubdtype(of_each.dtype, np.integer):
    raise ValueError(
      f"rates_by needs groups int [{len(found)}], one a sequence, got {of_each.dtype} "
      f"{list(of_each.shape)}."
    )
  return {int(group): _interval(found[of_each == group]) for group in np.unique(of_each)}


def _memorized(extracted: ArrayLike, control: ArrayLike | None, caller: str) -> np.ndarray:
  """Returns what was extracted and not by the control, bool [n]."""
  found = np.asarray(extracted)
  other = np.zeros(found.shape, bool) if control is None else np.asarray(control)
  if found.ndim != 1 or not len(found) or found.shape != other.shape:
    raise ValueError(
      f"{caller} needs extracted bool [n], not empty, and a control of the same sequences, got "
      f"{list(found.shape)} and {list(other.shape)}."
    )
  if found.dtype != bool or other.dtype != bool:
    raise ValueError(
      f"{caller} needs bool, got {found.dtype} and {other.dtype}. Compare first: "
      "extraction.chance_in(log_p, 100) >= 0.5."
    )
  return found & ~other


def _interval(found: np.ndarray) -> Interval:
  # Rounded, so that an end at 1 is not 2e-16 below it.
  low, high = np.round(wilson(found.sum(), len(found)), 15)
  return Interval(float(found.mean()), float(low), float(high))
