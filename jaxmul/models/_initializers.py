"""Normal initial weights by table: the same bits on every machine, and quick to compile.

Weights are drawn from 4,096 equally likely quantiles of a normal truncated at two standard
deviations. A formula for them is rounded differently where XLA cuts the loop differently, by
number of cores or devices; a table look-up is not. Drawn flat, because XLA compiles random arrays
of high rank slowly on CPU: half a minute for a ResNet-18.
"""

import functools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np

_QUANTILES = 2**12


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
  """Returns weights [..., I, O] of variance 2 / fan-in, truncated at two standard deviations."""
  return _normal(key, shape, dtype, 2.0)


def lecun_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
  """Returns weights [..., I, O] of variance 1 / fan-in, truncated at two standard deviations."""
  return _normal(key, shape, dtype, 1.0)


def small_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
  """Returns weights of standard deviation 0.01, truncated at two standard deviations."""
  return _normal(key, shape, dtype, 1e-4 * math.prod(shape[:-1]))


def scaled_normal(
  key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32, *, std: float
) -> jax.Array:
  """Returns weights of a given standard deviation, truncated at two of them."""
  return _normal(key, shape, dtype, std**2 * math.prod(shape[:-1]))


def _normal(key, shape, dtype, gain):
  fan_in = math.prod(shape[:-1])
  scaled = (math.sqrt(gain / fan_in) * _table()).astype(np.float32)
  drawn = jax.random.bits(key, (math.prod(shape),), jnp.uint16) % _QUANTILES
  return jnp.asarray(scaled, dtype)[drawn].reshape(shape)


@functools.cache
def _table() -> np.ndarray:
  """Quantiles of the truncated normal at the centres of equal shares, of variance 1."""
  normal = statistics.NormalDist()
  low, high = normal.cdf(-2), normal.cdf(2)
  shares = low + (np.arange(_QUANTILES) + 0.5) / _QUANTILES * (high - low)
  quantiles = np.array([normal.inv_cdf(share) for share in shares])
  return quantiles / quantiles.std()
