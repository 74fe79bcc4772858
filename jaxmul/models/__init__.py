"""Linen networks, and `init`, which binds a fresh one."""

from jaxmul.models._conv import Conv, conv, max_pool
from jaxmul.models._features import features
from jaxmul.models._ghost import has_ghost_norms, tapped, tapped_squares
from jaxmul.models._init import Model, init
from jaxmul.models.cnn import CNN, cnn
from jaxmul.models.mlp import MLP, mlp
from jaxmul.models.resnet import ResNet, resnet18

__all__ = [
  "CNN",
  "MLP",
  "Conv",
  "Model",
  "ResNet",
  "cnn",
  "conv",
  "features",
  "has_ghost_norms",
  "init",
  "max_pool",
  "mlp",
  "resnet18",
  "tapped",
  "tapped_squares",
]
