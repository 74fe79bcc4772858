"""What does a step of unlearning take on GPT-2's real size, 124 million params, on a CPU?

Random weights, two sequences of 64 tokens to be forgotten and two to be kept, one step of each
algorithm. Each is a process of its own, which tells the seconds of a second run (the first
compiles) and the peak of its memory, JAX, weights and compiling included.
"""

import json

from experiments.bench.workers import told

ALGORITHMS = (
  *("fine_tune", "neg_grad_plus", "npo", "simnpo", "dpo", "wga", "ce_u", "undial", "rmu"),
  *("task_vector", "eul"),
)
GOALS = {f"gigabytes_of_{name}": "below 8" for name in ALGORITHMS}
WORK = """
import json, sys, time
import jax, jax.numpy as jnp, numpy as np
from experiments.bench import machine
from jaxmul import models, unlearn
from jaxmul.data import Dataset, Split

name, size = sys.argv[1], json.loads(sys.argv[2])
model = models.gpt(tied=True, **size)
tokens = np.random.default_rng(0).integers(0, model.num_classes, (4, 65)).astype(np.int32)
text = Dataset(tokens[:, :-1], tokens[:, 1:], num_classes=model.num_classes)
network = models.init(model, jax.random.key(0), text.example)
split = Split(forget=text.ids[:2], retain=text.ids[2:])
rate = {"learning_rate": 1e-4}
if name == "rmu":
  unlearner = unlearn.rmu(models.features(model, f"blocks_{model.depth // 2}"), **rate)
elif name == "dpo":
  unlearner = unlearn.dpo(Dataset(tokens[:2, :-1], tokens[2:, 1:]), **rate)
else:
  unlearner = getattr(unlearn, name)(**rate)
for _ in range(2):
  start = time.perf_counter()
  again = unlearn.run(
    unlearner, network, text, split, jax.random.key(1), epochs=1, batch_size=2)
  jax.block_until_ready(again.params)
  seconds = time.perf_counter() - start
moved = max(
  float(jnp.abs(a - b).max())
  for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(network.params)))
params = sum(leaf.size for leaf in jax.tree.leaves(network.params))
gigabytes = machine.memory("VmHWM") / 2**30
print(json.dumps({"seconds": seconds, "gigabytes": gigabytes, "params": params, "moved": moved}))
"""


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns seconds and gigabytes of a step of each algorithm, and the number of params."""
  del pairs
  size = {"num_classes": 50257, "length": 1024, "width": 768, "depth": 12, "heads": 12}
  if seconds < 10:
    size = {"num_classes": 61, "length": 64, "width": 32, "depth": 2, "heads": 2}
  figures: dict[str, float] = {}
  for name in ALGORITHMS:
    found = told("-c", WORK, name, json.dumps(size))
    if not found["moved"] > 0:
      raise RuntimeError(f"a step of {name} left the network as it was.")
    figures |= {f"{what}_of_{name}": found[what] for what in ("seconds", "gigabytes")}
    figures["params"] = found["params"]
  return figures
