"""An epoch of NegGrad+ and one of SCRUB against PyTorch's, on the same network and data.

The network is `mlp` on 3,500 digits-sized images, 240 of them to be forgotten, batch 64. Ours is
the epoch that `unlearn.run` runs: order, batches, updates, one program. PyTorch's is a loop as its
users write it, on all cores, with the data in memory as one tensor, SGD of its own, and for SCRUB
the teacher's outputs computed once, as ours are. An epoch of SCRUB passes over S and then over R.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.pairs import alternate
from jaxmul import models, unlearn
from jaxmul.data import Dataset, Split

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
    reference = _torch(name, network, images, labels)
    found = alternate(ours, reference, pairs=pairs, seconds=seconds)
    figures |= {
      f"{name}_over_torch": 1 / found["ratio"],
      f"{name}_epoch_ms": 1e3 * found["ours"],
      f"{name}_torch_epoch_ms": 1e3 * found["reference"],
      f"{name}_first_epoch_s": compiling,
    }
  return figures


def _ours(algorithm, network, images, labels):
  """Returns one epoch as a function, and the seconds of the first one, compilation included."""
  import time

  from jaxmul._examples import examples_of
  from jaxmul.unlearn._passes import Sets, walk_over
  from jaxmul.unlearn.running import _epoch

  data = Dataset(images, labels)
  split = Split(forget=np.arange(FORGET), retain=np.arange(FORGET, COUNT))
  sets = Sets(
    *(examples_of(data).subset(data.rows(ids), len(data)) for ids in (split.forget, split.retain))
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


def _torch(name, network, images, labels):
  """Returns one epoch of the same algorithm in PyTorch as a function."""
  import torch  # pyright: ignore[reportMissingImports]
  from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

  layers = network.params
  modules = [torch.nn.Flatten()]
  for index in range(3):
    weights = layers[f"Dense_{index}"]
    dense = torch.nn.Linear(*weights["kernel"].shape)
    with torch.no_grad():
      dense.weight.copy_(torch.from_numpy(np.array(weights["kernel"]).T))
      dense.bias.copy_(torch.from_numpy(np.array(weights["bias"])))
    modules += [dense, torch.nn.ReLU()]
  torch_network = torch.nn.Sequential(*modules[:-1])
  x, y = torch.from_numpy(images), torch.from_numpy(labels)
  optimizer = torch.optim.SGD(torch_network.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)
  with torch.no_grad():
    teacher = F.softmax(torch_network(x) / TEMPERATURE, dim=1)

  def divergence(at):
    student = F.log_softmax(torch_network(x[at]) / TEMPERATURE, dim=1)
    return TEMPERATURE**2 * F.kl_div(student, teacher[at], reduction="batchmean")

  def step(loss):
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

  def batches(low, high):
    return (low + torch.randperm(high - low)).split(BATCH)

  def neg_grad_plus():
    forget = batches(0, FORGET)
    for index, at in enumerate(batches(FORGET, COUNT)):
      other = forget[index % len(forget)]
      risk_retain = F.cross_entropy(torch_network(x[at]), y[at])
      risk_forget = F.cross_entropy(torch_network(x[other]), y[other])
      step(ALPHA * risk_retain - (1 - ALPHA) * risk_forget)

  def scrub():
    for at in batches(0, FORGET):
      step(-divergence(at))
    for at in batches(FORGET, COUNT):
      logits = torch_network(x[at])
      student = F.log_softmax(logits / TEMPERATURE, dim=1)
      kl = TEMPERATURE**2 * F.kl_div(student, teacher[at], reduction="batchmean")
      step(GAMMA * F.cross_entropy(logits, y[at]) + BETA * kl)

  return {"neg_grad_plus": neg_grad_plus, "scrub": scrub}[name]
