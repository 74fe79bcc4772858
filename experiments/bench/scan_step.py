"""Does a training step cost more inside `lax.scan` than called from Python?

XLA's own convolution does, 30-fold, on CPU. The network is `cnn` at batch 128 on 32 × 32 × 3
inputs; the step is the library's own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.bench.pairs import alternate
from jaxmul import _steps, models, train
from jaxmul._examples import examples_of
from jaxmul.data import Dataset

STEPS, BATCH = 20, 128
GOALS = {"scan_over_python": "at most 1.2"}


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns {"scan_over_python"}: time in the scan over time from Python."""
  rng = np.random.default_rng(0)
  count = STEPS * BATCH
  inputs = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
  examples = examples_of(Dataset(inputs, rng.integers(0, 10, count)))
  recipe = train.Recipe(models.cnn(), batch_size=BATCH, learning_rate=0.01)
  job = _steps.Job(recipe=recipe, optimizer=train.optimizer(recipe, STEPS))
  network = models.init(recipe.model, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  first = _steps.first_carry(job, network)
  batches = jnp.arange(count).reshape(STEPS, BATCH)
  step = functools.partial(_steps.step_of, job, examples, jax.random.key(1))
  number = jnp.int32(0)
  scanned = jax.jit(
    lambda carry: lax.scan(lambda c, rows: step(c, number, rows), carry, batches)[0]
  )
  single = jax.jit(lambda carry, rows: step(carry, number, rows)[0])

  def inside():
    jax.block_until_ready(scanned(first))

  def outside():
    carry = first
    for batch in batches:
      carry = single(carry, batch)
    jax.block_until_ready(carry)

  found = alternate(inside, outside, pairs=pairs, seconds=seconds)
  return {
    "scan_over_python": found["ratio"],
    "scan_step_ms": 1e3 * found["ours"] / STEPS,
    "python_step_ms": 1e3 * found["reference"] / STEPS,
  }
