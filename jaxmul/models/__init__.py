"""Linen networks, and `init`, which binds a fresh one."""

from jaxmul.models._adapters import (
  merge_low_rank,
  with_adapters,
  with_low_rank,
  without_adapters,
)
from jaxmul.models._conv import Conv, conv, max_pool
from jaxmul.models._example_tied import ExampleTiedDropout, without_tied_neurons
from jaxmul.models._features import features, layer_inputs
from jaxmul.models._fusion import fuse_adapters, inner_products
from jaxmul.models._ghost import has_ghost_norms, tapped, tapped_squares
from jaxmul.models._init import Model, init, shapes
from jaxmul.models._kronecker import (
  KroneckerBasis,
  KroneckerFactors,
  tapped_components,
  tapped_energies,
  tapped_factors,
  zero_factors,
)
from jaxmul.models.convolutional import CNN, cnn
from jaxmul.models.generation import generate
from jaxmul.models.neox_llama import llama, neox
from jaxmul.models.perceptron import MLP, mlp
from jaxmul.models.resnet import ResNet, resnet8, resnet18, resnet50
from jaxmul.models.torch_weights import from_torch, to_torch
from jaxmul.models.transformer import GPT, Layout, gpt
from jaxmul.models.vgg import VGG, vgg16
from jaxmul.models.vision_transformer import ViT, vit

__all__ = [
  "CNN",
  "GPT",
  "MLP",
  "VGG",
  "Conv",
  "ExampleTiedDropout",
  "KroneckerBasis",
  "KroneckerFactors",
  "Layout",
  "Model",
  "ResNet",
  "ViT",
  "cnn",
  "conv",
  "features",
  "from_torch",
  "fuse_adapters",
  "generate",
  "gpt",
  "has_ghost_norms",
  "init",
  "inner_products",
  "layer_inputs",
  "llama",
  "max_pool",
  "merge_low_rank",
  "mlp",
  "neox",
  "resnet8",
  "resnet18",
  "resnet50",
  "shapes",
  "tapped",
  "tapped_components",
  "tapped_energies",
  "tapped_factors",
  "tapped_squares",
  "to_torch",
  "vgg16",
  "vit",
  "with_adapters",
  "with_low_rank",
  "without_adapters",
  "without_tied_neurons",
  "zero_factors",
]
