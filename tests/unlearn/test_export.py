"""Every unlearning step lowers for CPU, GPU and TPU from any machine."""

import jax
import jax.numpy as jnp
import pytest

from jaxmul import models, unlearn
from jaxmul._examples import Examples

NETWORKS = {
  "mlp": (models.mlp((8,), 3), (8, 8)),
  "cnn": (models.cnn((4, 4), 8, 3), (8, 8, 3)),
  "resnet18": (models.resnet18(3, width=8), (8, 8, 3)),
}
ALGORITHMS = {
  "fine_tune": unlearn.fine_tune(),
  "neg_grad": unlearn.neg_grad(),
  "neg_grad_plus": unlearn.neg_grad_plus(),
  "npo": unlearn.npo(),
  "random_label": unlearn.random_label(),
  "salun": unlearn.salun(),
}


@pytest.mark.parametrize(
  ("network", "algorithm"),
  [
    # A ResNet takes a quarter of a minute each; "salun" stands for the others.
    pytest.param(
      *(network, name),
      marks=pytest.mark.slow if network == "resnet18" and name != "salun" else (),
    )
    for network in NETWORKS
    for name in ALGORITHMS
  ],
)
def test_an_unlearning_step_exports(network, algorithm):
  module, shape = NETWORKS[network]
  algorithm = ALGORITHMS[algorithm]
  example = jax.ShapeDtypeStruct((4, *shape), jnp.float32)
  key = jax.random.key(0)
  params = jax.eval_shape(lambda k, x: models.init(module, k, x), key, example)

  def step(params, inputs, labels, key):
    rows = Examples(inputs, labels, jnp.arange(0), 0).subset(range(4), 4)
    state = algorithm.init(params, unlearn.Session(rows, rows, 1, 4, key))
    batch = unlearn.Batch(inputs, labels, jnp.ones(4, bool), jnp.arange(4))
    updates, _ = algorithm.update(batch, batch, state, params, key)
    return jax.tree.leaves(updates)

  labels = jax.ShapeDtypeStruct((4,), jnp.int32)

  def flat(leaves, inputs, labels, key_data):
    bound = jax.tree.unflatten(jax.tree.structure(params), leaves)
    return step(bound, inputs, labels, jax.random.wrap_key_data(key_data))

  exported = jax.export.export(jax.jit(flat), platforms=("cpu", "cuda", "tpu"))(
    jax.tree.leaves(params), example, labels, jax.ShapeDtypeStruct((2,), jnp.uint32)
  )
  assert exported.platforms == ("cpu", "cuda", "tpu")
