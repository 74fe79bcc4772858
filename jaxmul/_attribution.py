"""Scores of training examples for test examples, and the models that scores are of or judged by.

Scores are added up over a set of training examples, and joined to anything else by id. The
influence of an example is what leave-subset-out models say on average with it and without it.
Others of the same models judge it, or any other estimate, by `metrics.lds`: those that made it may
not.
"""

import dataclasses
import warnings

import numpy as np
from numpy.typing import ArrayLike

from jaxmul._ids import check_ids


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


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SubsetModels:
  """M models of a schedule, one by one.

  Attributes:
    ids: int64 [n], training examples, sorted.
    test_ids: int64 [t].
    numbers: int64 [M], which models of the schedule.
    member: bool [M, n], whether an example was in the model's subset.
    outputs: float32 [M, t], one number of each test example; see `subset_models`.
  """

  ids: np.ndarray
  test_ids: np.ndarray
  numbers: np.ndarray
  member: np.ndarray
  outputs: np.ndarray

  def __len__(self) -> int:
    return len(self.numbers)

  def take(self, rows: ArrayLike | slice) -> "SubsetModels":
    """Returns some of the models, by their rows, such as `slice(0, 100)`."""
    rows = rows if isinstance(rows, slice) else np.asarray(rows)
    parts = {name: getattr(self, name)[rows] for name in ("numbers", "member", "outputs")}
    return dataclasses.replace(self, **parts)

  def influence(self) -> Attribution:
    """Returns the mean output with each training example less that without it.

    It is `memorization.influence` of all examples, by models that it names.

    Returns:
      An `Attribution` in the unit of the outputs; NaN, with a warning, where an example was never
      in or never out.

    References:
      Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.

    Example:
      >>> two = SubsetModels(
      ...   ids=np.array([5, 6]), test_ids=np.array([8]), numbers=np.arange(2),
      ...   member=np.eye(2, dtype=bool), outputs=np.array([[3.0], [1.0]], np.float32))
      >>> two.influence().value.tolist()
      [[2.0, -2.0]]
    """
    inside, outputs = self.member.astype(float), self.outputs.astype(float)
    count_in = inside.sum(0)
    count_out = len(self) - count_in
    undefined = int(np.sum((count_in == 0) | (count_out == 0)))
    if undefined:
      warnings.warn(
        f"{undefined} of {len(self.ids)} examples were never in or never out of {len(self)} "
        "subsets; their influence is NaN. Train more models.",
        stacklevel=2,
      )
    sums = outputs.T @ inside
    with np.errstate(invalid="ignore", divide="ignore"):
      value = sums / count_in - (outputs.sum(0)[:, None] - sums) / count_out
    return Attribution(ids=self.ids, test_ids=self.test_ids, value=value, member=self.member)


def refuse_not_finite(value: ArrayLike, caller: str) -> None:
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
