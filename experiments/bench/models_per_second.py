"""How many models of a ground truth does this machine train in a second?

Ours is `retraining`'s default on CPU, one single-threaded process per core, from the public
executor: each sample starts its processes anew, leaves out their first chunks (start-up and
compilation, reported as `*_startup_seconds`) and counts whole rounds of chunks after them.
References, each in processes of its own, which wait while others are measured:

- naive: one jitted model after another in one process (`retraining.serial`, XLA's own threads);
- torch: PyTorch's hand-tuned loop, one single-threaded process per core;
- torch_loop: the same loop in one process with all cores.

All train the demo's recipe (10 epochs, batch 64, SGD with momentum and weight decay, cosine by
epoch) on random 70 % of the training data and predict all of it. `mlp` is 784-256-256-10 on 3,500
digits of mnist5k; `cnn` is on the 4,000 training images of cifar10_small. A cnn is trained for 2
epochs only, and counts as its share of a whole model, see `many_models`.

`mlp_gemm_fraction`: 2mnk of all products of a model, times models per second, over the rate of
concurrent single-threaded products of 1024³ float32, one process per core.
"""

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments import setting
from experiments.bench import products, torch_training
from experiments.bench.many_models import EPOCHS, Task
from experiments.bench.workers import Work, Workers
from jaxmul import data, models, retraining

CHUNK_SIZES = {"mlp": 8, "cnn": 1}  # of our samples
GOALS = {
  "mlp_over_naive": "at least 2.5",
  "mlp_over_torch": "at least 1.5",
  "mlp_gemm_fraction": "at least 0.75",
  "cnn_over_torch": "at least 1.0",
}
# Read when the first product runs: one thread whatever the size of the machine.
ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "NPROC": "1"}


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns the figures; without the shared images those of the cnn are left out."""
  digits = data.mnist5k()
  kept = data.holdout(digits, jax.random.key(0), heldout=500, test=1000).train
  mlp = Task(
    name="mlp", model=models.mlp(), dataset=digits.take(kept), batch_size=64, epochs=EPOCHS
  )
  figures = compare(mlp, pairs, seconds)
  try:
    images = setting.cifar10("train")
  except FileNotFoundError as error:
    print(f"models_per_second: no figures of the cnn: {error}", file=sys.stderr)
    return figures
  cnn = Task(name="cnn", model=models.cnn(), dataset=images, batch_size=64, epochs=2)
  return figures | compare(cnn, pairs, seconds)


def compare(task: Task, pairs: int, seconds: float) -> dict[str, float]:
  """Measures ours and the references in turn, the order reversed from pair to pair."""
  cores = len(os.sched_getaffinity(0))
  startups: list[float] = []
  training = task.training()
  with (
    Workers(naive, task) as one,
    Workers(torch_training.loop, training, 1, count=cores) as processes,
    Workers(torch_training.loop, training, cores) as plain,
    Workers(square, count=cores, environment=ONE_THREAD) as peak,
  ):
    contenders: dict[str, Callable[[], float]] = {
      "ours": lambda: steady(task, cores, seconds, startups),
      "naive": lambda: one.rate(seconds),
      "torch": lambda: processes.rate(seconds),
      "torch_loop": lambda: plain.rate(seconds),
      "peak": lambda: 2 * 1024**3 * peak.rate(seconds),
    }
    if task.name != "mlp":
      del contenders["peak"]
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for pair in range(pairs):
      for name in list(contenders)[:: -1 if pair % 2 else 1]:
        rates[name].append(contenders[name]())
        print(f"{task.name}, pair {pair + 1}: {name} {rates[name][-1]:.4g} /s", file=sys.stderr)

  figures = {f"{task.name}_startup_seconds": statistics.median(startups)}
  if peak_rates := rates.pop("peak", None):
    speed = [mlp_operations(task) * rate for rate in rates["ours"]]
    figures["mlp_gemm_fraction"] = middle(speed, peak_rates)
    figures["gemm_gflops"] = statistics.median(peak_rates) / 1e9
  for name, of_pairs in rates.items():
    whole = task.share() * statistics.median(of_pairs)
    figures[f"{task.name}_{name}_models_per_second"] = whole
    if name != "ours":
      figures[f"{task.name}_over_{name}"] = middle(rates["ours"], of_pairs)
  return figures


def middle(ours: list[float], reference: list[float]) -> float:
  """Returns the median over pairs of ours over the reference."""
  return statistics.median(a / b for a, b in zip(ours, reference, strict=True))


def steady(task: Task, cores: int, seconds: float, startups: list[float]) -> float:
  """Returns our models per second, and adds the seconds before the steady state was reached.

  The first chunk of each process is left out. After them, chunks are counted in whole rounds, one
  for each process, so that both ends of the sample fall on the same process's chunk.
  """
  chunk_size = CHUNK_SIZES[task.name]
  schedule = task.schedule(chunk_size)
  start = time.perf_counter()
  # A generator, as the default executor is: closing it ends the processes.
  chunks: Any = retraining.processes()(schedule, range(schedule.num_chunks))
  for _ in itertools.islice(chunks, cores):
    pass
  first = time.perf_counter()
  passed, done = 0.0, 0
  while passed < seconds:
    for _ in itertools.islice(chunks, cores):
      done += 1
    passed = time.perf_counter() - first
  chunks.close()
  rate = done * chunk_size / passed
  startups.append(first - start - cores * chunk_size / rate)
  return rate


def naive(task: Task) -> Work:
  """Returns the work of one model, by the same jitted function in this one process."""
  schedule = task.schedule(1)
  return lambda number: next(iter(retraining.serial(schedule, [number % schedule.num_chunks])))


def square() -> Work:
  """Returns the work of one product of 1024³."""
  multiply = jax.jit(jnp.matmul)
  a = jax.random.normal(jax.random.key(0), (1024, 1024))
  return lambda number: jax.block_until_ready(multiply(a, a))


def mlp_operations(task: Task) -> int:
  """Returns 2mnk summed over the products that a model of the mlp needs."""
  inputs, classes = task.dataset.inputs[0].size, task.dataset.num_classes
  layers = products.mlp(task.model.widths, classes, inputs=inputs)
  trained, judged = task.schedule(1).subset_size, len(task.dataset)
  return products.whole_model(layers, trained, task.epochs, judged)
