"""A penalty on the largest singular value of each kernel, as a part of the optimizer.

W is a kernel as a matrix [I, O], σ its largest singular value, u [I] and v [O] the unit vectors
with W v = σ u. Where σ is told from the next one, its gradient is ∂σ/∂W = u vᵀ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmul import _arrays, _check
from jaxmul._kernels import kernels_of


class SpectralNormState(NamedTuple):
  """What `add_spectral_norm` carries from step to step.

  Attributes:
    right: v [O] of each kernel, float32 or wider, in the order of the leaves.
  """

  right: tuple[jax.Array, ...]


def add_spectral_norm(penalty: float = 0.01) -> optax.GradientTransformation:
  """Adds the gradient of (λ/2) Σ σ to updates, the sum over all kernels of their largest σ.

  First in a chain it makes the penalty a part of the loss, as in the paper:
  `optax.chain(add_spectral_norm(), optax.adamw(rate))`. One power iteration a step follows u and v,
  from the same random v in every run: in the first steps u vᵀ is not yet that of the largest σ.

  A kernel [..., I, O] is taken as a matrix [... · I, O]: attention's is one. Ours: the published
  code takes each head's queries, keys and values apart, and the head of its model is its table of
  tokens, which has no penalty. Yoshida and Miyato's penalty is on σ².

  Args:
    penalty: λ, at least 0; 0.01 is the published code's.

  Returns:
    An optax transformation; biases, norms and tables of embeddings stay as they are.

  Raises:
    ValueError: λ is below 0; `init` raises it where params have no kernel, and `update` without
      params.

  References:
    Sakarvadia et al., [Mitigating Memorization in Language
    Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem); after Yoshida and Miyato, [Spectral
    Norm Regularization](https://arxiv.org/abs/1705.10941), 2017.

  Example:
    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.array([[3.0, 0.0], [0.0, 0.0]])}
    >>> added = add_spectral_norm(0.5)
    >>> updates, _ = added.update({"kernel": jnp.zeros((2, 2))}, added.init(params), params)
    >>> updates["kernel"].tolist()
    [[0.25, 0.0], [0.0, 0.0]]
  """
  _check.at_least("add_spectral_norm", 0, penalty=penalty)

  def init(params: optax.Params) -> SpectralNormState:
    kernels = _kernels(params)
    if not kernels:
      raise ValueError(
        "add_spectral_norm needs kernels of two axes or more: this network has none. Leave it out."
      )
    keys = jax.random.split(jax.random.key(0), len(kernels))
    drawn = (
      jax.random.normal(key, kernel.shape[1:], jnp.float32).astype(kernel.dtype)
      for key, kernel in zip(keys, kernels, strict=True)
    )
    return SpectralNormState(tuple(_unit(right) for right in drawn))

  def update(updates, state, params=None):
    if params is None:
      raise ValueError("add_spectral_norm needs params: update(updates, state, params).")
    kernels = _kernels(params)
    pairs = [_followed(w, right) for w, right in zip(kernels, state.right, strict=True)]
    left = iter(pairs)

    def added(is_kernel, moved):
      if not is_kernel:
        return moved
      u, v = next(left)
      return moved + (penalty / 2 * jnp.outer(u, v)).reshape(moved.shape).astype(moved.dtype)

    updates = jax.tree.map(added, kernels_of(params), updates)
    return updates, SpectralNormState(tuple(v for _, v in pairs))

  return optax.GradientTransformation(init, update)


def _kernels(params: optax.Params) -> list[jax.Array]:
  """Returns kernels as matrices [I, O], float32 or wider."""
  leaves = zip(jax.tree.leaves(params), jax.tree.leaves(kernels_of(params)), strict=True)
  return [
    _arrays.widened(leaf.reshape(-1, leaf.shape[-1])) for leaf, is_kernel in leaves if is_kernel
  ]


def _followed(kernel: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns u and v after one power iteration; of a kernel of zeros 0, and v as it was."""
  u = _unit(kernel @ right)
  v = _unit(u @ kernel)
  return u, jnp.where(jnp.any(v != 0), v, right)


def _unit(vector: jax.Array) -> jax.Array:
  """Returns a vector at length 1; zeros stay zeros."""
  largest = jnp.max(jnp.abs(vector))
  scaled = vector / jnp.where(largest > 0, largest, 1)  # its square neither overflows nor vanishes
  return scaled / jnp.where(largest > 0, jnp.linalg.norm(scaled), 1)
