"""BatchNorm as the papers use it; padding rows never enter its statistics."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax.typing import DTypeLike


def batch_norm(
  name: str, train: bool, mask: jax.Array | None, dtype: DTypeLike | None
) -> Callable[[jax.Array], jax.Array]:
  """Returns a layer on x [B, H, W, I], with momentum 0.9 in flax's meaning and epsilon 1e-5.

  Args:
    name: of the layer.
    train: whether to use, and update, the statistics of the batch.
    mask: bool [B], False where a row is padding, or None.
    dtype: type to compute in; params and statistics stay float32.
  """
  layer = nn.BatchNorm(
    use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
  )
  where = None if mask is None else mask[:, None, None, None]
  return lambda x: layer(x, mask=where)
