"""What is computed in bfloat16 is added up in float32: a sum of bfloat16 numbers stalls."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cache, memorize, setting
from jaxmul import bind, losses, models
from jaxmul.binding import losses_of

COPIES = 1024
IMAGE = jax.random.normal(jax.random.key(1), (1, 6, 6, 1))
TOKENS = jnp.array([[1, 2, 3, 1]])
NETWORKS = {
  "mlp": (models.mlp((8,), 3), IMAGE),
  "cnn": (models.cnn((3,), 6, 3), IMAGE),
  "resnet": (models.ResNet((1,), 4, 3, norm="group"), IMAGE),
  "vit": (models.vit(3, patch=3, width=8, depth=1, heads=2), IMAGE),
  "gpt": (models.gpt(5, length=4, width=8, depth=1, heads=2), TOKENS),
  "tied": (models.gpt(5, length=4, width=8, depth=1, heads=2, tied=True), TOKENS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_many_copies_are_as_many_times_those_of_one(name):
  model, x = NETWORKS[name]
  network = models.init(model.clone(dtype=jnp.bfloat16), jax.random.key(0), x)
  y = jnp.ones(x.shape if x is TOKENS else 1, int)

  @jax.jit
  def gradient(x, y):
    def total(theta):
      return losses.cross_entropy(network.replace(params=theta)(x), y).sum()

    return jax.grad(total)(network.params)

  one, many = gradient(x, y), gradient(x.repeat(COPIES, 0), y.repeat(COPIES, 0))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(b / COPIES, a, rtol=0, atol=0.02 * np.abs(a).max())


def test_means_of_losses_are_float32():
  values = jnp.full(1001, 1.0, jnp.bfloat16).at[0].set(4)
  want = 1004 / 1001  # bfloat16 has 1 and 1.0078
  for mean in (
    losses.masked_mean(values, jnp.ones(1001, bool)),
    losses.mean_over_positions(values[None], jnp.zeros((1, 1001), int))[0],
    losses.mean_of_largest(values[None], jnp.zeros((1, 1001), int), 1.0)[0],
  ):
    np.testing.assert_allclose(mean, want, rtol=1e-6)
  own = bind(lambda w, x: w * x, jnp.ones(1), loss=lambda z, y: z[:, 0].astype(jnp.bfloat16))
  assert losses_of(own, jnp.ones((3, 1)), jnp.zeros(3, int)).dtype == jnp.float32


def test_features_are_float32():
  model = models.mlp((8,), 3, dtype=jnp.bfloat16)
  network = models.init(model, jax.random.key(0), IMAGE)
  assert models.features(model, "Dense_1")(network, IMAGE).dtype == jnp.float32
  assert models.layer_inputs(network, IMAGE, [("Dense_1",)])[0].dtype == jnp.float32


def test_the_flag_sets_the_type_and_is_not_told_without(tmp_path: Path):
  plain = memorize.Config(out=tmp_path)
  low = dataclasses.replace(plain, bfloat16=True)
  assert setting.recipe_of(plain, 10).model == models.mlp()
  assert setting.recipe_of(low, 10).model == models.mlp(dtype=jnp.bfloat16)
  assert "bfloat16" not in cache.told(plain)
  assert cache.told(low)["bfloat16"] is True
