"""What only a lowered program shows, read off its StableHLO: values, host, collectives."""

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
    largest: bytes of the largest value; without fusion each operation makes one.
    host: what talks to the host, such as "custom_call xla_ffi_python_cpu_callback".
    collectives: what devices tell one another, such as "all_reduce".
  """

  largest: int
  host: tuple[str, ...]
  collectives: tuple[str, ...]


def read(lowered: Any) -> Content:
  """Returns the content of a `jax.stages.Lowered` for one platform."""
  host, collectives, largest = set(), set(), 0
  for op in _within(lowered.compiler_ir("stablehlo")):
    kind = op.operation.name.removeprefix("stablehlo.")
    largest = max([largest, *(_bytes(value.type) for value in op.operation.results)])
    if kind in COLLECTIVES:
      collectives.add(kind)
    if kind in _HOST:
      host.add(kind)
    if kind == "custom_call":
      target = str(op.operation.attributes["call_target_name"]).strip('"')
      if target not in _OWN_CALLS:
        host.add(f"custom_call {target}")
  return Content(largest=largest, host=tuple(sorted(host)), collectives=tuple(sorted(collectives)))


def compiled_collectives(text: str) -> tuple[str, ...]:
  """Returns the collectives of a compiled program's text, those that XLA has added too."""
  names = "|".join(name.replace("_", "-") for name in COLLECTIVES)
  found = re.findall(rf"\b({names})(?:-start)?\(", text)
  return tuple(sorted({name.replace("-", "_") for name in found}))


def _within(op: Any) -> Iterator[Any]:
  """Yields all operations of a program, those in loops, branches and functions too."""
  for region in op.operation.regions:
    for block in region.blocks:
      for inner in block.operations:
        yield inner
        yield from _within(inner)


def _bytes(kind: Any) -> int:
  """The bytes of `tensor<2x3xf32>`; a value that is no tensor of numbers has none."""
  shape = re.fullmatch(r"tensor<((?:\d+x)*)[^>]*>*", str(kind))
  bits = _BITS.search(str(kind).rpartition("x")[2])
  if shape is None or bits is None:
    return 0
  parts = 2 if "complex" in str(kind) else 1
  return math.prod(map(int, shape[1].split("x")[:-1])) * parts * max(1, int(bits[1]) // 8)
