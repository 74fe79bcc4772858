"""Input scaling inside the network, so that input gradients are taken in pixel space."""

import warnings

import jax
import jax.numpy as jnp


def normalize(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
  """Returns (x − mean) / std; unchanged by the defaults 0 and 1.

  Raises:
    ValueError: x are tokens, which no network of images reads.
  """
  if jnp.issubdtype(x.dtype, jnp.signedinteger):
    raise ValueError(
      f"a network of images got {x.dtype} inputs, which are tokens. Pass pixels as uint8, numbers "
      "as float32."
    )
  if not any(mean) and all(value == 1 for value in std):
    return x
  by_channel = (*(1,) * (x.ndim - 1), -1)  # as x has ranks: some users forbid other broadcasting
  center, scale = (jnp.asarray(values, x.dtype).reshape(by_channel) for values in (mean, std))
  return (x - center) / scale


def channels_last(x: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
  """Returns normalized images as [B, H, W, I]; grey ones [B, H, W] get I = 1.

  Warns where the second axis looks like channels, as in PyTorch.
  """
  if x.ndim == 4 and x.shape[1] in (1, 3, 4) and min(x.shape[2:]) > 4:
    warnings.warn(
      f"the network got images {list(x.shape)} and reads them as [B, H, W, channels]; they look "
      "like [B, channels, H, W]. Transpose them: images.transpose(0, 2, 3, 1).",
      stacklevel=1,  # the same place for all, so that Python says it once
    )
  x = normalize(x, mean, std)
  return x[..., None] if x.ndim == 3 else x
