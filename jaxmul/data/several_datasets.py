"""Several data sets as one, such as a forget set and a distilled retain set."""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from jaxmul import _arrays, _article
from jaxmul._dataset import Dataset, refuse_no_dataset


def concatenate(datasets: Sequence[Dataset]) -> Dataset:
  """Returns all examples of several data sets as one data set, in their order.

  Args:
    datasets: at least one, of inputs of one dtype and shape and of labels of one shape. No two
      examples share an id.

  Returns:
    A `Dataset` whose `num_classes` is the largest of theirs. It has strata, and families, where all
    of them have: numbers stand for the same in each.

  Raises:
    ValueError: there is none, something else is among them, they are of different kinds, or an id
      is in two of them.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> one = Dataset(np.zeros((2, 3)), np.array([0, 1]), np.array([7, 8]))
    >>> other = Dataset(np.ones((1, 3)), np.array([4]), np.array([9]))
    >>> both = concatenate([one, other])
    >>> both.ids.tolist(), both.num_classes
    ([7, 8, 9], 5)
  """
  if not isinstance(datasets, Iterable):
    raise ValueError(
      f"concatenate got {_article.of(datasets)}, must be several data sets. Pass a list."
    )
  datasets = list(datasets)
  if not datasets:
    raise ValueError("concatenate got no data set. Pass at least one.")
  for dataset in datasets:
    refuse_no_dataset(dataset, "concatenate")
  kinds = [_kind(dataset) for dataset in datasets]
  for kind in kinds:
    if kind != kinds[0]:
      raise ValueError(
        f"concatenate got {kinds[0]} and {kind}, must be of one kind. Convert one of them first."
      )
  shared = [
    name
    for name in ("strata", "families")
    if all(getattr(dataset, name) is not None for dataset in datasets)
  ]
  names = ("inputs", "labels", "ids", *shared)
  parts = [{name: getattr(dataset, name) for name in names} for dataset in datasets]
  whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
  num_classes = max(dataset.num_classes for dataset in datasets)
  return Dataset(**whole, num_classes=num_classes, classes=datasets[0].classes)


def _kind(dataset: Dataset) -> str:
  """Returns what an example is, in words: dtypes and shapes, and whether labels are classes."""
  inputs = ", ".join(
    f"{way and way + ' '}{leaf.dtype} {list(leaf.shape[1:])}"
    for way, leaf in _arrays.by_way(dataset.inputs).items()
  )
  labels = "classes" if dataset.classes else f"{dataset.labels.dtype} numbers"
  return f"inputs {inputs} with labels {list(dataset.labels.shape[1:])} of {labels}"
