"""What each training example does to the output on each test example, by whatever estimate.

Scores are added up over a set of training examples, and joined to anything else by id.
"""

import dataclasses

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article, _check
from jaxmul._ids import check_ids
from jaxmul.binding import Network
from jaxmul.data.dataset import Dataset


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Attribution:
  """Scores of n training examples for t test examples; higher = helps the test example.

  Attributes:
    ids: int64 [n], training examples, each its own.
    test_ids: int64 [t], test examples, each its own.
    value: float64 [t, n]. The unit is that of its maker; NaN where there is no score.
    member: bool [m, n], the subsets of the leave-subset-out models that the scores were read off,
      which may not judge them; [0, n] where there are none.

  Raises:
    ValueError: shapes do not match, or an id is repeated.

  Example:
    >>> Attribution(ids=[4, 7], test_ids=[1], value=[[0.5, -0.1]]).member.shape
    (0, 2)
  """

  ids: np.ndarray
  test_ids: np.ndarray
  value: np.ndarray
  member: np.ndarray = dataclasses.field(default=None)  # pyright: ignore[reportAssignmentType]

  def __post_init__(self):
    value = np.asarray(self.value, float)
    member = np.zeros((0, len(self.ids)), bool) if self.member is None else np.asarray(self.member)
    if value.shape != (len(self.test_ids), len(self.ids)):
      raise ValueError(
        f"Attribution got value {list(value.shape)} for {len(self.test_ids)} test and "
        f"{len(self.ids)} training ids, must be [t, n]. Turn it with value.T if it is [n, t]."
      )
    if member.dtype != bool or member.shape[1:] != (len(self.ids),):
      raise ValueError(
        f"Attribution got member {member.dtype} {list(member.shape)}, must be bool "
        f"[m, {len(self.ids)}], a row for each model that the scores are from."
      )
    ids = {"ids": _ids(self.ids), "test_ids": _ids(self.test_ids)}
    vars(self).update(ids, value=value, member=member)


def check_examples(network: Network, dataset: Dataset, test: Dataset, caller: str) -> None:
  """Raises ValueError where training and test examples are not what a network is scored on."""
  if not isinstance(network, Network):
    raise ValueError(f"{caller} needs a Network, got {_article.of(network)}. See jaxmul.bind.")
  for name, data in (("dataset", dataset), ("test", test)):
    if not isinstance(data, Dataset) or not len(data):
      raise ValueError(
        f"{caller} needs {name}=Dataset of at least one example. Make one: "
        "data.Dataset(inputs, labels)."
      )
    _check.tokens(network, data.inputs, caller)
    _check.answers(network, data.example, data.labels, caller)


def check_finite(value: jax.Array | np.ndarray, caller: str) -> None:
  """Raises ValueError where gradients gave NaN or inf, which no sum of scores survives."""
  if not np.isfinite(value).all():
    raise ValueError(
      f"{caller} got gradients of the network that are NaN, inf or all 0. Look at its outputs on "
      "these examples; give a network that is trained and has not diverged."
    )


def _ids(ids: ArrayLike) -> np.ndarray:
  given = np.asarray(ids)
  check_ids(given, len(given), "Attribution")
  return given.astype(np.int64)
