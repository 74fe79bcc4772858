"""The proxies as a PyTorch user writes them: `torch.func`, double backward, RUM's two gradients.

Each is written for one memory layout; `fastest` tries both and keeps the better.
"""

import functools
import timeit
from collections.abc import Callable, Mapping

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.func import functional_call, grad, vmap  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from experiments.bench import torch_training

Params = Mapping[str, Mapping[str, jax.Array]]
LAYERS = ("Conv_0", "Conv_1", "Conv_2", "Dense_0", "Dense_1")


def network_of(params: Params) -> nn.Module:
  """Returns `models.cnn()` with the given Flax weights."""
  network = torch_training.cnn()
  layers = [layer for layer in network.children() if isinstance(layer, nn.Conv2d | nn.Linear)]
  for name, layer in zip(LAYERS, layers, strict=True):
    kernel = torch.tensor(np.asarray(params[name]["kernel"]))
    if name == "Dense_0":  # its rows are pixels by channels; PyTorch's are channels by pixels
      kernel = kernel.reshape(4, 4, 64, -1).permute(2, 0, 1, 3).flatten(0, 2)
    kernel = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    with torch.no_grad():
      layer.weight.copy_(kernel)
      layer.bias.copy_(torch.tensor(np.asarray(params[name]["bias"])))
  return network


def batch(inputs: jax.Array, labels: jax.Array) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns inputs [B, 3, H, W] and labels [B] of inputs [B, H, W, 3] and labels [B]."""
  x = torch.tensor(np.asarray(inputs)).permute(0, 3, 1, 2).contiguous()
  return x, torch.tensor(np.asarray(labels)).long()


def fastest(
  function: Callable[..., torch.Tensor],
  params: Params,
  inputs: jax.Array,
  labels: jax.Array,
  device: str = "cpu",
) -> Callable[[], torch.Tensor]:
  """Returns a call of a proxy in the memory layout, of two, in which it takes less time.

  The call returns when the device has finished.
  """
  timed = []
  x, y = (part.to(device) for part in batch(inputs, labels))

  def finished(network, x):
    scores = function(network, x, y)
    if device != "cpu":
      torch.cuda.synchronize()
    return scores

  for layout in (torch.contiguous_format, torch.channels_last):
    network = network_of(params).to(device, memory_format=layout)  # pyright: ignore
    call = functools.partial(finished, network, x.contiguous(memory_format=layout))
    timed.append((min(timeit.repeat(call, number=1, repeat=5)), call))
  return min(timed, key=lambda pair: pair[0])[1]


def grand(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
  """‖∇_θ ℓ‖₂ [B] from gradients of each example."""
  params = {name: value.detach() for name, value in network.named_parameters()}

  def loss(params, x, y):
    return F.cross_entropy(functional_call(network, params, (x[None],)), y[None])

  each = vmap(grad(loss), in_dims=(None, 0, 0))(params, x, y)
  return torch.sqrt(sum(g.flatten(1).square().sum(1) for g in each.values()))  # pyright: ignore


def curvature(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
  """‖H v‖² [B] for one Rademacher direction v, by double backward."""
  v = torch.randint(0, 2, x.shape[1:], device=x.device).float().mul(2).sub(1).expand_as(x)
  x = x.detach().requires_grad_()
  (g,) = torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x, create_graph=True)
  (product,) = torch.autograd.grad(g, x, grad_outputs=v)
  return product.flatten(1).square().sum(1)


def rum(network: nn.Module, x: torch.Tensor, y: torch.Tensor, h: float = 1e-2) -> torch.Tensor:
  """‖∇ℓ(x + z) − ∇ℓ(x)‖₂ [B] along z = h sign(g)/‖sign(g)‖, as RUM's code."""

  def gradient(x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(x), y, reduction="sum"), x)[0]

  g = gradient(x)
  sign = g.sign()
  z = h * sign / sign.flatten(1).norm(dim=1).clamp(min=1)[:, None, None, None]
  return (gradient(x + z) - g).flatten(1).norm(dim=1)
