"""Is a program ready for an accelerator? What can be known of that without having one.

Five programs of resnet18 at CIFAR-10's shapes (`programs`): a training step, a step of NegGrad+,
GraND, curvature, and the many models of a ground truth. Each is

- exported for CPU, CUDA and TPU, yes or no;
- traced with the code of accelerators, not that of CPUs (the two differ in convolutions), for its
  FLOPs beside those that its layers need;
- lowered: what talks to the host is named;
- compiled for CPU with that code, for the bytes it accesses and the memory it takes; collectives
  are named, of the many models on eight simulated devices. Another compiler fuses in another way:
  these bytes are estimates.

What a loop carries should change in place: `in_place` says whether XLA gives a step's network and
optimizer the memory of those before, if it may. Times on named devices are in `peaks`: predictions.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.export
from jax import lax
from jax.extend.core import Jaxpr

from experiments.bench import lowered, peaks, products, programs
from experiments.bench.programs import Program, Sizes
from experiments.bench.workers import told
from jaxmul import _flops, models

PLATFORMS = ("cpu", "cuda", "tpu")
GOALS = {
  "exports": "yes for each platform",
  "over_needed": "at most 1.01: FLOPs of the program over those that its layers need",
  "host": "nothing",
  "collectives": "none",
  "in_place": "true where a loop carries",
}
ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
}


def whole() -> Sizes:
  """The sizes of docs/accelerators.md."""
  return Sizes(
    module=models.resnet18(),
    layers=products.resnet18(10),
    batch=256,
    examples=50_000,
    epochs=30,
    width=4,
  )


def small() -> Sizes:
  """Sizes for a check of the check."""
  return Sizes(
    module=models.cnn((4, 8), 16),
    layers=products.cnn((4, 8), 16, 10, size=8),
    batch=8,
    examples=80,
    epochs=2,
    width=2,
    image=8,
  )


def measure(pairs: int, seconds: float) -> dict[str, Any]:
  """Returns {program: what was seen} and predictions; short samples look at a small `cnn`."""
  del pairs
  sizes = ("small",) if seconds < 10 else ()
  seen = told("-m", "experiments.bench.readiness", *sizes, **ENVIRONMENT)
  return {"programs": seen, "predictions": {name: predicted(one) for name, one in seen.items()}}


def look_at(program: Program) -> dict[str, Any]:
  """Returns what can be known of a program."""
  exported = {platform: exports(program, platform) for platform in PLATFORMS}
  traced = as_accelerator(program)
  jaxpr, made = traced.jaxpr.jaxpr, traced.lower()
  flops, content = _flops.products(jaxpr), lowered.read(made)
  compiled: Any = made.compile()  # for CPU it has all of these
  memory = compiled.memory_analysis()
  accessed = compiled.cost_analysis()["bytes accessed"]
  carried = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.arguments[0]))
  inside = lowered.compiled_collectives(compiled.as_text())
  return {
    "exports": exported,
    "flops": flops,
    "flops_needed": program.flops,
    "over_needed": flops / program.flops,
    "bytes_accessed": None if repeats(jaxpr) else accessed,  # of a loop its body counts once
    "largest_value": content.largest,
    "arguments": memory.argument_size_in_bytes,
    "temporary": memory.temp_size_in_bytes,
    "host": content.host,
    "collectives": sorted({*content.collectives, *inside}),
    "in_place": memory.alias_size_in_bytes >= carried if program.carries else None,
  }


def exports(program: Program, platform: str) -> str:
  """Returns "yes", or why a program does not lower for a platform."""
  try:
    jax.export.export(jax.jit(_fresh(program)), platforms=(platform,))(*program.arguments)
  except Exception as error:  # whatever JAX raises is the answer
    return f"no: {error}".splitlines()[0]
  return "yes"


def as_accelerator(program: Program) -> jax.stages.Traced:
  """Returns a program traced with the branches that other platforms than CPU take."""
  donated = (0,) if program.carries else ()
  with _default_branches():
    return jax.jit(_fresh(program), donate_argnums=donated).trace(*program.arguments)


def repeats(jaxpr: Jaxpr) -> bool:
  """Whether products are in a loop that is gone round more than once."""
  for equation in _flops.used_equations(jaxpr):
    name, inner = equation.primitive.name, list(_flops.programs_in(equation))
    loops = name == "while" or (name == "scan" and equation.params["length"] > 1)
    if loops and any(_flops.products(part, turns=1) for part in inner):
      return True
    if any(map(repeats, inner)):
      return True
  return False


def _fresh(program: Program):
  """The function as one that JAX has not traced before: it would not trace it anew."""
  return lambda *arguments: program.function(*arguments)


@contextlib.contextmanager
def _default_branches() -> Iterator[None]:
  def default_branch(*arguments, default, **others):
    del others
    return default(*arguments)

  with mock.patch.object(lax, "platform_dependent", default_branch):
    yield


def predicted(seen: dict[str, Any]) -> dict[str, Any]:
  """Returns {device: predicted milliseconds, and whether the memory is enough}."""
  needs = seen["arguments"] + seen["temporary"]
  return {
    name: {
      "float32_ms": 1e3 * peaks.seconds(seen["flops_needed"], device),
      "bfloat16_ms": 1e3 * peaks.seconds(seen["flops_needed"], device, bfloat16=True),
      "bytes_ms": seen["bytes_accessed"]
      and 1e3 * peaks.seconds_of_bytes(seen["bytes_accessed"], device),
      "fits": needs < 1e9 * device.gigabytes,
    }
    for name, device in peaks.DEVICES.items()
  }


def line(name: str, seen: dict[str, Any]) -> str:
  """Returns what was seen as a line of a Markdown table; see `HEAD`."""
  accessed = seen["bytes_accessed"]
  cells = (
    name,
    ", ".join(
      platform if said == "yes" else f"not {platform}" for platform, said in seen["exports"].items()
    ),
    f"{seen['flops'] / 1e9:,.0f}",
    f"{seen['over_needed']:.4f}",
    "–" if accessed is None else f"{accessed / 1e9:.3g}",
    f"{seen['largest_value'] / 1e9:.3g}",
    f"{seen['arguments'] / 1e9:.3g} + {seen['temporary'] / 1e9:.3g}",
    ", ".join([*seen["host"], *seen["collectives"]]) or "none",
    {True: "yes", False: "no", None: "–"}[seen["in_place"]],
  )
  return f"| {' | '.join(cells)} |"


HEAD = (
  "| program | exports for | GFLOP | over needed | GB accessed | largest value, GB "
  "| arguments + temporary, GB | host, collectives | in place |"
)


def main() -> None:
  """Looks at all programs; a table goes to stderr, JSON to stdout."""
  sizes = small() if sys.argv[1:] == ["small"] else whole()
  print(HEAD, file=sys.stderr)
  seen = {}
  for name, program in programs.all_of(sizes).items():
    seen[name] = look_at(program)
    print(line(name, seen[name]), file=sys.stderr, flush=True)
  print(file=sys.stderr)
  print(f"| predicted | GFLOP | {' | '.join(peaks.DEVICES)} |", file=sys.stderr)
  for name, one in seen.items():
    print(peaks.row(name, one["flops_needed"]), file=sys.stderr)
  print(json.dumps(seen))


if __name__ == "__main__":
  main()
