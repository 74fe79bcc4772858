"""A trained mask, by hand in float64: its scores with momentum and decay, and what it drops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import R, S, W, bound, gradient, run, session_of

from jaxmul import bind, unlearn
from jaxmul.data import Dataset, Split
from jaxmul.unlearn.subnet_balanced_subnet import _drawn, _masked

ETA, MU, DECAY = 0.7, 0.9, 0.01
ALL = np.r_[S[0], R[0]], np.r_[S[1], R[1]]


def begun(algorithm, forget=5):
  """State, network before the first step, and whole batches of S and R."""
  x, y = map(jnp.asarray, ALL)
  session, _ = session_of(x, y, np.arange(forget))
  state = algorithm.init(bound(), session)
  network = algorithm.start(bound(), state)
  sets = session.forget, session.retain
  return state, network, [each.batch(jnp.int32(0), each.count, 11) for each in sets]


def steps(algorithm, count):
  """Scores before and after so many steps, and the params of the result."""
  with jax.enable_x64(True):
    state, network, batches = begun(algorithm)
    first = np.asarray(network.params[0])
    for step in range(count):
      updates, state = algorithm.update(*batches, state, network, jax.random.key(step))
      network = optax.apply_updates(network, updates)
    return first, np.asarray(network.params[0]), np.asarray(algorithm.finish(network, state).params)


def masked(w, scores, fraction):
  kept = np.ones(w.size)
  kept[np.argsort(np.abs(scores).ravel(), kind="stable")[: round(fraction * w.size)]] = 0
  return w * kept.reshape(w.shape)


def by_hand(scores, count, fraction, alpha, sign=np.sign):
  velocity = 0
  for _ in range(count):
    w = masked(W, scores, fraction)
    slope = (alpha * gradient(w, *R) - (1 - alpha) * gradient(w, *S)) * W * sign(scores)
    velocity = MU * velocity + slope + DECAY * scores
    scores = scores - ETA * velocity
  return scores


@pytest.mark.parametrize("alpha", [0.05, 0.6, 0.0])
def test_scores_and_mask_are_those_by_hand(alpha):
  settings = {"fraction": 0.3, "momentum": MU, "weight_decay": DECAY}
  algorithm = unlearn.balanced_subnet(ETA, alpha=alpha, **settings)
  first, last, result = steps(algorithm, 3)
  assert (first < 0).any()
  want = by_hand(first, 3, 0.3, alpha)
  np.testing.assert_allclose(last, want, rtol=1e-12)
  np.testing.assert_array_equal(result, masked(W, want, 0.3))
  assert (result == 0).sum() == round(0.3 * W.size)
  # The public error: the gradient of the mask is given to s where it is negative as well.
  assert np.abs(last - by_hand(first, 3, 0.3, alpha, np.ones_like)).max() > 0.01
  if not alpha:
    alone = steps(unlearn.subnet(ETA, **settings), 3)
    np.testing.assert_allclose(alone[1], last, rtol=1e-12)
    np.testing.assert_array_equal(alone[2], result)


def test_the_gradient_goes_straight_through_and_the_value_is_exact():
  weight = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5)), jnp.float32)
  score = _drawn(jax.random.key(0), weight)
  value, back = jax.vjp(lambda s: _masked(weight, s, 0.4), score)
  np.testing.assert_array_equal(value, masked(np.asarray(weight), np.asarray(score), 0.4))
  one = jnp.asarray(np.random.default_rng(1).normal(size=(7, 5)), jnp.float32)
  np.testing.assert_allclose(back(one)[0], one * weight * jnp.sign(score), rtol=1e-6)


@pytest.mark.parametrize(("shape", "fan_in"), [((50, 40), 50), ((3, 3, 10, 20), 90)])
def test_scores_are_drawn_uniformly_within_their_bound(shape, fan_in):
  drawn = np.asarray(_drawn(jax.random.key(0), jnp.zeros(shape))) * np.sqrt(fan_in)
  assert np.abs(drawn).max() <= 1
  assert np.abs(drawn).max() > 0.99
  np.testing.assert_allclose(np.mean(drawn**2), 1 / 3, atol=5 * np.sqrt(4 / 45 / drawn.size))


@pytest.mark.parametrize("make", [unlearn.subnet, unlearn.balanced_subnet])
def test_a_mask_of_ones_changes_nothing(make, problem):
  after = run(problem, make(fraction=0.0), epochs=2)
  np.testing.assert_array_equal(after.params, problem[1].params)


@pytest.mark.parametrize("empty", [0, 1])
def test_a_batch_without_s_or_without_r_is_no_nan(empty):
  """Their mean over no example is 0 over 0."""
  with jax.enable_x64(True):
    state, network, batches = begun(unlearn.balanced_subnet())
    batches[empty] = batches[empty]._replace(mask=jnp.zeros(11, bool))
    updates, _ = unlearn.balanced_subnet().update(*batches, state, network, jax.random.key(0))
  assert np.isfinite(updates.params[0]).all()
  assert np.abs(updates.params[0]).max() > 0


def test_it_drops_what_s_alone_needs():
  """Six weights read the features of S: nearly all that are dropped are of these."""
  x = np.zeros((24, 12), np.float32)
  x[:8, :3], x[8:, 3:] = 1, 1
  y = np.repeat([0, 1], [8, 16])
  w = np.ones((12, 1), np.float32) * np.repeat([[1, -1], [-1, 1]], [3, 9], axis=0)
  network = bind(lambda w, x: x @ w, jnp.asarray(w, jnp.float32))
  split = Split(forget=np.arange(8), retain=np.arange(8, 24))
  algorithm = unlearn.balanced_subnet(fraction=0.25, alpha=0.5)
  given = (algorithm, network, Dataset(x, y), split, jax.random.key(0))
  after = np.asarray(unlearn.run(*given, epochs=20, batch_size=8).params)
  assert ((after == 0).sum(), (after[:3] == 0).sum()) == (6, 5)
