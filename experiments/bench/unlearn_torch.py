"""NegGrad+ and SCRUB as PyTorch's users write them: a loop, data in memory, its own SGD."""

# pyright: reportMissingImports=false
# (PyTorch comes with the extra `bench`, which neither the tests nor lint install.)

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from experiments.bench import torch_training

ALPHA, GAMMA, BETA, TEMPERATURE = 0.97, 0.99, 0.001, 4.0


def epoch(
  name: str,
  images: np.ndarray,
  labels: np.ndarray,
  *,
  forget: int,
  batch_size: int,
  device: str = "cpu",
) -> Callable[[], None]:
  """Returns one epoch of an algorithm with `mlp` as a function; the first `forget` images are S."""
  count = len(images)
  network = torch_training.mlp().to(device)
  x = torch.from_numpy(images).flatten(1).to(device)
  y = torch.from_numpy(labels).to(device)
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
    return (low + torch.randperm(high - low, device=device)).split(batch_size)

  def neg_grad_plus():
    others = batches(0, forget)
    for index, rows in enumerate(batches(forget, count)):
      other = others[index % len(others)]
      risk_retain = F.cross_entropy(network(x[rows]), y[rows])
      risk_forget = F.cross_entropy(network(x[other]), y[other])
      step(ALPHA * risk_retain - (1 - ALPHA) * risk_forget)

  def scrub():
    for rows in batches(0, forget):
      step(-divergence(network(x[rows]), rows))
    for rows in batches(forget, count):
      logits = network(x[rows])
      step(GAMMA * F.cross_entropy(logits, y[rows]) + BETA * divergence(logits, rows))

  return {"neg_grad_plus": neg_grad_plus, "scrub": scrub}[name]
