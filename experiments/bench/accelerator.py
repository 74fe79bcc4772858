"""What does this accelerator do in eight minutes? On a GPU or a TPU, or small on any CPU.

- models/s of a ground truth by `retraining.devices(width)`, over widths of its `vmap`, on all local
  devices: `mlp`, `cnn` and `resnet18`, by their share of whole models, see `many_models`.
- examples/s of curvature (one probe) and GraND, and epochs/s of NegGrad+, on one device.
- the same in PyTorch for `mlp` and `cnn`, where it is installed, on its own GPU device if it sees
  one; there is no `resnet18` of it here.

Data are random. Everything runs in a process of its own, which is ended when the budget is spent:
what it has measured is kept, the rest is named under "skipped". A figure has its number of samples,
their median, the lowest and the highest. float32 products are those of JAX's default, which is TF32
on NVIDIA's newer GPUs; there it is allowed in PyTorch too.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.bench import one_epoch
from experiments.bench.many_models import Task
from experiments.bench.within import Case, measured
from jaxmul import data, models, proxies, retraining, unlearn

BUDGET, QUICK_BUDGET = 480.0, 160.0
BATCH = 256
GOALS = {"seconds": f"at most {BUDGET:.0f} and what it takes to end a process, on any machine"}
WIDTHS = {"mlp": (1, 2, 4, 8, 16, 32, 64), "cnn": (1, 2, 4, 8, 16, 32), "resnet18": (1, 2, 4, 8)}


def tasks(quick: bool) -> dict[str, Task]:
  """Returns {name: Task}; quick, two residual blocks stand in for resnet18."""
  size = {"mlp": (28, 28), "cnn": (32, 32, 3), "resnet18": (32, 32, 3)}
  count = BATCH if quick else 4000
  model = {
    "mlp": models.mlp(),
    "cnn": models.cnn(),
    "resnet18": models.ResNet((1, 1), 4) if quick else models.resnet18(),
  }
  epochs = {"mlp": 1 if quick else 10, "cnn": 1 if quick else 2, "resnet18": 1}
  made = {}
  for name, shape in size.items():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *shape)).astype(np.uint8)
    made[name] = Task(
      name=name,
      model=model[name],
      dataset=data.Dataset(images, np.arange(count) % 10),
      batch_size=256 if name == "resnet18" else 64,
      epochs=epochs[name],
    )
  return made


def measure(pairs: int, seconds: float) -> dict[str, Any]:
  """Returns {"machine", "seconds", "measured": {case: figure}, "skipped": {case: why}}."""
  quick = seconds < 10
  budget = QUICK_BUDGET if quick else BUDGET
  sample = 0.1 if quick else 1.0
  given = [str(value) for value in (pairs, sample, budget, int(quick))]
  command = [sys.executable, "-m", "experiments.bench.accelerator", *given]
  start = time.perf_counter()
  lines = list(until(command, budget))
  passed = time.perf_counter() - start
  found = {name: value for name, value in lines if name != "machine"}
  names = [f"{case.family}, {case.name}" for case in cases(quick)]
  skipped = {name: f"the {budget:.0f} s were over" for name in names if name not in found}
  skipped |= {name: one["skipped"] for name, one in found.items() if "skipped" in one}
  return {
    "machine": dict(lines).get("machine"),
    "budget_seconds": budget,
    "seconds": passed,
    "measured": {name: one for name, one in found.items() if "skipped" not in one},
    "skipped": skipped,
  }


def until(command: list[str], seconds: float) -> Iterator[tuple[str, Any]]:
  """Yields the JSON lines that a process prints; it is ended after so many seconds."""
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
      assert process.stdout is not None
      for line in process.stdout:
        with contextlib.suppress(ValueError):  # the last one may be half a line
          name, value = json.loads(line)
          yield name, value
    finally:
      timer.cancel()
      process.kill()


def cases(quick: bool) -> list[Case]:
  """Returns what is measured, the most telling first; devices are asked for when it is measured."""
  every = tasks(quick)
  cut = 2 if quick else None
  found = [
    Case(
      f"{name} models", f"width {width}", functools.partial(many_models, task, width), "models/s"
    )
    for name, task in every.items()
    for width in WIDTHS[name][:cut]
  ]
  for name in ("cnn", "resnet18"):
    for label, function in (
      ("curvature", functools.partial(proxies.curvature, num_probes=1)),
      ("GraND", proxies.grand),
    ):
      make = functools.partial(proxy, every[name], function)
      found.append(Case(f"{label} of {name}", f"batch {BATCH}", make, "examples/s"))
  for name, task in every.items():
    make = functools.partial(unlearning, task)
    found.append(Case(f"NegGrad+ of {name}", f"batch {task.batch_size}", make, "epochs/s"))
  if importlib.util.find_spec("torch") is not None:
    found += torch_cases(every)
  families = [case.family for case in found]
  places = {case: families[:i].count(case.family) for i, case in enumerate(found)}
  return sorted(found, key=places.__getitem__)


def many_models(task: Task, width: int) -> tuple[Callable[[], object], float]:
  """Chunks of the public executor, each of `width` models on every local device."""
  count = width * len(jax.local_devices())
  schedule = task.schedule(count)
  chunks = iter(retraining.devices(width)(schedule, range(schedule.num_chunks)))
  return lambda: next(chunks), count * task.share()


def proxy(task: Task, function: Callable[..., jax.Array]) -> tuple[Callable[[], object], float]:
  """A proxy of one batch, on one device."""
  network, batch = task.network(), task.dataset.take(task.dataset.ids[:BATCH]).batch()
  compiled = jax.jit(lambda network, batch: function(network, batch))
  return lambda: jax.block_until_ready(compiled(network, batch)), BATCH


def unlearning(task: Task) -> tuple[Callable[[], object], float]:
  """An epoch that forgets a sixteenth of the data, on one device."""
  forget = len(task.dataset) // 16
  epoch = one_epoch.ours(
    unlearn.neg_grad_plus(), task.network(), task.dataset, forget=forget, batch_size=task.batch_size
  )
  return epoch, 1


def torch_cases(every: dict[str, Task]) -> list[Case]:
  """Returns the same of PyTorch, on a GPU where it sees one."""
  found = []
  for name in ("mlp", "cnn"):
    make = functools.partial(torch_models, every[name])
    found.append(Case(f"PyTorch: {name} models", "one by one", make, "models/s"))
  for label in ("curvature", "grand"):
    make = functools.partial(torch_proxy, every["cnn"], label)
    found.append(Case(f"PyTorch: {label} of cnn", f"batch {BATCH}", make, "examples/s"))
  make = functools.partial(torch_unlearning, every["mlp"])
  return [*found, Case("PyTorch: NegGrad+ of mlp", "batch 64", make, "epochs/s")]


def torch_models(task: Task) -> tuple[Callable[[], object], float]:
  """Whole models by PyTorch's loop, one after another."""
  from experiments.bench import torch_training

  device, finish = _torch()
  work = torch_training.loop(task.training(), len(os.sched_getaffinity(0)), device)
  return lambda: finish(work(0)), task.share()


