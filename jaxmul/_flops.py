"""How many multiplications and additions a traced function makes in its products: nothing is run.

Counted are matrix products and convolutions, two operations for each pair of numbers that are
multiplied and added; not counted is what works on each number alone, such as ReLU, the optimizer's
update or random numbers, nor what is no `dot_general` or `conv_general_dilated`: factorizations of
matrices, ragged products, kernels of one's own. A convolution multiplies no zeros here, neither
those around an image nor those between the pixels of a gradient: it and its two gradients cost the
same. XLA's own `cost_analysis` counts a loop's body once; here a scan counts as often as it runs.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters.partial_eval import dce_jaxpr


def products(jaxpr: Jaxpr, turns: float = math.nan) -> float:
  """Returns the operations of all matrix products and convolutions whose results are used.

  What nobody uses is left out by JAX's own rules, inside loops, branches and calls too; but what a
  `while` carries counts as used. Of the branches of a `cond` the dearest counts; of
  `lax.platform_dependent`, where each backend comes to the same in its own way, the cheapest: the
  products of patches that CPUs make of a convolution hold the zeros around an image. Of a
  `shard_map` one device's share counts.

  Args:
    jaxpr: of `jax.make_jaxpr`.
    turns: how often a `while` is gone round, which nobody knows before: NaN where products are in
      one, unless a number is given.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> products(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 5))).jaxpr)
    60
  """
  return sum(_operations(equation, turns) for equation in used_equations(jaxpr))


def used_equations(jaxpr: Jaxpr) -> list[JaxprEqn]:
  """Returns the equations whose results are used: a gradient's rule may trace what nobody asks."""
  return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0].eqns


def programs_in(equation: JaxprEqn) -> Iterator[Jaxpr]:
  """Yields the programs that an equation runs, such as the body of a loop."""
  params = equation.params
  if equation.primitive.name == "custom_linear_solve":  # the others are for its derivatives
    params = {"solve": params["jaxprs"].solve}
  for value in params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if isinstance(part, ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, Jaxpr):
        yield part


def _operations(equation: JaxprEqn, turns: float) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    ((contracted, _), _) = params["dimension_numbers"]
    shape = _shape(equation.invars[0])
    return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(shape[a] for a in contracted)
  if name == "conv_general_dilated":
    return _of_convolution(equation)
  inner = [products(jaxpr, turns) for jaxpr in programs_in(equation)]
  if name == "cond":
    unknown, of_backends = any(map(math.isnan, inner)), params.get("branches_platforms")
    return math.nan if unknown else min(inner) if of_backends else max(inner)
  if name == "while" and any(inner):
    return turns * sum(inner)
  return sum(inner) * (params["length"] if name == "scan" else 1)


def _of_convolution(equation: JaxprEqn) -> int:
  params, layout = equation.params, equation.params["dimension_numbers"]
  x, kernel = (_shape(taken) for taken in equation.invars)
  y = _shape(equation.outvars[0])
  batch, features, *_ = layout.out_spec
  pairs = [
    _pairs(x[i], kernel[j], y[k], *numbers)
    for i, j, k, *numbers in zip(
      *(layout.lhs_spec[2:], layout.rhs_spec[2:], layout.out_spec[2:], params["window_strides"]),
      *(params["padding"], params["lhs_dilation"], params["rhs_dilation"]),
      strict=True,
    )
  ]
  # Of groups the kernel has its own inputs only, of batch groups the output has its own batch only.
  return 2 * y[batch] * y[features] * kernel[layout.rhs_spec[1]] * math.prod(pairs)


@functools.cache
def _pairs(length, taps, outputs, stride, padding, dilation, tap_dilation) -> int:
  """How many pairs of an output and a tap meet an input along an axis, and no zero of padding."""
  places = (
    output * stride + tap * tap_dilation - padding[0]
    for output in range(outputs)
    for tap in range(taps)
  )
  return sum(place % dilation == 0 and 0 <= place // dilation < length for place in places)


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape
