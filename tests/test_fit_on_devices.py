"""A batch that is split over devices gives the numbers of one device, within rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fits import KEY, MLP, NETWORKS, WIDE, difference, params_of, recipe, same_bits, toy

from jaxmul import train
from jaxmul.proxies import trackers

pytestmark = pytest.mark.usefixtures("eight")

EVENTS = {"events": trackers.learning_events(), "forgotten": trackers.forgetting_events()}
TRACKERS = {
  "mlp": EVENTS | {"curvature": trackers.curvature(every=2), "vog": trackers.vog()},
  "cnn": EVENTS | {"tracin": trackers.tracin()},
  "resnet": EVENTS | {"gradients": trackers.cumulative_gradient(every=2)},
}


def on(devices, config, data, **more):
  chosen = None if devices is None else jax.devices()[:devices]
  return train.fit(config, data, KEY, devices=chosen, **more)


@pytest.mark.parametrize("name", NETWORKS)
def test_devices_do_not_matter_beyond_rounding(name):
  """The ResNet is dealt 7 examples a step, which 8 devices divide only with padding."""
  model, shape = NETWORKS[name]
  data, config = toy(shape), recipe(model)
  one, eight = (on(devices, config, data, trackers=TRACKERS[name]) for devices in (None, 8))
  assert difference(params_of(one), params_of(eight)) < 1e-5
  assert difference(one.history, eight.history) < 1e-5
  assert one.scores.keys() == eight.scores.keys() > {"confidence", "forgetting_events"}
  for score, values in one.scores.items():
    np.testing.assert_allclose(eight.scores[score], values, 1e-3, 1e-4, err_msg=score)
  for leaf in jax.tree.leaves(eight.network):
    assert len(leaf.sharding.device_set) == 8
    assert leaf.is_fully_replicated


@pytest.mark.parametrize(("name", "size"), [("mlp", 21), ("resnet", 3)])
def test_float64_agrees_to_ten_digits(name, size):
  """Of three examples on eight devices five rows are padding."""
  with jax.enable_x64(True):
    data, config = toy(NETWORKS[name][1], size), recipe(WIDE[name])
    one, eight = (on(devices, config, data) for devices in (None, 8))
    assert jax.tree.leaves(one.network.params)[0].dtype == jnp.float64
    assert 0 < difference(params_of(one), params_of(eight)) < 1e-10


SHARDS = []


def sees_its_shard(key, inputs):
  """Augmentation that keeps, as the program runs, how the batch lies on the devices."""
  del key
  jax.debug.inspect_array_sharding(inputs, callback=SHARDS.append)
  return inputs


def test_each_device_has_its_part_of_a_batch():
  on(4, recipe(augment=sees_its_shard), toy())
  assert {sharding.shard_shape((8, 6)) for sharding in SHARDS} == {(2, 6)}


TRACES = []


def counted(key, inputs):
  del key
  TRACES.append(inputs.shape)
  return inputs


def test_equal_devices_are_one_trace():
  first = on(2, recipe(augment=counted), toy())
  traced = len(TRACES)
  again = on(2, recipe(augment=counted), toy(seed=1))
  assert len(TRACES) == traced > 0
  assert difference(params_of(first), params_of(again)) > 1e-3


def test_one_device_that_is_given_is_the_one_used():
  device = jax.devices()[3]
  want = train.fit(recipe(), toy(), KEY)
  fit = train.fit(recipe(), toy(), KEY, devices=[device])
  assert {leaf.device for leaf in jax.tree.leaves(fit.network)} == {device}
  same_bits(params_of(fit), params_of(want))


@pytest.mark.parametrize(
  ("devices", "message"),
  [
    (3, r"fit got batch_size=8 for 3 devices, which must divide it\. Use 9\."),
    (0, r"fit got devices=\[\], must be at least one\. Use jax\.devices\(\) or None\."),
  ],
)
def test_devices_that_do_not_fit_are_refused(devices, message):
  with pytest.raises(ValueError, match=rf"\A{message}\Z"):
    on(devices, recipe(), toy())


def test_a_learner_takes_no_devices():
  with pytest.raises(ValueError, match=r"\Afit got devices for a learner[^\n]*\Z"):
    on(2, lambda examples, key: MLP, toy())
