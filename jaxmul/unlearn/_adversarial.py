"""What attacks on inputs and on features share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def norms(x: jax.Array) -> jax.Array:
  """Returns the Euclidean norms [B, 1, …, 1] of x [B, ...], in its own dtype."""
  return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))


def ascended(total: Callable[[jax.Array], jax.Array], x: jax.Array, length: jax.Array) -> jax.Array:
  """Returns x [B, ...] after a step of this length, for each example, up the gradient of a sum."""
  gradient = jax.grad(total)(x)
  return x + length * gradient / jnp.maximum(norms(gradient), 1e-30)


def likeliest_wrong(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the class int32 [B] of the largest logit that is not the label's.

  Example:
    >>> import jax.numpy as jnp
    >>> likeliest_wrong(jnp.array([[5.0, 1.0, 2.0]]), jnp.array([0])).tolist()
    [2]
  """
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  return jnp.argmax(jnp.where(is_label, -jnp.inf, logits), axis=-1).astype(jnp.int32)
