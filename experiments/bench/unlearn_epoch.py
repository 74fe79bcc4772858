"""An epoch of NegGrad+ and one of SCRUB against PyTorch's, on the same network and data.

The network is `mlp` on 3,500 digits-sized images, 240 of them to be forgotten, batch 64. Ours is
the epoch that `unlearn.run` runs: order, batches, updates, one program. PyTorch's is a loop as its
users write it, on all cores, with the data in memory as one tensor, SGD of its own, and for SCRUB
the teacher's outputs computed once, as ours are. An epoch of SCRUB passes over S and then over R.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import one_epoch
from experiments.bench.pairs import alternate
from jaxmul import models, unlearn
from jaxmul.data import Dataset

COUNT, FORGET, BATCH, SHAPE, CLASSES = 3500, 240, 64, (28, 28), 10
GOALS = {"neg_grad_plus_over_torch": "at least 1.0", "scrub_over_torch": "at least 1.0"}


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns speeds of ours over PyTorch's, milliseconds of an epoch, and seconds of the first."""
  from experiments.bench import unlearn_torch

  rng = np.random.default_rng(0)
  images = rng.uniform(size=(COUNT, *SHAPE)).astype(np.float32)
  labels = rng.integers(0, CLASSES, COUNT)
  network = models.init(models.mlp(), jax.random.key(0), jnp.asarray(images[:1]))
  scrub = unlearn.scrub(
    gamma=unlearn_torch.GAMMA,
    beta=unlearn_torch.BETA,
    temperature=unlearn_torch.TEMPERATURE,
    msteps=10**6,
  )
  figures = {}
  for name, algorithm in (
    ("neg_grad_plus", unlearn.neg_grad_plus(alpha=unlearn_torch.ALPHA)),
    ("scrub", scrub),
  ):
    data = Dataset(images, labels)
    ours = one_epoch.ours(algorithm, network, data, forget=FORGET, batch_size=BATCH)
    start = time.perf_counter()
    ours()
    compiling = time.perf_counter() - start
    theirs = unlearn_torch.epoch(name, images, labels, forget=FORGET, batch_size=BATCH)
    timed = alternate(ours, theirs, pairs=pairs, seconds=seconds)
    figures |= {
      f"{name}_over_torch": 1 / timed["ratio"],
      f"{name}_epoch_ms": 1e3 * timed["ours"],
      f"{name}_torch_epoch_ms": 1e3 * timed["reference"],
      f"{name}_first_epoch_s": compiling,
    }
  return figures
