"""A plain vision transformer: fixed positions, no class token, the mean of all tokens at the end.

Without learned positions and class token every param belongs to a layer, so that per-example
gradient norms cost one backward pass.

References:
  Dosovitskiy et al., [An Image is Worth 16 × 16 Words](https://arxiv.org/abs/2010.11929), 2020;
  Beyer et al., [Better plain ViT baselines](https://arxiv.org/abs/2205.01580), 2022.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmul.models import _dense, _remat
from jaxmul.models._initializers import he_normal, lecun_normal
from jaxmul.models._normalize import channels_last


class ViT(nn.Module):
  """Pre-norm transformer over patches. See `vit`."""

  patch: int = 8
  width: int = 384
  depth: int = 12
  heads: int = 6
  num_classes: int = 200
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)
  dtype: DTypeLike | None = None
  remat: bool = dataclasses.field(default=False, metadata={"later": True})

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = channels_last(x, self.mean, self.std)
    dense = functools.partial(_dense.dense, kernel_init=lecun_normal, dtype=self.dtype)
    x = dense(self.width, name="embedding")(_patches(x, self.patch))
    batch, rows, columns, width = x.shape
    x = (x + jnp.asarray(_positions(rows, columns, width), x.dtype)).reshape(batch, -1, width)
    for block in range(self.depth):
      x = _remat.block(ViT._block, self.remat, self, x, dense, f"block{block}")
    return dense(self.num_classes, name="head")(self._norm("norm")(x).mean(1))

  def _block(self, x, dense, name):
    tokens = self._norm(f"{name}_norm1")(x)
    tokens = dense(3 * self.width, name=f"{name}_qkv")(tokens)
    q, k, v = jnp.moveaxis(tokens.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
    seen = jax.nn.dot_product_attention(q, k, v)
    x = x + dense(self.width, name=f"{name}_out")(seen.reshape(x.shape))
    y = self._norm(f"{name}_norm2")(x)
    y = nn.gelu(dense(4 * self.width, kernel_init=he_normal, name=f"{name}_dense1")(y))
    return x + dense(self.width, name=f"{name}_dense2")(y)

  def _norm(self, name):
    return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)


def _patches(x, size):
  """Returns the pixels of each patch: [B, H, W, I] -> [B, H / size, W / size, size² I]."""
  batch, height, width, channels = x.shape
  if height % size or width % size:
    raise ValueError(
      f"vit got images of {height} × {width}, which patches of {size} do not divide. "
      "Use another patch=, or crop the images."
    )
  x = x.reshape(batch, height // size, size, width // size, size, channels)
  return x.swapaxes(2, 3).reshape(batch, height // size, width // size, -1)


def _positions(rows, columns, width):
  """Sines and cosines of row and column at width / 4 wavelengths each: [rows, columns, width]."""
  rates = 1e4 ** -(np.arange(width // 4) / max(1, width // 4 - 1))
  angles = [np.arange(count)[:, None] * rates for count in (rows, columns)]
  vertical, horizontal = (np.concatenate([np.sin(a), np.cos(a)], -1) for a in angles)
  shape = (rows, columns, 2 * (width // 4))
  return np.concatenate(
    [np.broadcast_to(vertical[:, None], shape), np.broadcast_to(horizontal, shape)], -1
  )


def vit(
  num_classes: int = 200,
  *,
  patch: int = 8,
  width: int = 384,
  depth: int = 12,
  heads: int = 6,
  mean: tuple[float, ...] = (0.0,),
  std: tuple[float, ...] = (1.0,),
  dtype: DTypeLike | None = None,
  remat: bool = False,
) -> ViT:
  """Returns a Linen vision transformer: images [B, H, W, I] -> logits [B, C].

  The default is a ViT-S of 8 × 8 patches, for 64 × 64 images: 21,445,448 weights with 200 classes.

  Args:
    num_classes: C.
    patch: side of a patch in pixels; divides H and W.
    width: of a token; `heads` and 4 divide it.
    depth: blocks.
    heads: of each attention.
    mean, std: per input channel, or one for all: the network sees (x − mean) / std.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.
    remat: compute what is inside a block again in the backward pass: less memory,
      more time; XLA for CPUs undoes it. Names of params and numbers are the same.

  Raises:
    ValueError: `width` is not a multiple of `heads` and of 4; when called, if `patch` does not
      divide the images.

  References:
    Beyer et al., [Better plain ViT baselines](https://arxiv.org/abs/2205.01580), 2022.

  Example:
    >>> vit(width=16, depth=2, heads=2).depth
    2
  """
  if width % heads or width % 4:
    raise ValueError(
      f"vit got width={width} and heads={heads}; heads and 4 must divide the width. Use width="
      f"{math.lcm(heads, 4) * -(-width // math.lcm(heads, 4))}."
    )
  return ViT(
    patch=patch,
    width=width,
    depth=depth,
    heads=heads,
    num_classes=num_classes,
    mean=tuple(mean),
    std=tuple(std),
    dtype=dtype,
    remat=remat,
  )
