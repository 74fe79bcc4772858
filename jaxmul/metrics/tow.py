"""Tug-of-war: how close an unlearned model θ_u is to a retrained one θ_r on S, R and T at once.

ToW = Π_{Q ∈ {S, R, T}} (1 − |a_Q(θ_u) − a_Q(θ_r)|), a_Q the accuracy on Q. ToW-MIA puts the rate of
a membership attack on S in the place of a_S.

References:
  Zhao et al., [What makes unlearning hard and what to do about it](https://arxiv.org/abs/2406.01257).
"""

import math
from collections.abc import Sequence
from typing import Any

Triple = Sequence[float]


def tow(unlearned: Triple, retrained: Triple) -> float:
  """Returns ToW in [0, 1], 1 if and only if all three accuracies agree.

  Args:
    unlearned: (forget, retain, test) accuracies of the unlearned model, in [0, 1].
    retrained: the same of a model trained without S by the same recipe.

  Raises:
    ValueError: not three numbers in [0, 1].

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

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
    retrained: the same of a model trained without S by the same recipe.

  Raises:
    ValueError: not three numbers in [0, 1].

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> tow_mia((0.5, 1.0, 0.75), (0.75, 1.0, 0.75))
    0.75
  """
  return _product("tow_mia", unlearned, retrained, "forget attack rate")


def _product(caller: str, unlearned: Any, retrained: Any, forget: str) -> float:
  names = (forget, "retain accuracy", "test accuracy")
  a = _checked(f"{caller}: unlearned", unlearned, names)
  b = _checked(f"{caller}: retrained", retrained, names)
  return math.prod(1 - abs(x - y) for x, y in zip(a, b, strict=True))


def _checked(name: str, values: Any, names: tuple[str, ...]) -> list[float]:
  order = ", ".join(names)
  try:
    numbers = [float(value) for value in values]
  except (TypeError, ValueError):
    numbers = []
  if len(numbers) != 3:
    raise ValueError(f"{name} is a {type(values).__name__}, must be 3 numbers: ({order}).")
  for value, part in zip(numbers, names, strict=True):
    if not 0 <= value <= 1:
      raise ValueError(
        f"{name} has {part} {value}, must be in [0, 1]. Give fractions, not percent or counts."
      )
  return numbers
