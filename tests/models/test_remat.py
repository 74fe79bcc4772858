"""Rematerialised blocks: the same params, numbers and gradients, in less memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import _gradients, _identity, losses, models
from jaxmul.models._features import layer_inputs
from jaxmul.models._ghost import has_ghost_norms
from jaxmul.models._kronecker import zero_factors

CLASSES = 5
IMAGES = {
  "resnet": models.ResNet((1, 2), 2, CLASSES),
  "bottleneck": models.ResNet((1, 1), 2, CLASSES, bottleneck=True),
  "vgg": models.VGG(((3,), (4, 4)), (5,), CLASSES),
  "vit": models.vit(CLASSES, patch=3, width=8, depth=2, heads=2),
}
TEXTS = {
  "gpt": models.gpt(CLASSES, length=6, width=8, depth=2, heads=2, dropout=0.5),
  "tied": models.gpt(CLASSES, length=6, width=8, depth=2, heads=2, tied=True),
  "neox": models.neox(CLASSES, length=6, width=16, depth=2, heads=2),
  "llama": models.llama(CLASSES, length=6, width=16, depth=2, heads=4, kv_heads=2),
}
ALL = {**IMAGES, **TEXTS}
BLOCKS = {"resnet": 3, "vgg": 3}  # of others 2


def batch(name, n=4):
  if name in IMAGES:
    return jax.random.normal(jax.random.key(1), (n, 6, 6, 2)), jnp.arange(n) % CLASSES
  tokens = jax.random.randint(jax.random.key(1), (n, 7), 0, CLASSES)
  return tokens[:, :-1], tokens[:, 1:]


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


@functools.cache
def pair(name):
  """Networks of equal params, without and with rematerialisation; larger than fresh weights."""
  x, _ = batch(name)
  plain, remat = (
    jax.jit(functools.partial(models.init, ALL[name].clone(remat=on)))(jax.random.key(0), x)
    for on in (False, True)
  )
  return plain, remat


def blocks_of(function, *args):
  """How many rematerialised blocks there are in a forward pass."""
  return len(re.findall(r"= remat\d*\[", str(jax.make_jaxpr(function)(*args))))


@pytest.mark.parametrize("name", ALL)
def test_names_and_values_of_params_are_the_same(name):
  plain, remat = pair(name)
  assert jax.tree.structure(plain.params) == jax.tree.structure(remat.params)
  assert jax.tree.structure(plain.state) == jax.tree.structure(remat.state)
  assert _identity.tree_digest(plain.params) == _identity.tree_digest(remat.params)


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"neox", "tied"}))
def test_training_has_the_same_gradients_and_statistics(name, double):
  x, y = batch(name)
  mask, key = jnp.arange(len(x)) < 3, jax.random.key(2)

  def loss(params, network):
    if network.train_fn is None:
      return losses.masked_mean(
        losses.cross_entropy(network.replace(params=params)(x), y), mask
      ), {}
    logits, state = network.replace(params=params).train(x, key, mask)
    return losses.masked_mean(losses.cross_entropy(logits, y), mask), state

  plain, remat = (jax.tree.map(lambda leaf: leaf.astype(jnp.float64), one) for one in pair(name))
  theta = jax.tree.map(lambda leaf: leaf + 0.1, plain.params)
  value = jax.jit(jax.value_and_grad(loss, has_aux=True))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)  # softmax is float32
  jax.tree.map(close, value(theta, remat), value(theta, plain))
  assert blocks_of(loss, plain.params, plain) == 0
  assert blocks_of(loss, plain.params, remat) == BLOCKS.get(name, 2)


@pytest.mark.parametrize("name", ["vgg", "vit", "gpt"])
def test_several_models_at_once_and_their_curvature_are_the_same(name):
  x, y = batch(name)

  def mean_loss(params, network):
    return losses.cross_entropy(network.replace(params=params)(x), y).mean()

  def product(params, network):
    gradient = functools.partial(jax.grad(mean_loss), network=network)
    return jax.jvp(gradient, (params,), (params,))

  plain, remat = pair(name)
  several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 0.1]), plain.params)
  each = jax.jit(jax.vmap(product, (0, None)))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    each(several, remat),
    each(several, plain),
  )


@pytest.mark.parametrize("name", ["resnet", "vgg", "vit", "llama", "tied"])
def test_norms_of_examples_gradients_are_the_same_and_as_cheap(name):
  x, y = batch(name)
  plain, remat = pair(name)
  assert has_ghost_norms(remat, x) == has_ghost_norms(plain, x) == (name != "tied")
  norms = jax.jit(lambda network: _gradients.of_examples(network, x, y, norms=True).norms)
  np.testing.assert_allclose(norms(remat), norms(plain), rtol=1e-5)


def test_what_layers_inside_a_block_are_given_can_be_read():
  x, _ = batch("gpt")
  plain, remat = pair("gpt")
  layers = [("blocks_0", "dense2"), ("head",)]
  for got, want in zip(layer_inputs(remat, x, layers), layer_inputs(plain, x, layers), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6)
  assert zero_factors(remat, x).keys() == zero_factors(plain, x).keys()
  inside = models.features(IMAGES["vit"].clone(remat=True), "block0_dense2")
  x, _ = batch("vit")
  np.testing.assert_allclose(
    inside(pair("vit")[1], x), models.features(IMAGES["vit"], "block0_dense2")(pair("vit")[0], x)
  )


def test_adapters_inside_a_block_are_the_same():
  x, y = batch("gpt")

  def gradients(network):
    adapted = models.with_low_rank(network, x, ("dense1",), 2, jax.random.key(3))
    adapted = adapted.replace(params=jax.tree.map(lambda leaf: leaf + 0.1, adapted.params))
    products = models.inner_products(adapted, (x, y))

    def loss(params):
      return losses.cross_entropy(adapted.replace(params=params)(x), y).mean()

    assert blocks_of(loss, adapted.params) == (2 if network is pair("gpt")[1] else 0)
    return jax.grad(loss)(adapted.params), products

  plain, remat = map(gradients, pair("gpt"))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), remat, plain)


def test_text_goes_on_the_same():
  x, _ = batch("gpt")
  plain, remat = (
    models.generate(pair("gpt")[on], x[:, :3], 3, model=TEXTS["gpt"].clone(remat=on))
    for on in (False, True)
  )
  np.testing.assert_array_equal(plain, remat)


DEEP = {
  "resnet": (models.ResNet((6,), 4, CLASSES), (16, 16, 16, 3)),
  "vgg": (models.VGG(((4,) * 6,), (5,), CLASSES), (16, 16, 16, 3)),
  "vit": (models.vit(CLASSES, patch=2, width=8, depth=4, heads=2), (16, 16, 16, 3)),
  "gpt": (models.gpt(CLASSES, length=32, width=8, depth=4, heads=2), (16, 32)),
}


@pytest.mark.parametrize("name", DEEP)
def test_it_takes_less_memory(name):
  model, shape = DEEP[name]
  x = jax.ShapeDtypeStruct(shape, jnp.int32 if len(shape) == 2 else jnp.float32)

  def bytes_of(model):
    network = models.shapes(model, x)

    def loss(params, network, x):
      return jnp.square(network.replace(params=params)(x)).mean()

    def kept(params, network, x):
      return jax.vjp(lambda params: loss(params, network, x), params)[1]

    lowered = jax.jit(jax.grad(loss)).lower(network.params, network, x)
    # XLA for CPU drops in this pass what keeps the second computation apart from the first.
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    compiled = lowered.compile(compiler_options=options)
    leaves = jax.tree.leaves(jax.eval_shape(kept, network.params, network, x))
    residuals = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return compiled.memory_analysis().temp_size_in_bytes, residuals

  temporary, residuals = bytes_of(model)
  less, fewer = bytes_of(model.clone(remat=True))
  assert less < 0.8 * temporary
  assert fewer < 0.5 * residuals


@pytest.mark.parametrize("name", ALL)
def test_models_without_it_are_told_as_before(name):
  model = ALL[name]
  assert "remat" not in _identity.describe(model)
  assert "remat=True" in _identity.describe(model.clone(remat=True))


@pytest.mark.parametrize("make", [models.resnet18, models.resnet50, models.vgg16, models.vit])
def test_functions_hand_it_on(make):
  assert make(remat=True) == make().clone(remat=True) != make()


@pytest.mark.parametrize("make", [models.gpt, models.neox, models.llama])
def test_functions_of_texts_hand_it_on(make):
  assert make(remat=True) == make().clone(remat=True) != make()
