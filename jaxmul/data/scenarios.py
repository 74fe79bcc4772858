"""Whom a request asks to forget, as the literature states it: a class, a sub-class, or at random.

Each returns ids of a training set, for `data.Split` and `jaxmul.forget`. Forget sets by how much
they are memorized are `rum.select`'s.

References:
  Golatkar et al., [Eternal Sunshine of the Spotless Net](https://arxiv.org/abs/1911.04933), 2020
  (a class; some examples of one).
  Foster et al., [Selective Synaptic Dampening](https://arxiv.org/abs/2308.07707), 2023 (full class,
  sub-class, random).
"""

import jax
import numpy as np

from jaxmul import _check
from jaxmul._dataset import Dataset, refuse_no_dataset


def forget_class(dataset: Dataset, label: int) -> np.ndarray:
  """Returns the ids int64 [k], sorted, of all examples of a class.

  Args:
    dataset: the training data.
    label: the class, in [0, C).

  Raises:
    ValueError: no example has this label, or all have, or labels are of positions or no classes.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.zeros((4, 1)), np.array([0, 1, 1, 0]), np.array([9, 8, 7, 6]))
    >>> forget_class(toy, 1).tolist()
    [7, 8]
  """
  refuse_no_dataset(dataset, "forget_class")
  if dataset.labels.ndim > 1 or not dataset.classes:
    raise ValueError(
      f"forget_class goes by the class of an example, but labels are {dataset.labels.dtype} "
      f"{list(dataset.labels.shape)}. Use forget_subclass, with strata."
    )
  return _of_kind(dataset, dataset.labels, label, "forget_class: label")


def forget_subclass(dataset: Dataset, stratum: int) -> np.ndarray:
  """Returns the ids int64 [k], sorted, of all examples of a stratum.

  Where the strata are finer than the labels, as CIFAR-100's classes are than its 20 superclasses,
  the network goes on knowing the class of what it forgets.

  Args:
    dataset: the training data, with strata.
    stratum: one of them.

  Raises:
    ValueError: there are no strata, no example is of this one, or all are.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.zeros((4, 1)), np.array([0, 0, 1, 1]), strata=np.array([0, 1, 2, 2]))
    >>> forget_subclass(toy, 1).tolist()
    [1]
  """
  refuse_no_dataset(dataset, "forget_subclass")
  if dataset.strata is None:
    raise ValueError(
      "forget_subclass needs strata, which say the sub-class of each example. Make the data with "
      "jaxmul.data.Dataset(inputs, labels, ids, strata=...), int [n]."
    )
  return _of_kind(dataset, dataset.strata, stratum, "forget_subclass: stratum")


def forget_random(dataset: Dataset, size: int, key: jax.Array) -> np.ndarray:
  """Returns the ids int64 [size], sorted, of examples drawn without replacement.

  The order of the data set does not matter.

  Args:
    dataset: the training data, n examples.
    size: |S|, in [1, n).
    key: which ones.

  Raises:
    ValueError: `size` is no such number.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.zeros((4, 1)), np.array([0, 1, 1, 0]), np.array([9, 8, 7, 6]))
    >>> len(forget_random(toy, 3, jax.random.key(0)))
    3
  """
  refuse_no_dataset(dataset, "forget_random")
  _check.count(size, "size", "forget_random")
  _check.key(key, "forget_random")
  if size >= len(dataset):
    raise ValueError(
      f"forget_random got size={size} of {len(dataset)} examples: nothing would be kept. Ask for "
      "less."
    )
  order = np.asarray(jax.random.permutation(key, len(dataset)))
  return np.sort(np.sort(dataset.ids)[order[:size]])


def _of_kind(dataset: Dataset, kinds: np.ndarray, kind: int, what: str) -> np.ndarray:
  ids = np.sort(dataset.ids[kinds == kind])
  if not len(ids) or len(ids) == len(dataset):
    share = "every example is" if len(ids) else "no example is"
    raise ValueError(f"{what} {kind!r}: {share} of it. There are {np.unique(kinds)[:20].tolist()}.")
  return ids
