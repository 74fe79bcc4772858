"""Weights carry over to PyTorch and back: to its names and layout, and to the same outputs."""

import functools
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models
from jaxmul.binding import Network
from jaxmul.models import resnet

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
SMALL = {
  "resnet": models.ResNet((1, 2), 4, 3),
  "bottleneck": models.ResNet((1, 2), 4, 3, mean=MEAN, std=STD, bottleneck=True),
  "imagenet": models.ResNet((1, 2), 4, 3, stem="imagenet"),
  "vgg": models.VGG(((2,), (3, 4)), (5,), 3, mean=MEAN, std=STD),
}


def filled(model):
  """A network with random weights and statistics that keep the signal's size."""
  rng = np.random.default_rng(0)
  gain = 1.5 if isinstance(model, models.VGG) else 1  # residual branches add up

  def fill(path, leaf):
    name, shape = path[-1].key, leaf.shape
    if name == "kernel":
      return jnp.float32(rng.normal(size=shape) * np.sqrt(gain / np.prod(shape[:-1])))
    if name in ("scale", "var"):
      return jnp.float32(rng.uniform(0.5, 1.5, size=shape))
    return jnp.float32(0.1 * rng.normal(size=shape))

  example = jnp.zeros((1, 32, 32, 3))
  init = functools.partial(models.init, model)
  return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, jax.random.key(0), example))


