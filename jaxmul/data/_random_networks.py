"""Random networks that embed inputs: what `distill` compares means under, a fresh one each step.

They are written out here, as data know no models. Kernels are drawn as He et al. do, biases are 0.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

_WIDTH = 32
_UNITS = (256, 256)
_EPSILON = 1e-5


def convolutions(key: jax.Array, inputs: jax.Array) -> jax.Array:
  """Returns features [B, F] of images [B, H, W] or [B, H, W, I] under a network of the key.

  Three times, or as often as the map has four rows and columns, a 3 × 3 convolution, a
  normalization of each channel of each image, ReLU and the mean over 2 × 2 windows. The mean of all
  of a normalized map would be nearly the same whatever the image.
  """
  x = inputs[..., None] if inputs.ndim == 3 else inputs
  for layer in jax.random.split(key, 3):
    if min(x.shape[1:3]) < 4:
      break
    x = _patches(x) @ _he(layer, (9 * x.shape[-1], _WIDTH))
    x = x - x.mean((1, 2), keepdims=True)
    x = x * lax.rsqrt(jnp.square(x).mean((1, 2), keepdims=True) + _EPSILON)
    x = _halved(jnp.maximum(x, 0))
  return x.reshape(len(x), -1)


def layers(key: jax.Array, inputs: jax.Array) -> jax.Array:
  """Returns features [B, 256] of vectors [B, D] under two dense layers of the key, with ReLU."""
  x = inputs.reshape(len(inputs), -1)
  for layer, units in zip(jax.random.split(key, len(_UNITS)), _UNITS, strict=True):
    x = jnp.maximum(x @ _he(layer, (x.shape[-1], units)), 0)
  return x


def _patches(x: jax.Array) -> jax.Array:
  """Returns the 3 × 3 pixels around each, zeros around the map: [B, H, W, I] -> [B, H, W, 9 I].

  A product with them is the convolution; XLA's own is slow in a loop on CPU, gradients above all.
  """
  height, width = x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  shifts = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
  return jnp.concatenate(shifts, -1)


def _he(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  scale = math.sqrt(2 / math.prod(shape[:-1]))
  return scale * jax.random.normal(key, shape, jnp.float32)


def _halved(x: jax.Array) -> jax.Array:
  """Returns the mean over 2 × 2 windows."""
  batch, height, width, channels = x.shape
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
