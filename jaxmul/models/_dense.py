"""A dense layer whose bias gets a gradient that is added up in float32, whatever it computes in."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike

from jaxmul._arrays import wide_dtype


def dense(
  features: int,
  *,
  kernel_init: Callable[..., Any],
  dtype: DTypeLike | None,
  use_bias: bool = True,
  name: str | None = None,
) -> Callable[[jax.Array], jax.Array]:
  """Returns an `nn.Dense` of x [..., I] -> [..., features], within a compact method.

  The bias is added in float32 or wider, before y is rounded: added in bfloat16, its gradient would
  be a sum of bfloat16 numbers over all examples and positions, which stalls.

  Args:
    features: O.
    kernel_init: initializer of the kernel [I, O].
    dtype: type to compute in, and of y; None is that of x or float32. Params are float32.
    use_bias: whether to add a bias [O].
    name: of the layer; None is Linen's own.
  """
  layer = nn.Dense(
    features,
    kernel_init=kernel_init,
    dtype=dtype,
    use_bias=use_bias,
    name=name,
    promote_dtype=_but_the_bias,
  )
  return lambda x: layer(x) if dtype is None else layer(x).astype(dtype)


def table_dtype(
  *arrays: jax.Array | None, dtype: Any = None, inexact: bool = True
) -> list[jax.Array | None]:
  """Returns the table of an `nn.Embed` as it is where rows are read; as Linen where it is a head.

  Rows are cast once they are read: read from a bfloat16 table, each would get a gradient that is
  a sum of bfloat16 numbers over all of its tokens.
  """
  return list(arrays) if len(arrays) == 1 else promote_dtype(*arrays, dtype=dtype, inexact=inexact)


def _but_the_bias(
  *arrays: jax.Array | None, dtype: Any = None, inexact: bool = True
) -> list[jax.Array | None]:
  x, kernel, bias = arrays
  if bias is None or dtype is None:
    return promote_dtype(*arrays, dtype=dtype, inexact=inexact)
  low = promote_dtype(x, kernel, dtype=dtype, inexact=inexact)
  return [*low, bias.astype(wide_dtype(dtype))]
