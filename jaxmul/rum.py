"""RUM: refine a forget set into groups of similar memorization, unlearn each with what suits it.

S forget set, D the training set, mem scores (ground truth or any proxy), higher = more memorized.
Groups go from low to high; at step i the retain set is D ∖ (S₁ ∪ … ∪ Sᵢ).

References:
  Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024;
  with proxies, [Scalability of memorization-based unlearning](https://arxiv.org/abs/2410.16516).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxmul import _check, unlearn
from jaxmul.binding import Bound
from jaxmul.data.dataset import Dataset
from jaxmul.data.split import Split


class Selection(NamedTuple):
  """RUM's experimental forget sets: disjoint ids int64 [size] each, sorted."""

  low: np.ndarray
  medium: np.ndarray
  high: np.ndarray


def refine(scores: Any, ids: Any, *, num_groups: int = 3) -> list[np.ndarray]:
  """Partitions a given forget set by quantiles of its scores, low to high.

  Args:
    scores: [k], higher = more memorized; NaN refused.
    ids: int [k], the forget set, unique.
    num_groups: K; the sizes differ by at most one.

  Returns:
    K arrays of ids int64, sorted within; ties go by id, so the order given does not matter.

  Raises:
    ValueError: lengths differ, ids repeat, scores are not finite, or K is outside [1, k].

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> [group.tolist() for group in refine([0.9, 0.1, 0.5], [7, 8, 9])]
    [[8], [9], [7]]
  """
  scores, ids = _checked(scores, ids, "refine")
  if not 1 <= num_groups <= len(ids):
    raise ValueError(f"refine got num_groups={num_groups}, must be in [1, {len(ids)}].")
  order = np.lexsort((ids, scores))
  return [np.sort(group) for group in np.array_split(ids[order], num_groups)]


def shuffle(ids: Any, key: jax.Array, *, num_groups: int = 3) -> list[np.ndarray]:
  """Partitions a forget set at random: RUM's ablation. The order given does not matter.

  Example:
    >>> import jax
    >>> sorted(len(group) for group in shuffle([1, 2, 3, 4], jax.random.key(0)))
    [1, 1, 2]
  """
  ids = np.sort(np.asarray(ids, np.int64))
  scores = np.asarray(jax.random.permutation(key, len(ids)))
  return refine(scores, ids, num_groups=num_groups)


def select(
  scores: Any, ids: Any, *, size: int, centre: float | Literal["median", "midrange"] = 0.5
) -> Selection:
  """Selects RUM's experimental forget sets from a whole training set.

  High is the `size` largest scores, low the `size` smallest of the rest, medium the `size` nearest
  to `centre` among what is left: disjoint by construction. Ties go to the lower id.

  Args:
    scores: [n], higher = more memorized; NaN refused.
    ids: int [n], unique.
    size: examples a group; 3 · size at most n.
    centre: a number (ground truth: 0.5), "median" or "midrange" of all scores (proxies, as RUM's
      two scripts do).

  Returns:
    A `Selection`.

  Raises:
    ValueError: lengths differ, ids repeat, scores are not finite, or there are too few examples.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> [group.tolist() for group in select([0.0, 0.0, 0.4, 1.0], [1, 2, 3, 4], size=1)]
    [[1], [3], [4]]
  """
  scores, ids = _checked(scores, ids, "select")
  if size < 1 or 3 * size > len(ids):
    raise ValueError(
      f"select got size={size}: three groups need {3 * size} of {len(ids)} examples. "
      f"Use a size in [1, {len(ids) // 3}]."
    )
  if centre == "median":
    centre = float(np.median(scores))
  elif centre == "midrange":
    centre = float((scores.min() + scores.max()) / 2)
  elif isinstance(centre, str):
    raise ValueError(f"select got centre={centre!r}: use a number, 'median' or 'midrange'.")
  left = np.arange(len(ids))
  groups = {}
  for name, rank in (("high", -scores), ("low", scores), ("medium", np.abs(scores - centre))):
    order = left[np.lexsort((ids[left], rank[left]))]
    groups[name], left = np.sort(ids[order[:size]]), order[size:]
  return Selection(**groups)


