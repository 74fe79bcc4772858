"""Input scaling inside the network, so that input gradients are taken in pixel space."""

import jax
import jax.numpy as jnp


def normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
  """Returns (x − mean) / std; unchanged by the defaults 0 and 1."""
  if not any(mean) and all(value == 1 for value in std):
    return x
  return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)


def channels_last(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
  """Returns normalized images as [B, H, W, I]; grey ones [B, H, W] get I = 1."""
  x = normalize(x, mean, std)
  return x[..., None] if x.ndim == 3 else x
