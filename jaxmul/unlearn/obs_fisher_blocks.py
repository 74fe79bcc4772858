"""Optimal brain surgeon: weights of the MLPs that S cannot do without become 0, all in one shot.

θ weights, g the gradient of the loss of one example of S at the original params, in evaluation
mode.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmul import _check
from jaxmul._arrays import rows
from jaxmul._examples import Batch, Examples
from jaxmul.binding import Network, losses_of
from jaxmul.unlearn._chosen import smallest
from jaxmul.unlearn._mlp_kernels import Layers, mlp_kernels, names, picked, put, zeroed
from jaxmul.unlearn._whole import sum_blocks
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
    blocks = _fisher_blocks(network, session.forget, size, layers, block)
    lost = []
    for weight, fisher in zip(picked(network.params, mask), blocks, strict=True):
      inverse = _inverse_diagonal(fisher, damping)[: weight.size].reshape(weight.shape)
      lost.append(smallest(-(weight**2) / (2 * inverse), fraction))
    return zeroed(network, mask, lost)

  return one_shot(change)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _fisher_blocks(
  network: Network, examples: Examples, size: int, layers: Layers, block: int
) -> list[jax.Array]:
  """Returns the mean of g gᵀ over a set, [⌈d / b⌉, b, b] of each kernel of d weights."""
  mask = mlp_kernels(network.params, layers, "obs")

  def slopes(example, label):
    def loss(kernels):
      own = network.replace(params=put(network.params, mask, kernels))
      return losses_of(network, own(rows(example, None)), label[None])[0]

    return jax.grad(loss)(picked(network.params, mask))

  def outer(batch: Batch) -> list[jax.Array]:
    products = []
    for g in jax.vmap(slopes)(batch.inputs, batch.labels):
      flat = jnp.where(batch.mask[:, None], g.reshape(len(g), -1), 0)
      flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % block)))
      cut = flat.reshape(len(flat), -1, block)
      products.append(jnp.einsum("bni,bnj->nij", cut, cut))
    return products

  count = examples.count
  return [total / count.astype(total.dtype) for total in sum_blocks(outer, examples, size)]


def _inverse_diagonal(blocks: jax.Array, damping: float) -> jax.Array:
  """Returns the diagonal of (λI + F)⁻¹ for F in blocks [n, b, b], as [n · b].

  By eigenvalues, of which rounding makes none negative here: λ is far below what float32 can add.
  """
  values, vectors = jnp.linalg.eigh(blocks)
  inverse = 1 / (jnp.maximum(values, 0) + damping)
  return jnp.einsum("nij,nj,nij->ni", vectors, inverse, vectors).reshape(-1)
