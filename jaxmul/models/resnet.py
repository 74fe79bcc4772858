"""ResNet-8, -18 and -50 with the stem for CIFAR or for ImageNet, BatchNorm or GroupNorm.

References:
  He et al., [Deep Residual Learning](https://arxiv.org/abs/1512.03385), 2015.
"""

import dataclasses
import functools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmul.models import _remat
from jaxmul.models._batch_norm import batch_norm
from jaxmul.models._conv import Conv
from jaxmul.models._dense import dense
from jaxmul.models._initializers import lecun_normal
from jaxmul.models._normalize import channels_last

Stem = Literal["cifar", "imagenet"]


class ResNet(nn.Module):
  """ResNet of basic or bottleneck blocks. See `resnet8`, `resnet18` and `resnet50`."""

  blocks: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  num_classes: int = 10
  norm: Literal["batch", "group"] = "batch"
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)
  dtype: DTypeLike | None = None
  bottleneck: bool = False
  stem: Stem = "cifar"
  remat: bool = dataclasses.field(default=False, metadata={"later": True})

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
    norm = functools.partial(self._norm, train, mask)
    x = channels_last(x, self.mean, self.std)
    size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
    conv = Conv(self.width, size, stride, use_bias=False, dtype=self.dtype, name="stem")
    x = nn.relu(norm("norm")(conv(x)))
    x = _halved(x) if self.stem == "imagenet" else x
    for stage, count in enumerate(self.blocks):
      for block in range(count):
        stride = 2 if stage and not block else 1
        settings = self.width << stage, stride, f"stage{stage}_block{block}"
        x = _remat.block(ResNet._block, self.remat, self, x, train, mask, *settings)
    head = dense(self.num_classes, kernel_init=lecun_normal, dtype=self.dtype, name="head")
    return head(x.mean((1, 2)))

  def _block(self, x, train, mask, channels, stride, name):
    norm = functools.partial(self._norm, train, mask)
    # (channels, kernel size, stride) of each convolution.
    layers = ((channels, 3, stride), (channels, 3, 1))
    if self.bottleneck:
      layers = ((channels, 1, 1), (channels, 3, stride), (4 * channels, 1, 1))
    conv = functools.partial(Conv, use_bias=False, dtype=self.dtype)
    y = x
    for i, layer in enumerate(layers, 1):
      y = norm(f"{name}_norm{i}")(conv(*layer, name=f"{name}_conv{i}")(y))
      y = nn.relu(y) if i < len(layers) else y
    if x.shape != y.shape:
      x = conv(y.shape[-1], 1, stride, name=f"{name}_shortcut")(x)
      x = norm(f"{name}_shortcut_norm")(x)
    return nn.relu(x + y)

  def _norm(self, train, mask, name):
    if self.norm == "group":
      groups = math.gcd(32, self.width)
      return nn.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=self.dtype, name=name)
    return batch_norm(name, train, mask, self.dtype)


def _halved(x: jax.Array) -> jax.Array:
  """Returns the maximum over 3 × 3 windows at every other pixel: [B, H, W, I] -> [B, ⌈H/2⌉, …].

  Around what comes from a ReLU zeros are as good as −∞. Pairwise maxima, as in `max_pool`.
  """
  height, width = x.shape[1], x.shape[2]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = [x[:, i : i + height : 2] for i in range(3)]
  x = jnp.maximum(jnp.maximum(rows[0], rows[1]), rows[2])
  columns = [x[:, :, i : i + width : 2] for i in range(3)]
  return jnp.maximum(jnp.maximum(columns[0], columns[1]), columns[2])


