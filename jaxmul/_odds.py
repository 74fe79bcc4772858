"""The log-odds of an example, by which memorization, attacks and oracles compare models.

φ = log p − log(1 − p). Of an image p is p_y, the probability of its label. Of a text it is e^−ℓ,
the geometric mean of its tokens' probabilities, with ℓ the mean loss over scored positions: the
mean of log p_t is taken before 1 − p is, so that p can be read off φ.
"""

import jax
import jax.numpy as jnp

from jaxmul import losses


def log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns φ [B] of logits [B, *P, C] and labels [B, *P]; where P is () as `losses.log_odds`.

  log p_t comes from the log-odds of each position, so that a confident text is resolved too.

  Example:
    >>> import jax.numpy as jnp
    >>> text = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]))
    >>> phi = log_odds(text, jnp.array([[0, 0, -1]]))
    >>> round(float(jax.nn.sigmoid(phi)[0]), 6)  # (½ · ¼)^½
    0.353553
  """
  if labels.ndim == 1:
    return losses.log_odds(logits, labels)
  flat = losses.scored_only(logits, labels).reshape(-1, logits.shape[-1])
  # A label outside of the classes still gives NaN; one that is not scored does not count below.
  own = jnp.where(labels == losses.UNSCORED, 0, labels).reshape(-1)
  each = jax.nn.softplus(-losses.log_odds(flat, own)).reshape(labels.shape)
  loss = losses.mean_over_positions(each, labels)
  return -loss - jnp.log(-jnp.expm1(-loss))


def log_odds_and_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns [B, 2], float32 or wider: φ, and 1 where the example is right, else 0."""
  phi = log_odds(logits, labels)
  return jnp.stack([phi, losses.is_correct(logits, labels).astype(phi.dtype)], axis=-1)