@pytest.mark.parametrize("name", SMALL)
def test_what_goes_to_torch_comes_back_the_same(name):
  model = SMALL[name]
  bound = filled(model)
  again = models.from_torch(model, models.to_torch(model, bound))
  assert jax.tree.structure(again) == jax.tree.structure(bound)
  for ours, theirs in zip(jax.tree.leaves(bound), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_kernels_are_turned_and_named_as_in_torch():
  bound = filled(SMALL["resnet"])
  found = models.to_torch(SMALL["resnet"], bound)
  kernel = bound.params["stage1_block0_shortcut"]["kernel"]
  assert found["layer2.0.downsample.0.weight"].shape == (8, 4, 1, 1)
  np.testing.assert_array_equal(found["layer2.0.downsample.0.weight"][5, 2], kernel[:, :, 2, 5])
  np.testing.assert_array_equal(found["fc.weight"][2], bound.params["head"]["kernel"][:, 2])
  statistics = bound.state["batch_stats"]["stage1_block1_norm2"]["var"]
  np.testing.assert_array_equal(found["layer2.1.bn2.running_var"], statistics)
  assert "normalize.mean" not in found
  found = models.to_torch(SMALL["vgg"], filled(SMALL["vgg"]))
  # Convolution, BatchNorm, ReLU, max-pool; then twice the first three.
  at = {"features.0": (2, 3, 3, 3), "features.4": (3, 2, 3, 3), "features.7": (4, 3, 3, 3)}
  at |= {"features.1": (2,), "classifier.0": (5, 16), "classifier.2": (3, 5)}
  assert {name: found[f"{name}.weight"].shape for name in at} == at
  np.testing.assert_array_equal(found["normalize.std"], np.float32(STD))


def wrong(name, **changes):
  weights = models.to_torch(SMALL[name], filled(SMALL[name]))
  return {key: value for key, value in (weights | changes).items() if value is not None}


@pytest.mark.parametrize(
  ("model", "weights", "said"),
  [
    (SMALL["vgg"], {"features.4.weight": None}, "features.4.weight is missing"),
    (SMALL["vgg"], {"module.x": np.zeros(1)}, "module.x is not in the model"),
    (SMALL["vgg"].clone(num_classes=4), {}, r"classifier.2.bias has shape \(3,\).*needs \(4,\)"),
    (SMALL["vgg"].clone(mean=(0.0,)), {}, r"normalize.mean is .*Make it with mean=\(0.5, 0.4"),
    (models.cnn(), {}, "no names in PyTorch are known for this CNN"),
    (models.resnet18(norm="group"), {}, "no names in PyTorch are known for this ResNet"),
  ],
)
def test_what_does_not_fit_gets_one_line(model, weights, said):
  with pytest.raises(ValueError, match=rf"\A[^\n]*{said}[^\n]*\Z"):
    models.from_torch(model, wrong("vgg", **weights))


@pytest.mark.parametrize(("ours", "theirs"), [("resnet", "imagenet"), ("imagenet", "resnet")])
def test_weights_of_another_stem_name_it(ours, theirs):
  stem = SMALL[theirs].stem
  with pytest.raises(ValueError, match=rf"\A[^\n]*Make it with stem='{stem}'\.\Z"):
    models.from_torch(SMALL[ours], wrong(theirs))


@pytest.mark.parametrize(
  "checkpoint",
  [
    lambda weights: {"state_dict": weights, "epoch": 90},
    lambda weights: {"model": {f"module.{name}": value for name, value in weights.items()}},
    lambda weights: {f"module._orig_mod.{name}": value for name, value in weights.items()},
    lambda weights: {"net": weights, "acc": 93.1},
    lambda weights: {"model_state_dict": weights, "optimizer_state_dict": {}},
    lambda weights: {"state_dict": {f"model.{name}": value for name, value in weights.items()}},
    lambda weights: weights | {"bn1.num_batches_tracked": np.int64(7)},
  ],
)
def test_checkpoints_are_looked_into_and_prefixes_left_out(checkpoint):
  model = SMALL["imagenet"]
  bound = filled(model)
  again = models.from_torch(model, checkpoint(models.to_torch(model, bound)))
  for ours, theirs in zip(jax.tree.leaves(bound), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_the_pool_of_the_imagenet_stem_is_the_maximum_over_windows():
  model = SMALL["imagenet"]
  for size in (9, 16):  # odd and even sizes
    x = np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)
    network = filled(model)
    want = jax.lax.reduce_window(
      x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    )
    np.testing.assert_array_equal(resnet._halved(x), want)
    assert network(x).shape == (2, 3)


@pytest.mark.parametrize("given", ["resnet18.pt", [np.zeros(3)]])
def test_what_holds_no_names_is_refused_with_the_cure(given):
  with pytest.raises(ValueError, match=r"\Afrom_torch got a (str|list), [^\n]*torch\.load[^\n]*\Z"):
    models.from_torch(SMALL["resnet"], given)


def test_tensors_that_numpy_cannot_read_get_one_line():
  torch = pytest.importorskip("torch", reason="PyTorch comes with the extra bench")
  odd = torch.zeros(3, dtype=torch.bfloat16)
  with pytest.raises(ValueError, match=r"\A[^\n]*classifier.2.bias is nothing.*\.float\(\)\.\Z"):
    models.from_torch(SMALL["vgg"], wrong("vgg", **{"classifier.2.bias": odd}))


def torch_resnet(torch, blocks, classes, bottleneck):
  """The networks of He et al. with the CIFAR stem, as a PyTorch user writes them."""
  nn = torch.nn

  class Block(nn.Module):
    def __init__(self, before, width, stride):
      super().__init__()
      after = 4 * width if bottleneck else width
      if bottleneck:
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
      else:
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
      self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
      self.downsample = nn.Identity()
      if stride > 1 or before != after:
        shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
        self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, x):
      y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
      if bottleneck:
        y = self.bn3(self.conv3(y.relu()))
      return (y + self.downsample(x)).relu()

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
      before = 64
      for stage, count in enumerate(blocks):
        layers = []
        for block in range(count):
          layers.append(Block(before, 64 << stage, 2 if stage and not block else 1))
          before = (64 << stage) * (4 if bottleneck else 1)
        setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
      self.fc = nn.Linear(before, classes)

    def forward(self, x):
      x = self.bn1(self.conv1(x)).relu()
      x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
      return self.fc(x.mean((2, 3)))

  return Net()


