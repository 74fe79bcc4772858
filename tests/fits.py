"""What tests of training on devices, in microbatches and from checkpoints share: small fits."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import models, train
from jaxmul.data import Dataset

KEY = jax.random.key(3)
MLP = models.mlp((8,), 3)
NETWORKS = {
  "mlp": (MLP, (6,)),
  "cnn": (models.cnn((3, 4), 6, 3), (4, 4, 2)),
  "resnet": (models.ResNet((1,), 4, 3), (4, 4, 2)),
}
SIZE = 21  # in batches of 8: of 8, 8 and 5, or of 7 with BatchNorm


def toy(shape=(6,), n=SIZE, seed=0):
  rng = np.random.default_rng(seed)
  images = rng.normal(size=(n, *shape)).astype(np.float32)
  return Dataset(images, rng.integers(0, 3, n), 10 + 3 * np.arange(n), num_classes=3)


def wide(key, inputs, name="mlp"):
  """A network whose params and state are float64 where that is enabled."""
  network = models.init(NETWORKS[name][0], key, inputs)
  trees = (network.params, network.state)
  params, state = jax.tree.map(lambda leaf: leaf.astype(float), trees)
  return network.replace(params=params, state=state)


def wide_cnn(key, inputs):
  return wide(key, inputs, "cnn")


def wide_resnet(key, inputs):
  return wide(key, inputs, "resnet")


WIDE = {"mlp": wide, "cnn": wide_cnn, "resnet": wide_resnet}


def recipe(model=MLP, **changes):
  return train.Recipe(model, **{"epochs": 2, "batch_size": 8, "learning_rate": 0.05} | changes)


def params_of(fit):
  return {"params": fit.network.params, "state": fit.network.state}


def difference(a, b):
  """The largest difference of two trees."""
  return max(
    float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
  )


def same_bits(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)
