"""TRAK: attribution by randomly projected gradients, as if the network were linear.

Near its weights a network is linear in them, with an example's gradient φ of f = log p − log(1 − p)
as its features. For logistic regression on these features the effect of a training example is that
of one Newton step; TRAK leaves its weights p (1 − p) out:

  τ(z, i) = [mean over networks of φ(z)ᵀ (ΦᵀΦ)⁻¹ φ(i)] · [mean over networks of 1 − p(i)]

φ are projected from the P weights to k numbers by random signs. Signs are drawn anew for each block
of weights and never exist at once.

References:
  Park et al., [TRAK: Attributing Model Behavior at Scale](https://arxiv.org/abs/2303.14186), 2023.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _arrays, _article, _check, _scoring, losses
from jaxmul._attribution import Attribution, refuse_not_finite
from jaxmul._blocks import map_blocks
from jaxmul._dataset import Dataset, as_inputs
from jaxmul._gradients import rows_at_a_time, trained
from jaxmul._progress import shown
from jaxmul.binding import Network, refuse_batch_stats, refuse_own_loss

_SIGNS = 2**24  # numbers of the projection that exist at a time
_LEAST = 1e-12  # share of the largest eigenvalue of ΦᵀΦ that float32 features can resolve


def trak(
  networks: Sequence[Network], dataset: Dataset, test: Dataset, key: jax.Array, *, dim: int = 2048
) -> Attribution:
  """Estimates what each training example adds to the log-odds of each test example, by TRAK.

  It costs a gradient of each example and network, and 2·P·k operations more. Of a text p is e^−ℓ.
  The paper's soft thresholding, which sets small scores to 0, is left out, as in the authors' code.

  Args:
    networks: trained ones, with classes; the more, the better. The paper trains each on a random
      half of the data; others may have seen all. With BatchNorm, of the evaluation pass.
    dataset: the n training examples, all of them for every network.
    test: t examples.
    key: of the projections, one for each network.
    dim: k, numbers that a gradient is projected to, at most n. The authors' code takes 2,048, of
      50,000 examples; of 3,500 digits 512 foretold more.

  Returns:
    An `Attribution`: value [t, n] in log-odds, up to a factor; higher = helps the test example.

  Raises:
    ValueError: there is no network or one has a loss of its own, `dim` is not in [1, n], the
      gradients of the training examples span less than `dim` directions, or are NaN.

  References:
    Park et al., [TRAK: Attributing Model Behavior at Scale](https://arxiv.org/abs/2303.14186),
    2023.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models
    >>> toy = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs[:1])
    >>> scores = trak([network], toy, toy, jax.random.key(1), dim=2).value
    >>> bool((np.diag(scores) > 0).all())
    True
  """
  _check.key(key, "trak")
  _check.count(dim, "dim", "trak")
  if isinstance(networks, Network) or not isinstance(networks, Sequence) or not networks:
    raise ValueError(
      f"trak got {_article.of(networks)} of networks, must be a list of at least one: [network]."
    )
  for network in networks:
    _scoring.check_examples(network, "trak", dataset=dataset, test=test)
    refuse_batch_stats(network, "trak")
    refuse_own_loss(network, "trak", "Use memorization.influence, of p = e^−ℓ")
  _check.in_range("trak", 1, len(dataset), dim=dim)
  products = np.zeros((len(test), len(dataset)))
  unsure = np.zeros(len(dataset))
  for number, network in enumerate(shown(networks, "projecting")):
    own = jax.random.fold_in(key, number)
    phi, odds = _features(network, dataset, own, dim)
    of_test, _ = _features(network, test, own, dim)
    products += of_test @ _inverse(phi.T @ phi, dim) @ phi.T
    unsure += 1 / (1 + np.exp(odds))
  value = products / len(networks) * (unsure / len(networks))
  return Attribution(ids=dataset.ids, test_ids=test.ids, value=value)


def _features(
  network: Network, dataset: Dataset, key: jax.Array, dim: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the projected gradients of f [n, k] and f itself [n], float64."""
  static, arrays = _arrays.split(network)
  given = (jnp.asarray(dataset.labels), key)
  inputs = jax.tree.map(jnp.asarray, dataset.inputs)
  phi, odds = _projected(static, dim, arrays, inputs, *given)
  phi, odds = np.asarray(phi, float), np.asarray(odds, float)
  refuse_not_finite(phi, "trak")
  return phi, odds


def _projected_gradients(static, dim, arrays, inputs, labels, key):
  """Projected gradients [n, k] and log-odds [n], as many examples at a time as the budget holds."""
  theta, at = trained(_arrays.joined(static, arrays))

  def odds(theta, x, y):
    return losses.log_odds(at(theta)(_arrays.rows(x, None)), y[None])[0]

  def block(inputs, labels):
    value, gradients = jax.vmap(jax.value_and_grad(odds), (None, 0, 0))(
      theta, as_inputs(inputs), labels
    )
    keys = jax.random.split(key, len(gradients))
    parts = [_signed_sums(leaf, own, dim) for leaf, own in zip(gradients, keys, strict=True)]
    return sum(parts), value

  return map_blocks(block, (inputs, labels), rows_at_a_time(theta))


_projected = jax.jit(_projected_gradients, static_argnums=(0, 1))


def _signed_sums(gradient: jax.Array, key: jax.Array, dim: int) -> jax.Array:
  """Returns gradients [B, ...] times random signs [·, k], a block of weights at a time."""
  flat = gradient.reshape(len(gradient), -1)
  flat = _arrays.widened(flat)
  weights = flat.shape[1]
  size = min(weights, max(1, _SIGNS // dim))
  whole = weights // size

  def add(number, total):
    part = lax.dynamic_slice_in_dim(flat, number * size, size, axis=1)
    return total + part @ _signs(jax.random.fold_in(key, number), size, dim, flat.dtype)

  total = lax.fori_loop(0, whole, add, jnp.zeros((len(flat), dim), flat.dtype))
  if left := weights - whole * size:
    total += flat[:, -left:] @ _signs(jax.random.fold_in(key, whole), left, dim, flat.dtype)
  return total


def _signs(key: jax.Array, rows: int, columns: int, dtype: jnp.dtype) -> jax.Array:
  """Returns random signs [rows, columns], one for each bit of random words."""
  words = jax.random.bits(key, (rows, -(-columns // 32)), jnp.uint32)
  bits = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
  return 1 - 2 * bits.reshape(rows, -1)[:, :columns].astype(dtype)


def _inverse(gram: np.ndarray, dim: int) -> np.ndarray:
  """Returns (ΦᵀΦ)⁻¹, or raises ValueError where ΦᵀΦ is singular to the precision of Φ."""
  from scipy.linalg import eigh

  values, vectors = eigh(gram)
  rank = int(np.sum(values > _LEAST * values[-1]))
  if rank < dim:
    raise ValueError(
      f"trak got dim={dim}, but the gradients of the training examples span {rank} directions. "
      f"Take dim={rank} or less."
    )
  return vectors / values @ vectors.T
