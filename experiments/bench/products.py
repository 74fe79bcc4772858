"""How many FLOPs the products of a network need, written out from its shapes alone.

A product of I inputs and O outputs at every pair of an output pixel and a tap that meets an input
takes 2 I O FLOPs a pair: 2 for a multiply-add. A gradient with respect to inputs, and one with
respect to the kernel, take as many each. Norms, ReLUs and means are not counted.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Layer(NamedTuple):
  """A convolution of square images, or a dense layer, which is one of a single pixel.

  Attributes:
    inputs, outputs: channels I and O.
    taps: k, of a kernel k × k with ⌊k/2⌋ zeros around.
    size: H = W of what comes in.
    stride: H' = ⌈H / stride⌉.
  """

  inputs: int
  outputs: int
  taps: int = 1
  size: int = 1
  stride: int = 1

  @property
  def pixels(self) -> int:
    """Pixels that come out."""
    return (-(-self.size // self.stride)) ** 2

  @property
  def flops(self) -> int:
    """Of the forward product for one image."""
    centers = range(0, self.size, self.stride)
    half = self.taps // 2
    pairs = sum(
      0 <= center + tap - half < self.size for center in centers for tap in range(self.taps)
    )
    return 2 * self.inputs * self.outputs * pairs**2


def resnet18(classes: int, *, width: int = 64, size: int = 32, channels: int = 3) -> list[Layer]:
  """Returns the layers of ResNet-18 with the stem for CIFAR."""
  layers, inputs = [Layer(channels, width, 3, size)], width
  for stage in range(4):
    outputs = width << stage
    for block in range(2):
      stride = 2 if stage and not block else 1
      layers.append(Layer(inputs, outputs, 3, size, stride))
      if inputs != outputs:
        layers.append(Layer(inputs, outputs, 1, size, stride))
      size, inputs = -(-size // stride), outputs
      layers.append(Layer(outputs, outputs, 3, size))
  return [*layers, Layer(inputs, classes)]


def mlp(widths: Sequence[int], classes: int, *, inputs: int) -> list[Layer]:
  """Returns the layers of `models.mlp`."""
  return [Layer(*pair) for pair in itertools.pairwise((inputs, *widths, classes))]


def cnn(
  widths: Sequence[int], hidden: int, classes: int, *, size: int = 32, channels: int = 3
) -> list[Layer]:
  """Returns the layers of `models.cnn`, whose every convolution is followed by 2 × 2 pooling."""
  layers, inputs = [], channels
  for outputs in widths:
    layers.append(Layer(inputs, outputs, 3, size))
    size, inputs = size // 2, outputs
  return [*layers, Layer(inputs * size**2, hidden), Layer(hidden, classes)]


def forward(layers: Sequence[Layer]) -> int:
  """FLOPs of one image's prediction."""
  return sum(layer.flops for layer in layers)


def training(layers: Sequence[Layer]) -> int:
  """FLOPs of one image in a training step: 3 forward, but the images have no gradient."""
  return 3 * forward(layers) - layers[0].flops


def ghost_norms(layers: Sequence[Layer]) -> int:
  """FLOPs of ‖∇_θ ℓ‖ of one image: forward, backward to what comes into each layer but the first,
  and for each its gradient, or the products of its inputs and of its outputs with themselves.
  """
  norms = 0
  for layer in layers:
    patch = layer.taps**2 * layer.inputs
    whole, pairs = patch * layer.outputs, layer.pixels * (patch + layer.outputs)
    norms += 2 * layer.pixels * min(whole, pairs)
  return 2 * forward(layers) - layers[0].flops + norms


def curvature(layers: Sequence[Layer], probes: int) -> int:
  """FLOPs of one image in a network of ReLUs: forward once, and twice for each probe.

  These are the derivative of the outputs along the probe, and back from there to the image. The
  gradient itself is not needed: it depends on the image through the outputs alone.
  """
  return forward(layers) * (1 + 2 * probes)


def whole_model(layers: Sequence[Layer], trained: int, epochs: int, judged: int) -> int:
  """FLOPs of a model that is trained on some examples and predicts others once."""
  return training(layers) * trained * epochs + forward(layers) * judged