def torch_vgg(torch, classes):
  """VGG-16 with BatchNorm, features averaged to 2 × 2, and three dense layers."""
  nn = torch.nn
  layers, before = [], 3
  for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
    for _ in range(count):
      layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
      layers.append(nn.ReLU())
      before = width
    layers.append(nn.MaxPool2d(2))

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.features = nn.Sequential(*layers)
      dense = [nn.Linear(4 * 512, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
      self.classifier = nn.Sequential(*dense, nn.Linear(256, classes))

    def forward(self, x):
      x = nn.functional.adaptive_avg_pool2d(self.features(x), 2)
      return self.classifier(x.flatten(1))

  return Net()


PAPERS = {
  "resnet18": (models.resnet18(10), 32, lambda t: torch_resnet(t, (2, 2, 2, 2), 10, False)),
  "resnet50": (models.resnet50(100), 32, lambda t: torch_resnet(t, (3, 4, 6, 3), 100, True)),
  "vgg16": (models.vgg16(200), 64, lambda t: torch_vgg(t, 200)),
  "vgg16_of_96_pixels": (models.vgg16(200), 96, lambda t: torch_vgg(t, 200)),
}


@pytest.mark.parametrize("name", PAPERS)
def test_outputs_are_those_of_torch(name):
  torch = pytest.importorskip("torch", reason="PyTorch comes with the extra bench")
  model, side, make = PAPERS[name]
  bound, theirs = filled(model), make(torch).eval()
  weights = models.to_torch(model, bound)
  theirs.load_state_dict({name: torch.from_numpy(each) for name, each in weights.items()})
  x = np.random.default_rng(1).normal(size=(4, side, side, 3)).astype(np.float32)
  with torch.no_grad():
    want = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
  assert np.abs(want).max() > 0.5
  again = models.from_torch(model, theirs.state_dict())
  for params in (bound, again):
    np.testing.assert_allclose(jax.jit(Network.__call__)(params, x), want, rtol=0, atol=1e-4)


LIBRARIES = []
IMAGENET = {
  "torchvision.resnet18": models.resnet18(1000, stem="imagenet"),
  "torchvision.resnet50": models.resnet50(1000, stem="imagenet"),
  "timm.resnet18": models.resnet18(1000, stem="imagenet"),
  "timm.resnet50": models.resnet50(1000, stem="imagenet"),
}


def imported(torch, package):
  """Returns a library, also where torchvision's operators, which are of CUDA, do not load."""
  if importlib.util.find_spec("torchvision") is None or importlib.util.find_spec(package) is None:
    pytest.skip(f"{package} is not installed, or torchvision is not")
  try:
    return importlib.import_module(package)
  except RuntimeError:
    for name in [name for name in sys.modules if name.split(".")[0] in ("torchvision", "timm")]:
      del sys.modules[name]
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
      operators.define(f"{name}(Tensor x) -> Tensor")
    LIBRARIES.append(operators)  # it lasts as long as this object
    return importlib.import_module(package)


@pytest.mark.parametrize("name", IMAGENET)
def test_outputs_are_those_of_torchvision_and_timm(name):
  torch = pytest.importorskip("torch", reason="PyTorch comes with the extra bench")
  package, maker = name.split(".")
  library = imported(torch, package)
  if package == "timm":
    theirs = library.create_model(maker, pretrained=False).eval()
  else:
    theirs = getattr(library.models, maker)(weights=None).eval()
  model = IMAGENET[name]
  bound = filled(model)
  weights = models.to_torch(model, bound)
  missing = theirs.load_state_dict(
    {name: torch.from_numpy(value) for name, value in weights.items()}, strict=False
  )
  assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys)
  assert not missing.unexpected_keys
  again = models.from_torch(model, {"state_dict": torch.nn.DataParallel(theirs).state_dict()})
  for side in (64, 97):
    x = np.random.default_rng(1).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
      want = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(want).max() > 0.5
    for params in (bound, again):
      np.testing.assert_allclose(jax.jit(Network.__call__)(params, x), want, rtol=0, atol=1e-4)
