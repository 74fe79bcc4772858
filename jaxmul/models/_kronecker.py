"""Kronecker factors of layers' curvature, and gradients in their eigenbasis, in a backward pass.

A dense layer y_t = a_t W + b has the gradient Σ_t a_t g_tᵀ, g = ∂ℓ/∂y; a convolution is one over
patches. K-FAC takes the Fisher information of W for A ⊗ G, with A = Σ a aᵀ and G = Σ g gᵀ over all
positions of all examples. Layers are tapped, as for ghost norms. A position that no gradient goes
through, such as padding, is in neither factor.

References:
  Martens and Grosse, [Optimizing Neural Networks with Kronecker-factored Approximate
  Curvature](https://arxiv.org/abs/1503.05671), 2015.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmul._arrays import Inputs, by_way, wide_dtype
from jaxmul.binding import Network
from jaxmul.models import _remat
from jaxmul.models._conv import Conv
from jaxmul.models._ghost import rule_of, tapped_by

_LINEAR = (nn.Dense, nn.Conv, Conv)


class KroneckerFactors(NamedTuple):
  """Of one kernel of I inputs and O outputs.

  Attributes:
    inputs: A [I, I].
    outputs: G [O, O].
  """

  inputs: jax.Array
  outputs: jax.Array


class KroneckerBasis(NamedTuple):
  """The directions of one kernel, and which of them are kept.

  Attributes:
    inputs: eigenvectors of A [I, I], as columns.
    outputs: eigenvectors of G [O, O], as columns.
    kept: bool [I, O].
  """

  inputs: jax.Array
  outputs: jax.Array
  kept: jax.Array


def zero_factors(network: Network, inputs: Inputs) -> dict[str, KroneckerFactors]:
  """Returns factors of zeros of each dense and convolution kernel, by its path, such as "a/kernel".

  Nothing is computed: the forward pass is traced.
  """
  kernels = {}

  def forward(network, inputs):
    ids = {id(leaf): name for name, leaf in by_way(network.params).items()}

    def record(next_fn, args, kwargs, context):
      if isinstance(context.module, _LINEAR) and rule_of(context, args, kwargs):
        kernel = context.module.variables["params"]["kernel"]
        if id(kernel) in ids:
          kernels[ids[id(kernel)]] = kernel
      return next_fn(*args, **kwargs)

    with _remat.watching(record):
      return network(inputs)

  jax.eval_shape(forward, network, inputs)

  def zeros(kernel):
    rows, columns = kernel.size // kernel.shape[-1], kernel.shape[-1]
    dtype = wide_dtype(kernel.dtype)
    return KroneckerFactors(jnp.zeros((rows, rows), dtype), jnp.zeros((columns, columns), dtype))

  return {name: zeros(kernels[name]) for name in by_way(network.params) if name in kernels}


def tapped_factors(
  network: Network, inputs: Inputs, factors: dict[str, KroneckerFactors]
) -> jax.Array:
  """Returns outputs [B, *P, C] whose cotangent with respect to `factors`, zeros, are the factors.

  Differentiate Σ ℓ_b with respect to them.
  """

  def sums(a, g, known):
    del known
    passed = jnp.any(g != 0, axis=-1, keepdims=True)
    a = jnp.where(passed, a, 0).astype(jnp.promote_types(a.dtype, g.dtype))
    return KroneckerFactors(jnp.einsum("bti,btj->ij", a, a), jnp.einsum("bto,btp->op", g, g))

  return _tapped_kernels(
    sums, network, inputs, {name: (zero,) * 2 for name, zero in factors.items()}
  )


def tapped_energies(
  network: Network, inputs: Inputs, bases: dict[str, KroneckerBasis], energies: jax.Array
) -> jax.Array:
  """Returns outputs whose cotangent with respect to `energies` [B, 2], zeros, are squared norms.

  They are ‖∂ℓ_b/∂W‖² over all kernels of the bases, and the part of it in what is not kept.
  Differentiate Σ ℓ_b with respect to them.
  """

  def squares(a, g, basis):
    components = jnp.einsum("bti,bto->bio", a @ basis.inputs, g @ basis.outputs) ** 2
    left_out = jnp.where(basis.kept, 0, components)
    return jnp.stack([components.sum((1, 2)), left_out.sum((1, 2))], axis=-1)

  return _tapped_kernels(
    squares, network, inputs, {name: (basis, energies) for name, basis in bases.items()}
  )


def tapped_components(
  network: Network,
  inputs: Inputs,
  bases: dict[str, KroneckerBasis],
  components: dict[str, jax.Array],
) -> jax.Array:
  """Returns outputs whose cotangent with respect to `components` are Vᵀ ∂ℓ_b/∂W U.

  `components` are zeros [B, I, O]; what they become are the gradients of each example in the
  eigenbases, of what is kept and what is not.
  Differentiate Σ ℓ_b with respect to them.
  """

  def rotated(a, g, basis):
    return jnp.einsum("bti,bto->bio", a @ basis.inputs, g @ basis.outputs)

  given = {name: (bases[name], zeros) for name, zeros in components.items()}
  return _tapped_kernels(rotated, network, inputs, given)


def _tapped_kernels(read, network, inputs, given):
  """Outputs of a network whose kernels are tapped: `given` are {path: (what is known, zeros)}."""
  leaves = by_way(network.params)
  known = {id(leaf): given[name] for name, leaf in leaves.items() if name in given}

  def reader(rule, module):
    kernel = module.variables["params"].get("kernel")
    if id(kernel) not in known:
      return lambda x, g: (), ()
    value, zeros = known[id(kernel)]
    return lambda x, g: read(*rule(x, g)["kernel"], value), zeros

  return tapped_by(reader, network, inputs)
