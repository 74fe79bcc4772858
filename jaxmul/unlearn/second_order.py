"""One-shot algorithms from second-order quantities: curvature of the risk, and Fisher information.

ℓ loss, risk = mean ℓ, n = |S ∪ R|. All at the original params θ, in evaluation mode.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from jaxmul import losses
from jaxmul._examples import Examples
from jaxmul.binding import Network
from jaxmul.unlearn._whole import Loss, fisher_diagonal, full_gradient, sum_blocks
from jaxmul.unlearn.base import Session, Unlearner
from jaxmul.unlearn.objective import one_shot


def influence(
  alpha: float = 1.0,
  *,
  damping: float = 1e-2,
  iterations: int = 100,
  tolerance: float = 1e-6,
  loss: Loss = losses.cross_entropy,
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
    loss: `(logits [B, C], labels [B]) -> [B]`, convex in the logits; what the network was trained
      with.

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
  if not damping >= 0 or iterations < 1:
    raise ValueError(
      f"influence got damping={damping} and iterations={iterations}, "
      "must be at least 0 and at least 1."
    )

  def change(network: Network, session: Session) -> Network:
    size = session.batch_size
    gradient = full_gradient(network, session.forget, size, loss)
    step = damped_solve(
      network, session.retain, gradient, damping, tolerance, iterations, size, loss
    )
    s, r = session.forget.count, session.retain.count
    moved = jax.tree.map(lambda w, d: w + (alpha * d * s / r).astype(w.dtype), network.params, step)
    return network.replace(params=moved)

  identity = ("influence", alpha, damping, iterations, tolerance, loss)
  return one_shot(change, identity=identity)


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def damped_solve(
  network: Network,
  examples: Examples,
  vector: Any,
  damping: float,
  tolerance: float,
  iterations: int,
  size: int,
  loss: Loss = losses.cross_entropy,
) -> Any:
  """Returns (G + λI)⁻¹ v, like params, G the Gauss–Newton matrix of the mean loss over a set.

  All leaves are of the widest type among the params, float32 or wider: one solve has one type.
  """
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
        return jnp.sum(jnp.where(batch.mask, loss(z, batch.labels), 0))

      return pull(jax.jvp(jax.grad(total), (z,), (jv,))[1])[0]

    summed = sum_blocks(block, examples, size)
    return jax.tree.map(
      lambda g, v: (g / examples.count + damping * v).astype(wide), summed, direction
    )

  vector = jax.tree.map(lambda v: v.astype(wide), vector)
  return cg(product, vector, tol=tolerance, maxiter=iterations)[0]


def fisher(alpha: float = 1e-9, *, rum_compat: bool = False) -> Unlearner:
  """Gaussian noise where R does not care: variance α F_R^−½, F_R the Fisher information of R.

  F_R is the diagonal, exact for each example: the expectation over labels that the network draws
  of the squared gradient. 1e-8 is added to it, so that the noise of a weight that nothing depends
  on is bounded. Needs R; costs C per-example gradient passes over R. α is tuned in the paper; 1e-9
  is our choice.

  Args:
    alpha: α, at least 0; 0 changes nothing.
    rum_compat: as `fisher` in the code of SalUn and of model sparsity, on which RUM's is built: F_R
      of the data's labels, from one gradient an example, with 1e-16 added (there 1e-8 to each
      gradient); variance α / F_R, its root at most 1e-3; then ten times the noise on every leaf
      whose last axis has length 10 in PyTorch's order. In a network of ten classes that is the bias
      of the last layer, not its kernel, which PyTorch keeps as [10, F]. RUM's paper does not use
      it, and its own copy could not be read; `fisher_new`, beside it there, is another method.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: alpha is negative.

  References:
    Golatkar et al., [Eternal Sunshine](https://arxiv.org/abs/1911.04933), 2020.

  Example:
    >>> fisher(rum_compat=True) == fisher()
    False
  """
  if not alpha >= 0:
    raise ValueError(f"fisher got alpha={alpha}, must be at least 0.")

  def deviation(information):
    if not rum_compat:
      return jnp.sqrt(alpha) * (information + 1e-8) ** -0.25
    bounded = jnp.minimum(jnp.sqrt(alpha / (information + 1e-16)), 1e-3)
    return 10 * bounded if _width_in_pytorch(information) == 10 else bounded

  def change(network: Network, session: Session) -> Network:
    size = min(session.batch_size, 32)
    information = fisher_diagonal(network, session.retain, size, not rum_compat)
    leaves, tree = jax.tree.flatten(network.params)
    keys = jax.tree.unflatten(tree, list(jax.random.split(session.key, len(leaves))))
    noisy = jax.tree.map(
      lambda w, f, key: w + deviation(f) * jax.random.normal(key, w.shape, w.dtype),
      network.params,
      information,
      keys,
    )
    return network.replace(params=noisy)

  return one_shot(change, identity=("fisher", alpha, rum_compat))


def _width_in_pytorch(leaf: jax.Array) -> int:
  """The length of the last axis where kernels are [O, I] and [O, I, kh, kw]; 0 for a scalar."""
  return (leaf.shape[1] if leaf.ndim == 4 else leaf.shape[0]) if leaf.ndim else 0


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

  return one_shot(change, identity=("ssd", alpha, dampening))
