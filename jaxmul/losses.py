"""Per-example losses [B] of logits z [B, C] and labels y [B], and their means.

p = softmax(z). Everything is computed from log p, in float32 or the wider type of the logits, so
that a confident example gives a small number and not a rounding of 0 or 1.
"""

import jax
import jax.numpy as jnp


def log_probabilities(logits: jax.Array) -> jax.Array:
  """Returns log p [B, C], at most 0, float32 or wider.

  Example:
    >>> import jax.numpy as jnp
    >>> float(log_probabilities(jnp.zeros((1, 2)))[0, 0])
    -0.6931471824645996
  """
  return jax.nn.log_softmax(_widened(logits), axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns −log p_y [B] in nats, at least 0.

  A label outside [0, C) gives NaN rather than the loss of another class.

  Example:
    >>> import jax.numpy as jnp
    >>> cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([2])).tolist()
    [nan]
  """
  return 0.0 - at_label(log_probabilities(logits), labels)  # not −0 for a sure example


def margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns z_y − max_{c≠y} z_c [B], in logits: positive where the label is predicted.

  Example:
    >>> import jax.numpy as jnp
    >>> margins(jnp.array([[1.0, 3.0, 0.0]]), jnp.array([1])).tolist()
    [2.0]
  """
  logits = _widened(logits)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  return at_label(logits, labels) - jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)


def log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns φ = log p_y − log Σ_{c≠y} p_c [B], the statistic of LiRA, from logits.

  References:
    Carlini et al., [Membership Inference From First Principles](https://arxiv.org/abs/2112.03570).

  Example:
    >>> import jax.numpy as jnp
    >>> log_odds(jnp.array([[0.0, 0.0]]), jnp.array([0])).tolist()
    [0.0]
  """
  logits = _widened(logits)
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
  return at_label(logits, labels) - others


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns bool [B]: whether the largest logit is the label's; the first one wins a tie."""
  return jnp.argmax(logits, axis=-1) == labels


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns the mean of values [B] where mask [B] is True; 0 where nothing is.

  Masked values may be anything, NaN included, without touching the result or its gradient.

  Example:
    >>> import jax.numpy as jnp
    >>> float(masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([True, False])))
    1.0
  """
  total = jnp.sum(jnp.where(mask, values, 0))
  return total / jnp.maximum(jnp.sum(mask), 1).astype(total.dtype)


def at_label(values: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns values [B, C] at labels [B] as [B]; NaN for a label outside [0, C)."""
  wrapped = jnp.where(labels < 0, values.shape[-1], labels)
  return jnp.take_along_axis(values, wrapped[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[
    ..., 0
  ]


def _widened(logits: jax.Array) -> jax.Array:
  return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
