"""Gates of neurons that are trained, by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import S, W, bound, gradient, session_of

from jaxmul import bind, unlearn
from jaxmul.unlearn.neurons_slimming_hard_concrete import _cut, _hard_concrete

HEAD, RATE, PENALTY = ("head",), 0.2, 0.3
NEURONS = len(W)


def linear():
  """A layer whose inputs are the neurons."""
  theta = {"head": {"kernel": bound().params, "bias": jnp.zeros(3)}}
  return bind(lambda theta, x: x @ theta["head"]["kernel"] + theta["head"]["bias"], theta)


def steps(algorithm, count, key=0):
  """Gates before and after so many steps on S, and the kernel of the result."""
  with jax.enable_x64(True):
    x, y = map(jnp.asarray, S)
    session, _ = session_of(x, y, np.arange(5))
    batch = session.forget.batch(jnp.int32(0), jnp.int32(5), 8)
    state = algorithm.init(linear(), session)
    network = algorithm.start(linear(), state)
    first = np.asarray(network.params[0])
    for step in range(count):
      updates, state = algorithm.update(batch, batch, state, network, jax.random.key(step))
      network = optax.apply_updates(network, updates)
    result = algorithm.finish(network, state)
    np.testing.assert_array_equal(result.params["head"]["bias"], 0)
    return first, np.asarray(network.params[0]), np.asarray(result.params["head"]["kernel"])


def adam(gates, slope, count):
  m = v = 0
  for step in range(1, count + 1):
    g = slope(gates)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    gates = gates - RATE * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-6)
  return gates


def of_gates(gates):
  """∂ risk_S / ∂ gates: a gate multiplies a row of the kernel."""
  return (gradient(gates[:, None] * W, *S) * W).sum(1)


def without_highest(gates):
  return np.where(gates[:, None] == gates.max(), 0, W)


def test_slimming_is_adam_on_cut_gates():
  def slope(c):
    inside = (c >= 0) & (c <= 1)
    return np.where(inside, of_gates(np.clip(c, 0, 1)), 0) + PENALTY * np.sign(c) / NEURONS

  algorithm = unlearn.slimming_neurons(RATE, fraction=0.25, penalty=PENALTY, layers=HEAD)
  first, last, kernel = steps(algorithm, 7)
  np.testing.assert_array_equal(first, 1)
  want = adam(np.ones(NEURONS), slope, 7)
  np.testing.assert_allclose(last, want, rtol=1e-9)
  np.testing.assert_array_equal(kernel, without_highest(want))


def test_gates_are_cut_and_pass_their_gradient_up_to_both_ends():
  gates = jnp.array([-0.5, 0.0, 0.3, 1.0, 1.5])
  value, slope = jax.vmap(jax.value_and_grad(_cut))(gates)
  np.testing.assert_array_equal(value, np.clip(gates, 0, 1))
  np.testing.assert_array_equal(slope, [0, 1, 1, 1, 0])


def test_a_hard_concrete_gate_is_open_as_often_as_it_is_priced():
  logit, temperature = 0.7, 2 / 3
  drawn = _hard_concrete(jnp.full(20_000, logit), jax.random.key(0), temperature)
  assert (drawn.min(), drawn.max()) == (0, 1)
  open_share = 1 / (1 + np.exp(-(logit - temperature * np.log(0.1 / 1.1))))
  deviation = np.sqrt(open_share * (1 - open_share) / 20_000)
  assert abs(np.mean(drawn > 0) - open_share) < 5 * deviation
  u = np.random.default_rng(0).uniform(size=20_000)
  s = 1 / (1 + np.exp(-(np.log(u / (1 - u)) + logit) / temperature))
  by_numpy = np.clip(1.2 * s - 0.1, 0, 1)
  np.testing.assert_allclose(np.mean(drawn), by_numpy.mean(), atol=0.02)


def test_hard_concrete_without_noise_is_adam_on_the_price(monkeypatch):
  """With gates at their middle, u = ½, a step is a sum of two closed gradients."""

  def middle(key, shape, dtype, low, high):
    return jnp.full(shape, 0.5, dtype)

  monkeypatch.setattr(jax.random, "uniform", middle)
  temperature = 0.5

  def sigmoid(a):
    return 1 / (1 + np.exp(-a))

  def slope(a):
    s, price = sigmoid(a / temperature), sigmoid(a - temperature * np.log(0.1 / 1.1))
    gates = 1.2 * s - 0.1
    inside = (gates > 0) & (gates < 1)
    of_risk = of_gates(np.clip(gates, 0, 1)) * inside * 1.2 * s * (1 - s) / temperature
    return of_risk + PENALTY * price * (1 - price) / NEURONS

  algorithm = unlearn.hard_concrete_neurons(
    RATE, fraction=0.25, penalty=PENALTY, temperature=temperature, layers=HEAD
  )
  first, last, kernel = steps(algorithm, 4)
  assert 0 < np.abs(first).max() < 0.05
  want = adam(first, slope, 4)
  np.testing.assert_allclose(last, want, rtol=1e-7)
  np.testing.assert_array_equal(kernel, without_highest(want))


@pytest.mark.parametrize("make", [unlearn.slimming_neurons, unlearn.hard_concrete_neurons])
def test_a_share_of_nothing_changes_nothing(make):
  *_, kernel = steps(make(fraction=0.0, layers=HEAD), 2)
  np.testing.assert_array_equal(kernel, W)
