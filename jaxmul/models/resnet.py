"""ResNet-18 with the CIFAR stem (3 × 3, no max-pool), BatchNorm or GroupNorm.

References:
  He et al., [Deep Residual Learning](https://arxiv.org/abs/1512.03385), 2015.
"""

import functools
import math
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxmul.models._conv import Conv
from jaxmul.models._initializers import lecun_normal
from jaxmul.models._normalize import normalize


class ResNet(nn.Module):
  """Basic-block ResNet for 32 × 32 images. See `resnet18`."""

  blocks: tuple[int, ...] = (2, 2, 2, 2)
  width: int = 64
  num_classes: int = 10
  norm: Literal["batch", "group"] = "batch"
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, mask: jax.Array | None = None) -> jax.Array:
    norm = functools.partial(self._norm, train, mask)
    x = normalize(x, self.mean, self.std)
    if x.ndim == 3:
      x = x[..., None]
    x = nn.relu(norm("norm")(Conv(self.width, use_bias=False, dtype=self.dtype, name="stem")(x)))
    for stage, size in enumerate(self.blocks):
      for block in range(size):
        stride = 2 if stage and not block else 1
        x = self._block(x, norm, self.width << stage, stride, f"stage{stage}_block{block}")
    head = nn.Dense(self.num_classes, kernel_init=lecun_normal, dtype=self.dtype, name="head")
    return head(x.mean((1, 2)))

  def _block(self, x, norm, channels, stride, name):
    conv = functools.partial(Conv, channels, use_bias=False, dtype=self.dtype)
    y = nn.relu(norm(f"{name}_norm1")(conv(stride=stride, name=f"{name}_conv1")(x)))
    y = norm(f"{name}_norm2")(conv(name=f"{name}_conv2")(y))
    if x.shape != y.shape:
      x = conv(kernel_size=1, stride=stride, name=f"{name}_shortcut")(x)
      x = norm(f"{name}_shortcut_norm")(x)
    return nn.relu(x + y)

  def _norm(self, train, mask, name):
    if self.norm == "group":
      return nn.GroupNorm(
        num_groups=math.gcd(32, self.width), epsilon=1e-5, dtype=self.dtype, name=name
      )
    layer = nn.BatchNorm(
      use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=name
    )
    # Padding rows must not enter the statistics.
    return functools.partial(layer, mask=None if mask is None else mask[:, None, None, None])


def resnet18(
  num_classes: int = 10,
  *,
  width: int = 64,
  norm: Literal["batch", "group"] = "batch",
  mean: tuple[float, ...] = (0.0,),
  std: tuple[float, ...] = (1.0,),
  dtype: Any = None,
) -> ResNet:
  """Returns a Linen ResNet-18: images [B, 32, 32, I] -> logits [B, C].

  With the default width and 10 classes it has 11,173,962 weights, as the papers' network.

  Args:
    num_classes: C.
    width: channels of the first stage; the papers' is 64.
    norm: "batch" (momentum 0.9 in flax's meaning, epsilon 1e-5) or "group" (32 groups, or as many
      of them as divide the width; epsilon 1e-5).
    mean, std: per input channel, or one for all: the network sees (x − mean) / std.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.

  Raises:
    ValueError: `norm` is neither of the two.

  Example:
    >>> resnet18(width=8).blocks
    (2, 2, 2, 2)
  """
  if norm not in ("batch", "group"):
    raise ValueError(f"resnet18 needs norm 'batch' or 'group', got {norm!r}.")
  return ResNet((2, 2, 2, 2), width, num_classes, norm, tuple(mean), tuple(std), dtype)
