"""The average gap of sparse unlearning's tables: four accuracies beside those of a retrained model.

References:
  Jia et al., [Model Sparsity Can Simplify Machine Unlearning](https://arxiv.org/abs/2304.04934).
"""

from collections.abc import Mapping

NAMES = ("forget", "retain", "test", "attack")


def average_gap(unlearned: Mapping[str, float], retrained: Mapping[str, float]) -> float:
  """Returns the mean of |UA|, |RA|, |TA| and |MIA| differences in [0, 1]; 0 is best.

  Args:
    unlearned: {"forget", "retain", "test", "attack"}: accuracies, and the share of the forget set
      called non-member, in [0, 1]. UA is 1 − forget accuracy: the gap is the same.
    retrained: the same of a model trained without the forget set by the same recipe.

  Raises:
    ValueError: a figure is missing or outside [0, 1].

  References:
    Jia et al., [Model Sparsity](https://arxiv.org/abs/2304.04934), 2023.

  Example:
    >>> same = {"forget": 0.5, "retain": 1.0, "test": 0.75, "attack": 0.5}
    >>> average_gap(same, same | {"attack": 1.0})
    0.125
  """
  for side, given in (("unlearned", unlearned), ("retrained", retrained)):
    for name in NAMES:
      if not 0 <= given.get(name, -1) <= 1:
        raise ValueError(
          f"average_gap: {side} has {name} {given.get(name)}, must be in [0, 1]. "
          f"Give {', '.join(NAMES)} as fractions."
        )
  return sum(abs(unlearned[name] - retrained[name]) for name in NAMES) / len(NAMES)


def run_time_efficiency(seconds: float, retrained_seconds: float) -> float:
  """Returns the seconds of unlearning over those of retraining; below 1 it is worth it.

  The paper's RTE is minutes on its machine; a ratio on one machine can be compared.

  Raises:
    ValueError: a time is not above 0.

  References:
    Jia et al., [Model Sparsity](https://arxiv.org/abs/2304.04934), 2023.

  Example:
    >>> run_time_efficiency(2.0, 8.0)
    0.25
  """
  if not (seconds > 0 and retrained_seconds > 0):
    raise ValueError(
      f"run_time_efficiency got {seconds} and {retrained_seconds} seconds, must be above 0."
    )
  return seconds / retrained_seconds
