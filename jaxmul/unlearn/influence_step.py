"""A Newton step away from S, by conjugate gradients.

ℓ loss, risk = mean ℓ, n = |S ∪ R|. All at the original params θ, in evaluation mode.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.sparse.linalg import cg

from jaxmul import _check
from jaxmul._examples import Examples, sum_blocks
from jaxmul.binding import LossFn, Network, losses_of
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.objective import one_shot
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def influence(
  alpha: float = 1.0,
  *,
  damping: float = 1e-2,
  iterations: int = 100,
  tolerance: float = 1e-6,
  loss: LossFn | None = None,
) -> Unlearner:
  """A Newton step away from S: θ + α H⁻¹ Σ_S ∇ℓ / (n − |S|), by conjugate gradients.

  H = G + λI, G the Gauss–Newton matrix Jᵀ ∇²ℓ J of the risk on R, J the Jacobian of the logits. At
  a minimum of the risk on S ∪ R this is the Newton step of the risk on R, exact on least squares.
  Needs R and S; each iteration costs about two training epochs on R, without any memory for a
  matrix. α and λ are tuned in the papers; λ = 0.01 is our choice.

  Args:
    alpha: α; 0 changes nothing.
    damping: λ, at least 0; above it for networks, whose G is singular.
    iterations: at most so many of conjugate gradients.
    tolerance: stop when the residual is below this share of the right-hand side.
    loss: `(outputs [B, *P, C], labels [B, *P]) -> [B]`, convex in the outputs; by default the
      network's own.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: a number is outside its range.

  References:
    Koh & Liang, [Influence Functions](https://arxiv.org/abs/1703.04730), 2017;
    Izzo et al., [Approximate Data Deletion](https://arxiv.org/abs/2002.10077), 2021.

  Example:
    >>> influence(0.5) == influence(0.5)
    True
  """
  _check.at_least("influence", 0, damping=damping)
  _check.at_least("influence", 1, iterations=iterations)

  def change(network: Network, session: Session) -> Network:
    size = session.batch_size
    trained = network if loss is None else network.replace(loss=loss)
    gradient = full_gradient(trained, session.forget, size)
    matrix = Damped(trained, session.retain, damping)
    step = damped_solve(matrix, gradient, tolerance, iterations, size)
    s, r = session.forget.count, session.retain.count
    moved = jax.tree.map(lambda w, d: w + (alpha * d * s / r).astype(w.dtype), network.params, step)
    return network.replace(params=moved)

  return one_shot(change)


class Damped(NamedTuple):
  """G + λI, G the Gauss–Newton matrix of the mean loss over a set and λ `damping`."""

  network: Network
  examples: Examples
  damping: float


@functools.partial(jax.jit, static_argnums=(3, 4))
def damped_solve(
  matrix: Damped, vector: optax.Params, tolerance: float, iterations: int, size: int
) -> optax.Params:
  """Returns (G + λI)⁻¹ v, like params; sums over the set go by blocks of `size`.

  All leaves are of the widest type among the params, float32 or wider: one solve has one type.
  """
  network, examples, damping = matrix
  wide = jnp.result_type(jnp.float32, *jax.tree.leaves(network.params))

  def product(direction):
    narrow = jax.tree.map(lambda v, w: v.astype(w.dtype), direction, network.params)

    def block(batch):
      def logits(theta):
        return network.replace(params=theta)(batch.inputs)

      z, pull = jax.vjp(logits, network.params)
      # J v as the transpose of Jᵀ: convolutions with a rule of their own have no forward mode.
      push = jax.linear_transpose(lambda u: pull(u)[0], z)
      (jv,) = push(narrow)

      def total(z):
        return jnp.sum(jnp.where(batch.mask, losses_of(network, z, batch.labels), 0))

      return pull(jax.jvp(jax.grad(total), (z,), (jv,))[1])[0]

    summed = sum_blocks(block, examples, size)
    return jax.tree.map(
      lambda g, v: (g / examples.count + damping * v).astype(wide), summed, direction
    )

  vector = jax.tree.map(lambda v: v.astype(wide), vector)
  return cg(product, vector, tol=tolerance, maxiter=iterations)[0]
