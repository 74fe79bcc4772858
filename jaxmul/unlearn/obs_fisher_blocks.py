"""Optimal brain surgeon: weights of the MLPs that S cannot do without become 0, all in one shot.

θ weights, g the gradient of the loss of one example of S at the original params, in evaluation
mode.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import _check
from jaxmul._arrays import rows, wide_dtype
from jaxmul._examples import Examples
from jaxmul.binding import Network, losses_of
from jaxmul.unlearn._chosen import smallest
from jaxmul.unlearn._mlp_kernels import Layers, mlp_kernels, names, picked, put, zeroed
from jaxmul.unlearn.objective import one_shot
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def obs(
  fraction: float = 0.01, *, block: int = 50, damping: float = 1e-7, layers: Layers = None
) -> Unlearner:
  """Optimal brain surgeon: zeroes the share of each kernel with the largest θ_i² / (2 [F⁻¹]_ii).

  That is what the risk on S rises by, to second order, if θ_i is zeroed and all other weights are
  moved to make up for it; they are not moved here, as in the paper. F is the empirical Fisher
  information of S, λI + the mean over S of g gᵀ with g the gradient of one example, in blocks of
  consecutive weights of a kernel. (The public code sums up the gradients of batches as it goes, so
  that its F depends on their order.) Needs S; costs one per-example gradient pass over it and
  memory for `block` numbers a weight.

  Args:
    fraction: share of each kernel that is zeroed, in [0, 1]; 0 changes nothing. The paper tunes it;
      0.01 is our choice.
    block: weights in a block, at least 1.
    damping: λ, above 0.
    layers: as `greedy`.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no layer of a
      name, or no kernels.

  References:
    Kurtic et al., [The Optimal BERT Surgeon](https://arxiv.org/abs/2203.07259), 2022; Sakarvadia et
    al., [Mitigating Memorization in Language Models](https://arxiv.org/abs/2410.02159), 2024
    (TinyMem).

  Example:
    >>> obs(block=10) == obs()
    False
  """
  _check.in_range("obs", 0, 1, fraction=fraction)
  _check.count(block, "block", "obs")
  _check.above("obs", 0, damping=damping)
  layers = names(layers, "obs")

  def change(network: Network, session: Session) -> Network:
    mask = mlp_kernels(network.params, layers, "obs")
    size = min(session.batch_size, 32)
    inverses = _inverse_diagonals(network, session.forget, size, layers, (block, damping))
    lost = [
      smallest(-(weight**2) / (2 * inverse), fraction)
      for weight, inverse in zip(picked(network.params, mask), inverses, strict=True)
    ]
    return zeroed(network, mask, lost)

  return one_shot(change)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _inverse_diagonals(
  network: Network, examples: Examples, size: int, layers: Layers, settings: tuple[int, float]
) -> list[jax.Array]:
  """Returns the diagonal of F⁻¹ like each kernel.

  A block of n F, n the size of the set, is held as a triangle U with UᵀU = n F, which begins at
  √(nλ) I and takes in gradients one batch after another. In float32 F itself would hold nothing as
  small as λ.
  """
  mask = mlp_kernels(network.params, layers, "obs")
  kernels, (block, damping) = picked(network.params, mask), settings

  def slopes(example, label):
    def loss(kernels):
      own = network.replace(params=put(network.params, mask, kernels))
      return losses_of(network, own(rows(example, None)), label[None])[0]

    return jax.grad(loss)(kernels)

  def taken_in(triangle: jax.Array, g: jax.Array, real: jax.Array) -> jax.Array:
    flat = jnp.where(real[:, None], g.reshape(len(g), -1), 0)
    flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % block)))
    new = jnp.moveaxis(flat.reshape(len(flat), -1, block), 1, 0)
    return _triangle(jnp.concatenate([triangle, new.astype(triangle.dtype)], 1))

  def step(index, triangles):
    batch = examples.batch(index * size, (index + 1) * size, size)
    gradients = jax.vmap(slopes)(batch.inputs, batch.labels)
    return [taken_in(*pair, batch.mask) for pair in zip(triangles, gradients, strict=True)]

  def first(kernel):
    dtype = wide_dtype(kernel.dtype)
    blocks = -(-kernel.size // block)
    least = jnp.sqrt(damping * examples.count.astype(dtype))
    return jnp.tile(least * jnp.eye(block, dtype=dtype), (blocks, 1, 1))

  def diagonal(kernel, triangle):
    squares = examples.count.astype(triangle.dtype) * jnp.sum(_inverse(triangle) ** 2, -1)
    return squares.reshape(-1)[: kernel.size].reshape(kernel.shape)

  steps = -(-examples.count // size)
  triangles = lax.fori_loop(0, steps, step, [first(kernel) for kernel in kernels])
  return [diagonal(*pair) for pair in zip(kernels, triangles, strict=True)]


def _triangle(given: jax.Array) -> jax.Array:
  """Returns the upper triangles U with UᵀU = AᵀA of A [n, m, b] of full rank, by Gram-Schmidt.

  In products alone: LAPACK's QR and its solver of triangles hang where several CPU devices call
  them at once, as OpenBLAS makes threads of its own within XLA's (JAX 0.10).
  """
  size = given.shape[-1]

  def column(number, carry):
    left, triangle = carry
    own = left[:, :, number]
    direction = own / jnp.linalg.norm(own, axis=1, keepdims=True)
    along = jnp.einsum("nm,nmj->nj", direction, left)
    along = jnp.where(jnp.arange(size) >= number, along, 0)
    left = left - direction[:, :, None] * along[:, None]
    return left, triangle.at[:, number].set(along)

  zero = jnp.zeros((len(given), size, size), given.dtype)
  return lax.fori_loop(0, size, column, (given, zero))[1]


def _inverse(triangle: jax.Array) -> jax.Array:
  """Returns U⁻¹ of upper triangles [n, b, b], row by row from the last."""
  size = triangle.shape[-1]

  def row(step, inverse):
    number = size - 1 - step
    own = jax.nn.one_hot(number, size, dtype=triangle.dtype)
    later = jnp.einsum("nk,nkj->nj", triangle[:, number], inverse)  # rows before are still 0
    return inverse.at[:, number].set((own - later) / triangle[:, number, number][:, None])

  return lax.fori_loop(0, size, row, jnp.zeros_like(triangle))
