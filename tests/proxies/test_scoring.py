"""A score does not depend on how a data set is cut into batches or spread over devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import models, proxies, train
from jaxmul._blocks import map_blocks
from jaxmul._sharding import shard_batch
from jaxmul.data import Dataset, sources

Partial = jax.tree_util.Partial
INPUTS, CLASSES, BLOCK = 5, 3, 32


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def data(n, seed=0):
  rng = np.random.default_rng(seed)
  return Dataset(
    rng.normal(size=(n, INPUTS)), rng.integers(0, CLASSES, n), 3 * np.arange(n)[::-1], CLASSES
  )


@functools.cache
def network():
  return models.init(models.mlp((6,), CLASSES), jax.random.key(0), jnp.zeros((1, INPUTS)))


def tanh(w, x):
  return jnp.tanh(x @ w)


@pytest.mark.parametrize(("n", "batch_size"), [(1, 512), (13, 1), (13, 5), (13, 512), (40, 16)])
def test_any_number_and_any_batch_size_give_the_same_scores(n, batch_size):
  toy = data(n)
  got = proxies.score(proxies.curvature, network(), toy, batch_size=batch_size)
  want = jax.jit(proxies.curvature)(network(), toy.batch())
  assert isinstance(got, np.ndarray)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_batches_are_spread_over_all_devices():
  devices = len(jax.devices())
  seen = []

  def proxy(params, batch):
    jax.debug.callback(lambda inputs: seen.append(inputs.shape), batch[0])
    return proxies.loss(params, batch)

  proxies.score(proxy, network(), data(2 * devices + 1))
  assert seen == [(BLOCK, INPUTS)] * devices
  if devices > 1:
    uneven = shard_batch((np.ones((devices + 1, 2)),))[0]
    assert isinstance(uneven, np.ndarray)


def test_padding_is_not_scored():
  sizes = []

  def proxy(params, batch):
    sizes.append(len(batch[1]))
    return proxies.loss(params, batch)

  got = proxies.score(proxy, network(), data(3))
  assert got.shape == (3,)
  assert sizes == [BLOCK]


def test_one_program_serves_all_batches_and_new_params():
  traces = []

  def proxy(params, batch):
    traces.append(len(batch[1]))
    return proxies.loss(params, batch)

  proxies.score(proxy, network(), data(21), batch_size=8)
  proxies.score(proxy, jax.tree.map(lambda w: 2 * w, network()), data(30), batch_size=8)
  assert traces == [BLOCK]


def test_new_arrays_in_a_partial_do_not_retrace():
  @chex.assert_max_traces(n=1)
  def proxy(params, batch, probes):
    return proxies.curvature(params, batch, probes=probes)

  rng = np.random.default_rng(1)
  for _ in range(2):
    probes = rng.normal(size=(2, INPUTS)).astype(np.float32)
    got = proxies.score(Partial(proxy, probes=probes), network(), data(9))
    want = proxies.curvature(network(), data(9).batch(), probes=probes)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "options", [{"method": "rum_compat"}, {"num_probes": 2}, {"method": "rum_compat", "h": 0.1}]
)
def test_options_go_in_by_partial(options):
  got = proxies.score(Partial(proxies.curvature, **options), network(), data(9))
  want = proxies.curvature(network(), data(9).batch(), **options)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  plain = proxies.score(functools.partial(proxies.curvature, **options), network(), data(9))
  np.testing.assert_allclose(got, plain, rtol=1e-6)


def test_another_network_goes_in_by_partial():
  other = jax.tree.map(lambda w: 1.5 * w, network())
  proxy = Partial(proxies.heldout_divergence, heldout_params=other)
  got = proxies.score(proxy, network(), data(9))
  want = proxies.heldout_divergence(network(), other, data(9).batch())
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_the_forms_of_the_call_agree():
  w = np.random.default_rng(0).normal(size=(INPUTS, CLASSES)).astype(np.float32)
  want = proxies.score(proxies.confidence, w, data(9), tanh)
  got = proxies.score(proxies.confidence, jaxmul.bind(tanh, w), data(9))
  np.testing.assert_array_equal(got, want)
  np.testing.assert_allclose(got, proxies.confidence(w, data(9).batch(), tanh), rtol=1e-5)
  with one_line(r"score needs apply_fn: params is a dict.*jaxmul\.bind"):
    proxies.score(proxies.confidence, {"w": w}, data(9))


def test_a_callable_tree_may_hold_more_than_arrays():
  import equinox as eqx

  class Batched(eqx.Module):
    network: eqx.nn.MLP

    def __call__(self, x):
      return jax.vmap(self.network)(x)

  model = Batched(eqx.nn.MLP(INPUTS, CLASSES, 6, 1, key=jax.random.key(1)))
  got = proxies.score(proxies.confidence, model, data(9))
  np.testing.assert_allclose(got, proxies.confidence(model, data(9).batch()), rtol=1e-5)


def test_params_may_live_on_one_device():
  device = jax.devices()[-1]
  there = jax.device_put(network(), device)
  got = proxies.score(proxies.confidence, there, data(9))
  np.testing.assert_allclose(
    got, proxies.confidence(network(), data(9).batch()), rtol=1e-5, atol=1e-6
  )


def test_uint8_images_are_scaled_to_one():
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (9, INPUTS), dtype=np.uint8), rng.integers(0, CLASSES, 9)
  got = proxies.score(proxies.loss, network(), Dataset(images, labels, num_classes=CLASSES))
  scaled = (images.astype(np.float32) / 255, labels)
  np.testing.assert_allclose(got, proxies.loss(network(), scaled), rtol=1e-5)


def test_scores_follow_the_ids():
  toy = data(13)
  some = np.random.default_rng(1).permutation(toy.ids)[:7]
  whole = dict(zip(toy.ids, proxies.score(proxies.loss, network(), toy), strict=True))
  got = proxies.score(proxies.loss, network(), toy.take(some))
  np.testing.assert_allclose(got, [whole[i] for i in some], rtol=1e-5)


def test_impossible_calls_are_refused():
  with one_line("score got an empty data set"):
    proxies.score(proxies.loss, network(), data(0))
  with one_line("batch_size=0, must be an integer of at least 1"):
    proxies.score(proxies.loss, network(), data(3), batch_size=0)
  with one_line(r"batch_size=2\.5, must be an integer"):
    proxies.score(proxies.loss, network(), data(3), batch_size=2.5)
  with one_line(r"score got label 3, outside \[0, 3\)"):
    proxies.score(proxies.loss, network(), Dataset(np.zeros((1, INPUTS)), np.array([3])))


@pytest.mark.parametrize(("n", "size"), [(1, 4), (7, 3), (6, 3), (5, 1)])
def test_blocks_put_together_are_the_whole(n, size):
  x, y = jnp.arange(2.0 * n).reshape(n, 2), jnp.arange(n)
  shapes = []

  def function(x, y):
    shapes.append(x.shape)
    return {"sum": x.sum(-1) + y, "twice": 2 * x}

  got = jax.jit(lambda x, y: map_blocks(function, (x, y), size))(x, y)
  np.testing.assert_array_equal(got["sum"], x.sum(-1) + y)
  np.testing.assert_array_equal(got["twice"], 2 * x)
  assert set(shapes) == {(min(size, n), 2)}


def test_real_images_score_alike_in_any_batch(cifar10_small):
  some = cifar10_small.take(cifar10_small.ids[:20])
  init = functools.partial(models.init, models.cnn((4, 8), 16))
  bound = jax.jit(init)(jax.random.key(0), some.batch()[0][:1])
  proxy = functools.partial(proxies.curvature, num_probes=1)
  few, many = (proxies.score(proxy, bound, some, batch_size=size) for size in (8, 24))
  assert (few > 0).all()
  np.testing.assert_allclose(few, many, rtol=1e-5, atol=1e-5)


@functools.cache
def trained():
  digits = sources.mnist5k()
  digits = digits.take(digits.ids[::5])
  recipe = train.Recipe(models.mlp(), epochs=5, batch_size=50, learning_rate=0.05)
  return train.fit(recipe, digits, jax.random.key(0)).network, digits


@pytest.mark.rounding
@pytest.mark.parametrize("method", ["hvp", "finite_difference", "rum_compat"])
def test_a_trained_relu_network_scores_the_same_bits_in_any_batch_and_order(method):
  params, some = trained()
  proxy = Partial(proxies.curvature, num_probes=2, method=method)
  want = proxies.score(proxy, params, some, batch_size=512)
  assert np.ptp(want) > 0
  np.testing.assert_array_equal(proxies.score(proxy, params, some, batch_size=104), want)
  order = np.random.default_rng(0).permutation(len(some))
  moved = proxies.score(proxy, params, some.take(some.ids[order]), batch_size=40)
  np.testing.assert_array_equal(moved, want[order])
