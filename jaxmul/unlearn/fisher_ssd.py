"""Two steps from the diagonal F of the Fisher information, at the original params θ.

Noise goes where F of R is small, and weights become smaller where F of S is large.
"""

import jax
import jax.numpy as jnp

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import keys_like
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._whole import fisher_diagonal
from jaxmul.unlearn.objective import one_shot
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def fisher(alpha: float = 1e-9, *, rum_compat: bool = False) -> Unlearner:
  """Gaussian noise where R does not care: variance α F_R^−½, F_R the Fisher information of R.

  F_R is the diagonal, exact for each example: the expectation over labels that the network draws
  of the squared gradient. 1e-8 is added to it, so that the noise of a weight that nothing depends
  on is bounded. Needs R; costs C per-example gradient passes over R, of text C for each position.
  α is tuned in the paper; 1e-9 is our choice.

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
  _check.at_least("fisher", 0, alpha=alpha)

  def deviation(information):
    if not rum_compat:
      return jnp.sqrt(alpha) * (information + 1e-8) ** -0.25
    bounded = jnp.minimum(jnp.sqrt(alpha / (information + 1e-16)), 1e-3)
    return 10 * bounded if _width_in_pytorch(information) == 10 else bounded

  def change(network: Network, session: Session) -> Network:
    if not rum_compat:
      refuse_own_loss(network, "fisher")
    size = min(session.batch_size, 32)
    information = fisher_diagonal(network, session.retain, size, not rum_compat)

    def noisy(weight, f, key):
      return weight + deviation(f) * jax.random.normal(key, weight.shape, weight.dtype)

    keys = keys_like(network.params, session.key)
    return network.replace(params=jax.tree.map(noisy, network.params, information, keys))

  return one_shot(change)


def _width_in_pytorch(leaf: jax.Array) -> int:
  """The length of the last axis where kernels are [O, I] and [O, I, kh, kw]; 0 for a scalar."""
  return (leaf.shape[1] if leaf.ndim == 4 else leaf.shape[0]) if leaf.ndim else 0


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
  _check.above("ssd", 0, alpha=alpha)
  _check.at_least("ssd", 0, dampening=dampening)

  def change(network: Network, session: Session) -> Network:
    of_forget, of_retain = (
      fisher_diagonal(network, examples, min(session.batch_size, 32), False)
      for examples in (session.forget, session.retain)
    )
    counts = session.forget.count, session.retain.count
    counts = (*counts, counts[0] + counts[1])

    def dampened(weight, f_s, f_r):
      s, r, n = (count.astype(f_s.dtype) for count in counts)
      f_d = (s * f_s + r * f_r) / n
      factor = jnp.minimum(dampening * f_d / jnp.where(f_s > 0, f_s, 1), 1)
      return jnp.where(f_s > alpha * f_d, weight * factor, weight)

    return network.replace(params=jax.tree.map(dampened, network.params, of_forget, of_retain))

  return one_shot(change)
