"""Multi-layer perceptron on flattened images."""

import flax.linen as nn
import jax
from jax.typing import DTypeLike

from jaxmul import _check
from jaxmul.models._dense import dense
from jaxmul.models._initializers import he_normal, lecun_normal
from jaxmul.models._normalize import normalize


class MLP(nn.Module):
  """Dense layers with ReLU between them. See `mlp`."""

  widths: tuple[int, ...] = (256, 256)
  num_classes: int = 10
  mean: tuple[float, ...] = (0.0,)
  std: tuple[float, ...] = (1.0,)
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = normalize(x, self.mean, self.std)
    x = x.reshape(x.shape[0], -1)
    for width in self.widths:
      x = nn.relu(dense(width, kernel_init=he_normal, dtype=self.dtype)(x))
    return dense(self.num_classes, kernel_init=lecun_normal, dtype=self.dtype)(x)


def mlp(
  widths: tuple[int, ...] = (256, 256),
  num_classes: int = 10,
  *,
  mean: tuple[float, ...] = (0.0,),
  std: tuple[float, ...] = (1.0,),
  dtype: DTypeLike | None = None,
) -> MLP:
  """Returns a Linen MLP: images [B, ...] -> logits [B, C].

  Args:
    widths: units of each hidden layer; on 28 × 28 digits the default has 269,322 weights.
    num_classes: C.
    mean, std: per channel of the inputs, or one for all: the network sees (x − mean) / std.
    dtype: type to compute in, such as `jnp.bfloat16`; params stay float32.

  Example:
    >>> mlp((64,)).widths
    (64,)
  """
  return MLP(
    _check.widths(widths, "widths", "mlp"),
    num_classes,
    mean=tuple(mean),
    std=tuple(std),
    dtype=dtype,
  )
