"""Scores are computed on the devices that are given, and do not depend on them."""

import jax
import numpy as np
import pytest

from jaxmul import _scoring, models, proxies, train
from jaxmul.data import Dataset

pytestmark = pytest.mark.usefixtures("eight")


@pytest.fixture
def used(monkeypatch):
  """The devices of each batch and of its scores, in their order."""
  batches, compute = [], _scoring._score

  def watched(static, over, arrays, inputs, labels):
    scores = compute(static, over, arrays, inputs, labels)
    assert inputs.sharding.device_set == scores.sharding.device_set
    assert {len(shard.data) for shard in scores.addressable_shards} == {len(labels) // over.size}
    batches.append(scores.sharding.device_set)
    return scores

  monkeypatch.setattr(_scoring, "_score", watched)
  return batches


def problem(shape=(6,), model=None):
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(300, *shape)).astype(np.float32), rng.integers(0, 3, 300))
  model = models.mlp((5,), 3) if model is None else model
  return models.init(model, jax.random.key(0), data.inputs[:1]), data


def test_all_devices_are_the_default(used):
  network, data = problem()
  proxies.score(proxies.loss, network, data)
  assert used == [set(jax.devices())]


@pytest.mark.parametrize("which", [slice(3, 4), slice(0, 1), slice(2, 5), slice(None, None, -1)])
def test_the_devices_that_are_given_are_used_and_do_not_matter(used, which):
  """On 3 devices batches of 100 are 34 examples each, which are two blocks of 32."""
  network, data = problem()
  want = jax.jit(proxies.curvature)(network, data.batch())
  devices = jax.devices()[which]
  got = proxies.score(proxies.curvature, network, data, batch_size=100, devices=devices)
  assert used
  assert all(each == set(devices) for each in used)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  used.clear()
  np.testing.assert_array_equal(got, proxies.score(proxies.curvature, network, data))
  assert used == [set(jax.devices())]


def test_images_and_another_network_of_a_partial_are_placed_too(used):
  network, data = problem((8, 8, 1), models.cnn((2,), 3))
  other = jax.tree.map(lambda w: 1.5 * w, network)
  proxy = jax.tree_util.Partial(proxies.heldout_divergence, heldout_params=other)
  one, some = (
    proxies.score(proxy, network, data, devices=jax.devices()[which])
    for which in (slice(1), slice(4, 8))
  )
  assert used == [set(jax.devices()[:1]), set(jax.devices()[4:])]
  np.testing.assert_allclose(some, one, rtol=1e-5, atol=1e-6)
  assert one.std() > 1e-3


@pytest.mark.parametrize("trained", [slice(7, 8), slice(4), slice(None, None, -1)])
def test_a_network_may_lie_on_other_devices(trained):
  _, data = problem()
  devices = jax.devices()
  recipe = train.Recipe(models.mlp((5,), 3), epochs=1, batch_size=8)
  network = train.fit(recipe, data, jax.random.key(0), devices=devices[trained]).network
  want = proxies.loss(network, data.batch())
  for given in (None, devices[4:], devices[:1]):
    got = proxies.score(proxies.loss, network, data, devices=given)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_equal_devices_are_one_trace():
  traces = []

  def proxy(params, batch):
    traces.append(len(batch[1]))
    return proxies.loss(params, batch)

  network, data = problem()
  for devices in (jax.devices()[:2], jax.devices()[:2], jax.devices()[:1], jax.devices()[:1]):
    proxies.score(proxy, network, data, batch_size=64, devices=devices)
  assert traces == [32, 32]


def test_no_devices_are_refused():
  message = r"\Ascore got devices=\[\], must be at least one\. Use jax\.devices\(\) or None\.\Z"
  with pytest.raises(ValueError, match=message):
    proxies.score(proxies.loss, *problem(), devices=[])
