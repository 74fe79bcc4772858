"""Gradient ascent on the forget set, alone or beside descent on the retain set.

risk_S and risk_R are mean losses on a forget and a retain batch.
"""

import jax

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._weighing import (
  Keep,
  Teacher,
  refuse_other_keep,
  retain_term,
  teacher_on_retain,
)
from jaxmul.unlearn.objective import batch_risk, descend, forget_gain, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def neg_grad(learning_rate: float = 1e-4, *, momentum: float = 0.9) -> Unlearner:
  """Gradient ascent on S, without weight decay, which would pull the step: −risk_S.

  Published for 5 epochs. Needs S only; one epoch costs one training epoch on S.

  Args:
    learning_rate: η, constant.
    momentum: μ.

  Raises:
    ValueError: a number is outside its range.

  References:
    Golatkar et al., [Eternal Sunshine](https://arxiv.org/abs/1911.04933), 2020.

  Example:
    >>> neg_grad().passes
    'forget'
  """
  return descend(forget_gain, sgd(learning_rate, momentum), passes="forget")


@algorithm
def neg_grad_plus(
  learning_rate: float = 0.01,
  *,
  alpha: float = 0.97,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  keep: Keep = "risk",
) -> Unlearner:
  """Descent on R and ascent on S at once: α risk_R − (1 − α) risk_S.

  Of language models it is called GradDiff, and R may be kept by KL(θ₀‖θ) in the place of its risk,
  θ₀ the original network: the mean over R of that over scored positions. Published for 5 epochs.
  Needs R and S; one epoch is a pass over R with the batches of S cycled beside it, and costs two
  training epochs on R. BatchNorm statistics follow R only, so that nothing of S enters them and
  α = 1 is `fine_tune` in evaluation too. The papers choose α for each task; RUM's plan uses 0.99
  and 0.97, and 0.97 is the default here.

  Args:
    learning_rate: η, constant.
    alpha: α in [0, 1]; 1 is `fine_tune`.
    momentum, weight_decay: μ and λ.
    keep: what is descended on R, "risk" or "kl".

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has a loss of its
      own and R is kept by KL.

  References:
    Kurmanji et al., [Towards Unbounded Machine Unlearning](https://arxiv.org/abs/2302.09880), 2023.

  Example:
    >>> neg_grad_plus(alpha=0.99) == neg_grad_plus(alpha=0.97)
    False
  """
  _check.in_range("neg_grad_plus", 0, 1, alpha=alpha)

  refuse_other_keep("neg_grad_plus", keep)

  def remember(network: Network, session: Session) -> Teacher:
    if keep == "kl":
      refuse_own_loss(network, "neg_grad_plus", "Keep R by its risk")
    return teacher_on_retain(keep, network, session)

  def objective(network, turn, teacher):
    kept, new = retain_term(keep, network, turn, teacher)
    risk_forget, _ = batch_risk(network, turn.forget, jax.random.fold_in(turn.key, 1))
    return alpha * kept - (1 - alpha) * risk_forget, new

  return descend(objective, sgd(learning_rate, momentum, weight_decay), remember=remember)
