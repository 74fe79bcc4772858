"""The proxies as a PyTorch user writes them: `torch.func`, double backward, RUM's two gradients.

Each is written for one memory layout; `fastest` tries both and keeps the better.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.func import functional_call, grad, vmap  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]


class Network(nn.Module):
  """`models.cnn()` with the given Flax weights."""

  def __init__(self, params: dict[str, Any]):
    super().__init__()
    arrays = {
      f"{layer}.{name}": torch.tensor(np.asarray(value))
      for layer, weights in params.items()
      for name, value in weights.items()
    }
    convolutions, last = [], 3
    for i in range(3):
      kernel = arrays[f"Conv_{i}.kernel"].permute(3, 2, 0, 1)
      conv = nn.Conv2d(last, len(kernel), 3, padding=1)
      convolutions += [_filled(conv, kernel, arrays[f"Conv_{i}.bias"]), nn.ReLU(), nn.MaxPool2d(2)]
      last = len(kernel)
    kernel = arrays["Dense_0.kernel"].reshape(4, 4, last, -1).permute(3, 2, 0, 1).flatten(1)
    hidden = _filled(nn.Linear(kernel.shape[1], len(kernel)), kernel, arrays["Dense_0.bias"])
    kernel = arrays["Dense_1.kernel"].T
    head = _filled(nn.Linear(kernel.shape[1], len(kernel)), kernel, arrays["Dense_1.bias"])
    self.layers = nn.Sequential(*convolutions, nn.Flatten(), hidden, nn.ReLU(), head)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return self.layers(x)


def _filled(layer: Any, weight: torch.Tensor, bias: torch.Tensor) -> Any:
  with torch.no_grad():
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
  return layer


def batch(inputs: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns inputs [B, 3, H, W] and labels [B] of inputs [B, H, W, 3] and labels [B]."""
  x = torch.tensor(np.asarray(inputs)).permute(0, 3, 1, 2).contiguous()
  return x, torch.tensor(np.asarray(labels)).long()


def fastest(
  function: Callable[..., torch.Tensor], params: dict[str, Any], inputs: Any, labels: Any
) -> Callable[[], Any]:
  """Returns a call of a proxy in the memory layout, of two, in which it takes less time."""
  timed = []
  x, y = batch(inputs, labels)
  for layout in (torch.contiguous_format, torch.channels_last):
    network = Network(params).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    arguments = (network, x.contiguous(memory_format=layout), y)
    seconds = []
    for _ in range(5):
      start = time.perf_counter()
      function(*arguments)
      seconds.append(time.perf_counter() - start)
    timed.append((min(seconds), arguments))
  best = min(timed, key=lambda pair: pair[0])[1]
  return lambda: function(*best)


def grand(network: Network, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
  """‖∇_θ ℓ‖₂ [B] from gradients of each example."""
  params = {name: value.detach() for name, value in network.named_parameters()}

  def loss(params, x, y):
    return F.cross_entropy(functional_call(network, params, (x[None],)), y[None])

  each = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
  return torch.sqrt(sum(g.flatten(1).square().sum(1) for g in each.values()))  # pyright: ignore


def curvature(network: Network, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
  """‖H v‖² [B] for one Rademacher direction v, by double backward."""
  v = torch.randint(0, 2, x.shape[1:]).float().mul(2).sub(1).expand_as(x)
  x = x.detach().requires_grad_()
  (g,) = torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x, create_graph=True)
  (product,) = torch.autograd.grad(g, x, grad_outputs=v)
  return product.flatten(1).square().sum(1)


def rum(network: Network, x: torch.Tensor, y: torch.Tensor, h: float = 1e-2) -> torch.Tensor:
  """‖∇ℓ(x + z) − ∇ℓ(x)‖₂ [B] along z = h sign(g)/‖sign(g)‖, as RUM's code."""

  def gradient(x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x)[0]

  g = gradient(x)
  sign = g.sign()
  z = h * sign / sign.flatten(1).norm(dim=1).clamp(min=1)[:, None, None, None]
  return (gradient(x + z) - g).flatten(1).norm(dim=1)
