"""The networks are the papers': sizes, cost, forward pass, and what binding them promises."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models
from jaxmul.binding import Bound

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


def test_cnn_costs_at_most_six_and_a_half_megaflop_forward():
  bound = shapes(models.cnn(), 1, 32, 32, 3)
  layers = bound.params["params"]
  by_hand = 0
  for name, side in (("Conv_0", 32), ("Conv_1", 16), ("Conv_2", 8)):
    by_hand += 2 * side * side * layers[name]["kernel"].size
  by_hand += 2 * sum(layers[name]["kernel"].size for name in ("Dense_0", "Dense_1"))
  assert len(layers) == 5
  assert by_hand <= 6.5e6
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  cost = jax.jit(Bound.__call__).lower(bound, image).compile().cost_analysis()["flops"]
  assert by_hand <= cost <= 6.5e6


NETWORKS = {
  "mlp": models.mlp((8, 8), 3),
  "cnn": models.cnn((3, 4), 6, 3),
  "batch": models.ResNet((1, 1), 4, 3),
  "group": models.ResNet((1, 1), 4, 3, norm="group"),
}


@functools.cache
def fresh(name):
  return jax.jit(functools.partial(models.init, NETWORKS[name]))(KEY, jnp.zeros((1, 6, 6, 2)))


def images(n=3, channels=2):
  return jax.random.normal(jax.random.key(1), (n, 6, 6, channels))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_example_is_independent_in_evaluation(name):
  x = images()
  call = jax.jit(Bound.__call__)
  together = call(fresh(name), x)
  assert together.shape == (3, 3)
  assert together.dtype == jnp.float32
  apart = jnp.concatenate([call(fresh(name), x[i : i + 1]) for i in range(3)])
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
    jax.jit(Bound.__call__)(inside, x), jax.jit(Bound.__call__)(fresh(name), outside), 1e-5, 1e-5
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
  logits = jax.eval_shape(Bound.__call__, bound, jnp.zeros((1, 6, 6, 2)))
  assert logits.dtype == jnp.bfloat16


def lax_conv(x, kernel, stride=1):
  padding, layout = [(k // 2, k // 2) for k in kernel.shape[:2]], ("NHWC", "HWIO", "NHWC")
  return jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), padding, dimension_numbers=layout
  )


def test_resnet_is_the_papers_forward_pass():
  model = models.resnet18(3, width=4)
  rng = np.random.default_rng(0)
  fill = {"mean": lambda s: rng.normal(size=s), "var": lambda s: rng.uniform(0.5, 2, size=s)}
  fill |= {"scale": lambda s: rng.normal(1, 0.2, size=s), "bias": lambda s: rng.normal(size=s)}
  fill |= {"kernel": lambda s: rng.normal(size=s) / np.sqrt(np.prod(s[:-1]))}
  bound = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.asarray(fill[path[-1].key](leaf.shape), jnp.float32),
    shapes(model, 1, 8, 8, 3),
  )

  def norm(x, name):
    weights, stats = bound.params[name], bound.state["batch_stats"][name]
    x = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5)
    return x * weights["scale"] + weights["bias"]

  def convolution(x, name, stride=1):
    return lax_conv(x, bound.params[name]["kernel"], stride)

  def paper(x):
    x = jax.nn.relu(norm(convolution(x, "stem"), "norm"))
    for stage in range(4):
      for block in range(2):
        at, stride = f"stage{stage}_block{block}", 2 if stage and block == 0 else 1
        y = jax.nn.relu(norm(convolution(x, f"{at}_conv1", stride), f"{at}_norm1"))
        y = norm(convolution(y, f"{at}_conv2"), f"{at}_norm2")
        if stride == 2:
          x = norm(convolution(x, f"{at}_shortcut", stride), f"{at}_shortcut_norm")
        x = jax.nn.relu(x + y)
    head = bound.params["head"]
    return x.mean((1, 2)) @ head["kernel"] + head["bias"]

  x = jax.random.normal(KEY, (2, 8, 8, 3))
  np.testing.assert_allclose(jax.jit(bound)(x), jax.jit(paper)(x), 1e-4, 1e-4)


def test_group_norm_has_no_state_and_no_interaction_in_training():
  bound = fresh("group")
  assert bound.state is None
  x = images()
  logits, state = jax.jit(Bound.train)(bound, x, KEY, jnp.ones(3, bool))
  assert state is None
  np.testing.assert_allclose(logits, jax.jit(Bound.__call__)(bound, x), 1e-6)
  assert size(shapes(models.resnet18(10, norm="group"), 1, 32, 32, 3)) == 11_173_962


def test_an_unknown_norm_is_refused():
  with one_line("resnet18 needs norm 'batch' or 'group', got 'x'"):
    models.resnet18(norm="x")  # pyright: ignore[reportArgumentType]


def test_a_model_may_be_a_function_of_key_and_inputs():
  def model(key, inputs):
    return Bound(jax.random.normal(key, (inputs.shape[-1], 3)), None, lambda w, x: x @ w)

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
  assert bound.state is None


def test_images_too_small_for_the_pooling_get_one_line():
  with pytest.raises(ValueError, match="must be at least 2 × 2") as caught:
    models.init(models.cnn(), jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  assert "Use larger images" in str(caught.value).splitlines()[0]
