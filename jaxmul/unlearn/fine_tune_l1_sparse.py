"""Fine-tuning: training goes on with R alone, plainly or towards a sparse network.

A penalty on ‖θ‖₁ that fades makes weights sparse: such a network keeps less of S.
"""

import jax
import jax.numpy as jnp

from jaxmul import _check
from jaxmul.unlearn.objective import batch_risk, descend, retain_risk, sgd
from jaxmul.unlearn.unlearner import Unlearner, algorithm


@algorithm
def fine_tune(
  learning_rate: float = 0.01, *, momentum: float = 0.9, weight_decay: float = 5e-4
) -> Unlearner:
  """Goes on training on R alone, and lets S be forgotten: risk_R.

  Published for 10 epochs. Needs R; one epoch costs one training epoch on R.

  Args:
    learning_rate: η, constant.
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> fine_tune(0.1) == fine_tune(0.1)
    True
  """
  return descend(retain_risk, sgd(learning_rate, momentum, weight_decay))


@algorithm
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
    learning_rate, momentum, weight_decay: as `fine_tune`.
    alpha: α, at least 0; 0 is `fine_tune`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Jia et al., [Model Sparsity Can Simplify Unlearning](https://arxiv.org/abs/2304.04934), 2023.

  Example:
    >>> l1_sparse(alpha=1e-4) == l1_sparse(alpha=1e-4)
    True
  """
  _check.at_least("l1_sparse", 0, alpha=alpha)

  def objective(network, turn, _):
    risk, new = batch_risk(network, turn.retain, turn.key)
    norm = sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(network.params))
    return risk + alpha * (1 - turn.clock.epoch / turn.epochs) * norm, new

  return descend(objective, sgd(learning_rate, momentum, weight_decay))
