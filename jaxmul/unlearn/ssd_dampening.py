"""Selective synaptic dampening: weights that matter more to S than to all become smaller."""

import jax
import jax.numpy as jnp

from jaxmul.binding import Network
from jaxmul.unlearn._whole import fisher_diagonal
from jaxmul.unlearn.objective import one_shot
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def ssd(alpha: float = 10.0, dampening: float = 1.0) -> Unlearner:
  """Selective synaptic dampening: where F_S > α F_D, θ ← θ · min(λ F_D / F_S, 1).

  F is the mean of squared per-example gradients, D = S ∪ R. (Public code squares the gradient of
  batches, which depends on their size.) Needs R and S; costs one per-example gradient pass over
  both.

  Args:
    alpha: α, above 0: how much more S must care than D.
    dampening: λ, at least 0.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: a number is outside its range.

  References:
    Foster et al., [Selective Synaptic Dampening](https://arxiv.org/abs/2308.07707), 2023.

  Example:
    >>> ssd(5.0) == ssd(10.0)
    False
  """
  if not alpha > 0 or not dampening >= 0:
    raise ValueError(
      f"ssd got alpha={alpha} and dampening={dampening}, must be above 0 and at least 0."
    )

  def change(network: Network, session: Session) -> Network:
    of_forget, of_retain = (
      fisher_diagonal(network, examples, min(session.batch_size, 32), False)
      for examples in (session.forget, session.retain)
    )
    s, r = session.forget.count, session.retain.count

    def dampened(weight, f_s, f_r):
      f_d = (s * f_s + r * f_r) / (s + r)
      factor = jnp.minimum(dampening * f_d / jnp.where(f_s > 0, f_s, 1), 1)
      return jnp.where(f_s > alpha * f_d, weight * factor, weight)

    return network.replace(params=jax.tree.map(dampened, network.params, of_forget, of_retain))

  return one_shot(change)
