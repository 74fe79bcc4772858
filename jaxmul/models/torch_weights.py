"""Weights to and from PyTorch's layout, as NumPy arrays; PyTorch itself is not needed.

Names are those of torchvision, timm and RUM's code, and of transformers (see `gpt_weights`). A
kernel [kh, kw, I, O] is [O, I, kh, kw] there, a dense one [I, O] is [O, I].
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article
from jaxmul.binding import Network
from jaxmul.models import gpt_weights
from jaxmul.models._init import shapes
from jaxmul.models.resnet import ResNet
from jaxmul.models.transformer import GPT
from jaxmul.models.vgg import VGG

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
_FIRST = {ResNet: "conv1.weight", VGG: "features.0.weight"}
# Of DataParallel, torch.compile, and modules that hold the network, before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_OUTER = ("state_dict", "model_state_dict", "model", "net")  # where checkpoints keep weights
_SIDE = 32  # pixels: the smallest image that all of these networks take
# What RUM's networks hold of their input scaling: here it is part of the model.
_SCALING = {"mean": "normalize.mean", "std": "normalize.std"}


def to_torch(model: nn.Module, params: Network) -> dict[str, np.ndarray]:
  """Returns the weights of a network as PyTorch's `state_dict` has them.

  Args:
    model: `resnet18` or `resnet50` with BatchNorm, `vgg16`, or a `gpt`, `neox` or `llama`.
    params: of this model.

  Returns:
    {name: array}, for `load_state_dict({name: torch.from_numpy(each) for name, each in ...})`. With
    `normalize.mean` and `normalize.std` [I], as RUM's networks have them, where the model scales
    its inputs; torchvision's take none. Those of a `gpt` are named as in files of transformers'
    GPT-2, or GPT-NeoX with rotary positions.

  Raises:
    ValueError: another network, or params of another model.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> model = models.ResNet((1,), width=4)
    >>> bound = models.init(model, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    >>> to_torch(model, bound)["layer1.0.conv2.weight"].shape
    (4, 4, 3, 3)
  """
  if isinstance(model, GPT):
    return gpt_weights.named(model, params, "to_torch")
  names, weights = _names(model), {}
  for path, leaf in _leaves(params):
    value = np.asarray(leaf)
    weights[_name(names, path)] = np.array(value.transpose(_axes(value)), order="C")
  channels = weights[_FIRST[type(model)]].shape[1]
  scaling = {name: np.float32(getattr(model, field)) for field, name in _SCALING.items()}
  if scaling["normalize.mean"].any() or (scaling["normalize.std"] != 1).any():
    weights |= {name: np.array(np.broadcast_to(of, channels)) for name, of in scaling.items()}
  return weights


def from_torch(model: nn.Module, weights: Mapping[str, ArrayLike]) -> Network:
  """Returns a network with weights that are laid out as in PyTorch's `state_dict`.

  Args:
    model: `resnet18` or `resnet50` with BatchNorm, or `vgg16`, of the same size. Networks that
      torchvision and timm trained on ImageNet take `stem="imagenet"`, 1,000 classes, and their
      `mean=` and `std=`. Or a `gpt`, `neox` or `llama` of the same size, for weights of
      transformers; `hub.load_gpt` also makes the model.
    weights: {name: array}; PyTorch's own tensors will do if they are on the CPU. A checkpoint that
      holds them under "state_dict", "model_state_dict", "model" or "net" is looked into. What all
      names begin with is left out: "module." of `DataParallel`, "_orig_mod." of `torch.compile`,
      "model." or "net." of a module around the network, such as Lightning's.

  Returns:
    The network, bound; float32.

  Raises:
    ValueError: no mapping, such as a path; another network or stem, a name that is missing or
      unknown, another shape, input scaling other than the model's, or what NumPy cannot read.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> model = models.ResNet((1,), width=4)
    >>> bound = models.init(model, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    >>> again = from_torch(model, to_torch(model, bound))
    >>> bool((again.params["stem"]["kernel"] == bound.params["stem"]["kernel"]).all())
    True
  """
  if isinstance(model, GPT):
    return gpt_weights.network_of(model, _arrays(weights), "from_torch")
  names, left = _names(model), _arrays(weights)
  for field, name in _SCALING.items():
    theirs, ours = np.asarray(left.pop(name, getattr(model, field))), getattr(model, field)
    if not np.allclose(theirs, ours, atol=1e-6):
      raise ValueError(
        f"from_torch: {name} is {np.round(theirs, 4).tolist()}, but the model has {field}={ours}. "
        f"Make it with {field}={tuple(np.round(theirs, 4).tolist())}."
      )
  channels = np.shape(left.get(_FIRST[type(model)], np.zeros((1, 3))))[1]
  _refuse_other_stem(model, left)
  like = shapes(model, jnp.zeros((1, _SIDE, _SIDE, channels)))
  leaves = []
  for path, leaf in _leaves(like):
    name = _name(names, path)
    if name not in left:
      raise ValueError(f"from_torch: {name} is missing. Pass all of the network's state_dict().")
    value = left.pop(name)
    if value.ndim == len(leaf.shape):
      value = value.transpose(np.argsort(_axes(leaf)))
    if value.shape != leaf.shape:
      raise ValueError(
        f"from_torch: {name} has shape {value.shape} in our layout, the model needs {leaf.shape}. "
        "Make the model with the same classes and width."
      )
    leaves.append(jnp.asarray(value, leaf.dtype))
  extra = [name for name in left if not name.endswith(".num_batches_tracked")]
  if extra:
    raise ValueError(f"from_torch: {extra[0]} is not in the model. Drop it, or rename it.")
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _arrays(weights: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Returns the arrays of a checkpoint by their own names."""
  if not isinstance(weights, Mapping):
    raise ValueError(
      f"from_torch got {_article.of(weights)}, must be {{name: array}}. Read the file first: "
      "torch.load(path, map_location='cpu', weights_only=True)."
    )
  for outer in _OUTER:
    inner = weights.get(outer)
    if isinstance(inner, Mapping):
      return _arrays(inner)
  named = dict(weights)
  while prefix := next(
    (p for p in _PREFIXES if named and all(n.startswith(p) for n in named)), None
  ):
    named = {name.removeprefix(prefix): value for name, value in named.items()}
  return {name: _array(name, value) for name, value in named.items()}


def _array(name: str, value: object) -> np.ndarray:
  try:
    return np.asarray(value)
  except (TypeError, RuntimeError) as error:
    reason = str(error).splitlines()[0].rstrip(".")
    raise ValueError(
      f"from_torch: {name} is nothing that NumPy reads ({reason}). Pass it as "
      "tensor.detach().cpu().float()."
    ) from error


def _refuse_other_stem(model: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
  stem = weights.get(_FIRST[ResNet])
  if not isinstance(model, ResNet) or stem is None or stem.ndim != 4:
    return
  theirs = {3: "cifar", 7: "imagenet"}.get(stem.shape[-1])
  if theirs not in (model.stem, None):
    raise ValueError(
      f"from_torch: {_FIRST[ResNet]} is {stem.shape[-1]} × {stem.shape[-1]}, but the model has the "
      f"stem for {model.stem}. Make it with stem={theirs!r}."
    )


def _leaves(params: Network) -> list[tuple[tuple[str, str], jax.Array]]:
  """Returns ((layer, leaf name), leaf) of all params and statistics, in the tree's order."""
  leaves = jax.tree_util.tree_leaves_with_path((params.params, params.state))
  return [((path[-2].key, path[-1].key), leaf) for path, leaf in leaves]


def _axes(leaf) -> tuple[int, ...]:
  """Returns the axes of a leaf in PyTorch's order."""
  return {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[len(leaf.shape)]


def _name(names: dict[str, str], path: tuple[str, str]) -> str:
  layer, leaf = path
  return f"{names[layer]}.{_LEAVES[leaf]}"


def _names(model: nn.Module) -> dict[str, str]:
  """Returns PyTorch's name of each layer."""
  if isinstance(model, ResNet) and model.norm == "batch":
    return _resnet_names(model)
  if isinstance(model, VGG):
    return _vgg_names(model)
  raise ValueError(
    f"no names in PyTorch are known for this {type(model).__name__}. "
    "Use resnet18 or resnet50 with BatchNorm, vgg16, gpt, neox or llama."
  )


def _resnet_names(model: ResNet) -> dict[str, str]:
  names = {"stem": "conv1", "norm": "bn1", "head": "fc"}
  for stage, blocks in enumerate(model.blocks):
    for block in range(blocks):
      ours, theirs = f"stage{stage}_block{block}", f"layer{stage + 1}.{block}"
      for i in (1, 2, 3):
        names |= {f"{ours}_conv{i}": f"{theirs}.conv{i}", f"{ours}_norm{i}": f"{theirs}.bn{i}"}
      names[f"{ours}_shortcut"] = f"{theirs}.downsample.0"
      names[f"{ours}_shortcut_norm"] = f"{theirs}.downsample.1"
  return names


def _vgg_names(model: VGG) -> dict[str, str]:
  names, position = {}, 0
  for stage, sizes in enumerate(model.stages):
    for i in range(len(sizes)):
      names[f"stage{stage}_conv{i}"] = f"features.{position}"
      names[f"stage{stage}_norm{i}"] = f"features.{position + 1}"
      position += 3  # and a ReLU
    position += 1  # the max-pool
  for i in range(len(model.hidden)):
    names[f"dense{i}"] = f"classifier.{2 * i}"
  return names | {"head": f"classifier.{2 * len(model.hidden)}"}
