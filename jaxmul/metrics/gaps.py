"""Gaps to retrained models, 0 is best: the average gap of four rates, and the gap of each example.

The average gap is that of sparse unlearning's tables. One accuracy over S hides errors that cancel;
the example gap, which is ours, looks at every example of S.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from jaxmul import _check
from jaxmul.metrics._given import probabilities

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
    Jia et al., [Model Sparsity Can Simplify Machine
    Unlearning](https://arxiv.org/abs/2304.04934), 2023.

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


def example_gap(unlearned: npt.ArrayLike, retrained: npt.ArrayLike) -> float:
  """Returns the mean over S of |p_y(θ_u) − p̄_y|, in [0, 1]; 0 is best and not to be expected.

  θ_u is the unlearned model, p_y the probability of an example's label and p̄_y its mean over
  several retrained models. Read it beside the gap of a retrained model that is not among them,
  which no method can be expected to beat, and of the original, which is what doing nothing leaves.

  Args:
    unlearned: [n], p_y of the forget set under the unlearned model.
    retrained: [L, n], p_y of the same examples under L retrained models, two or more.

  Raises:
    ValueError: the numbers of examples differ, there are fewer than two retrained models, or a
      number is no probability.

  Example:
    >>> example_gap([1.0, 0.0], [[0.5, 0.25], [0.5, 0.75]])
    0.5
  """
  ours = probabilities(unlearned, "example_gap", "unlearned")
  theirs = probabilities(retrained, "example_gap", "retrained")
  if theirs.ndim != 2 or len(theirs) < 2 or ours.shape != theirs.shape[1:]:
    raise ValueError(
      f"example_gap got p_y {list(ours.shape)} of the unlearned and {list(theirs.shape)} of "
      "retrained models, must be [n], and [L, n] of at least 2. Take both by the same ids."
    )
  return float(np.abs(ours - theirs.mean(0)).mean())


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
  _check.above("run_time_efficiency", 0, seconds=seconds, retrained_seconds=retrained_seconds)
  return seconds / retrained_seconds
