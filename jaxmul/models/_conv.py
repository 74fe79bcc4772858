"""A 2-D convolution that is fast on CPU: in `lax.scan`, over models, for per-example gradients.

XLA's CPU convolution falls to a naive loop for its weight gradient inside a `while`, and to grouped
convolutions under `vmap` over kernels. Here, on CPU, the convolution and both its gradients are
matrix products, which `vmap` turns into batched products; elsewhere XLA's own convolution is used.
The rule is written once, so the numbers are the same under every transform.

With stride 1 a product of [kw·I] by [kw·I, kh·O] gives what an input row sends to each of kh output
rows, where it is added up: kw·I + kh·O numbers a pixel are copied, not the kh·kw·I of a patch. A
larger stride would send most rows in vain, so there patches are multiplied.

Forward-mode differentiation alone (`jax.jvp`, `jax.jacfwd`) does not go through a custom VJP;
forward over reverse (`jax.hessian`, Hessian-vector products) and reverse over reverse do.

Shapes: x [B, H, W, I], kernel [kh, kw, I, O], y [B, H', W', O]. Zeros are added as PyTorch adds
them, ⌊k/2⌋ on both sides: with stride 2 on an even size, "SAME" padding is one pixel off.
"""

import functools
import math
import os
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn import initializers
from jax.typing import DTypeLike

from jaxmul import _sharding
from jaxmul._arrays import wide_dtype, widened
from jaxmul.models._initializers import he_normal

_CACHED_NUMBERS = 2**17  # half a megabyte of copies
_SHARED_NUMBERS = 2**21  # 8 megabytes


class Conv(nn.Module):
  """Convolution [B, H, W, I] -> [B, H', W', features], with ⌊k/2⌋ zeros on every side.

  Attributes:
    features: O.
    kernel_size: kh = kw = k.
    stride: H' = ⌈H / stride⌉ where k is odd.
    use_bias: whether to add a bias [O].
    kernel_init: initializer of the kernel [kh, kw, I, O].
    dtype: type to compute in, or None for the type of the input; params are float32.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  use_bias: bool = True
  kernel_init: Callable[..., jax.Array] = he_normal
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
    # float32 by name: where float64 is enabled, initializers would make params of that.
    kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
    zeros, wide = initializers.zeros, (self.features,)
    bias = self.param("bias", zeros, wide, jnp.float32) if self.use_bias else None
    x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
    # In a caller's shard_map the rule below sees, and returns, arrays of one kind.
    x, kernel = _sharding.local(x, kernel), _sharding.local(kernel, x)
    y: jax.Array = conv(self.stride, x, kernel)  # pyright: ignore[reportAssignmentType]
    if bias is None:
      return y
    # In float32 or wider: the gradient of a bias is a sum over all pixels of all images.
    wide = widened(y)
    return (wide + bias.astype(wide.dtype).reshape(1, 1, 1, -1)).astype(y.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def conv(stride: int, x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Returns the convolution of x [B, H, W, I], padded by ⌊k/2⌋, with kernel [kh, kw, I, O]."""
  return _convolve(stride, x, kernel)


def _convolve(stride, x, kernel):
  return lax.platform_dependent(
    x,
    kernel,
    cpu=functools.partial(_product, stride),
    default=functools.partial(_xla, stride),
  )


def _forward(stride, x, kernel):
  # Not `conv` itself: a Hessian-vector product differentiates this rule forward.
  return _convolve(stride, x, kernel), (x, kernel)


def _backward(stride, residual, g):
  return lax.platform_dependent(
    *residual,
    g,
    cpu=functools.partial(_product_gradients, stride),
    default=functools.partial(_xla_gradients, stride),
  )


conv.defvjp(_forward, _backward)


