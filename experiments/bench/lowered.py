"""What a lowered program holds, read off its StableHLO: products, values, host, collectives.

A product is a `dot_general` or a `convolution`; each multiply-add of it is 2 FLOPs. What is
multiplied by a zero of padding or dilation is no work and is not counted, so that a convolution and
its two gradients are equal. The body of a loop counts as often as it runs, which
`Compiled.cost_analysis` does not do. Of branches the longest counts.
"""

import functools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

COLLECTIVES = (
  *("all_reduce", "all_gather", "all_to_all", "reduce_scatter"),
  *("collective_permute", "collective_broadcast"),
)
_HOST = ("infeed", "outfeed", "send", "recv")
# Kernels and marks of the device itself. Any other custom call is reported: it may be the host's.
_OWN_CALLS = (
  *("Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"),
  *("cu_threefry2x32", "cu_threefry2x32_ffi", "xla.sdy.GlobalToLocalShape"),
  "xla.sdy.LocalToGlobalShape",
)
_BITS = re.compile(r"(?:[suif]+|bf|ui)(\d+)")


class Content(NamedTuple):
  """What a program holds.

  Attributes:
    flops: of all products.
    loops: whether a loop runs more than once around products.
    largest: bytes of the largest value; without fusion each operation makes one.
    host: what talks to the host, such as "custom_call xla_ffi_python_cpu_callback".
    collectives: what devices tell one another, such as "all_reduce".
  """

  flops: int
  loops: bool
  largest: int
  host: tuple[str, ...]
  collectives: tuple[str, ...]


def read(lowered: Any) -> Content:
  """Returns the content of a `jax.stages.Lowered` for one platform.

  Raises:
    ValueError: a loop around products runs as often as the data say.
  """
  module = lowered.compiler_ir("stablehlo")
  functions = {_text(op, "sym_name"): op for op in _operations(module.operation)}
  host, collectives, largest, looped = set(), set(), 0, False

  @functools.cache
  def of_function(name: str) -> int:
    return of_regions(functions[name])

  def of_regions(op) -> int:
    return sum(flops(inner) for inner in _operations(op))

  def flops(op) -> int:
    nonlocal largest, looped
    kind = op.operation.name.removeprefix("stablehlo.")
    largest = max([largest, *(_bytes(value.type) for value in op.operation.results)])
    if kind in COLLECTIVES:
      collectives.add(kind)
    if kind in _HOST:
      host.add(kind)
    if kind == "custom_call" and _text(op, "call_target_name") not in _OWN_CALLS:
      host.add(f"custom_call {_text(op, 'call_target_name')}")
    if kind in ("func.call", "call"):
      return of_function(_text(op, "callee").removeprefix("@"))
    if kind == "while":
      body = of_regions(op)
      turns = _turns(op) if body else 1
      looped = looped or turns > 1
      return turns * body
    if kind in ("case", "if"):
      return max(sum(map(flops, _of_region(region))) for region in op.operation.regions)
    if kind == "dot_general":
      return _of_dot(op)
    if kind == "convolution":
      return _of_convolution(op)
    return of_regions(op)

  total = of_function("main")
  return Content(
    flops=total,
    loops=looped,
    largest=largest,
    host=tuple(sorted(host)),
    collectives=tuple(sorted(collectives)),
  )


def compiled_collectives(text: str) -> tuple[str, ...]:
  """Returns the collectives of a compiled program's text, those that XLA has added too."""
  names = "|".join(name.replace("_", "-") for name in COLLECTIVES)
  found = re.findall(rf"\b({names})(?:-start)?\(", text)
  return tuple(sorted({name.replace("-", "_") for name in found}))


def _operations(op) -> Iterator[Any]:
  for region in op.operation.regions:
    yield from _of_region(region)


def _of_region(region) -> Iterator[Any]:
  for block in region.blocks:
    yield from block.operations


def _text(op, name: str) -> str:
  return str(op.operation.attributes[name]).strip('"')


