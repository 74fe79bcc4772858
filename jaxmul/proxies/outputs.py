"""Proxies read off one evaluation pass: z logits, p = softmax(z), y the label.

All are [B], float32, higher = more memorized, and equal whatever the batch size or order.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmul import _check, losses
from jaxmul.binding import ApplyFn, as_network

Batch = tuple[jax.Array, jax.Array]


def confidence(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """1 − p_y: labels the network is unsure of tend to be memorized late.

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    batch: `(inputs float [B, ...], labels int [B])`.
    apply_fn: `apply_fn(params, inputs) -> logits [B, C]`, evaluation mode.

  Returns:
    Scores [B], float32 in [0, 1].

  Raises:
    ValueError: `params` is not callable and no `apply_fn` is given; the batch is not as above.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> confidence(jnp.zeros((2, 2)), (jnp.ones((1, 2)), jnp.array([0])), lambda w, x: x @ w).item()
    0.5
  """
  logits, labels = _forward(params, batch, apply_fn, "confidence")
  return -jnp.expm1(-losses.cross_entropy(logits, labels))


def max_confidence(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """1 − max_c p_c [B], float32 in [0, 1 − 1/C]; arguments and errors as `confidence`.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> max_confidence(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item()
    0.5
  """
  logits, _ = _forward(params, batch, apply_fn, "max_confidence")
  return -jnp.expm1(jnp.max(losses.log_probabilities(logits), axis=-1))


def entropy(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """−Σ p log p [B] in nats, float32 in [0, log C], with 0·log 0 = 0; the rest as `confidence`.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> round(entropy(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item(), 4)
    0.6931
  """
  logits, _ = _forward(params, batch, apply_fn, "entropy")
  return entropies(logits)


def correctness(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """1[argmax z ≠ y] [B], float32, 0 or 1; arguments and errors as `confidence`.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> correctness(jnp.eye(2), (jnp.eye(2), jnp.array([0, 0])), lambda w, x: x @ w).tolist()
    [0.0, 1.0]
  """
  logits, labels = _forward(params, batch, apply_fn, "correctness")
  return 1.0 - losses.is_correct(logits, labels).astype(jnp.float32)


def loss(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """Cross-entropy −log p_y [B] in nats, float32, at least 0; the rest as `confidence`.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> round(loss(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item(), 4)
    0.6931
  """
  logits, labels = _forward(params, batch, apply_fn, "loss")
  return losses.cross_entropy(logits, labels)


def margin(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """−(z_y − max_{c≠y} z_c) [B] in logits, float32; arguments and errors as `confidence`.

  References:
    Pleiss et al., [Area Under the Margin](https://arxiv.org/abs/2001.10528), 2020.

  Example:
    >>> import jax.numpy as jnp
    >>> margin(jnp.eye(2), (jnp.eye(2), jnp.array([0, 0])), lambda w, x: x @ w).tolist()
    [-1.0, 1.0]
  """
  logits, labels = _forward(params, batch, apply_fn, "margin")
  return -losses.margins(logits, labels)


def el2n(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """‖p − onehot(y)‖₂ [B], float32 in [0, √2]; arguments and errors as `confidence`.

  References:
    Paul et al., [Deep Learning on a Data Diet](https://arxiv.org/abs/2107.07075), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> round(el2n(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item(), 4)
    0.7071
  """
  logits, labels = _forward(params, batch, apply_fn, "el2n")
  p = jnp.exp(losses.log_probabilities(logits))
  error = p - jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
  return jnp.sqrt(jnp.sum(error**2, axis=-1))


def entropies(logits: jax.Array) -> jax.Array:
  """Returns −Σ p log p [B] in nats of logits [B, C]; a class of probability 0 adds 0."""
  log_p = losses.log_probabilities(logits)
  return -jnp.sum(jnp.where(jnp.isneginf(log_p), 0.0, jnp.exp(log_p) * log_p), axis=-1)


def _forward(params, batch, apply_fn, caller) -> tuple[jax.Array, jax.Array]:
  network = as_network(params, apply_fn, caller)
  inputs, labels = _check.batch(batch, caller)
  _check.label_range(network, inputs, labels, caller)
  logits = network(inputs)
  _check.logits(logits, caller, stacklevel=4)
  return logits, labels
