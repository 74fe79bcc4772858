"""Fine-tuning with a penalty on ‖θ‖₁ that fades: a sparse network keeps less of S."""

import jax
import jax.numpy as jnp

from jaxmul.unlearn.objective import batch_risk, descend, sgd
from jaxmul.unlearn.unlearner import Unlearner, algorithm


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
  )
