"""Plans: for each group, from low to high memorization, an algorithm with its settings, or none."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmul import _article, _check, _sharding, unlearn
from jaxmul._dataset import Dataset
from jaxmul.binding import Network
from jaxmul.data.split import Split
from jaxmul.unlearn.unlearner import refuse_uncalled


@dataclasses.dataclass(frozen=True)
class Step:
  """How one group is unlearned.

  Attributes:
    unlearner: the algorithm, or None to leave the group as it is.
    epochs: passes, at least 1; an algorithm of one shot makes none, whatever is given.
    batch_size: examples a step, at least 1.
    freeze_statistics: see `unlearn.run`.

  Raises:
    ValueError: unlearner is something else, such as a factory that was not called; or epochs or
      batch_size is not an integer, or below 1.
  """

  unlearner: unlearn.Unlearner | None
  epochs: int = 5
  batch_size: int = 256
  freeze_statistics: bool = False

  def __post_init__(self):
    if self.unlearner is not None:
      refuse_uncalled(self.unlearner, "rum.Step", "an unlearn.Unlearner or None")
    _check.count(self.epochs, "epochs", "rum.Step")
    _check.count(self.batch_size, "batch_size", "rum.Step")

  def run(
    self,
    network: Network,
    dataset: Dataset,
    split: Split,
    key: jax.Array,
    *,
    devices: Sequence[Any] | None = None,
  ) -> Network:
    """Returns the network after this step, `unlearn.run` with its settings; errors as there."""
    if self.unlearner is None:
      return network
    return unlearn.run(
      self.unlearner,
      network,
      dataset,
      split,
      key,
      epochs=self.epochs,
      batch_size=self.batch_size,
      freeze_statistics=self.freeze_statistics,
      devices=devices,
    )


@dataclasses.dataclass(frozen=True)
class Plan:
  """One `Step` for each group, from low to high memorization.

  Raises:
    ValueError: there are no steps, or one is something else.
  """

  steps: Sequence[Step]

  def __post_init__(self):
    object.__setattr__(self, "steps", tuple(self.steps))
    if not self.steps:
      raise ValueError("a rum.Plan needs at least one step.")
    for step in self.steps:
      refuse_no_step(step, "rum.Plan")


def refuse_no_step(given: object, caller: str) -> None:
  """Raises ValueError where something else stands in a Step's place, such as an algorithm."""
  if not isinstance(given, Step):
    raise ValueError(
      f"{caller} got {_article.of(given)}, must be a rum.Step. "
      "Wrap an algorithm: rum.Step(algorithm, epochs)."
    )


def refuse_no_plan(given: object, caller: str) -> None:
  """Raises ValueError where something else stands in a Plan's place, such as its steps."""
  if not isinstance(given, Plan):
    raise ValueError(
      f"{caller} got {_article.of(given)}, must be a rum.Plan. Wrap the steps: rum.Plan(steps)."
    )


def refuse_uneven(steps: Mapping[str, Step], devices: Sequence[Any] | None, caller: str) -> None:
  """Raises ValueError for no devices, or where they do not divide the batch of a step, by name."""
  _sharding.chosen(devices, caller)
  for name, step in steps.items():
    if step.unlearner is not None:
      _sharding.data_mesh(devices, step.batch_size, f"{caller}: {name}")


def named_steps(plan: Plan) -> dict[str, Step]:
  """Returns {"step 0": …, "step 1": …}, as errors name the steps of a plan."""
  return {f"step {number}": step for number, step in enumerate(plan.steps)}


def without_empty(plan: Plan, groups: Sequence[np.ndarray]) -> tuple[Plan, list[np.ndarray]]:
  """Returns a plan and its groups without those that hold nothing, of which one holds an id."""
  pairs = [(step, ids) for step, ids in zip(plan.steps, groups, strict=True) if len(ids)]
  return Plan([step for step, _ in pairs]), [ids for _, ids in pairs]


def neg_grad_plus_plan(batch_size: int = 256) -> Plan:
  """RUM's published plan of NegGrad+ alone: from low to high more weight on S, or a smaller rate.

  α 0.99 / 0.97 / 0.97, epochs 5 / 5 / 10, learning rate 0.01 / 0.01 / 0.001.

  Args:
    batch_size: examples a step, at least 1; the paper's is 256.

  Returns:
    A `Plan` of three steps, for the groups of low, medium and high memorization.

  Raises:
    ValueError: batch_size is not an integer, or below 1.

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

  Both learning rates are 0.1; SalUn alone is published for 10 epochs.

  Args:
    batch_size: as `neg_grad_plus_plan`, which raises the same errors.

  Returns:
    A `Plan` of three steps, as there.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> [step.unlearner and step.unlearner.name for step in salun_plan().steps]
    [None, 'fine_tune', 'salun']
  """
  return Plan(
    [
      Step(None),
      Step(unlearn.fine_tune(0.1), 10, batch_size),
      Step(unlearn.salun(0.1), 5, batch_size),
    ]
  )
