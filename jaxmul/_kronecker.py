"""Directions of high curvature of each kernel: what many examples share, and what only few use.

K-FAC takes the Fisher information of a kernel W [I, O] for A ⊗ G. With eigenvectors v_i of A and
u_j of G, C_ij = v_iᵀ W u_j is how much of W lies in a direction whose curvature is λ_i μ_j. What a
network computes for many examples lies where that is high; what it memorized of single ones, where
it is low on average.

References:
  Merullo et al., [From Memorization to Reasoning in the Spectrum of Loss
  Curvature](https://arxiv.org/abs/2510.24256), 2025.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxmul import models
from jaxmul._examples import Examples, sum_blocks
from jaxmul.binding import Network, losses_of
from jaxmul.models import KroneckerBasis, KroneckerFactors

Bases = dict[str, KroneckerBasis]


def kernels_of(
  network: Network, examples: Examples, layers: Sequence[str] | None, caller: str
) -> dict[str, KroneckerFactors]:
  """Returns zeros for each kernel that the layers of these names hold; None means all.

  Raises:
    ValueError: there is no such kernel, or of one name none.
  """
  inputs = examples.batch(jnp.int32(0), jnp.int32(1), 1).inputs
  zeros = models.zero_factors(network, inputs)
  if not zeros:
    raise ValueError(
      f"{caller} found no flax.linen.Dense or convolution in the network; it reads their "
      "curvature alone."
    )
  if layers is None:
    return zeros
  names = {name for path in zeros for name in path.split("/")[:-1]}
  for name in layers:
    if name not in names:
      raise ValueError(
        f"{caller}: the network has no dense or convolution layer {name!r}. It has "
        f"{', '.join(sorted(names))}."
      )
  return {path: zero for path, zero in zeros.items() if set(path.split("/")) & set(layers)}


@functools.partial(jax.jit, static_argnums=2)
def bases_of(
  network: Network,
  examples: Examples,
  size: int,
  zeros: dict[str, KroneckerFactors],
  keep: float | jax.Array,
) -> Bases:
  """Returns the eigenvectors of each kernel's factors over a set, and which directions are kept.

  Those are the fewest with a share of at least `keep` of Σ λ_i μ_j, the highest first.
  """

  def factors(batch):
    def total(zeros):
      outputs = models.tapped_factors(network, batch.inputs, zeros)
      return jnp.sum(jnp.where(batch.mask, losses_of(network, outputs, batch.labels), 0))

    return jax.grad(total)(zeros)

  summed = sum_blocks(factors, examples, size)
  return {path: _basis(of_kernel, keep) for path, of_kernel in summed.items()}


def _basis(factors: KroneckerFactors, keep: float | jax.Array) -> KroneckerBasis:
  (of_inputs, v), (of_outputs, u) = (jnp.linalg.eigh(factor) for factor in factors)
  # Rounding can leave an eigenvalue of 0 just below it.
  curvature = jnp.maximum(of_inputs, 0)[:, None] * jnp.maximum(of_outputs, 0)
  falling = jnp.argsort(-curvature, axis=None, stable=True)
  mass = curvature.reshape(-1)[falling]
  before = jnp.cumsum(mass) - mass
  kept = jnp.zeros(mass.shape, bool).at[falling].set((before < keep * mass.sum()) | (keep >= 1))
  return KroneckerBasis(v, u, kept.reshape(curvature.shape))


def without_rest(kernel: jax.Array, basis: KroneckerBasis) -> jax.Array:
  """Returns a kernel without its part in the directions that are not kept."""
  w = kernel.reshape(-1, kernel.shape[-1])
  components = basis.inputs.T @ w @ basis.outputs
  rest = basis.inputs @ jnp.where(basis.kept, 0, components) @ basis.outputs.T
  return (w - rest).astype(kernel.dtype).reshape(kernel.shape)