def _shape(kind: Any) -> list[int]:
  """The shape of `tensor<2x3xf32>`; a value that is no tensor has none."""
  inside = re.fullmatch(r"tensor<((?:\d+x)*)[^>]*>*", str(kind))
  return [int(size) for size in inside[1].split("x")[:-1]] if inside else []


def _bytes(kind: Any) -> int:
  found = _BITS.search(str(kind).rpartition("x")[2])
  return math.prod(_shape(kind)) * max(1, int(found[1]) // 8) if found else 0


def _numbers(op, name: str, default: list[int]) -> list[int]:
  """An array attribute, flat; `dense<1>` stands for as many as the default has."""
  if name not in op.operation.attributes:
    return default
  values = _text(op, name).partition(": tensor")[0].partition("i64")[2] or _text(op, name)
  found = [int(number) for number in re.findall(r"-?\d+", values.partition(" : ")[0])]
  return found * len(default) if len(found) == 1 else found


def _of_dot(op) -> int:
  contracted = re.search(
    r"lhs_contracting_dimensions = \[([\d, ]*)\]", _text(op, "dot_dimension_numbers")
  )
  axes = re.findall(r"\d+", contracted[1]) if contracted else []
  left = _shape(op.operation.operands[0].type)
  products = math.prod(left[int(axis)] for axis in axes)
  return 2 * products * math.prod(_shape(op.operation.results[0].type))


def _of_convolution(op) -> int:
  layout = re.search(r"<\[(.*)\]x\[(.*)\]->\[(.*)\]>", _text(op, "dimension_numbers"))
  assert layout is not None
  x, kernel, y = (
    dict(zip(names.split(", "), _shape(value.type), strict=True))
    for names, value in zip(
      layout.groups(), [*op.operation.operands, *op.operation.results], strict=True
    )
  )
  axes = sorted(name for name in x if name.isdigit())
  ones = [1] * len(axes)
  strides, dilations, taps = (
    _numbers(op, name, ones) for name in ("window_strides", "lhs_dilation", "rhs_dilation")
  )
  padding = _numbers(op, "padding", [0] * 2 * len(axes))
  pairs = [
    _pairs(x[axis], kernel[axis], y[axis], strides[i], padding[2 * i], dilations[i], taps[i])
    for i, axis in enumerate(axes)
  ]
  # Of groups the kernel has its own inputs only, of batch groups the output has its own batch only.
  return 2 * y["b"] * y["f"] * kernel["i"] * math.prod(pairs)


@functools.cache
def _pairs(length, taps, outputs, stride, low, dilation, tap_dilation) -> int:
  """How many pairs of an output and a tap meet an input, not padding or a gap of dilation."""
  places = (
    output * stride + tap * tap_dilation - low for output in range(outputs) for tap in range(taps)
  )
  return sum(place % dilation == 0 and 0 <= place // dilation < length for place in places)


def _turns(loop) -> int:
  """How often a loop runs: those of `lax.scan`, `map` and `fori_loop` count up to a constant."""
  *_, test, end = _of_region(loop.operation.regions[0])
  outcome = end.operation.operands[0]
  if test.operation.name == "stablehlo.compare" and outcome == test.operation.results[0]:
    counter, limit = test.operation.operands
    block = loop.operation.regions[0].blocks[0]
    places = [i for i, argument in enumerate(block.arguments) if argument == counter]
    if places and "LT" in _text(test, "comparison_direction"):
      first = _constant(loop.operation.operands[places[0]])
      last = _constant(limit, loop)
      if first is not None and last is not None:
        return max(0, last - first)
  raise ValueError("a loop around products runs as often as the data say: its FLOPs are not known.")


def _constant(value, loop=None) -> int | None:
  owner = value.owner
  if not hasattr(owner, "attributes"):  # an argument: of the loop it is what the loop began with
    block = None if loop is None else loop.operation.regions[0].blocks[0]
    places = [] if block is None else [i for i, a in enumerate(block.arguments) if a == value]
    return _constant(loop.operation.operands[places[0]]) if loop is not None and places else None
  if owner.name != "stablehlo.constant":
    return None
  found = re.match(r"dense<(-?\d+)>", _text(owner, "value"))
  return int(found[1]) if found else None
