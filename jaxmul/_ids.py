"""Where an id becomes a row: ids are the names that users give, rows are positions in arrays."""

import numpy as np
from numpy.typing import ArrayLike


def check_ids(ids: np.ndarray, size: int, caller: str) -> None:
  """Raises ValueError where ids are not integers [size], each its own."""
  if ids.shape != (size,) or not (np.issubdtype(ids.dtype, np.integer) or not size):
    raise ValueError(
      f"{caller} needs integer ids [{size}], got {ids.dtype} {list(ids.shape)}. "
      "Turn a mask into ids with dataset.ids[mask]."
    )
  values, counts = np.unique(ids, return_counts=True)
  if len(values) != len(ids):
    raise ValueError(
      f"{caller} got id {values[counts > 1][0]} more than once; each id stands for one example. "
      "Drop repeats with np.unique(ids)."
    )


def find(held: np.ndarray, wanted: np.ndarray) -> np.ndarray:
  """Returns the row int64 [k] of each wanted id among those held, −1 where it is not.

  Args:
    held: int [n], each its own, in any order.
    wanted: int [k].

  Example:
    >>> find(np.array([30, 10, 20]), np.array([20, 7, 30])).tolist()
    [2, -1, 0]
  """
  if not len(held):
    return np.full(len(wanted), -1)
  order = np.argsort(held, kind="stable")
  rows = order[np.minimum(np.searchsorted(held, wanted, sorter=order), len(held) - 1)]
  return np.where(held[rows] == wanted, rows, -1)


def rows_of(held: np.ndarray, wanted: ArrayLike, caller: str, lack: str, cure: str) -> np.ndarray:
  """Returns the rows int64 [k] of the wanted ids, in their order.

  Args:
    held: int [n], each its own.
    wanted: int [k], each its own.
    caller: whom an error names.
    lack, cure: what an error says of an id that is not held, and what to do.

  Raises:
    ValueError: an id is not held, is asked for twice, or is no integer, such as a mask.
  """
  wanted = np.asarray(wanted).reshape(-1)
  check_ids(wanted, len(wanted), caller)
  rows = find(held, wanted.astype(np.int64))
  missing = wanted[rows < 0]
  if len(missing):
    raise ValueError(
      f"id {missing[0]} {lack} ({len(missing)} of {len(wanted)} ids are missing). {cure}"
    )
  return rows
