"""A data set is inputs, labels and ids; everything is joined by id, never by position.

Labels are [n, *P]: one class for an image, P = (), a class at each position for text, P = (T,).
"""

import dataclasses
import warnings
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _arrays, _article, _check
from jaxmul._arrays import Array, Inputs
from jaxmul._ids import check_ids, rows_of


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Inputs [n, ...], labels [n, *P] and ids [n] in host memory.

  Attributes:
    inputs: [n, ...], uint8 (pixels, kept so until a batch is used), float32, or int32 (tokens
      [n, T], at least 0; int64 is converted). Floats are used as they are; a warning says so where
      they look like bytes, in [0, 255] with a largest above 127. For a network that takes a dict: a
      dict of such arrays, each also [n].
    labels: int32 [n, *P] in [0, num_classes); where P is not empty −1 stands for a position that is
      not scored, and every example has one that is.
    ids: int64 [n], unique; by default 0 … n − 1.
    num_classes: C, of tokens the vocabulary; by default one more than the largest label, and for
      labels of positions than the largest token.
    strata: int64 [n] or None: the kind of each example, where its labels do not tell. What keeps
      classes in their proportions, or counts them, goes by it.
    families: int64 [n] or None: examples of one number are copies of one, such as a text that
      stands several times in a corpus. They are trained on, left out and held out together.
    classes: False says that labels are no classes but numbers to predict, or several labels, for a
      network with a loss of its own: int or float [n, ...], kept as int32 or float32. `num_classes`
      is then 0.

  Raises:
    ValueError: lengths differ, labels are not class numbers, an example has no scored position, ids
      repeat, inputs hold NaN, inf or tokens below 0.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> digits = Dataset(np.zeros((3, 8, 8), np.uint8), np.array([0, 1, 1]), np.array([7, 5, 9]))
    >>> digits.take([9, 7]).labels.tolist()
    [1, 0]
    >>> text = Dataset(np.array([[4, 0, 1], [4, 2, 3]]), np.array([[-1, 1, 0], [-1, 3, 2]]))
    >>> text.num_classes
    5
  """

  inputs: Inputs
  labels: np.ndarray
  ids: np.ndarray = None  # pyright: ignore[reportAssignmentType]
  num_classes: int = 0
  strata: np.ndarray | None = dataclasses.field(default=None, kw_only=True)
  families: np.ndarray | None = dataclasses.field(default=None, kw_only=True)
  classes: bool = dataclasses.field(default=True, kw_only=True)

  def __post_init__(self):
    inputs = kept_inputs(self.inputs)
    for leaf in jax.tree.leaves(inputs):
      _warn_of_bytes(leaf)
    labels = np.asarray(_check.rectangular(self.labels, "labels", "Dataset"))
    size = _size(inputs)
    _check.labels(labels, size, "Dataset")
    ids = np.arange(size) if self.ids is None else np.asarray(self.ids)
    check_ids(ids, size, "Dataset")
    num_classes = 0
    if not self.classes:
      labels = _numbers(labels)
    else:
      _refuse_one_hot(labels, inputs)
      num_classes = self.num_classes or _largest(labels, inputs) + 1
      _check.class_numbers(labels, min(num_classes, 2**31), "Dataset")
      labels = labels.astype(np.int32)
    numbered = {
      name: None if (given := getattr(self, name)) is None else _numbered(given, size, name)
      for name in ("strata", "families")
    }
    vars(self).update(inputs=inputs, labels=labels, ids=ids.astype(np.int64))
    vars(self).update(num_classes=num_classes, **numbered)

  def __len__(self) -> int:
    return len(self.labels)

  def rows(self, ids: ArrayLike) -> np.ndarray:
    """Returns the positions int64 [k] of the given ids, in their order.

    Raises:
      ValueError: an id is not in the data, is asked for twice, or is no integer (such as a mask).
    """
    cure = "Ids are those of Dataset.ids, not positions."
    return rows_of(self.ids, ids, "Dataset.rows", "is not in the data", cure)

  def take(self, ids: ArrayLike) -> "Dataset":
    """Returns the data set of the given ids, in their order."""
    rows = self.rows(ids)
    part = object.__new__(Dataset)  # its rows were checked, and warned of, with the whole
    names = ("inputs", "labels", "ids", "strata", "families")
    arrays = {name: getattr(self, name) for name in names}
    vars(part).update(vars(self) | _arrays.rows(arrays, rows))  # what is None has no leaf
    return part

  def with_copies(self, ids: ArrayLike) -> np.ndarray:
    """Returns the ids int64 [k], sorted, of the given examples and of all others of their families.

    Raises:
      ValueError: as `rows`.
    """
    rows = self.rows(ids)
    if self.families is None:
      return np.sort(self.ids[rows])
    return np.sort(self.ids[np.isin(self.families, self.families[rows])])

  def first_of_each(self, ids: ArrayLike) -> np.ndarray:
    """Returns, of the given ids, the first of each family, in their order."""
    rows = self.rows(ids)
    if self.families is None:
      return self.ids[rows]
    return self.ids[rows[np.sort(np.unique(self.families[rows], return_index=True)[1])]]

  def num_copies(self, ids: ArrayLike) -> np.ndarray:
    """Returns how often each of the given examples is in the data, itself included, int64 [k].

    Raises:
      ValueError: as `rows`.
    """
    rows = self.rows(ids)
    if self.families is None:
      return np.ones(len(rows), np.int64)
    numbers, counts = np.unique(self.families, return_counts=True)
    return counts[np.searchsorted(numbers, self.families[rows])]

  def kinds(self, caller: str) -> np.ndarray:
    """Returns int [n], what examples are of one kind: strata, or labels where each has one class.

    Raises:
      ValueError: there are no strata, and labels are of positions, or no classes.
    """
    if self.strata is not None:
      return self.strata
    if self.labels.ndim > 1 or not self.classes:
      raise ValueError(
        f"{caller} goes by the class of an example, but labels are {self.labels.dtype} "
        f"{list(self.labels.shape)}. Say which are of one kind: Dataset(..., strata=...), int [n]; "
        "zeros if all are."
      )
    return self.labels

  @property
  def example(self) -> Inputs:
    """The first example as a network takes it: inputs [1, ...]."""
    return as_inputs(_arrays.rows(self.inputs, slice(1)))

  def batch(self) -> tuple[Inputs, jax.Array]:
    """Returns everything as one batch: inputs [n, ...] float32 or int32, labels [n, *P]."""
    return as_inputs(self.inputs), jnp.asarray(self.labels)


def refuse_no_dataset(dataset: object, caller: str) -> None:
  """Raises ValueError where something else stands in a data set's place, such as its arrays."""
  if not isinstance(dataset, Dataset):
    raise ValueError(
      f"{caller} got {_article.of(dataset)} as the data, must be a Dataset. Make one: "
      "data.Dataset(inputs, labels); a Streamed is for train.fit alone."
    )


