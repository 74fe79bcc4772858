"""Where a method forgets: what one accuracy over the whole forget set hides.

Errors of opposite sign cancel in a mean. A method that forgets a third of what a retrained model
still knows, and keeps as much that it should forget, has the right mean accuracy on S. These two
figures look at parts of S: at groups of like memorization, and at every example. θ_u is the
unlearned model and θ_r a retrained one.

References:
  ToW: Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024. The two
  figures are ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxmul.metrics.tow import tow

Rates = tuple[Sequence[float], float, float]


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


def example_gap(unlearned: Any, retrained: Any) -> float:
  """Returns the mean over S of |p_y(θ_u) − p̄_y|, in [0, 1]; 0 is best and not to be expected.

  p̄_y is the mean over several retrained models of the probability of an example's label. Read it
  beside the gap of a retrained model that is not among them, which no method can be expected to
  beat, and of the original, which is what doing nothing leaves.

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
  ours, theirs = _probabilities(unlearned, "unlearned"), _probabilities(retrained, "retrained")
  if theirs.ndim != 2 or len(theirs) < 2 or ours.shape != theirs.shape[1:]:
    raise ValueError(
      f"example_gap got p_y {list(ours.shape)} of the unlearned and {list(theirs.shape)} of "
      "retrained models, must be [n], and [L, n] of at least 2. Take both by the same ids."
    )
  return float(np.abs(ours - theirs.mean(0)).mean())


def _probabilities(values: Any, name: str) -> np.ndarray:
  p = np.asarray(values, dtype=np.float64)
  if not p.size or not ((p >= 0) & (p <= 1)).all():
    raise ValueError(
      f"example_gap needs p_y of the {name} models in [0, 1], not empty. "
      "Pass metrics.attacks.label_confidence."
    )
  return p
