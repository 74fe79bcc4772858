"""How many multiplications and additions a traced function makes in its products: nothing is run.

Counted are matrix products and convolutions, two operations for each pair of numbers that are
multiplied and added; not counted is what works on each number alone, such as ReLU, the optimizer's
update or random numbers. XLA's own `cost_analysis` counts a loop's body once; here a scan counts as
often as it runs.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var


def products(jaxpr: Jaxpr, turns: float = math.nan) -> float:
  """Returns the operations of all matrix products and convolutions whose results are used.

  Of the branches of a `cond` the dearest counts: of a convolution that each backend computes in its
  own way, all cost the same. Zeros around an image count, those between the pixels of a gradient
  do not.

  Args:
    jaxpr: of `jax.make_jaxpr`.
    turns: how often a `while` is gone round, which nobody knows before: NaN where products are in
      one, unless a number is given.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> products(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 5))).jaxpr)
    60
  """
  used = {out for out in jaxpr.outvars if isinstance(out, Var)}
  total = 0
  for equation in reversed(jaxpr.eqns):
    # What is not used is in no compiled program: a gradient's rule may trace its forward pass.
    if not equation.effects and used.isdisjoint(equation.outvars):
      continue
    used.update(taken for taken in equation.invars if isinstance(taken, Var))
    total += _operations(equation, turns)
  return total


def _operations(equation: JaxprEqn, turns: float) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    ((contracted, _), _) = params["dimension_numbers"]
    shape = _shape(equation.invars[0])
    return 2 * _size(equation) * math.prod(shape[axis] for axis in contracted)
  if name == "conv_general_dilated":
    _, *summed = params["dimension_numbers"].rhs_spec
    kernel = _shape(equation.invars[1])
    taps = math.prod(kernel[axis] for axis in summed)
    return 2 * _size(equation) * taps / math.prod(params["lhs_dilation"])
  inner = [products(jaxpr, turns) for jaxpr in _within(params)]
  if name == "cond":
    return max(inner)
  if name == "while" and any(inner):
    return turns * sum(inner)
  return sum(inner) * (params["length"] if name == "scan" else 1)


def _size(equation: JaxprEqn) -> int:
  return math.prod(_shape(equation.outvars[0]))


def _shape(variable: Any) -> tuple[int, ...]:
  return variable.aval.shape


def _within(params: dict) -> Iterator[Jaxpr]:
  """Yields the programs that an equation holds, such as the body of a loop."""
  for value in params.values():
    for part in value if isinstance(value, tuple | list) else (value,):
      if isinstance(part, ClosedJaxpr):
        yield part.jaxpr
      elif isinstance(part, Jaxpr):
        yield part