def as_inputs(inputs: Inputs) -> Inputs:
  """Returns inputs as a network takes them: uint8 is divided by 255, all else stays as it is.

  Example:
    >>> import numpy as np
    >>> as_inputs(np.array([[0, 255]], np.uint8)).tolist()
    [[0.0, 1.0]]
  """

  def one(leaf: Array) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float32) / 255 if leaf.dtype == jnp.uint8 else leaf

  return jax.tree.map(one, inputs) if isinstance(inputs, Mapping) else one(inputs)


def kept_inputs(inputs: Inputs, name: str = "") -> Inputs:
  """Returns inputs as a data set keeps them, a dict as one; raises ValueError for what it cannot.

  Args:
    inputs: array [n, ...], or a dict of them.
    name: which of a dict it is.
  """
  if isinstance(inputs, Mapping):
    return {key: kept_inputs(part, f"{name}[{key!r}]") for key, part in inputs.items()}
  inputs = np.asarray(_check.rectangular(inputs, f"inputs{name}", "Dataset"))
  if inputs.ndim < (1 if name else 2):
    raise ValueError(
      f"Dataset needs inputs{name} [n, ...] of rank {1 if name else 2} or more, got shape "
      f"{inputs.shape}. Add an axis: inputs[:, None], or inputs[None] for one example."
    )
  if np.issubdtype(inputs.dtype, np.floating):
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes inf, and is refused so.
      inputs = inputs.astype(np.float32)
    _check.finite(inputs, f"Dataset: inputs{name}")
  elif inputs.dtype != np.uint8:
    inputs = _tokens(inputs, name)
  return inputs


