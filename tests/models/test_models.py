"""The networks are the papers': sizes, cost, forward pass, and what binding them promises."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models
from jaxmul.binding import Network

KEY = jax.random.key(0)


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def shapes(model, *shape):
  return jax.eval_shape(functools.partial(models.init, model), KEY, jnp.zeros(shape))


def size(bound):
  return sum(leaf.size for leaf in jax.tree.leaves(bound.params))


def test_mlp_has_the_size_of_the_digits_network():
  assert size(shapes(models.mlp(), 1, 28, 28)) == 269_322


def test_resnet18_has_the_size_of_the_papers_network():
  bound = shapes(models.resnet18(10), 1, 32, 32, 3)
  assert size(bound) == 11_173_962
  assert bound.params["stem"]["kernel"].shape == (3, 3, 3, 64)
  assert set(bound.state) == {"batch_stats"}


# torchvision's ResNet-50 has a 7 × 7 stem, 1,000 classes and 25,557,032 weights.
RESNET50 = 25_557_032 - (7**2 - 3**2) * 3 * 64 - 900 * (2048 + 1)
# Kernels of 3 × 3 without bias; a scale and a bias for each channel; three dense layers.
CHANNELS, WIDTHS = [3, 64, 64, 128, 128, *3 * [256], *6 * [512]], [2 * 2 * 512, 256, 256, 200]
VGG16 = sum(9 * a * b for a, b in itertools.pairwise(CHANNELS)) + 2 * sum(CHANNELS[1:])
VGG16 += sum(a * b + b for a, b in itertools.pairwise(WIDTHS))
# ViT-S/16 has 1,000 classes and 22,050,664 weights, of them a class token and 197 positions. Ours
# has neither, patches of 8² and not 16² pixels, and 200 classes.
VIT = 22_050_664 - (1 + 197) * 384 - (16**2 - 8**2) * 3 * 384 - 800 * (384 + 1)


@pytest.mark.parametrize(
  ("model", "side", "classes", "by_hand", "weights"),
  [
    (models.resnet50(100), 32, 100, RESNET50, 23_705_252),
    (models.vgg16(200), 64, 200, VGG16, 15_360_648),
    (models.vit(200), 64, 200, VIT, 21_445_448),
  ],
)
def test_the_papers_networks_have_their_published_size(model, side, classes, by_hand, weights):
  bound = shapes(model, 1, side, side, 3)
  assert size(bound) == by_hand == weights
  images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
  assert jax.eval_shape(Network.__call__, bound, images).shape == (2, classes)


def test_resnet8_is_a_stem_and_three_blocks_of_which_each_halves_the_sides():
  bound = shapes(models.resnet8(), 1, 32, 32, 3)
  channels = [16, 32, 64, 128]
  by_hand = 9 * 3 * 16 + 2 * 16 + 128 * 10 + 10  # stem, its norm, head
  for before, after in itertools.pairwise(channels):
    by_hand += 9 * before * after + 9 * after * after + before * after + 3 * 2 * after
  assert size(bound) == by_hand == 304_154
  inner = [(f"stage{stage}_block0_conv2",) for stage in (1, 2, 3)]
  bound = models.init(models.resnet8(), KEY, jnp.zeros((1, 32, 32, 3)))
  given = models.layer_inputs(bound, jnp.zeros((1, 32, 32, 3)), inner)
  assert [each.shape[1:] for each in given] == [(16, 16, 32), (8, 8, 64), (4, 4, 128)]


def test_cnn_costs_at_most_six_and_a_half_megaflop_forward():
  bound = shapes(models.cnn(), 1, 32, 32, 3)
  layers = bound.params
  by_hand = 0
  for name, side in (("Conv_0", 32), ("Conv_1", 16), ("Conv_2", 8)):
    by_hand += 2 * side * side * layers[name]["kernel"].size
  by_hand += 2 * sum(layers[name]["kernel"].size for name in ("Dense_0", "Dense_1"))
  assert len(layers) == 5
  assert by_hand <= 6.5e6
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  cost = jax.jit(Network.__call__).lower(bound, image).compile().cost_analysis()["flops"]
  assert by_hand <= cost <= 6.5e6


NETWORKS = {
  "mlp": models.mlp((8, 8), 3),
  "cnn": models.cnn((3, 4), 6, 3),
  "batch": models.ResNet((1, 1), 4, 3),
  "group": models.ResNet((1, 1), 4, 3, norm="group"),
  "bottleneck": models.ResNet((1, 1), 4, 3, bottleneck=True),
  "vgg": models.VGG(((3,), (4, 4)), (5,), 3),
  "vit": models.vit(3, patch=3, width=8, depth=2, heads=2),
}


@functools.cache
def fresh(name):
  return jax.jit(functools.partial(models.init, NETWORKS[name]))(KEY, jnp.zeros((1, 6, 6, 2)))


def images(n=3, channels=2):
  return jax.random.normal(jax.random.key(1), (n, 6, 6, channels))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_example_is_independent_in_evaluation(name):
  x = images()
  # The initial logits of vgg are next to nothing: with larger weights there is something to see.
  bound = filled(NETWORKS[name], 1, 6, 6, 2) if name == "vgg" else fresh(name)
  call = jax.jit(Network.__call__)
  together = call(bound, x)
  assert together.shape == (3, 3)
  assert together.dtype == jnp.float32
  apart = jnp.concatenate([call(bound, x[i : i + 1]) for i in range(3)])
  np.testing.assert_allclose(together, apart, 1e-5, 1e-5)
  assert np.ptp(together, axis=0).min() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_modules_and_keys_bind_to_equal_trees(name):
  model = NETWORKS[name]
  one, again = (shapes(module, 1, 6, 6, 2) for module in (model, model.clone()))
  assert jax.tree.structure(one) == jax.tree.structure(again)
  assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(again))
  wider = shapes(model.clone(num_classes=4), 1, 6, 6, 2)
  assert jax.tree.structure(one) != jax.tree.structure(wider)


def test_the_key_decides_the_initial_values():
  init = jax.jit(functools.partial(models.init, NETWORKS["mlp"]))
  x = jnp.zeros((1, 6))
  first, again, other = (jax.tree.leaves(init(jax.random.key(s), x).params) for s in (0, 0, 1))
  assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
  assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_normalization_inside_equals_normalization_outside(name):
  mean, std = (0.5, -1.0), (2.0, 0.5)
  inside = fresh(name).replace(
    apply_fn=NETWORKS[name].clone(mean=mean, std=std).apply, train_fn=None
  )
  x = images()
  outside = (x - jnp.array(mean)[None, None, None]) / jnp.array(std)[None, None, None]
  np.testing.assert_allclose(
    jax.jit(Network.__call__)(inside, x),
    jax.jit(Network.__call__)(fresh(name), outside),
    1e-5,
    1e-5,
  )


@pytest.mark.parametrize("name", NETWORKS)
def test_grey_images_need_no_channel_axis(name):
  flat, full = (
    shapes(NETWORKS[name], 1, 6, 6),
    shapes(NETWORKS[name], 1, 6, 6, 1),
  )
  assert jax.tree.leaves(flat) == jax.tree.leaves(full)


@pytest.mark.parametrize("name", NETWORKS)
def test_low_precision_computes_low_and_keeps_params_full(name):
  bound = shapes(NETWORKS[name].clone(dtype=jnp.bfloat16), 1, 6, 6, 2)
  assert {leaf.dtype for leaf in jax.tree.leaves(bound)} == {np.dtype("float32")}
  logits = jax.eval_shape(Network.__call__, bound, jnp.zeros((1, 6, 6, 2)))
  assert logits.dtype == jnp.bfloat16


def lax_conv(x, kernel, stride=1):
  padding, layout = [(k // 2, k // 2) for k in kernel.shape[:2]], ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=layout
  )


def filled(model, *shape):
  """A network with random weights and statistics."""
  rng = np.random.default_rng(0)
  fill = {"mean": lambda s: rng.normal(size=s), "var": lambda s: rng.uniform(0.5, 2, size=s)}
  fill |= {"scale": lambda s: rng.normal(1, 0.2, size=s), "bias": lambda s: rng.normal(size=s)}
  fill |= {"kernel": lambda s: rng.normal(size=s) / np.sqrt(np.prod(s[:-1]))}
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.asarray(fill[path[-1].key](leaf.shape), jnp.float32),
    shapes(model, *shape),
  )


class Layers:
  """The layers of a network by name, as the papers write them."""

  def __init__(self, bound):
    self.params = bound.params.get("params", bound.params)
    self.stats = (bound.state or {}).get("batch_stats")

  def conv(self, x, name, stride=1):
    return lax_conv(x, self.params[name]["kernel"], stride)

  def norm(self, x, name):
    x = (x - self.stats[name]["mean"]) / jnp.sqrt(self.stats[name]["var"] + 1e-5)
    return x * self.params[name]["scale"] + self.params[name]["bias"]

  def layer_norm(self, x, name):
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * self.params[name]["scale"] + self.params[name]["bias"]

  def dense(self, x, name):
    return x @ self.params[name]["kernel"] + self.params[name]["bias"]


def agree(bound, paper, x):
  np.testing.assert_allclose(jax.jit(bound)(x), jax.jit(paper)(x), 1e-4, 1e-4)


@pytest.mark.parametrize("make", [models.resnet18, models.resnet50])
def test_resnet_is_the_papers_forward_pass(make):
  model = make(3, width=4)
  bound = filled(model, 1, 8, 8, 3)
  at = Layers(bound)
  inner = 3 if make is models.resnet50 else 2
  strided = 2 if make is models.resnet50 else 1

  def paper(x):
    x = jax.nn.relu(at.norm(at.conv(x, "stem"), "norm"))
    for stage, blocks in enumerate(model.blocks):
      for block in range(blocks):
        name, stride = f"stage{stage}_block{block}", 2 if stage and block == 0 else 1
        y = x
        for i in range(1, inner + 1):
          y = at.conv(y, f"{name}_conv{i}", stride if i == strided else 1)
          y = at.norm(y, f"{name}_norm{i}")
          y = jax.nn.relu(y) if i < inner else y
        if block == 0 and (stage or make is models.resnet50):
          x = at.norm(at.conv(x, f"{name}_shortcut", stride), f"{name}_shortcut_norm")
        x = jax.nn.relu(x + y)
    return at.dense(x.mean((1, 2)), "head")

  agree(bound, paper, jax.random.normal(KEY, (2, 8, 8, 3)))


@pytest.mark.parametrize("side", [32, 64, 96])
def test_vgg_is_the_papers_forward_pass(side):
  bound = filled(models.vgg16(3, width=2), 1, side, side, 3)
  at = Layers(bound)

  def paper(x):
    for stage, convolutions in enumerate((2, 2, 3, 3, 3)):
      for i in range(convolutions):
        x = jax.nn.relu(at.norm(at.conv(x, f"stage{stage}_conv{i}"), f"stage{stage}_norm{i}"))
      x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    # One, two or three pixels a side, averaged over two overlapping halves.
    low, high = {1: ([0], [0]), 2: ([0], [1]), 3: ([0, 1], [1, 2])}[x.shape[1]]
    corners = [x[:, rows][:, :, cols].mean((1, 2)) for rows in (low, high) for cols in (low, high)]
    x = jnp.stack(corners, -1).reshape(len(x), -1)
    for name in ("dense0", "dense1"):
      x = jax.nn.relu(at.dense(x, name))
    return at.dense(x, "head")

  agree(bound, paper, jax.random.normal(KEY, (2, side, side, 3)))


def test_the_dense_layers_of_vgg_start_small():
  kernel = jax.jit(models._initializers.small_normal, static_argnums=1)(KEY, (64, 256))
  np.testing.assert_allclose([kernel.mean(), kernel.std()], [0, 0.01], atol=2e-4)
  for name in ("dense0", "head"):
    assert 0.005 < jnp.abs(fresh("vgg").params[name]["kernel"]).max() < 0.03


def test_vit_is_the_papers_forward_pass():
  bound = filled(models.vit(3, patch=2, width=8, depth=2, heads=2), 1, 4, 6, 3)
  at = Layers(bound)

  def paper(x):
    tokens = [x[:, i : i + 2, j : j + 2].reshape(len(x), -1) for i in (0, 2) for j in (0, 2, 4)]
    x = at.dense(jnp.stack(tokens, 1), "embedding")
    place = [[np.sin, 0, 1], [np.sin, 0, 1e-4], [np.cos, 0, 1], [np.cos, 0, 1e-4]]
    place += [[function, 1, rate] for function, _, rate in place]
    where = [(row, column) for row in range(2) for column in range(3)]
    x += np.array([[function(at[axis] * rate) for function, axis, rate in place] for at in where])
    for block in ("block0", "block1"):
      qkv = at.dense(at.layer_norm(x, f"{block}_norm1"), f"{block}_qkv")
      q, k, v = (qkv[..., 8 * i : 8 * (i + 1)] for i in range(3))
      seen = []
      for head in (slice(0, 4), slice(4, 8)):
        scores = q[..., head] @ k[..., head].swapaxes(1, 2) / 2
        seen.append(jax.nn.softmax(scores) @ v[..., head])
      x += at.dense(jnp.concatenate(seen, -1), f"{block}_out")
      y = at.dense(at.layer_norm(x, f"{block}_norm2"), f"{block}_dense1")
      x += at.dense(jax.nn.gelu(y), f"{block}_dense2")
    return at.dense(at.layer_norm(x, "norm").mean(1), "head")

  agree(bound, paper, jax.random.normal(KEY, (2, 4, 6, 3)))


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: models.vit(width=10, heads=4), "width=10 and heads=4"),
    (lambda: shapes(models.vit(), 1, 28, 28), "28 × 28, which patches of 8 do not divide"),
    (lambda: shapes(models.cnn(), 1, 4, 4, 3), "1 × 1, must be at least 2 × 2"),
  ],
)
def test_shapes_that_do_not_fit_get_one_line(call, said):
  with pytest.raises(ValueError, match=said) as caught:
    call()
  assert "Use" in str(caught.value).splitlines()[0]


def test_group_norm_has_no_state_and_no_interaction_in_training():
  bound = fresh("group")
  assert bound.state == {}
  x = images()
  logits, state = jax.jit(Network.train)(bound, x, KEY, jnp.ones(3, bool))
  assert state == {}
  np.testing.assert_allclose(logits, jax.jit(Network.__call__)(bound, x), 1e-6)
  assert size(shapes(models.resnet18(10, norm="group"), 1, 32, 32, 3)) == 11_173_962


def test_an_unknown_norm_is_refused():
  with one_line("resnet18 needs norm 'batch' or 'group', got 'x'"):
    models.resnet18(norm="x")  # pyright: ignore[reportArgumentType]


def test_a_model_may_be_a_function_of_key_and_inputs():
  def model(key, inputs):
    return Network(jax.random.normal(key, (inputs.shape[-1], 3)), None, lambda w, x: x @ w)

  bound = models.init(model, KEY, jnp.zeros((1, 5)))
  assert bound(jnp.ones((2, 5))).shape == (2, 3)


def test_state_is_bound_apart_from_params():
  class Counting(nn.Module):
    @nn.compact
    def __call__(self, x, train=False, mask=None):
      del mask
      seen = self.variable("counts", "steps", lambda: jnp.array(0))
      if train:
        seen.value += 1
      return nn.Dense(2)(x)

  bound = models.init(Counting(), KEY, jnp.zeros((1, 3)))
  assert set(bound.params) == {"Dense_0"}
  x = jnp.ones((2, 3))
  logits, state = bound.train(x, KEY, jnp.ones(2, bool))
  assert int(state["counts"]["steps"]) == 1
  np.testing.assert_array_equal(bound.replace(state=state)(x), logits)


def test_group_norm_fits_any_width():
  model = models.resnet18(3, width=12, norm="group")
  bound = jax.eval_shape(
    lambda key: models.init(model, key, jnp.zeros((1, 8, 8, 3))), jax.random.key(0)
  )
  assert bound.state == {}