def padding_of(size: tuple[int, ...]) -> list[tuple[int, int]]:
  """Returns the zeros before and after rows and columns for a kernel of size (kh, kw)."""
  return [(k // 2, k // 2) for k in size]


def _xla(stride, x, kernel):
  padding, layout = padding_of(kernel.shape[:2]), ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)


def _xla_gradients(stride, x, kernel, g):
  return jax.vjp(functools.partial(_xla, stride), x, kernel)[1](g)


def _product(stride, x, kernel):
  """Returns the convolution, in blocks of images."""
  count = _block(stride, x, kernel)
  if count == len(x):
    return _block_product(stride, x, kernel)
  blocks = x.reshape(-1, count, *x.shape[1:])
  y = lax.map(lambda block: _block_product(stride, block, kernel), blocks)
  return y.reshape(len(x), *y.shape[2:])


def _product_gradients(stride, x, kernel, g):
  """Returns (∂x, ∂kernel), in blocks of images."""
  count = _block(stride, x, kernel)
  if count == len(x):
    d_x, d_kernel = _block_gradients(stride, x, kernel, g)
    return d_x, d_kernel.astype(kernel.dtype)
  blocks = [array.reshape(-1, count, *array.shape[1:]) for array in (x, g)]

  def add(total, block):
    d_x, d_kernel = _block_gradients(stride, block[0], kernel, block[1])
    return total + d_kernel, d_x

  zeros = jnp.zeros_like(kernel, wide_dtype(kernel.dtype))
  d_kernel, d_x = lax.scan(add, _sharding.local(zeros, x), tuple(blocks))
  return d_x.reshape(x.shape), d_kernel.astype(kernel.dtype)


def _block(stride, x, kernel):
  """Returns how many images are worked on at a time.

  One thread is bound by the bytes that it copies: a small block's stay in its own cache, a third
  faster. Several threads share each product, and small ones keep them waiting; but tens of
  megabytes would come from the system anew each time, page by page, at half the speed.
  """
  aim = _CACHED_NUMBERS if os.environ.get("PJRT_NPROC") == "1" else _SHARED_NUMBERS
  height, width, inputs, outputs = kernel.shape
  if stride == 1:
    numbers = math.prod(x.shape[1:3]) * (width * inputs + height * outputs)
  else:
    positions = math.prod(-(-length // stride) for length in x.shape[1:3])
    numbers = positions * height * width * inputs
  most = max(1, aim // numbers)
  count = math.gcd(1 << (most.bit_length() - 1), len(x))
  return count if 4 * count * numbers >= aim else len(x)


def _block_product(stride, x, kernel):
  return _of_rows(x, kernel) if stride == 1 else _of_patches(stride, x, kernel)


def _block_gradients(stride, x, kernel, g):
  """Returns (∂x, ∂kernel in float32 or wider); ∂x adds up what each tap sends to its inputs."""
  if stride == 1:
    return _gradients_of_rows(x, kernel, g)
  return _gradients_of_patches(stride, x, kernel, g)


def _of_rows(x, kernel):
  wide, height = wide_dtype(x.dtype), len(kernel)
  sent = jnp.dot(_rows(x, kernel), _row_matrix(kernel), preferred_element_type=wide)
  offsets = [-offset for offset in _offsets(height)]
  length = x.shape[1] + 1 - height % 2  # an even kernel has a row more
  return _added(sent, 1, offsets, 1, length).astype(x.dtype)


def _gradients_of_rows(x, kernel, g):
  (height, width, inputs, outputs), wide = kernel.shape, wide_dtype(kernel.dtype)
  # [B, H, W', kh·O]: what each row of x reaches, by the last row of the kernel first.
  beyond = height - 1 - height // 2
  g = image_patches(g, (height, 1), 1, [(beyond, beyond), (0, 0)])
  d_kernel = _over_pixels(_rows(x, kernel), g, wide)
  d_kernel = d_kernel.reshape(width, inputs, height, outputs).transpose(2, 0, 1, 3)[::-1]
  sent = jnp.dot(g, _row_matrix(kernel[::-1]).T, preferred_element_type=wide)
  return _added(sent, 2, _offsets(width), 1, x.shape[2]).astype(x.dtype), d_kernel


def _rows(x, kernel):
  """Returns what a row of the kernel sees, [B, H, W', kw·I]."""
  size = kernel.shape[:2]
  return image_patches(x, (1, size[1]), 1, [(0, 0), padding_of(size)[1]])


def _row_matrix(kernel):
  """Returns [kw·I, kh·O], the kernel as what `_rows` is multiplied by."""
  height, width, inputs, outputs = kernel.shape
  return kernel.transpose(1, 2, 0, 3).reshape(width * inputs, height * outputs)


def _of_patches(stride, x, kernel):
  size = kernel.shape[:2]
  patches = image_patches(x, size, stride, padding_of(size))
  return jnp.dot(patches, kernel.reshape(-1, kernel.shape[-1]))


def _gradients_of_patches(stride, x, kernel, g):
  size, wide = kernel.shape[:2], wide_dtype(kernel.dtype)
  patches = image_patches(x, size, stride, padding_of(size))
  d_kernel = _over_pixels(patches, g, wide).reshape(kernel.shape)
  # [B, H', W', kh·kw·I], then rows and columns one after the other: long runs, so fast copies.
  sent = jnp.dot(g, kernel.reshape(-1, kernel.shape[3]).T, preferred_element_type=wide)
  for axis in (1, 2):
    sent = _added(sent, axis, _offsets(size[axis - 1]), stride, x.shape[axis])
  return sent.astype(x.dtype), d_kernel


def _over_pixels(a, b, dtype):
  """Returns Σ a bᵀ over images, rows and columns: [B, H, W, M], [B, H, W, N] -> [M, N]."""
  pixels = ((0, 1, 2), (0, 1, 2))
  return lax.dot_general(a, b, (pixels, ((), ())), preferred_element_type=dtype)


def _offsets(taps):
  """Returns where each tap of a kernel looks, from the pixel that it is for."""
  return [tap - taps // 2 for tap in range(taps)]


def _added(sent, axis, offsets, stride, length):
  """Returns Σ over taps: the last axis holds one part a tap, each put at its offset on an axis."""
  parts = jnp.split(sent, len(offsets), axis=-1)
  pairs = zip(parts, offsets, strict=True)
  return functools.reduce(
    jnp.add, [_shifted(part, axis, offset, stride, length) for part, offset in pairs]
  )


def _shifted(part, axis, offset, stride, length):
  """Returns zeros of a length along an axis, with row p of `part` at offset + stride · p."""
  edges = [(0, 0, 0)] * part.ndim
  after = length - offset - stride * (part.shape[axis] - 1) - 1
  edges[axis] = (offset, after, stride - 1)
  return lax.pad(part, jnp.zeros((), part.dtype), edges)


def image_patches(x, size, stride, padding):
  """Returns [B, H', W', kh·kw·I]: for each output pixel the inputs that its kernel sees.

  Columns first, then rows: the second copy, of most of the bytes, is in runs of kw·I numbers.
  """
  if size == (1, 1) and stride == 1 and not any(low or high for low, high in padding):
    return x
  zero = jnp.zeros((), x.dtype)
  x = lax.pad(x, zero, ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)))
  for axis in (2, 1):
    last = x.shape[axis] - size[axis - 1]
    x = jnp.concatenate(
      [
        lax.slice_in_dim(x, tap, tap + last + 1, stride, axis=axis) for tap in range(size[axis - 1])
      ],
      axis=-1,
    )
  return x


def max_pool(x: jax.Array) -> jax.Array:
  """Returns the maximum over 2 × 2 windows: [B, H, W, I] -> [B, H // 2, W // 2, I].

  Two pairwise maxima: their gradient is cheap on CPU, that of a window reduction is not.
  """
  batch, height, width, channels = x.shape
  if min(height, width) < 2:
    raise ValueError(
      f"max_pool got a map of {height} × {width}, must be at least 2 × 2. "
      "Use larger images or fewer layers."
    )
  x = x[:, : height // 2 * 2, : width // 2 * 2]
  x = x.reshape(batch, height // 2, 2, -1, channels)
  x = jnp.maximum(x[:, :, 0], x[:, :, 1])
  x = x.reshape(batch, height // 2, width // 2, 2, channels)
  return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])
