"""The last k layers alone, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, R, W, deep, first_step, gradient, linear, session_on

from jaxmul import bind, unlearn


def test_cf_k_moves_the_last_layer_alone_as_fine_tune_does():
  params = deep()
  _, after = first_step(unlearn.cf_k(("first", "head"), 1, ETA), params)
  _, full = first_step(unlearn.fine_tune(ETA), params)
  np.testing.assert_array_equal(after.params["first"]["kernel"], params.params["first"]["kernel"])
  np.testing.assert_array_equal(after.params["head"]["kernel"], full.params["head"]["kernel"])
  _, every = first_step(unlearn.cf_k(("first", "head"), 2, ETA), params)
  for x, y in zip(jax.tree.leaves(every), jax.tree.leaves(full), strict=True):
    np.testing.assert_array_equal(x, y)


def test_eu_k_begins_the_last_layer_from_fresh_weights():
  params = deep()
  with jax.enable_x64(True):
    fresh = params.replace(params=jax.tree.map(lambda leaf: leaf + 1, params.params))
    begun, after = first_step(unlearn.eu_k(("first", "head"), fresh, 1, ETA), params)
  np.testing.assert_array_equal(begun.params["head"]["kernel"], fresh.params["head"]["kernel"])
  np.testing.assert_array_equal(begun.params["first"]["kernel"], params.params["first"]["kernel"])
  np.testing.assert_array_equal(after.params["first"]["kernel"], params.params["first"]["kernel"])
  phi = np.tanh(R[0] @ np.asarray(params.params["first"]["kernel"]))
  down = gradient(W + 1, phi, R[1]) + 5e-4 * (W + 1)  # equal biases do not matter
  np.testing.assert_allclose(after.params["head"]["kernel"], W + 1 - ETA * down, rtol=1e-12)


def test_eu_k_begins_the_statistics_of_its_layers_afresh():
  def network(value):
    names = ("norm_0", "norm_1", "head")
    theta = {name: {"scale": jnp.full(3, value)} for name in names}
    return bind(linear, theta, {"batch_stats": {n: {"mean": theta[n]["scale"]} for n in names[:2]}})

  algorithm = unlearn.eu_k(("norm_0", "norm_1", "head"), network(7.0), 2)
  assert algorithm.start is not None
  begun = algorithm.start(network(1.0), algorithm.init(network(1.0), session_on(R[0])))
  found = {name: float(leaf["scale"][0]) for name, leaf in begun.params.items()}
  assert found == {"norm_0": 1, "norm_1": 7, "head": 7}
  found = {name: float(leaf["mean"][0]) for name, leaf in begun.state["batch_stats"].items()}
  assert found == {"norm_0": 1, "norm_1": 7}


def test_eu_k_begins_a_layer_that_is_told_by_its_way_afresh_and_no_other_of_its_name():
  def network(value):
    theta = {block: {"dense": jnp.full(3, value)} for block in ("block_0", "block_1")}
    return bind(linear, theta, {"batch_stats": theta})

  algorithm = unlearn.eu_k(("block_0/dense", "block_1/dense"), network(7.0))
  assert algorithm.start is not None
  begun = algorithm.start(network(1.0), algorithm.init(network(1.0), session_on(R[0])))
  for part in (begun.params, begun.state["batch_stats"]):
    assert {block: float(leaf["dense"][0]) for block, leaf in part.items()} == {
      "block_0": 1,
      "block_1": 7,
    }


def test_a_layer_that_is_not_there_is_named():
  with pytest.raises(
    ValueError, match=r"no layer 'tail'\. It has bias, first, head, kernel"
  ) as caught:
    first_step(unlearn.cf_k(("first", "tail"), 1), deep())
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "make",
  [lambda fresh: unlearn.eu_k(("first", "head"), fresh), unlearn.msg, unlearn.localized_reset],
)
def test_fresh_params_of_another_network_are_refused(make):
  params = deep()
  other = params.replace(params=params.params | {"first": {"kernel": jnp.zeros((4, 9))}})
  more = params.replace(state={"batch_stats": {"mean": jnp.zeros(4)}})
  for fresh, message in (
    (other, r"its first/kernel is \(4, 9\), not \(4, 4\)\. Pass models"),
    (more, r"its batch_stats/mean is \(4,\), not missing"),
  ):
    with pytest.raises(ValueError, match=message) as caught:
      first_step(make(fresh), params)
    assert "\n" not in str(caught.value)