def torch_proxy(task: Task, name: str) -> tuple[Callable[[], object], float]:
  """A proxy of one batch in PyTorch."""
  from experiments.bench import proxies_torch

  device, finish = _torch()
  inputs, labels = task.dataset.take(task.dataset.ids[:BATCH]).batch()
  function, params = getattr(proxies_torch, name), task.network().params
  work = proxies_torch.fastest(function, params, inputs, labels, device)
  return lambda: finish(work()), BATCH


def torch_unlearning(task: Task) -> tuple[Callable[[], object], float]:
  """An epoch of NegGrad+ in PyTorch."""
  from experiments.bench import unlearn_torch

  device, finish = _torch()
  inputs, labels = task.dataset.batch()
  epoch = unlearn_torch.epoch(
    "neg_grad_plus",
    np.array(inputs),
    np.array(labels, np.int64),
    forget=len(labels) // 16,
    batch_size=task.batch_size,
    device=device,
  )
  return lambda: finish(epoch()), 1


def _torch() -> tuple[str, Callable[[object], None]]:
  """Returns PyTorch's device, and a function that waits for it."""
  import torch  # pyright: ignore[reportMissingImports]

  torch.set_float32_matmul_precision("high")
  if not torch.cuda.is_available():
    return "cpu", lambda result: None
  return "cuda", lambda result: torch.cuda.synchronize()


def machine() -> dict[str, Any]:
  """Returns what the figures depend on: device, driver, versions, flags."""
  device = jax.devices()[0]
  told = {
    "device_kind": device.device_kind,
    "platform": device.platform,
    "devices": len(jax.local_devices()),
    "platform_version": device.client.platform_version,
    "jax": jax.__version__,
    "jaxlib": importlib.metadata.version("jaxlib"),
    "default_matmul_precision": jax.config.values["jax_default_matmul_precision"],
    "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
    "cores": len(os.sched_getaffinity(0)),
  }
  for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
    told[name] = os.environ.get(name)
  if shutil.which("nvidia-smi"):
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    told["nvidia"] = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
  if importlib.util.find_spec("torch") is not None:
    import torch  # pyright: ignore[reportMissingImports]

    told |= {"torch": torch.__version__, "torch_cuda": torch.version.cuda}
  return told


def main() -> None:
  """Measures all cases, a JSON line for each as soon as it is known."""
  repeats, seconds, budget, quick = map(float, sys.argv[1:])
  print(json.dumps(("machine", machine())), flush=True)
  for name, figure in measured(
    cases(bool(quick)), repeats=int(repeats), seconds=seconds, budget=budget
  ):
    print(json.dumps((name, figure)), flush=True)
    print(f"{name}: {figure}", file=sys.stderr)


if __name__ == "__main__":
  main()
