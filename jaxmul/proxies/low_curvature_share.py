"""How much of an example's gradient lies where the data as a whole have little curvature."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxmul import _arrays, _check, _scoring, _sharding, models
from jaxmul._blocks import small_blocks
from jaxmul._dataset import Dataset
from jaxmul._examples import examples_of
from jaxmul._kronecker import Bases, bases_of, kernels_of
from jaxmul.binding import ApplyFn, Network, losses_of, refuse_batch_stats
from jaxmul.proxies.outputs import Batch, checked


def curvature_basis(
  network: Network,
  dataset: Dataset,
  *,
  keep: float = 0.6,
  layers: Sequence[str] | None = None,
  batch_size: int = 128,
) -> Bases:
  """Returns {path of a kernel: `models.KroneckerBasis`}, the directions that `low_curvature` needs.

  It costs one backward pass over the data and the eigenvectors of two matrices a kernel.

  Args:
    network: a `Network` with flax.linen dense or convolution layers.
    dataset: what the curvature is the sum over, such as the training data.
    keep: share in (0, 1] of the curvature that the directions that count as high have.
    layers: names of the layers that are looked at. None means all dense and convolution layers,
      attention and the head of a transformer with them; in `unlearn.kfac_edit` it means its MLPs,
      which are `layers=("dense1", "dense2")` of a `models.gpt`.
    batch_size: examples at a time; bounds the memory.

  Raises:
    ValueError: a number is outside its range, there is no `Network` or no data set, or the network
      has no such layer.

  References:
    Merullo et al., [From Memorization to Reasoning in the Spectrum of Loss
    Curvature](https://arxiv.org/abs/2510.24256), 2025.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models
    >>> toy = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs[:1])
    >>> sorted(curvature_basis(network, toy))
    ['Dense_0/kernel', 'Dense_1/kernel']
  """
  _scoring.check_examples(network, "curvature_basis", dataset=dataset)
  _check.above("curvature_basis", 0, keep=keep)
  _check.in_range("curvature_basis", 0, 1, keep=keep)
  _check.count(batch_size, "batch_size", "curvature_basis")
  if isinstance(layers, str):
    raise ValueError(f"curvature_basis got layers={layers!r}, must be a tuple of names, or None.")
  examples = examples_of(dataset)
  zeros = kernels_of(network, examples, layers, "curvature_basis")
  return bases_of(network, examples, min(batch_size, len(dataset)), zeros, keep)


def low_curvature(
  params: Any, basis: Bases, batch: Batch, apply_fn: ApplyFn | None = None
) -> jax.Array:
  """The share of ‖∂ℓ/∂W‖² in directions of low curvature: what an example does not share.

  W are the kernels of the basis. The paper edits weights by these directions; to score examples by
  them is ours.

  Args:
    params: a `Network`, or what becomes one, with the kernels of the basis.
    basis: as `curvature_basis` returns it, of this network. In `proxies.score` it goes in by
      `jax.tree_util.Partial(low_curvature, basis=basis)`.
    batch: `(inputs [B, ...], labels int [B, *P])`, inputs float or tokens.
    apply_fn: `apply_fn(params, inputs) -> outputs [B, *P, C]`, evaluation mode.

  Returns:
    Scores [B], float32 in [0, 1]; higher means more memorized; 0 where the gradient is 0.

  Raises:
    ValueError: the network has not the kernels of the basis, or as `grand`.

  References:
    Merullo et al., [From Memorization to Reasoning in the Spectrum of Loss
    Curvature](https://arxiv.org/abs/2510.24256), 2025.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models
    >>> toy = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs[:1])
    >>> basis = curvature_basis(network, toy, keep=1)
    >>> low_curvature(network, basis, (toy.inputs, toy.labels)).tolist()
    [0.0, 0.0, 0.0, 0.0]
  """
  network, inputs, labels = checked(params, batch, apply_fn, "low_curvature")
  refuse_batch_stats(network, "low_curvature")
  _refuse_other_kernels(network, basis)

  def share(inputs, labels):
    inputs = _sharding.local(inputs, network, basis, labels)
    energies = jnp.zeros((len(labels), 2), jnp.float32)
    energies = _sharding.local(energies, inputs)

    def total(energies):
      outputs = models.tapped_energies(network, inputs, basis, energies)
      loss = losses_of(network, outputs, labels)
      return loss.sum(), loss

    squared, loss = jax.grad(total, has_aux=True)(energies)
    whole, rest = squared[:, 0], squared[:, 1]
    shares = jnp.where(whole > 0, rest / jnp.where(whole > 0, whole, 1), 0)
    # Of an impossible label the loss is NaN, but its gradient would be 0.
    return jnp.where(jnp.isnan(loss + whole), jnp.nan, shares).astype(jnp.float32)

  return small_blocks(share, inputs, labels)


def _refuse_other_kernels(network: Network, basis: Bases) -> None:
  """Raises ValueError where a kernel of the basis is not in the network, or of another shape."""
  kernels = _arrays.by_way(network.params)
  for path, of_kernel in basis.items():
    shape = jnp.shape(kernels[path]) if path in kernels else None
    size = of_kernel.kept.shape
    if shape is None or (math.prod(shape[:-1]), shape[-1]) != size:
      raise ValueError(
        f"low_curvature: the basis has {path} of {list(size)}, the network "
        f"{'none' if shape is None else list(shape)}. Make the basis of this network."
      )
