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

from experiments.bench.pairs import alternate
from jaxmul import models, unlearn
from jaxmul._examples import examples_of
from jaxmul.data import Dataset
from jaxmul.unlearn._passes import Sets, walk_over
from jaxmul.unlearn.running import _epoch

COUNT, FORGET, BATCH, SHAPE, CLASSES = 3500, 240, 64, (28, 28), 10
ALPHA, GAMMA, BETA, TEMPERATURE = 0.97, 0.99, 0.001, 4.0
GOALS = {"neg_grad_plus_over_torch": "at least 1.0", "scrub_over_torch": "at least 1.0"}


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns speeds of ours over PyTorch's, milliseconds of an epoch, and seconds of the first."""
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(COUNT, *SHAPE)).astype(np.float32)
  labels = rng.integers(0, CLASSES, COUNT)
  network = models.init(models.mlp(), jax.random.key(0), jnp.asarray(images[:1]))
  figures = {}
  for name, algorithm in (
    ("neg_grad_plus", unlearn.neg_grad_plus(alpha=ALPHA)),
    ("scrub", unlearn.scrub(gamma=GAMMA, beta=BETA, temperature=TEMPERATURE, msteps=10**6)),
  ):
    ours, compiling = _ours(algorithm, network, images, labels)
    timed = alternate(ours, _torch(name, images, labels), pairs=pairs, seconds=seconds)
    figures |= {
      f"{name}_over_torch": 1 / timed["ratio"],
      f"{name}_epoch_ms": 1e3 * timed["ours"],
      f"{name}_torch_epoch_ms": 1e3 * timed["reference"],
      f"{name}_first_epoch_s": compiling,
    }
  return figures


def _ours(algorithm, network, images, labels):
  """Returns one epoch as a function, and the seconds of the first one, compilation included."""
  data = Dataset(images, labels)
  sets = Sets(
    *(examples_of(data).subset(rows, COUNT) for rows in np.split(np.arange(COUNT), [FORGET]))
  )
  session = unlearn.Session(*sets, epochs=1, batch_size=BATCH, key=jax.random.key(1))
  state = algorithm.init(network, session)
  walk = walk_over(algorithm.passes, BATCH, (FORGET, COUNT - FORGET))

  def epoch():
    jax.block_until_ready(
      _epoch(algorithm, walk, sets, (network, state), jax.random.key(2), jnp.int32(0))
    )

  start = time.perf_counter()
  epoch()
  return epoch, time.perf_counter() - start


def _torch(name, images, labels):
  """Returns one epoch of the same algorithm in PyTorch as a function."""
  import torch  # pyright: ignore[reportMissingImports]
  from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

  from experiments.bench import torch_training

  network = torch_training.mlp()
  x, y = torch.from_numpy(images).flatten(1), torch.from_numpy(labels)
  optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
  with torch.no_grad():
    teacher = F.softmax(network(x) / TEMPERATURE, dim=1)

  def divergence(logits, rows):
    student = F.log_softmax(logits / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(student, teacher[rows], reduction="batchmean")

  def step(loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

  def batches(low, high):
    return (low + torch.randperm(high - low)).split(BATCH)

  def neg_grad_plus():
    forget = batches(0, FORGET)
    for index, rows in enumerate(batches(FORGET, COUNT)):
      other = forget[index % len(forget)]
      risk_retain = F.cross_entropy(network(x[rows]), y[rows])
      risk_forget = F.cross_entropy(network(x[other]), y[other])
      step(ALPHA * risk_retain - (1 - ALPHA) * risk_forget)

  def scrub():
    for rows in batches(0, FORGET):
      step(-divergence(network(x[rows]), rows))
    for rows in batches(FORGET, COUNT):
      logits = network(x[rows])
      step(GAMMA * F.cross_entropy(logits, y[rows]) + BETA * divergence(logits, rows))

  return {"neg_grad_plus": neg_grad_plus, "scrub": scrub}[name]
