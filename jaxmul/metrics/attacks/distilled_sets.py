"""Attacks on a distilled data set: can it be told from it what it was distilled from?

Both scores are higher for examples that the set was made from. They compare inputs as they are; to
compare features, give data sets of features. Some examples are nearer to any set than others:
scores of the same examples under sets that were made with and without them (`rates(paired=True)`)
tell more than those of members beside other examples.
"""

import numpy as np

from jaxmul._dataset import Dataset

_BLOCK_NUMBERS = 2**22


def nearest_distilled(dataset: Dataset, distilled: Dataset) -> np.ndarray:
  """Returns minus the distance of each example to the nearest distilled one of its class, [n].

  What was copied is at distance 0.

  Args:
    dataset: n examples, whose inputs are arrays; uint8 is divided by 255.
    distilled: such as `data.distill` returns, of the same kind of inputs.

  Raises:
    ValueError: inputs are of other kinds, or a class of the examples is not among the distilled.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.array([[0.0], [3.0]]), np.array([0, 0]))
    >>> nearest_distilled(toy, Dataset(np.array([[1.0], [9.0]]), np.array([0, 0]))).tolist()
    [-1.0, -2.0]
  """

  def nearest(inputs, small):
    squares = (small**2).sum(1) - 2 * inputs @ small.T  # all but ‖input‖²
    return small[squares.argmin(1)]

  return _by_class(dataset, distilled, nearest, "nearest_distilled")


def mean_of_distilled(dataset: Dataset, distilled: Dataset) -> np.ndarray:
  """Returns minus the distance of each example to the mean of the distilled ones of its class, [n].

  An example draws the mean of what it is among a little to itself, and a distilled set keeps means.

  Args, Raises: as `nearest_distilled`.

  References:
    Dwork et al., [Robust Traceability from Trace Amounts](https://doi.org/10.1109/FOCS.2015.46),
    2015, for attacks on published means.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.array([[0.0], [3.0]]), np.array([0, 0]))
    >>> mean_of_distilled(toy, Dataset(np.array([[1.0], [9.0]]), np.array([0, 0]))).tolist()
    [-5.0, -2.0]
  """
  return _by_class(dataset, distilled, lambda inputs, small: small.mean(0), "mean_of_distilled")


def _by_class(dataset: Dataset, distilled: Dataset, place, caller: str) -> np.ndarray:
  """Returns minus the distances to `place(inputs [m, D], distilled [k, D])`, class by class."""
  kinds = [_kind(each, caller) for each in (dataset, distilled)]
  if kinds[0] != kinds[1]:
    raise ValueError(f"{caller} got inputs {kinds[0]} and distilled ones {kinds[1]}, must match.")
  missing = np.setdiff1d(dataset.labels, distilled.labels)
  if len(missing):
    raise ValueError(
      f"{caller}: no distilled example is of class {missing[0]}. Leave this class out."
    )
  scores = np.zeros(len(dataset))
  for label in np.unique(dataset.labels):
    rows = np.flatnonzero(dataset.labels == label)
    small = _flat(distilled.inputs[distilled.labels == label])
    count = max(1, _BLOCK_NUMBERS // small.shape[1])
    for block in np.split(rows, range(count, len(rows), count)):
      inputs = _flat(dataset.inputs[block])
      scores[block] = -np.sqrt(((inputs - place(inputs, small)) ** 2).sum(1))
  return scores


def _kind(dataset: Dataset, caller: str) -> str:
  if isinstance(dataset.inputs, dict) or dataset.labels.ndim > 1 or not dataset.classes:
    raise ValueError(f"{caller} needs inputs that are one array, with one class an example.")
  return f"{dataset.inputs.dtype} {list(dataset.inputs.shape[1:])}"


def _flat(inputs: np.ndarray) -> np.ndarray:
  """Returns inputs as float64 [m, D], in [0, 1] where they are bytes."""
  scale = 255 if inputs.dtype == np.uint8 else 1
  return inputs.reshape(len(inputs), -1).astype(np.float64) / scale
