"""VGG-16 with BatchNorm and the small classifier that RUM's code gives it.

References:
  Simonyan & Zisserman, [Very Deep Convolutional Networks](https://arxiv.org/abs/1409.1556), 2014.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmul.models import _dense, _remat
from jaxmul.models._batch_norm import batch_norm
from jaxmul.models._conv import Conv, max_pool
from jaxmul.models._initializers import small_normal
from jaxmul.models._normalize import channels_last


class VGG(nn.Module):
  """Stages of 3 × 3 convolutions with BatchNorm, each ended by a max-pool. See `vgg16`."""

  stages: tuple[tuple[int, ...], ...]
  hidden: tuple[int, ...] = (256, 256)
  num_classes: int = 200
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)
  dtype: DTypeLike | None = None
  remat: bool = dataclasses.field(default=False, metadata={"later": True})

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
    x = channels_last(x, self.mean, self.std)
    for stage, sizes in enumerate(self.stages):
      for i, channels in enumerate(sizes):
        names = f"stage{stage}_conv{i}", f"stage{stage}_norm{i}"
        x = _remat.block(VGG._block, self.remat, self, x, train, mask, channels, names)
      x = max_pool(x)
    x = _halves(_halves(x, 1), 2)
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # PyTorch's order: its weights fit
    # Small initial weights, as in torchvision and in RUM's code: from He's, at the papers' rate of
    # 0.1, three of the first five networks of `experiments.paper tiny_imagenet --smoke` diverged.
    dense = functools.partial(_dense.dense, kernel_init=small_normal, dtype=self.dtype)
    for i, width in enumerate(self.hidden):
      x = nn.relu(dense(width, name=f"dense{i}")(x))
    return dense(self.num_classes, name="head")(x)

  def _block(self, x, train, mask, channels, names):
    conv, norm = names
    x = Conv(channels, use_bias=False, dtype=self.dtype, name=conv)(x)
    return nn.relu(batch_norm(norm, train, mask, self.dtype)(x))


def _halves(x, axis):
  """Returns the means of the two halves of an axis, which share the middle of an odd one."""
  length = x.shape[axis]
  low, _ = jnp.split(x, [-(-length // 2)], axis)
  _, high = jnp.split(x, [length // 2], axis)
  return jnp.stack([low.mean(axis), high.mean(axis)], axis)


def vgg16(
  num_classes: int = 200,
  *,
  width: int = 64,
  mean: tuple[float, ...] = (0.0,),
  std: tuple[float, ...] = (1.0,),
  dtype: DTypeLike | None = None,
  remat: bool = False,
) -> VGG:
  """Returns a Linen VGG-16 with BatchNorm: images [B, H, W, I] of 32 pixels or more -> [B, C].

  The network of RUM's code for Tiny-ImageNet: convolutions without bias, features averaged to
  2 × 2 (64 × 64 images end there by themselves), hidden layers of 256 and 256. With the default
  width and 200 classes it has 15,360,648 weights.

  Args:
    num_classes: C.
    width: channels of the first stage; the papers' is 64.
    mean, std: per input channel, or one for all: the network sees (x − mean) / std.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.
    remat: compute what is inside a block (convolution, norm, ReLU) again in the backward pass: less
      memory, more time; XLA for CPUs undoes it. Names of params and numbers are the same.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> vgg16(width=8).stages
    ((8, 8), (16, 16), (32, 32, 32), (64, 64, 64), (64, 64, 64))
  """
  stages = ((1,) * 2, (2,) * 2, (4,) * 3, (8,) * 3, (8,) * 3)
  channels = tuple(tuple(width * multiple for multiple in stage) for stage in stages)
  return VGG(
    channels,
    num_classes=num_classes,
    mean=tuple(mean),
    std=tuple(std),
    dtype=dtype,
    remat=remat,
  )
