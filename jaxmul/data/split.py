"""Who is forgotten, kept, held out and tested: ids into one `Dataset`, disjoint and checked."""

import dataclasses
import itertools
from typing import NamedTuple

import jax
import numpy as np

from jaxmul import _check
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul._ids import check_ids


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
  """Disjoint ids of one data set: S, R, H and T.

  Attributes:
    forget: int64 [|S|], to be deleted.
    retain: int64 [|R|], trained on and kept.
    heldout: int64 [|H|], never trained on; may be empty.
    test: int64 [|T|], for final figures only; may be empty.

  Raises:
    ValueError: forget or retain is empty, or two parts share an id.

  Example:
    >>> import numpy as np
    >>> split = Split(forget=np.array([0]), retain=np.array([1, 2]))
    >>> split.train.tolist()
    [0, 1, 2]
  """

  forget: np.ndarray
  retain: np.ndarray
  heldout: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
  test: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

  def __post_init__(self):
    names = [field.name for field in dataclasses.fields(self)]
    for name in names:
      ids = np.asarray(getattr(self, name))
      check_ids(ids, ids.size, f"Split.{name}")
      object.__setattr__(self, name, ids.astype(np.int64))
    if not len(self.forget):
      raise ValueError("the forget set is empty: nothing is to be unlearned. Pass at least one id.")
    if not len(self.retain):
      raise ValueError(
        f"the retain set is empty: the forget set ({len(self.forget)} ids) is everything. "
        "Leave some training examples, or train a fresh model."
      )
    for one, other in itertools.combinations(names, 2):
      shared = np.intersect1d(getattr(self, one), getattr(self, other))
      if len(shared):
        raise ValueError(
          f"id {shared[0]} is in {one} and in {other}; the parts of a Split are disjoint. "
          f"Take it out of one: np.setdiff1d({other}, {one})."
        )

  @property
  def train(self) -> np.ndarray:
    """The ids int64 [|S| + |R|] that the original model was trained on, sorted."""
    return np.sort(np.concatenate([self.forget, self.retain]))

  def check(self, dataset: Dataset) -> None:
    """Raises ValueError where an id is not in the data."""
    for field in dataclasses.fields(self):
      dataset.rows(getattr(self, field.name))


class Heldout(NamedTuple):
  """Held-out ids for three uses that must not share an example: int64 [h] each."""

  proxy: np.ndarray
  tune: np.ndarray
  attack: np.ndarray


def cut_heldout(heldout: np.ndarray, key: jax.Array) -> Heldout:
  """Cuts held-out ids once, at random, into proxy, tune and attack parts of equal size (± 1).

  Neither their order nor that of the data set matters.

  Raises:
    ValueError: ids are no integers [h], or one is repeated: two parts would share the example.

  Example:
    >>> import jax, numpy as np
    >>> [len(part) for part in cut_heldout(np.arange(10), jax.random.key(0))]
    [4, 3, 3]
  """
  _check.key(key, "cut_heldout")
  ids = np.asarray(heldout)
  check_ids(ids, ids.size, "cut_heldout")
  ids = np.sort(ids.astype(np.int64))
  return Heldout(*np.array_split(ids[np.asarray(jax.random.permutation(key, len(ids)))], 3))


class Holdout(NamedTuple):
  """Training, held-out and test ids: int64 [k] each, sorted."""

  train: np.ndarray
  heldout: np.ndarray
  test: np.ndarray


def holdout(dataset: Dataset, key: jax.Array, *, heldout: int, test: int) -> Holdout:
  """Cuts a data set into train, held-out and test ids with each class in its proportion.

  Where examples have strata, these are kept in proportion. The order of the data set does not
  matter: the same ids and labels are cut the same way. What has copies in the data is trained on:
  its copies would tell of it.

  Args:
    dataset: n examples.
    key: which examples go where.
    heldout: |H|, examples never trained on.
    test: |T|, examples for final figures.

  Raises:
    ValueError: nothing would be left to train on, or labels are of positions, or no classes, and
      there are no strata.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.zeros((10, 1)), np.arange(10) % 2)
    >>> [len(part) for part in holdout(toy, jax.random.key(0), heldout=2, test=4)]
    [4, 2, 4]
  """
  refuse_no_dataset(dataset, "holdout")
  _check.key(key, "holdout")
  copied = _copied(dataset)
  alone = dataset.take(np.setdiff1d(dataset.ids, copied)) if len(copied) else dataset
  if heldout < 0 or test < 0 or heldout + test >= len(alone):
    raise ValueError(
      f"holdout: heldout={heldout} and test={test} leave nothing of {len(alone)} examples "
      f"{'without copies ' if len(copied) else ''}to train on. Ask for less."
    )
  kinds = alone.kinds("holdout")
  by_id = np.argsort(alone.ids)
  shuffled = by_id[np.asarray(jax.random.permutation(key, len(alone)))]
  # Rank of each example within its class, as a fraction: sorting by it interleaves the classes.
  _, kind, sizes = np.unique(kinds[shuffled], return_inverse=True, return_counts=True)
  by_kind = np.argsort(kind, kind="stable")
  first = np.cumsum(sizes) - sizes
  rank = np.empty(len(alone))
  rank[by_kind] = np.arange(len(alone)) - first[kind[by_kind]]
  fraction = (rank + 0.5) / sizes[kind]
  ids = alone.ids[shuffled[np.argsort(fraction, kind="stable")]]
  parts = np.split(ids, [test, test + heldout])
  return Holdout(np.union1d(parts[2], copied), np.sort(parts[1]), np.sort(parts[0]))


def _copied(dataset: Dataset) -> np.ndarray:
  """Returns the ids of the examples that are not the only one of their family."""
  if dataset.families is None:
    return dataset.ids[:0]
  _, family, sizes = np.unique(dataset.families, return_inverse=True, return_counts=True)
  return dataset.ids[sizes[family] > 1]
