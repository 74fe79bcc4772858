"""Influence functions with EK-FAC: a training example's effect on a test example, to first order.

With one more copy of example i among n, weights move by −(H + λ)⁻¹ ∇ℓ_i / n, and log p of test
example z, −ℓ_z, by

  τ(z, i) = ∇ℓ_zᵀ (H + λ)⁻¹ ∇ℓ_i / n.

H is the Gauss-Newton matrix of the mean loss, taken kernel by kernel. K-FAC gives each its
eigenvectors, those of A ⊗ G; the eigenvalues are fitted anew, as the mean squares of gradients
along them. Both are of labels drawn from the network's own predictions, not of the data's: then H
is the Fisher information, which for cross-entropy is the Gauss-Newton matrix.

References:
  Grosse et al., [Studying Large Language Model Generalization with Influence
  Functions](https://arxiv.org/abs/2308.03296), 2023;
  George et al., [Fast Approximate Natural Gradient Descent in a Kronecker-factored
  Eigenbasis](https://arxiv.org/abs/1806.03884), 2018.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _arrays, _check, _scoring, losses, models
from jaxmul._attribution import Attribution, refuse_not_finite
from jaxmul._blocks import map_blocks
from jaxmul._dataset import Dataset, as_inputs
from jaxmul._examples import Examples, examples_of, sum_blocks
from jaxmul._gradients import rows_at_a_time
from jaxmul._kronecker import Bases, bases_of, kernels_of
from jaxmul._progress import shown
from jaxmul.binding import Network, losses_of, refuse_batch_stats, refuse_own_loss

_BLOCK = 256


def ekfac_influence(
  network: Network, dataset: Dataset, test: Dataset, key: jax.Array, *, damping: float = 0.1
) -> Attribution:
  """Estimates what each training example adds to log p of each test example, by EK-FAC influence.

  Covered are the kernels of flax.linen dense and convolution layers. Biases, embeddings and the
  scales of normalisations are taken as fixed, as is what BatchNorm remembers: gradients are of the
  evaluation pass, in which examples do not interact. It costs three passes over the training data
  and one for each block of test examples.

  Args:
    network: a trained one, with classes.
    dataset: the n examples that it was trained on.
    test: t examples.
    key: of the labels that are drawn for H.
    damping: λ of each kernel, as a share of the mean of its eigenvalues. The paper's is 0.1.

  Returns:
    An `Attribution`: value [t, n] in nats; higher = helps the test example. One more copy of a
    training example raises log p by it, to first order.

  Raises:
    ValueError: damping is not above 0, the network has no such layer or a loss of its own, or its
      gradients are NaN or all 0.

  References:
    Grosse et al., [Studying Large Language Model Generalization with Influence
    Functions](https://arxiv.org/abs/2308.03296), 2023.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models
    >>> toy = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs[:1])
    >>> scores = ekfac_influence(network, toy, toy, jax.random.key(1)).value
    >>> bool((np.diag(scores) > 0).all())
    True
  """
  _check.key(key, "ekfac_influence")
  _check.above("ekfac_influence", 0, damping=damping)
  _scoring.check_examples(network, "ekfac_influence", dataset=dataset, test=test)
  refuse_batch_stats(network, "ekfac_influence")
  refuse_own_loss(network, "ekfac_influence", "Use memorization.influence, of p = e^−ℓ")
  examples = examples_of(dataset)
  zeros = kernels_of(network, examples, None, "ekfac_influence")
  sizes = {path: (len(factor.inputs), len(factor.outputs)) for path, factor in zeros.items()}
  size = min(_BLOCK, rows_at_a_time([jnp.zeros(math.prod(shape)) for shape in sizes.values()]))
  drawn = examples._replace(labels=_drawn(network, examples, key))
  bases = bases_of(network, drawn, min(size, len(dataset)), zeros, 1.0)
  curvature = _curvature(network, drawn, min(size, len(dataset)), bases)
  damped = {path: of + damping * of.mean() for path, of in curvature.items()}
  values = []
  for start in shown(range(0, len(test), size), "influence"):
    rows = np.arange(start, start + min(size, len(test)))
    rows = np.where(rows < len(test), rows, start)  # padding repeats a row and is dropped
    batch = _arrays.rows((test.inputs, test.labels), rows)
    values.append(np.asarray(_products(network, bases, damped, batch, examples, size)))
  value = np.concatenate(values, axis=1).T[: len(test)].astype(float) / len(dataset)
  refuse_not_finite(value, "ekfac_influence")
  return Attribution(ids=dataset.ids, test_ids=test.ids, value=value)


@jax.jit
def _drawn(network: Network, examples: Examples, key: jax.Array) -> jax.Array:
  """Returns a label of each example, at each scored position, drawn from the network's own p."""

  def draw(inputs, labels, keys):
    logits = network(as_inputs(inputs))
    new = jax.vmap(jax.random.categorical)(keys, losses.log_probabilities(logits))
    unscored = (labels == losses.UNSCORED) if labels.ndim > 1 else jnp.zeros(labels.shape, bool)
    return jnp.where(unscored, labels, new.astype(labels.dtype))

  keys = jax.random.split(key, len(examples.labels))
  return map_blocks(draw, (examples.inputs, examples.labels, keys), _BLOCK)


def _components(network: Network, bases: Bases, inputs, labels, mask=True) -> dict[str, jax.Array]:
  """Returns each example's gradient in the eigenbases, {path: [B, I, O]}."""
  zeros = {
    path: jnp.zeros((len(labels), *of.kept.shape), of.inputs.dtype) for path, of in bases.items()
  }

  def total(zeros):
    outputs = models.tapped_components(network, inputs, bases, zeros)
    return jnp.sum(jnp.where(mask, losses_of(network, outputs, labels), 0))

  return jax.grad(total)(zeros)


@functools.partial(jax.jit, static_argnums=2)
def _curvature(network: Network, examples: Examples, size: int, bases: Bases):
  """Returns the eigenvalues [I, O] of each kernel: mean squares of gradients along eigenvectors."""

  def squares(batch):
    parts = _components(network, bases, batch.inputs, batch.labels, batch.mask)
    return {path: jnp.sum(part**2, 0) for path, part in parts.items()}

  summed = sum_blocks(squares, examples, size)
  return {path: total / examples.count for path, total in summed.items()}


@functools.partial(jax.jit, static_argnums=5)
def _products(network, bases, damped, batch, examples, size):
  """Returns ∇ℓ_iᵀ (H + λ)⁻¹ ∇ℓ_z [n, t] of all examples and a batch of test examples."""

  def flat(parts):
    return jnp.concatenate([part.reshape(len(part), -1) for part in parts.values()], axis=1)

  of_test = _components(network, bases, as_inputs(batch[0]), jnp.asarray(batch[1]))
  preconditioned = flat({path: part / damped[path] for path, part in of_test.items()})

  def products(inputs, labels):
    return flat(_components(network, bases, as_inputs(inputs), labels)) @ preconditioned.T

  return map_blocks(products, (examples.inputs, examples.labels), size)
