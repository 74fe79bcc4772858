"""A data set is inputs, labels and ids; everything is joined by id, never by position."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _check


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Inputs [n, ...], labels [n] and ids [n] in host memory.

  Attributes:
    inputs: [n, ...], uint8 (pixels, kept so until a batch is used) or float32. Floats are used as
      they are; a warning says so where they look like bytes, in [0, 255] with a largest above 127.
    labels: int32 [n] in [0, num_classes).
    ids: int64 [n], unique; by default 0 … n − 1.
    num_classes: C; by default one more than the largest label.

  Raises:
    ValueError: lengths differ, labels are not class numbers, ids repeat, inputs hold NaN or inf.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> digits = Dataset(np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1]), np.array([7, 5, 9]))
    >>> digits.take([9, 7]).labels.tolist()
    [1, 0]
  """

  inputs: np.ndarray
  labels: np.ndarray
  ids: np.ndarray = None  # pyright: ignore[reportAssignmentType]
  num_classes: int = 0

  def __post_init__(self):
    inputs, labels = np.asarray(self.inputs), np.asarray(self.labels)
    if inputs.ndim < 2:
      raise ValueError(
        f"Dataset needs inputs [n, ...] of rank 2 or more, got shape {inputs.shape}. "
        "Add an axis: inputs[:, None], or inputs[None] for one example."
      )
    if inputs.dtype != np.uint8:
      if not np.issubdtype(inputs.dtype, np.floating):
        raise ValueError(
          f"Dataset needs uint8 or float inputs, got {inputs.dtype}. "
          "Convert values of 0 … 255 with inputs.astype('uint8'), others with .astype('float32')."
        )
      with np.errstate(over="ignore"):  # What float32 cannot hold becomes inf, and is refused so.
        inputs = inputs.astype(np.float32)
      _check.finite(inputs, "Dataset: inputs")
      _warn_of_bytes(inputs)
    _check.labels(labels, len(inputs), "Dataset")
    ids = np.arange(len(inputs)) if self.ids is None else np.asarray(self.ids)
    num_classes = self.num_classes or int(labels.max(initial=0)) + 1
    _check.class_numbers(labels, min(num_classes, 2**31), "Dataset")
    check_ids(ids, len(inputs), "Dataset")
    for name, value in (
      ("inputs", inputs),
      ("labels", labels.astype(np.int32)),
      ("ids", ids.astype(np.int64)),
      ("num_classes", num_classes),
    ):
      object.__setattr__(self, name, value)

  def __len__(self) -> int:
    return len(self.labels)

  def rows(self, ids: Any) -> np.ndarray:
    """Returns the positions int64 [k] of the given ids, in their order.

    Raises:
      ValueError: an id is not in the data, is asked for twice, or is no integer (such as a mask).
    """
    ids = np.asarray(ids).reshape(-1)
    check_ids(ids, len(ids), "Dataset.rows")
    ids = ids.astype(np.int64)
    if not len(self):
      order, found = np.zeros(0, np.int64), np.zeros(len(ids), np.int64)
    else:
      order = np.argsort(self.ids, kind="stable")
      found = np.minimum(np.searchsorted(self.ids[order], ids), len(order) - 1)
    missing = ids if not len(self) else ids[self.ids[order[found]] != ids]
    if len(missing):
      raise ValueError(
        f"id {missing[0]} is not in the data ({len(missing)} of {len(ids)} ids are missing). "
        "Ids are those of Dataset.ids, not positions."
      )
    return order[found]

  def take(self, ids: Any) -> "Dataset":
    """Returns the data set of the given ids, in their order."""
    rows = self.rows(ids)
    part = object.__new__(Dataset)  # its rows were checked, and warned of, with the whole
    for name in ("inputs", "labels", "ids"):
      object.__setattr__(part, name, getattr(self, name)[rows])
    object.__setattr__(part, "num_classes", self.num_classes)
    return part

  @property
  def example(self) -> jax.Array:
    """The first example as a network takes it: inputs [1, ...]."""
    return as_inputs(jnp.asarray(self.inputs[:1]))

  def batch(self) -> tuple[jax.Array, jax.Array]:
    """Returns everything as one batch: inputs [n, ...] float32 and labels int32 [n]."""
    return as_inputs(jnp.asarray(self.inputs)), jnp.asarray(self.labels)


def as_inputs(inputs: jax.Array) -> jax.Array:
  """Returns inputs as a network takes them: uint8 is divided by 255, all else stays as it is.

  Example:
    >>> import numpy as np
    >>> as_inputs(np.array([[0, 255]], np.uint8)).tolist()
    [[0.0, 1.0]]
  """
  inputs = jnp.asarray(inputs)
  if inputs.dtype == jnp.uint8:
    return inputs.astype(jnp.float32) / 255
  return inputs


def _warn_of_bytes(inputs: np.ndarray) -> None:
  """Warns where float inputs hold 0 … 255: no rate of the papers trains a network on them."""
  if inputs.size and inputs.min() >= 0 and 127 < inputs.max() <= 255:
    warnings.warn(
      f"Dataset got float inputs in [{inputs.min():g}, {inputs.max():g}], which are used as they "
      "are: networks want about [0, 1]. Pass them as uint8, or divide them by 255.",
      stacklevel=4,
    )


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