def _size(inputs: Inputs) -> int:
  """Returns n of inputs [n, ...], the same of each array of a dict, or raises ValueError."""
  sizes = {len(leaf) for leaf in jax.tree.leaves(inputs)}
  if len(sizes) == 1:
    return sizes.pop()
  found = f"of {sorted(sizes)} rows" if sizes else "no array"
  raise ValueError(f"Dataset needs inputs whose arrays have one row an example, got {found}.")


def _tokens(inputs: np.ndarray, name: str) -> np.ndarray:
  """Returns integer inputs as int32 tokens, or raises ValueError."""
  if inputs.dtype not in _check.TOKENS or inputs.ndim > 2:
    raise ValueError(
      f"Dataset needs uint8 or float inputs{name}, or tokens int32 [n, T], got {inputs.dtype} "
      f"{list(inputs.shape)}. Convert values of 0 … 255 with inputs.astype('uint8'), others with "
      ".astype('float32')."
    )
  if inputs.size and not 0 <= inputs.min() <= inputs.max() < 2**31:
    low = inputs.min()
    raise ValueError(
      f"Dataset got token {low if low < 0 else inputs.max()}, outside [0, 2³¹). Number tokens from "
      "0; what is not scored is a label of −1, its token is any."
    )
  return inputs.astype(np.int32)


def _numbers(labels: np.ndarray) -> np.ndarray:
  """Returns labels that are no classes as int32 or float32."""
  _check.finite(labels, "Dataset: labels")
  if np.issubdtype(labels.dtype, np.floating):
    return labels.astype(np.float32)
  return labels.astype(np.int32)


def _refuse_one_hot(labels: np.ndarray, inputs: Inputs) -> None:
  """Raises ValueError where the labels of images are one-hot: each would be many classes."""
  if labels.ndim != 2 or _tokens_of(inputs) or labels.shape[1] < 2:
    return
  if len(labels) and ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
    raise ValueError(
      f"Dataset needs labels [n] of images, got one-hot ones of shape {labels.shape}. "
      "One-hot labels become class numbers with labels.argmax(-1)."
    )


def _largest(labels: np.ndarray, inputs: Inputs) -> int:
  """The largest class: of labels, and where each position has one, of tokens."""
  largest = int(labels.max(initial=0))
  if labels.ndim > 1:
    largest = max(largest, *(int(tokens.max(initial=0)) for tokens in _tokens_of(inputs)), 0)
  return largest


def _tokens_of(inputs: Inputs) -> list[np.ndarray]:
  leaves = jax.tree.leaves(inputs)
  return [leaf for leaf in leaves if np.issubdtype(leaf.dtype, np.signedinteger)]


def _numbered(value: ArrayLike, size: int, name: str) -> np.ndarray:
  """Returns strata or families as int64 [n], or raises ValueError."""
  numbers = np.asarray(value)
  if numbers.shape != (size,) or not (np.issubdtype(numbers.dtype, np.integer) or not size):
    raise ValueError(
      f"Dataset needs {name} int [{size}], one an example, got {numbers.dtype} "
      f"{list(numbers.shape)}."
    )
  if numbers.min(initial=0) < 0:
    raise ValueError(f"Dataset got {name} {numbers.min()}, must be at least 0. Number them from 0.")
  return numbers.astype(np.int64)


def _warn_of_bytes(inputs: np.ndarray) -> None:
  """Warns where float inputs hold 0 … 255: no rate of the papers trains a network on them."""
  if inputs.dtype == np.float32 and inputs.size and inputs.min() >= 0 and 127 < inputs.max() <= 255:
    warnings.warn(
      f"Dataset got float inputs in [{inputs.min():g}, {inputs.max():g}], which are used as they "
      "are: networks want about [0, 1]. Pass them as uint8, or divide them by 255.",
      stacklevel=4,
    )
