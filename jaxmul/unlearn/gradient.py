"""Fine-tuning and gradient ascent: what to descend is a sum of risks on R and S.

risk_S and risk_R are mean losses on a forget and a retain batch. All use SGD at a constant rate
η ≥ 0 with momentum μ in [0, 1); weight decay λ ≥ 0 is coupled, as in training.
"""

import jax
import jax.numpy as jnp

from jaxmul.unlearn.base import Unlearner
from jaxmul.unlearn.objective import batch_risk, descend, retain_risk, sgd


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
    identity=("fine_tune", learning_rate, momentum, weight_decay),
  )


def l1_sparse(
  learning_rate: float = 0.01,
  *,
  alpha: float = 5e-4,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """`fine_tune` with a penalty that makes weights sparse and fades: risk_R + α(1 − e/E)‖θ‖₁.

  e counts epochs from 0 and E is how many there are. Published for 10 epochs. Needs R; one epoch
  costs one training epoch on R. The paper tunes α for each task and names no single value; 5e-4 is
  our choice.

  Args:
    learning_rate: η, constant.
    alpha: α, at least 0; 0 is `fine_tune`.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Jia et al., [Model Sparsity Can Simplify Unlearning](https://arxiv.org/abs/2304.04934), 2023.

  Example:
    >>> l1_sparse(alpha=1e-4) == l1_sparse(alpha=1e-4)
    True
  """
  if not alpha >= 0:
    raise ValueError(f"l1_sparse got alpha={alpha}, must be at least 0.")

  def objective(network, turn, memory):
    del memory
    risk, new = batch_risk(network, turn.retain, turn.key)
    norm = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(network.params))
    return risk + alpha * (1 - turn.clock.epoch / turn.epochs) * norm, new

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    identity=("l1_sparse", learning_rate, alpha, momentum, weight_decay),
  )


def neg_grad(learning_rate: float = 1e-4, *, momentum: float = 0.9) -> Unlearner:
  """Gradient ascent on S, without weight decay, which would pull the step: −risk_S.

  Published for 5 epochs. Needs S only; one epoch costs one training epoch on S.

  Args:
    learning_rate: η, constant.
    momentum: μ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Golatkar et al., [Eternal Sunshine](https://arxiv.org/abs/1911.04933), 2020.

  Example:
    >>> neg_grad().passes
    'forget'
  """

  def objective(network, turn, memory):
    del memory
    risk, network = batch_risk(network, turn.forget, turn.key)
    return -risk, network

  return descend(
    objective,
    sgd(learning_rate, momentum),
    identity=("neg_grad", learning_rate, momentum),
    passes="forget",
  )


def neg_grad_plus(
  learning_rate: float = 0.01,
  *,
  alpha: float = 0.97,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Descent on R and ascent on S at once: α risk_R − (1 − α) risk_S.

  Published for 5 epochs. Needs R and S; one epoch is a pass over R with the batches of S cycled
  beside it, and costs two training epochs on R. BatchNorm statistics follow R only, so that nothing
  of S enters them and α = 1 is `fine_tune` in evaluation too. The papers choose α for each task;
  RUM's plan uses 0.99 and 0.97, and 0.97 is the default here.

  Args:
    learning_rate: η, constant.
    alpha: α in [0, 1]; 1 is `fine_tune`.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Kurmanji et al., [Towards Unbounded Machine Unlearning](https://arxiv.org/abs/2302.09880), 2023.

  Example:
    >>> neg_grad_plus(alpha=0.99) == neg_grad_plus(alpha=0.97)
    False
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f"neg_grad_plus got alpha={alpha}, must be in [0, 1].")

  def objective(network, turn, memory):
    del memory
    risk_retain, new = batch_risk(network, turn.retain, turn.key)
    risk_forget, _ = batch_risk(network, turn.forget, jax.random.fold_in(turn.key, 1))
    return alpha * risk_retain - (1 - alpha) * risk_forget, new

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    identity=("neg_grad_plus", learning_rate, alpha, momentum, weight_decay),
  )
