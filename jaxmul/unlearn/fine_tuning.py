"""Fine-tuning on the retain set: training goes on without S."""

from jaxmul.unlearn.objective import descend, retain_risk, sgd
from jaxmul.unlearn.unlearner import Unlearner, algorithm


@algorithm
def fine_tune(
  learning_rate: float = 0.01, *, momentum: float = 0.9, weight_decay: float = 5e-4
) -> Unlearner:
  """Goes on training on R alone, and lets S be forgotten: risk_R.

  Published for 10 epochs. Needs R; one epoch costs one training epoch on R.

  Args:
    learning_rate: η, constant.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> fine_tune(0.1) == fine_tune(0.1)
    True
  """

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
  )