def resnet8(
  num_classes: int = 10,
  *,
  width: int = 16,
  mean: tuple[float, ...] = (0.0,),
  std: tuple[float, ...] = (1.0,),
  dtype: DTypeLike | None = None,
) -> ResNet:
  """Returns a small Linen ResNet with BatchNorm for CPUs: images [B, H, W, I] -> logits [B, C].

  A stem of 3 × 3 and one basic block in each of three stages, of 2, 4 and 8 times `width` channels,
  each of which halves the sides: only the stem works on whole images. For images of 32 × 32 it
  takes 23 MFLOP forward, where a ResNet-18 takes 1.1 GFLOP. Ours, not published.

  Args:
    num_classes: C.
    width: channels of the stem.
    mean, std: per input channel, or one for all: the network sees (x − mean) / std.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.

  Example:
    >>> resnet8().blocks
    (0, 1, 1, 1)
  """
  return ResNet(
    blocks=(0, 1, 1, 1),
    width=width,
    num_classes=num_classes,
    mean=tuple(mean),
    std=tuple(std),
    dtype=dtype,
  )


def resnet18(
  num_classes: int = 10,
  *,
  width: int = 64,
  norm: Literal["batch", "group"] = "batch",
  mean: tuple[float, ...] = (0.0,),
  std: tuple[float, ...] = (1.0,),
  dtype: DTypeLike | None = None,
  stem: Stem = "cifar",
  remat: bool = False,
) -> ResNet:
  """Returns a Linen ResNet-18: images [B, H, W, I] -> logits [B, C].

  With the default width and 10 classes it has 11,173,962 weights, as the papers' network.

  Args:
    num_classes: C.
    width: channels of the first stage; the papers' is 64.
    norm: "batch" (momentum 0.9 in flax's meaning, epsilon 1e-5) or "group" (32 groups, or as many
      of them as divide the width; epsilon 1e-5).
    mean, std: per input channel, or one for all: the network sees (x − mean) / std.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.
    stem: "cifar" (3 × 3, for images of 32 or 64 pixels), or "imagenet" (7 × 7 with stride 2, and a
      max-pool), as in torchvision and timm.
    remat: compute what is inside a block again in the backward pass: less memory,
      more time; XLA for CPUs undoes it. Names of params and numbers are the same.

  Raises:
    ValueError: `norm` or `stem` is neither of the two.

  Example:
    >>> resnet18(width=8).blocks
    (2, 2, 2, 2)
  """
  if norm not in ("batch", "group"):
    raise ValueError(f"resnet18 needs norm 'batch' or 'group', got {norm!r}.")
  _refuse_stem(stem, "resnet18")
  return ResNet(
    width=width,
    num_classes=num_classes,
    norm=norm,
    mean=tuple(mean),
    std=tuple(std),
    dtype=dtype,
    stem=stem,
    remat=remat,
  )


def resnet50(
  num_classes: int = 100,
  *,
  width: int = 64,
  mean: tuple[float, ...] = (0.0,),
  std: tuple[float, ...] = (1.0,),
  dtype: DTypeLike | None = None,
  stem: Stem = "cifar",
  remat: bool = False,
) -> ResNet:
  """Returns a Linen ResNet-50 with BatchNorm: images [B, H, W, I] -> logits [B, C].

  With the default width and 100 classes it has 23,705,252 weights, as the papers' network. The
  stride of a block is that of its 3 × 3 convolution, as in torchvision.

  Args:
    num_classes: C.
    width: channels of the first stage's inner convolutions; the papers' is 64.
    mean, std: per input channel, or one for all: the network sees (x − mean) / std.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.
    stem: "cifar" (3 × 3, for images of 32 or 64 pixels), or "imagenet" (7 × 7 with stride 2, and a
      max-pool), as in torchvision and timm.
    remat: compute what is inside a block again in the backward pass: less memory,
      more time; XLA for CPUs undoes it. Names of params and numbers are the same.

  Raises:
    ValueError: `stem` is neither of the two.

  Example:
    >>> resnet50(width=8).blocks
    (3, 4, 6, 3)
  """
  _refuse_stem(stem, "resnet50")
  return ResNet(
    blocks=(3, 4, 6, 3),
    width=width,
    num_classes=num_classes,
    mean=tuple(mean),
    std=tuple(std),
    dtype=dtype,
    bottleneck=True,
    stem=stem,
    remat=remat,
  )


def _refuse_stem(stem: str, caller: str) -> None:
  if stem not in ("cifar", "imagenet"):
    raise ValueError(f"{caller} needs stem 'cifar' or 'imagenet', got {stem!r}.")
