"""Weights that become 0, against brute force over all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import apply, deep, run, session_of

from jaxmul import unlearn

RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(9, 4)), RNG.integers(0, 3, 9)
FORGET = np.array([0, 1, 2])
KERNELS = (("first", "kernel"), ("head", "kernel"))


def losses(theta, rows):
  z = np.tanh(X[rows] @ theta["first"]["kernel"]) @ theta["head"]["kernel"] + theta["head"]["bias"]
  z = z - z.max(1, keepdims=True)
  return np.log(np.exp(z).sum(1)) - z[np.arange(len(rows)), Y[rows]]


def copied(theta):
  return {layer: {k: np.array(v) for k, v in leaves.items()} for layer, leaves in theta.items()}


def slopes(theta, value, step=1e-6):
  """Central differences of a value by every weight of the kernels."""
  found = {}
  for layer, leaf in KERNELS:
    slope = np.zeros_like(theta[layer][leaf])
    for place in np.ndindex(slope.shape):
      ends = []
      for sign in (1, -1):
        moved = copied(theta)
        moved[layer][leaf][place] += sign * step
        ends.append(value(moved))
      slope[place] = (ends[0] - ends[1]) / (2 * step)
    found[layer] = slope
  return found


def session():
  return session_of(jnp.asarray(X), jnp.asarray(Y), FORGET)[0]


def greedily(algorithm, steps):
  with jax.enable_x64(True):
    network, given = deep(), session()
    state = algorithm.init(network, given)
    sets = given.forget, given.retain
    batches = [each.batch(jnp.int32(0), each.count, 9) for each in sets]
    for step in range(steps):
      updates, state = algorithm.update(*batches, state, network, jax.random.key(step))
      network = optax.apply_updates(network, updates)
    return copied(network.params)


def test_greedy_zeroes_one_weight_a_step_as_brute_force_does():
  retain = np.setdiff1d(np.arange(9), FORGET)
  theta = copied(deep().params)
  for step in range(1, 5):
    slope = slopes(theta, lambda t: losses(t, retain).sum() - losses(t, FORGET).sum())
    gains = {layer: theta[layer]["kernel"] * slope[layer] for layer in slope}
    layer = max(gains, key=lambda name: gains[name].max())
    place = np.unravel_index(gains[layer].argmax(), gains[layer].shape)
    theta[layer]["kernel"][place] = 0
    got = greedily(unlearn.greedy(1.0), step)
    jax.tree.map(np.testing.assert_array_equal, got, theta)


def test_greedy_stops_at_its_share_and_where_nothing_is_gained():
  before = copied(deep().params)
  assert sum((after == 0).sum() for after in jax.tree.leaves(greedily(unlearn.greedy(0.1), 9))) == (
    round(0.1 * 28) + 3  # biases, which were 0
  )
  jax.tree.map(np.testing.assert_array_equal, greedily(unlearn.greedy(0.0), 2), before)
  # With no weight left whose loss helps, the next steps change nothing.
  late = [greedily(unlearn.greedy(1.0), steps) for steps in (28, 29)]
  jax.tree.map(np.testing.assert_array_equal, *late)
  assert any((layer["kernel"] != 0).any() for layer in late[0].values())


def steepest(fraction, together):
  theta = copied(deep().params)
  slope = slopes(theta, lambda t: losses(t, FORGET).sum())
  ranks = {layer: np.abs(each) for layer, each in slope.items()}
  every = np.sort(np.concatenate([each.ravel() for each in ranks.values()]))[::-1]
  for layer, rank in ranks.items():
    values = every if together else np.sort(rank.ravel())[::-1]
    count = round(fraction * values.size)
    theta[layer]["kernel"][rank >= values[count - 1]] = 0
  return theta


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_durable_zeroes_the_steepest_weights_of_each_kernel_or_of_all(fraction):
  results = []
  for make, together in ((unlearn.durable, False), (unlearn.durable_agg, True)):
    after = copied(apply(make(fraction), deep(), session()).params)
    jax.tree.map(np.testing.assert_array_equal, after, steepest(fraction, together))
    results.append(after["head"]["kernel"])
  assert (results[0] != results[1]).any()


@pytest.mark.parametrize("make", [unlearn.durable, unlearn.durable_agg, unlearn.obs])
def test_a_bias_stays_however_steep_it_is(make):
  """The masks of the public code reach biases."""
  with jax.enable_x64(True):
    bias = jnp.array([3.0, -2.0, 1.0])
    theta = deep().params | {"head": deep().params["head"] | {"bias": bias}}
    network = deep().replace(params=theta)
  after = apply(make(1.0), network, session()).params
  np.testing.assert_array_equal(after["head"]["bias"], bias)
  assert not np.any(after["head"]["kernel"])
  assert not np.any(after["first"]["kernel"])


@pytest.mark.parametrize("make", [unlearn.durable, unlearn.durable_agg, unlearn.obs])
def test_a_share_of_nothing_changes_nothing(make, problem):
  np.testing.assert_array_equal(run(problem, make(0.0), 1).params, problem[1].params)
