"""Do time and memory grow with the number of sequences, and stay small for a small gpt?

Windows of real prose. Each sample is a process of its own, which tells the CPU seconds of a second
call (the first compiles) and the peak of its memory. `train` is an epoch with learning events,
`grand` ghost norms, each of n and of 2 n sequences in alternation; `grand_memory_of_fourfold` is
the peak of 10,240 sequences over that of 2,560. `gigabytes_of_10m` is the peak of a process in
which a gpt of ten million params trains (AdamW, 32 sequences of 64 tokens a step) and is scored by
learning events, ghost norms and curvature.
"""

import statistics

from experiments.bench.workers import told

GOALS = {
  "train_of_double": "1.8 to 2.2",
  "grand_of_double": "1.8 to 2.2",
  "grand_memory_of_fourfold": "about 1",
  "gigabytes_of_10m": "below 2",
}
SEQUENCES = 2560  # whole batches of `proxies.score`
WORK = """
import functools, json, sys, time
import jax, optax
from experiments.bench import machine
from jaxmul import data, models, proxies, train

what, count, width, depth = sys.argv[1], *map(int, sys.argv[2:])
prose = data.text(data.english_prose(), length=64, stride=32)
prose = data.repeated(prose, prose.ids, -(-count // len(prose)))
prose = prose.take(prose.ids[:count])
model = models.gpt(256, length=64, width=width, depth=depth)
recipe = train.Recipe(
  model, epochs=1, batch_size=32, learning_rate=1e-3,
  optimizer=functools.partial(optax.adamw, weight_decay=0.1))
network = models.init(model, jax.random.key(0), prose.example)

def fit():
  events = {"": proxies.trackers.learning_events()}
  train.fit(recipe, prose, jax.random.key(0), trackers=events)

def of(name):
  return lambda: proxies.score(getattr(proxies, name), network, prose)

works = {"train": [fit], "grand": [of("grand")], "all": [fit, of("grand"), of("curvature")]}
for work in works[what]:
  work()
start = time.process_time()
if what != "all":
  works[what][0]()
seconds = time.process_time() - start
params = sum(leaf.size for leaf in jax.tree.leaves(network.params))
gigabytes = machine.memory("VmHWM") / 2**30
print(json.dumps({"seconds": seconds, "gigabytes": gigabytes, "params": params}))
"""


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns a figure for each goal, and the size of the largest network."""
  quick = seconds < 10
  count = 200 if quick else SEQUENCES
  figures = {}
  for what in ("train", "grand"):
    samples = []
    for pair in range(pairs):
      order = (count, 2 * count)[:: 1 if pair % 2 else -1]
      found = {size: _run(what, size, 128, 2)["seconds"] for size in order}
      samples.append(found[2 * count] / found[count])
    figures[f"{what}_of_double"] = statistics.median(samples)
  few, many = (_run("grand", size, 128, 2)["gigabytes"] for size in (count, 4 * count))
  large = _run("all", 64, 64, 2) if quick else _run("all", 256, 320, 8)
  return figures | {
    "grand_memory_of_fourfold": many / few,
    "gigabytes_of_10m": large["gigabytes"],
    "params_of_10m": large["params"],
  }


def _run(what: str, *sizes: int) -> dict[str, float]:
  """Returns what a process says that does `what` on some sequences, with a gpt of some size."""
  return told("-c", WORK, what, *map(str, sizes))
