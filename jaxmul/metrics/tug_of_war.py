"""Tug-of-war: how close an unlearned model θ_u is to a retrained one θ_r on S, R and T at once.

ToW = Π_{Q ∈ {S, R, T}} (1 − |a_Q(θ_u) − a_Q(θ_r)|), a_Q the accuracy on Q. ToW-MIA puts the rate of
a membership attack on S in the place of a_S.

Errors of opposite sign cancel in one accuracy over S: a method that forgets a third of what a
retrained model still knows, and keeps as much that it should forget, has the right mean. So ToW by
group, which is ours, takes a product over groups of S in the place of that one factor.
"""

import math
from collections.abc import Sequence

import numpy as np

from jaxmul import _article

Triple = Sequence[float]
Rates = tuple[Sequence[float], float, float]


def tow(unlearned: Triple, retrained: Triple) -> float:
  """Returns ToW in [0, 1], 1 if and only if all three accuracies agree.

  Args:
    unlearned: (forget, retain, test) accuracies of the unlearned model, in [0, 1].
    retrained: the same of a model trained without S by the same recipe.

  Raises:
    ValueError: not three numbers in [0, 1].

  References:
    Zhao et al., [What makes unlearning hard and what to do about
    it](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> tow((0.5, 1.0, 0.75), (0.75, 1.0, 0.75))
    0.75
  """
  return _product("tow", unlearned, retrained, "forget accuracy")


def tow_mia(unlearned: Triple, retrained: Triple) -> float:
  """Returns ToW-MIA in [0, 1], 1 if and only if attack rate and both accuracies agree.

  Args:
    unlearned: (attack rate on S, retain accuracy, test accuracy) of the unlearned model, in [0, 1];
      the rate is the share of S called non-member, as `metrics.attacks.svc` returns.
    retrained: the same of a model trained without S by the same recipe; errors and reference are
      those of `tow`.

  Example:
    >>> tow_mia((0.5, 1.0, 0.75), (0.75, 1.0, 0.75))
    0.75
  """
  return _product("tow_mia", unlearned, retrained, "forget attack rate")


def tow_by_group(unlearned: Rates, retrained: Rates) -> float:
  """Returns Π_g (1 − |a_g(θ_u) − a_g(θ_r)|) · (1 − |a_R …|) · (1 − |a_T …|), in [0, 1].

  ToW whose factor of S is a product over groups of S, such as its low, medium and high memorization
  by the ground truth, whatever groups a method itself has used: 1 if and only if every group, R and
  T agree. With one group it is `tow`.

  Args:
    unlearned: (accuracies [G] on the groups, retain accuracy, test accuracy) of the unlearned
      model, in [0, 1].
    retrained: the same of a model trained without S by the same recipe.

  Raises:
    ValueError: the numbers of groups differ or are 0, or a number is outside [0, 1].

  References:
    ToW: Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> tow_by_group(((1.0, 0.0), 1.0, 0.75), ((0.5, 0.5), 1.0, 0.75))  # tow of the means is 1
    0.25
  """
  ours, theirs = np.atleast_1d(unlearned[0]), np.atleast_1d(retrained[0])
  if ours.ndim != 1 or ours.shape != theirs.shape or not len(ours):
    raise ValueError(
      f"tow_by_group got accuracies {list(ours.shape)} and {list(theirs.shape)} on groups, must be "
      "[G] and [G] of the same groups. Leave out groups that are empty."
    )
  first = tow((float(ours[0]), *unlearned[1:]), (float(theirs[0]), *retrained[1:]))
  rest = [
    tow((float(a), 1, 1), (float(b), 1, 1)) for a, b in zip(ours[1:], theirs[1:], strict=True)
  ]
  return float(first * np.prod(rest))


def _product(caller: str, unlearned: Triple, retrained: Triple, forget: str) -> float:
  names = (forget, "retain accuracy", "test accuracy")
  ours = _checked(f"{caller}: unlearned", unlearned, names)
  theirs = _checked(f"{caller}: retrained", retrained, names)
  return math.prod(1 - abs(a - b) for a, b in zip(ours, theirs, strict=True))


def _checked(name: str, values: Triple, names: tuple[str, ...]) -> list[float]:
  order = ", ".join(names)
  try:
    numbers = [float(value) for value in values]
  except (TypeError, ValueError):
    numbers = []
  if len(numbers) != 3:
    raise ValueError(f"{name} is {_article.of(values)}, must be 3 numbers: ({order}).")
  for value, part in zip(numbers, names, strict=True):
    if not 0 <= value <= 1:
      raise ValueError(
        f"{name} has {part} {value}, must be in [0, 1]. Give fractions, not percent or counts."
      )
  return numbers
