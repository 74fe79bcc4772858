"""Every network trains and every proxy runs on accelerators: all lower for them from anywhere."""

import functools
import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models, proxies, train
from jaxmul._examples import Examples
from jaxmul.proxies import trackers

PLATFORMS = ("cpu", "cuda", "tpu")
NETWORKS = {
  "mlp": (models.mlp((8,), 10), (6,)),
  "cnn": (models.cnn((3, 4), 6), (8, 8, 3)),
  "resnet18": (models.resnet18(width=8), (8, 8, 3)),
  "resnet50": (models.ResNet((1, 1), 8, bottleneck=True), (8, 8, 3)),
  "vgg16": (models.VGG(((4,), (8,))), (8, 8, 3)),
  "vit": (models.vit(patch=4, width=8, depth=1, heads=2), (8, 8, 3)),
}


def spec(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def export(function, *arguments):
  exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
  assert exported.platforms == PLATFORMS
  return exported


def shapes(name, n=4):
  """(params, batch) of a network, as shapes."""
  model, shape = NETWORKS[name]
  init = functools.partial(models.init, model)
  bound = jax.eval_shape(init, jax.random.key(0), spec(n, *shape))
  return bound, (spec(n, *shape), spec(n, dtype=jnp.int32))


def training(name):
  """A whole run of two steps from a raw key, as `(images, labels, key) -> leaves`."""
  model, _ = NETWORKS[name]
  recipe = train.Recipe(model, epochs=1, batch_size=2)

  def run(images, labels, key):
    key = jax.random.wrap_key_data(key)
    # Those that take gradients once, with the network that compiles fastest.
    some = trackers.__all__ if name == "mlp" else ("learning_events",)
    every = tuple(getattr(trackers, each)() for each in some)
    result = train.run(recipe, every, Examples(images, labels, jnp.arange(4), 4), key)
    return jax.tree.leaves((result.network, result.scores, result.history))

  return run


@pytest.mark.parametrize("name", NETWORKS)
def test_training_exports_for_every_platform(name):
  _, shape = NETWORKS[name]
  images, labels = spec(4, *shape, dtype=jnp.uint8), spec(4, dtype=jnp.int32)
  exported = export(training(name), images, labels, spec(2, dtype=jnp.uint32))
  text = exported.mlir_module()
  # Convolutions of accelerators, products of the CPU: both are in the one program.
  assert ("stablehlo.convolution" in text) == (name not in ("mlp", "vit"))


def test_an_exported_run_gives_the_same_numbers():
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (4, 6), dtype=np.uint8), np.arange(4, dtype=np.int32)
  key = np.array([0, 1], np.uint32)
  run = training("mlp")
  got = export(run, images, labels, key).call(images, labels, key)
  for ours, want in zip(got, jax.jit(run)(images, labels, key), strict=True):
    np.testing.assert_allclose(ours, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("name", "method"),
  [
    *((name, "hvp") for name in NETWORKS),
    *itertools.product(("mlp", "cnn", "resnet18"), ("finite_difference", "rum_compat")),
  ],
)
def test_curvature_exports_for_every_platform(name, method):
  bound, batch = shapes(name)
  structure = jax.tree.structure(bound)

  def scores(leaves, batch):
    params = jax.tree.unflatten(structure, leaves)
    return proxies.curvature(params, batch, method=method, num_probes=2)

  exported = export(scores, jax.tree.leaves(bound), batch)
  assert exported.out_avals[0].shape == (4,)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_proxies_export_for_every_platform(name):
  bound, batch = shapes(name)
  structure = jax.tree.structure(bound)

  def scores(leaves, batch):
    params = jax.tree.unflatten(structure, leaves)
    return proxies.grand(params, batch), proxies.input_gradient(params, batch)

  exported = export(scores, jax.tree.leaves(bound), batch)
  assert [aval.shape for aval in exported.out_avals] == [(4,), (4,)]


POINTS = ("confidence", "max_confidence", "entropy", "correctness", "loss", "margin", "el2n")


def test_output_proxies_export_for_every_platform():
  bound, batch = shapes("cnn")
  structure = jax.tree.structure(bound)

  def scores(before, after, batch):
    before, after = (jax.tree.unflatten(structure, leaves) for leaves in (before, after))
    outputs = [getattr(proxies, name)(before, batch) for name in POINTS]
    return [*outputs, proxies.heldout_divergence(before, after, batch)]

  exported = export(scores, jax.tree.leaves(bound), jax.tree.leaves(bound), batch)
  assert [aval.shape for aval in exported.out_avals] == [(4,)] * 8
  assert "stablehlo.convolution" in exported.mlir_module()
