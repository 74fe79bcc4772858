"""Tables: a data frame of pandas or Polars, one row an example.

Neither is imported: a frame is whatever has `columns` and `frame[name].to_numpy()`.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Protocol

import numpy as np

from jaxmul import _article
from jaxmul._dataset import Dataset


class Column(Protocol):
  """What a frame returns for a name."""

  def to_numpy(self) -> np.ndarray: ...


class Frame(Protocol):
  """A table with named columns."""

  @property
  def columns(self) -> Iterable: ...
  def __getitem__(self, name, /) -> Column: ...


def from_dataframe(
  frame: Frame,
  *,
  label: Hashable,
  inputs: Sequence[Hashable] | None = None,
  ids: Hashable | None = None,
  strata: Hashable | None = None,
  class_names: Sequence[Hashable] | None = None,
) -> Dataset:
  """Takes a data set from a table of numbers.

  Args:
    frame: of pandas or Polars; n rows.
    label: column of classes: integers from 0; or anything, with `class_names`. Floats are numbers
      to predict, by a network with a loss of its own.
    inputs: F columns of numbers or booleans; by default all that have no other use here.
    ids: column of integers; by default the row 0 … n − 1.
    strata: column of integers, for `Dataset.strata`.
    class_names: label c is `class_names[c]`, such as `sorted(frame["species"].unique())`. Give the
      same for training and test data.

  Returns:
    Inputs [n, F] in the order of `inputs`: uint8 where all of these columns are, else float32.

  Raises:
    ValueError: it is no such frame, lacks a column, a value is missing or no number, or a label is
      not among `class_names`.

  Example:
    >>> import pandas
    >>> frame = pandas.DataFrame({"height": [0.1, 0.9], "who": ["cat", "dog"], "key": [70, 50]})
    >>> pets = from_dataframe(frame, label="who", ids="key", class_names=["cat", "dog"])
    >>> pets.labels.tolist(), pets.ids.tolist(), pets.inputs.shape
    ([0, 1], [70, 50], (2, 1))
  """
  if not hasattr(frame, "columns") or not hasattr(frame, "__getitem__"):
    raise ValueError(
      f"from_dataframe got {_article.of(frame)}, needs a pandas or Polars data frame. "
      "Arrays need no source: jaxmul.data.Dataset(inputs, labels, ids)."
    )
  columns = list(frame.columns)
  special = [label, *(name for name in (ids, strata) if name is not None)]
  if inputs is None:
    inputs = [name for name in columns if name not in special]
  for name in (*special, *inputs):
    if columns.count(name) != 1:
      raise ValueError(
        f"from_dataframe: the frame has {columns.count(name)} columns {name!r}, must have one; it "
        f"has {columns}."
      )
  if not inputs:
    raise ValueError("from_dataframe: no column is left for the inputs. Name some: inputs=[...].")
  values = np.stack([_numbers(frame, name, "inputs") for name in inputs], axis=1)
  if values.dtype != np.uint8:
    values = values.astype(np.float32)
  labels, num_classes = _labels(frame, label, class_names)
  return Dataset(
    values,
    labels,
    None if ids is None else _numbers(frame, ids, "ids"),  # pyright: ignore[reportArgumentType]
    num_classes,
    strata=None if strata is None else _numbers(frame, strata, "strata"),
    classes=not np.issubdtype(labels.dtype, np.floating),
  )


def _numbers(frame: Frame, name: Hashable, use: str) -> np.ndarray:
  column = np.asarray(frame[name].to_numpy())
  is_whole = np.issubdtype(column.dtype, np.integer)
  if is_whole or (use == "inputs" and column.dtype == bool):
    return column
  if use != "inputs":
    raise ValueError(
      f"from_dataframe: column {name!r} is {column.dtype}, must be integers to serve as {use}. "
      "Number its values: np.unique(frame[name], return_inverse=True)[1]."
    )
  if not np.issubdtype(column.dtype, np.floating):
    raise ValueError(
      f"from_dataframe: column {name!r} is {column.dtype}, must be numbers. Fill what is missing, "
      "make text columns of 0 and 1 with pandas.get_dummies, or leave it out: inputs=[...]."
    )
  missing = int((~np.isfinite(column)).sum())
  if missing:
    raise ValueError(
      f"from_dataframe: column {name!r} holds {missing} values that are missing or infinite. Fill "
      "them, or drop these rows."
    )
  return column


def _labels(
  frame: Frame, name: Hashable, class_names: Sequence[Hashable] | None
) -> tuple[np.ndarray, int]:
  """Returns labels [n] and the number of classes, 0 where it is to be counted."""
  column = np.asarray(frame[name].to_numpy())
  if class_names is None:
    if not np.issubdtype(column.dtype, np.number):
      raise ValueError(
        f"from_dataframe: column {name!r} is {column.dtype}, so say which class is which: "
        f"class_names=sorted(frame[{name!r}].unique())."
      )
    return column, 0
  numbers = {value: number for number, value in enumerate(class_names)}
  if len(numbers) != len(class_names):
    raise ValueError(
      f"from_dataframe: a name is twice in class_names {list(class_names)}. Drop one."
    )
  unknown = [value for value in column.tolist() if value not in numbers]
  if unknown:
    raise ValueError(
      f"from_dataframe: label {unknown[0]!r} ({len(unknown)} rows) is not among class_names. Add "
      "it, or drop these rows."
    )
  return np.array([numbers[value] for value in column.tolist()], np.int64), len(numbers)
