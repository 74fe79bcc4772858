"""Scores of text that look at single tokens: where a sequence surprises the network the most.

Attacks on language models use them with the opposite sign, to tell sequences that a network was
trained on: here, as everywhere, higher = harder = more memorized.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _arrays, _check, losses
from jaxmul._dataset import Dataset
from jaxmul.binding import ApplyFn, refuse_own_loss
from jaxmul.proxies.outputs import Batch, checked


def token_losses(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """Returns −log p of the token at each position [B, T] in nats; NaN where it is not scored.

  Args:
    params: as `proxies.confidence`.
    batch: `(inputs [B, T], labels int [B, T])`, labels −1 where a position is not scored.
    apply_fn: as `proxies.confidence`.

  Raises:
    ValueError: as `proxies.confidence`, or labels are not of positions.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> batch = (jnp.array([[0, 1, 1]]), jnp.array([[-1, 1, 0]]))
    >>> token_losses({}, batch, lambda p, x: jnp.zeros((*x.shape, 2))).round(2).tolist()
    [[nan, 0.6899999976158142, 0.6899999976158142]]
  """
  logits, labels = _logits(params, batch, apply_fn, "token_losses")
  log_p = losses.log_probabilities(losses.scored_only(logits, labels))
  return jnp.where(labels == losses.UNSCORED, jnp.nan, -losses.at_label(log_p, labels))


def min_k(
  params: Any, batch: Batch, apply_fn: ApplyFn | None = None, *, share: float = 0.4
) -> jax.Array:
  """Mean loss [B] in nats of the least likely tokens of each sequence, at least 0 (Min-K %).

  Args:
    params, batch, apply_fn: as `token_losses`.
    share: of the scored tokens, rounded down but at least one, in (0, 1]; MUSE's is 0.4.

  References:
    Shi et al., [Detecting Pretraining Data](https://arxiv.org/abs/2310.16789), 2023, whose score is
    minus this.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.75, 0.25]]]))
    >>> batch = (jnp.zeros((1, 2), int), jnp.array([[0, 1]]))
    >>> round(float(jnp.exp(-min_k({}, batch, lambda p, x: logits, share=0.5)[0])), 3)
    0.25
  """
  _refuse_other_share(share, "min_k")
  logits, labels = _logits(params, batch, apply_fn, "min_k")
  return losses.mean_of_least_likely(logits, labels, share)


def min_k_plus(
  params: Any, batch: Batch, apply_fn: ApplyFn | None = None, *, share: float = 0.4
) -> jax.Array:
  """`min_k` [B] of losses in standard deviations from what is expected at each token (Min-K%++).

  A token's loss −log p_y is measured by the mean and deviation of −log p_c over tokens c that are
  drawn from p; where all are equally likely nothing is unexpected, and it is 0.

  Args:
    params, batch, apply_fn, share: as `min_k`.

  References:
    Zhang et al., [Min-K%++](https://arxiv.org/abs/2404.02936), 2024, whose score is minus this.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[0.2, 0.8], [0.5, 0.5]]]))
    >>> batch = (jnp.zeros((1, 2), int), jnp.array([[0, 1]]))
    >>> round(float(min_k_plus({}, batch, lambda p, x: logits, share=0.5)[0]), 3)
    2.0
  """
  _refuse_other_share(share, "min_k_plus")
  logits, labels = _logits(params, batch, apply_fn, "min_k_plus")
  log_p = losses.log_probabilities(losses.scored_only(logits, labels))
  finite = jnp.where(jnp.isneginf(log_p), 0, log_p)  # a token of probability 0 adds 0
  p = jnp.exp(log_p)
  mean = jnp.sum(p * finite, axis=-1)
  variance = jnp.sum(p * (finite - mean[..., None]) ** 2, axis=-1)
  unexpected = mean - losses.at_label(log_p, labels)
  deviation = jnp.sqrt(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
  unexpected = jnp.where(variance > _NO_VARIANCE, unexpected / deviation, 0)
  return losses.mean_of_largest(unexpected, labels, share)


_NO_VARIANCE = 1e-12  # of log p, in nats²: below it rounding is all that is left


def zlib_ratio(loss: ArrayLike, dataset: Dataset) -> np.ndarray:
  """Returns the loss of each sequence over its length when compressed, [n] in nats per bit.

  What a general compressor finds hard is hard without having been memorized.

  Args:
    loss: [n], mean loss of the scored tokens, as `proxies.score(proxies.loss, network, dataset)`.
    dataset: of tokens int [n, T]. Tokens of up to 256 kinds are compressed as bytes, others as
      four bytes each.

  Raises:
    ValueError: there is not one loss a sequence, or the data are no sequences.

  References:
    Carlini et al., [Extracting Training Data](https://arxiv.org/abs/2012.07805), 2020.

  Example:
    >>> text = Dataset(np.array([[1, 1, 1, 1]]), np.array([[1, 1, 1, 1]]))
    >>> 8 * len(zlib.compress(bytes([1, 1, 1, 1]))), zlib_ratio([0.8], text).round(4).tolist()
    (96, [0.0333])
  """
  losses_of_each = np.asarray(loss, float)
  tokens, labels = dataset.inputs, dataset.labels
  is_array = isinstance(tokens, np.ndarray)
  if labels.ndim != 2 or not is_array or not np.issubdtype(tokens.dtype, np.signedinteger):
    given = f"{tokens.dtype} {list(tokens.shape)}" if is_array else _arrays.kinds(tokens)
    raise ValueError(
      f"zlib_ratio needs tokens int [n, T], got {given} with labels {list(labels.shape)}."
    )
  if losses_of_each.shape != (len(dataset),):
    raise ValueError(
      f"zlib_ratio got losses {list(losses_of_each.shape)} for {len(dataset)} sequences."
    )
  kind = np.uint8 if dataset.num_classes <= 256 else np.uint32
  bits = np.array([8 * len(zlib.compress(row.astype(kind).tobytes())) for row in tokens])
  return losses_of_each * np.sum(labels != losses.UNSCORED, axis=1) / bits


def _logits(
  params: Any, batch: Batch, apply_fn: ApplyFn | None, caller: str
) -> tuple[jax.Array, jax.Array]:
  """Returns logits [B, T, C] and labels [B, T]."""
  network, inputs, labels = checked(params, batch, apply_fn, caller)
  refuse_own_loss(network, caller)
  if labels.ndim != 2:
    raise ValueError(
      f"{caller} needs labels int [B, T], one a token, got {list(labels.shape)}. Use "
      "proxies.loss for what has one label."
    )
  logits = network(inputs)
  _check.logits(logits, caller, stacklevel=4)
  return logits, labels


def _refuse_other_share(share: float, caller: str) -> None:
  """Raises ValueError where a share of the tokens is not in (0, 1]."""
  if not 0 < share <= 1:
    raise ValueError(f"{caller} got share={share}, must be in (0, 1].")
