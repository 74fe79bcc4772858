"""SalUn: relabelling that moves the most salient weights alone."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmul.binding import Network
from jaxmul.unlearn._answers import refuse_own_loss
from jaxmul.unlearn._chosen import refuse_fraction, smallest
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.objective import descend, only, sgd
from jaxmul.unlearn.random_relabeling import relabelled_risk
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def salun(
  learning_rate: float = 0.1,
  *,
  fraction: float = 0.5,
  never_true: bool = False,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """`random_label` that moves only the most salient weights: the largest |∇risk_S(θ₀)|.

  The gradient is that of the whole of S at the params the run starts from; the other weights do not
  move at all, weight decay and momentum included. Published for 10 epochs. Needs R and S; one epoch
  costs one training epoch on both, and the mask one pass over S.

  Args:
    learning_rate: η, constant.
    fraction: share of the weights that may move, in [0, 1].
    never_true: see `random_label`.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Fan et al., [SalUn](https://arxiv.org/abs/2310.12508), 2023.

  Example:
    >>> salun(fraction=0.5) == salun(fraction=0.5)
    True
  """
  refuse_fraction("salun", fraction)

  def remember(network: Network, session: Session) -> Any:
    refuse_own_loss(network, "salun")
    return saliency_mask(full_gradient(network, session.forget, session.batch_size), fraction)

  return descend(
    relabelled_risk(never_true),
    sgd(learning_rate, momentum, weight_decay),
    passes="union",
    remember=remember,
    reshape=lambda updates, mask, turn: only(updates, mask),
  )


def saliency_mask(gradient: Any, fraction: float) -> Any:
  """Returns bool like gradient: True for exactly the top `fraction` of |gradient| over all leaves.

  Equal values are told apart by position, so that the count is exact.

  Args:
    gradient: any pytree of arrays; all leaves are ranked together.
    fraction: share that is True, in [0, 1].

  Raises:
    ValueError: fraction is outside [0, 1].

  References:
    Fan et al., [SalUn](https://arxiv.org/abs/2310.12508), 2023.

  Example:
    >>> import jax.numpy as jnp
    >>> saliency_mask(jnp.array([0.1, -3.0, 2.0, 0.0]), 0.5).tolist()
    [False, True, True, False]
  """
  refuse_fraction("saliency_mask", fraction)
  return smallest(jax.tree.map(lambda leaf: -jnp.abs(leaf), gradient), fraction)