@dataclasses.dataclass(frozen=True)
class Step:
  """How one group is unlearned.

  Attributes:
    unlearner: the algorithm, or None to leave the group as it is.
    epochs: passes.
    batch_size: examples a step.
  """

  unlearner: unlearn.Unlearner | None
  epochs: int = 5
  batch_size: int = 256


@dataclasses.dataclass(frozen=True)
class Plan:
  """One `Step` for each group, from low to high memorization."""

  steps: Sequence[Step]

  def __post_init__(self):
    object.__setattr__(self, "steps", tuple(self.steps))
    if not self.steps:
      raise ValueError("a rum.Plan needs at least one step.")


def neg_grad_plus_plan(batch_size: int = 256) -> Plan:
  """RUM's published plan of NegGrad+ alone: α 0.99 / 0.97 / 0.97, epochs 5 / 5 / 10.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> [step.epochs for step in neg_grad_plus_plan().steps]
    [5, 5, 10]
  """
  return Plan(
    [
      Step(unlearn.neg_grad_plus(0.01, alpha=0.99), 5, batch_size),
      Step(unlearn.neg_grad_plus(0.01, alpha=0.97), 5, batch_size),
      Step(unlearn.neg_grad_plus(0.001, alpha=0.97), 10, batch_size),
    ]
  )


def salun_plan(batch_size: int = 256) -> Plan:
  """RUM's published plan: leave low, fine-tune medium (10 epochs), SalUn on high (5 epochs).

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> salun_plan().steps[0].unlearner is None
    True
  """
  return Plan(
    [
      Step(None),
      Step(unlearn.fine_tune(0.1), 10, batch_size),
      Step(unlearn.salun(0.1), 5, batch_size),
    ]
  )


def meta_unlearn(
  plan: Plan, params: Bound, dataset: Dataset, groups: Sequence[np.ndarray], key: jax.Array
) -> Bound:
  """Unlearns group after group, each from the result before, with a shrinking retain set.

  Args:
    plan: one step for each group.
    params: the trained network.
    dataset: D, exactly what it was trained on.
    groups: ids of S₁, S₂, …, disjoint, from `refine`; at step i everything of D outside
      S₁ ∪ … ∪ Sᵢ is retained.
    key: step i uses `fold_in(key, i)`.

  Returns:
    The unlearned network.

  Raises:
    ValueError: the plan has another number of steps than there are groups, groups overlap or are
      empty, an id is not in the data, or nothing would be retained.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, rum, unlearn
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> params = models.init(models.mlp((8,), 2), jax.random.key(0), toy.images)
    >>> plan = rum.Plan([rum.Step(None), rum.Step(unlearn.fine_tune(), epochs=1)])
    >>> groups = rum.refine([0.1, 0.7], [4, 5], num_groups=2)
    >>> rum.meta_unlearn(plan, params, toy, groups, jax.random.key(1))(toy.images).shape
    (6, 2)
  """
  if len(plan.steps) != len(groups):
    raise ValueError(
      f"the plan has {len(plan.steps)} steps but there are {len(groups)} groups; "
      "give one step for each group."
    )
  splits = [
    Split(forget=group, retain=np.setdiff1d(dataset.ids, np.concatenate(groups[: i + 1])))
    for i, group in enumerate(groups)
  ]
  Split(forget=np.concatenate(groups), retain=splits[-1].retain).check(dataset)
  for i, (step, split) in enumerate(zip(plan.steps, splits, strict=True)):
    if step.unlearner is not None:
      params = unlearn.run(
        step.unlearner,
        params,
        dataset,
        split,
        jax.random.fold_in(key, i),
        epochs=step.epochs,
        batch_size=step.batch_size,
      )
  return params


def _checked(scores: Any, ids: Any, caller: str) -> tuple[np.ndarray, np.ndarray]:
  scores, ids = np.asarray(scores, float), np.asarray(ids, np.int64)
  if scores.shape != ids.shape or ids.ndim != 1:
    raise ValueError(f"{caller} got scores {scores.shape} for ids {ids.shape}; join them by id.")
  if not len(ids):
    raise ValueError(f"{caller} got no ids: the forget set is empty.")
  _check.finite(scores, f"{caller}: scores")
  values, counts = np.unique(ids, return_counts=True)
  if len(values) != len(ids):
    raise ValueError(f"{caller}: id {values[counts > 1][0]} is repeated.")
  return scores, ids
