"""Continuations that are nearly the true suffix: copies with a few tokens changed."""

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import losses

_ROUNDING = 1e-9


def edit_distance(continuations: ArrayLike, labels: ArrayLike) -> np.ndarray:
  """Returns the Levenshtein distance of continuations to true suffixes, int64 [B].

  The fewest tokens to insert, delete or replace.

  Args:
    continuations: int [B, S] tokens, as `models.generate` returns them.
    labels: int [B, S], the true tokens. Positions where they are −1 are left out of both.

  Raises:
    ValueError: the two are not of one shape [B, S], or of whole numbers.

  Example:
    >>> edit_distance([[1, 2, 3], [9, 1, 2]], [[1, 2, 3], [1, 2, -1]]).tolist()
    [0, 2]
  """
  made, true = np.asarray(continuations), np.asarray(labels)
  is_whole = all(np.issubdtype(each.dtype, np.integer) for each in (made, true))
  if made.shape != true.shape or made.ndim != 2 or not is_whole:
    raise ValueError(
      f"edit_distance needs continuations and labels int [B, S], got {made.dtype} "
      f"{list(made.shape)} and {true.dtype} {list(true.shape)}."
    )
  order = np.argsort(true == losses.UNSCORED, axis=1, kind="stable")  # what is scored comes first
  made, true = (np.take_along_axis(each, order, 1) for each in (made, true))
  length = np.sum(true != losses.UNSCORED, axis=1)
  steps = np.arange(made.shape[1] + 1)
  # row[b, j]: the distance of the first i made tokens to the first j true ones.
  row = np.broadcast_to(steps, (len(made), len(steps)))
  distance = np.zeros(len(made), np.int64)
  for i in range(1, len(steps)):
    replaced = row[:, :-1] + (made[:, i - 1 : i] != true)
    best = np.concatenate([row[:, :1] + 1, np.minimum(replaced, row[:, 1:] + 1)], axis=1)
    row = np.minimum.accumulate(best - steps, axis=1) + steps  # tokens inserted one after another
    distance = np.where(length == i, row[np.arange(len(made)), length], distance)
  return distance


def is_nearly_extracted(
  continuations: ArrayLike, labels: ArrayLike, share: float = 0.1
) -> np.ndarray:
  """Returns whether continuations differ from true suffixes by few edits, bool [B].

  Args:
    continuations, labels: as `edit_distance`.
    share: edits for each token of the suffix that are allowed, in [0, 1).

  Raises:
    ValueError: as `edit_distance`, a share outside its range, or nothing of a suffix is scored.

  References:
    Ippolito et al., [Preventing Verbatim Memorization Gives a False Sense of
    Privacy](https://arxiv.org/abs/2210.17546), 2022, on why exact copies are not all.

  Example:
    >>> is_nearly_extracted([[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 9]], share=0.2).tolist()
    [True]
  """
  if not 0 <= share < 1:
    raise ValueError(f"is_nearly_extracted got share={share}, must be in [0, 1).")
  distance = edit_distance(continuations, labels)
  length = np.sum(np.asarray(labels) != losses.UNSCORED, axis=1)
  if not length.all():
    raise ValueError(
      f"is_nearly_extracted: nothing of suffix {np.argmin(length)} is scored. Leave it out."
    )
  return distance <= share * length + _ROUNDING
