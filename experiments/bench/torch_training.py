"""The same training runs in PyTorch, by a hand-tuned loop.

Data are tensors in memory, gathered once an epoch; the optimizer is the fused one; nothing is
copied to Python inside an epoch; convolutions see channels-last tensors. With one thread it is made
to run in a process per core, with all of them it is the plain loop of one process.
"""

# pyright: reportMissingImports=false
# (PyTorch comes with the extra `bench`, which neither the tests nor lint install.)

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EVALUATION_BATCH = 256  # 512 leaves the cache: half as fast


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Training:
  """A recipe in PyTorch's terms.

  Attributes:
    network: mlp or cnn.
    images: uint8 [n, 28, 28] or [n, 32, 32, 3].
    labels: int [n].
    subset_size: examples that each model is trained on.
    epochs, batch_size, learning_rate, momentum, weight_decay: as in `jaxmul.train.Recipe`, with
      its cosine.
  """

  network: str
  images: np.ndarray
  labels: np.ndarray
  subset_size: int
  epochs: int
  batch_size: int
  learning_rate: float
  momentum: float
  weight_decay: float

  def rate(self, epoch: int) -> float:
    """Learning rate of an epoch."""
    return self.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


def mlp() -> nn.Module:
  """The layers of `jaxmul.models.mlp` on 28 × 28 digits."""
  return nn.Sequential(
    nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
  )


def cnn() -> nn.Module:
  """The layers of `jaxmul.models.cnn` on 32 × 32 × 3 images."""
  layers: list[nn.Module] = []
  for before, after in ((3, 16), (16, 32), (32, 64)):
    layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
  return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))


def loop(training: Training, threads: int, device: str = "cpu") -> Callable[[int], object]:
  """Returns `train(number)`, which trains one model on a device and predicts all n examples."""
  torch.set_num_threads(threads)
  inputs = torch.from_numpy(training.images).to(device).float() / 255
  labels = torch.from_numpy(training.labels).to(device).long()
  if training.network == "mlp":
    make, layout, inputs = mlp, torch.contiguous_format, inputs.flatten(1)
  else:
    make, layout = cnn, torch.channels_last
    inputs = inputs.permute(0, 3, 1, 2).contiguous(memory_format=layout)

  def train(number: int) -> object:
    torch.manual_seed(number)
    rows = torch.randperm(len(labels), device=device)[: training.subset_size]
    model = make().to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(
      model.parameters(),
      training.learning_rate,
      training.momentum,
      weight_decay=training.weight_decay,
      fused=True,
    )
    for epoch in range(training.epochs):
      optimizer.param_groups[0]["lr"] = training.rate(epoch)
      order = rows[torch.randperm(len(rows), device=device)]
      batches = zip(
        inputs[order].split(training.batch_size),
        labels[order].split(training.batch_size),
        strict=True,
      )
      for x, y in batches:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.inference_mode():
      logits = torch.cat([model(x) for x in inputs.split(EVALUATION_BATCH)])
      p = logits.softmax(1).gather(1, labels[:, None])
      return logits.argmax(1) == labels, p, (p / (1 - p)).log()

  return train
