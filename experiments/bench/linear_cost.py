"""Does the cost of a ground truth grow as its models do, and nothing else?

Whole runs of `memorization.estimate` with the default executor (`mlp`, the demo's recipe, on
mnist5k), each in a process of its own, with one and with two shares of models in alternation. CPU
seconds count all workers and their start too; programs come from a compile cache that a first run
has filled. The wall-clock part that does not grow is the intercept of the line through both; memory
is the peak of the process that adds up the chunks.
"""

import statistics
import tempfile
import time

from experiments.bench.workers import told

GOALS = {"cpu_of_double": "1.7 to 2.3", "fixed_seconds": "below 10", "memory_of_double": "about 1"}
MODELS = 60
WORK = """
import json, resource, sys, time, warnings
import jax
from experiments.bench import machine
from jaxmul import data, memorization, models, retraining, train
if __name__ == "__main__":
  warnings.simplefilter("ignore")
  digits = data.mnist5k()
  recipe = train.Recipe(models.mlp(), epochs=10, batch_size=64, learning_rate=0.05)
  schedule = retraining.leave_out(
    recipe, digits, jax.random.key(0), num_models=int(sys.argv[1]))
  memorization.estimate(schedule)
  own, workers = (resource.getrusage(who) for who in
                  (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
  print(json.dumps({"cpu": own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime,
                    "peak": machine.memory("VmHWM")}))
"""


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns {"cpu_of_double", "fixed_seconds", "memory_of_double"}."""
  models = MODELS if seconds >= 10 else 8
  samples = []
  with tempfile.TemporaryDirectory() as cache:
    _run(2, cache)
    for pair in range(pairs):
      order = (models, 2 * models)[:: 1 if pair % 2 else -1]
      found = {count: _run(count, cache) for count in order}
      samples.append((found[models], found[2 * models]))

  def median(function):
    return statistics.median(function(one, two) for one, two in samples)

  return {
    "cpu_of_double": median(lambda one, two: two["cpu"] / one["cpu"]),
    "fixed_seconds": median(lambda one, two: 2 * one["wall"] - two["wall"]),
    "memory_of_double": median(lambda one, two: two["peak"] / one["peak"]),
  }


def _run(models: int, cache: str) -> dict[str, float]:
  variables = {
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }
  start = time.perf_counter()
  found = told("-c", WORK, str(models), **variables)
  return found | {"wall": time.perf_counter() - start}
