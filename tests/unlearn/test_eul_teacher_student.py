"""EUL: two steps by hand in numpy, its rate, its limits, and the contract on adapters of a GPT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, divergence_gradient, gradient, linear, session_of, softmax

from jaxmul import bind, models, testing, unlearn
from jaxmul.data import Dataset, Split
from jaxmul.unlearn.objective import Turn

ALPHA, TASK, GAMMA = 0.8, 1.5, 0.2
RNG = np.random.default_rng(5)
W, MOVED = RNG.normal(size=(2, 4, 3))
KEY = jax.random.key(0)
X, Y, FORGET = RNG.normal(size=(11, 4)), RNG.integers(0, 3, 11), np.arange(5)


def begun(algorithm, epochs=2):
  network = bind(linear, jnp.asarray(W))
  session, retain = session_of(jnp.asarray(X), jnp.asarray(Y), FORGET)
  session = session._replace(epochs=epochs)
  batches = [
    [each.batch(0, count, room) for count in (room, 0)]
    for each, room in ((session.forget, 5), (session.retain, len(retain)))
  ]
  return network, algorithm.init(network, session), batches


def clock(epoch, step, steps):
  return unlearn.Clock(*map(jnp.int32, (epoch, step, steps)))


def test_a_step_away_and_one_back_are_those_worked_by_hand():
  """Steps 1 and 2 of 8, of which 4 warm up: Adam in numpy, from where the network was moved to."""
  with jax.enable_x64(True):
    algorithm = unlearn.eul(ETA, alpha=ALPHA, task=TASK, gamma=GAMMA, warmup=0.5)
    network, state, ((s, no_s), (r, no_r)) = begun(algorithm)
    now = network.replace(params=jnp.asarray(MOVED))
    for step, pair in enumerate(((s, no_r), (no_s, r))):
      state = algorithm.tick(state, clock(0, step, 4))
      updates, state = algorithm.update(*pair, state, now, jax.random.key(1))
      now = now.replace(params=now.params + updates.params)
  want, first, second = MOVED, np.zeros_like(W), np.zeros_like(W)
  for step, (rows, toward, label) in enumerate(
    ((FORGET, -ALPHA, -GAMMA), (np.arange(5, 11), 1.0, TASK))
  ):
    x, y = X[rows], Y[rows]
    g = toward * divergence_gradient(x, x @ W, x @ want) + label * gradient(want, x, y)
    first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
    m, v = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
    want = want - ETA * (step + 1) / 4 * m / (np.sqrt(v) + 1e-6)
  np.testing.assert_allclose(now.params, want, rtol=1e-10)


def test_the_value_is_that_of_its_equation():
  """Sum by sum, in numpy; Adam hides how large a single gradient is."""
  with jax.enable_x64(True):
    algorithm = unlearn.eul(ETA, alpha=ALPHA, task=TASK, gamma=GAMMA)
    network, state, ((s, no_s), (r, no_r)) = begun(algorithm)
    now = network.replace(params=jnp.asarray(MOVED))
    got = [
      algorithm.update.objective(
        now,
        Turn(*pair, key=jax.random.key(0), clock=state.clock, epochs=state.epochs),
        state.memory,
      )[0]
      for pair in ((s, no_r), (no_s, r))
    ]

  def mean(rows, distance, loss):
    total = 0.0
    for row in rows:
      t, p = softmax(X[row] @ W), softmax(X[row] @ MOVED)
      total += distance * sum(a * np.log(a / b) for a, b in zip(t, p, strict=True))
      total -= loss * np.log(p[Y[row]])
    return total / len(rows)

  want = mean(FORGET, -ALPHA, -GAMMA), mean(np.arange(5, 11), 1.0, TASK)
  np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize(("warmup", "rising"), [(0.06, 1.2), (0.5, 10), (0.0, 0)])
def test_the_rate_rises_and_falls_linearly(warmup, rising):
  """20 steps of 4 epochs; never 0, and the highest is the rate itself."""
  reshape = unlearn.eul(warmup=warmup).update.reshape
  rates = [
    float(reshape(jnp.float32(1), (), Turn(None, None, None, clock(e, s, 5), jnp.int32(4))))
    for e in range(4)
    for s in range(5)
  ]
  want = [
    min(1, (t + 1) / rising if rising else 1, (20 - t) / (20 - 20 * warmup)) for t in range(20)
  ]
  np.testing.assert_allclose(rates, want, rtol=1e-5)
  assert min(rates) > 0.04


@pytest.mark.parametrize(
  ("settings", "meets"), [({"alpha": 0, "gamma": 0}, 0), ({"gamma": 0}, 0), ({"task": 0}, 1)]
)
def test_where_it_has_nothing_to_descend_it_stays(settings, meets):
  """At the original network no KL has a gradient."""
  with jax.enable_x64(True):
    algorithm = unlearn.eul(ETA, **settings)
    network, state, ((s, no_s), (r, no_r)) = begun(algorithm)
    pair = (no_s, r) if meets else (s, no_r)
    updates, _ = algorithm.update(*pair, state, network, jax.random.key(1))
    assert np.abs(updates.params).max() < 1e-9
    full, _ = unlearn.eul(ETA).update(*pair, state, network, jax.random.key(1))
    assert np.abs(full.params).max() > 0.5 * ETA


def test_without_flight_it_is_ascent_on_s_and_descent_on_r():
  """α = 0: the gradient on S is that of ascent; λ and γ weigh the labels' own losses."""
  with jax.enable_x64(True):
    algorithm = unlearn.eul(ETA, alpha=0, gamma=GAMMA)
    network, state, ((s, _), (_, no_r)) = begun(algorithm)
    now = network.replace(params=jnp.asarray(MOVED))
    turn = Turn(s, no_r, key=jax.random.key(0), clock=state.clock, epochs=state.epochs)

    def value(w):
      return algorithm.update.objective(now.replace(params=w), turn, state.memory)[0]

    got = jax.grad(value)(now.params)
  want = -GAMMA * gradient(MOVED, X[FORGET], Y[FORGET])
  np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


def test_adapters_forget_what_a_network_knows_and_it_is_taken_back():
  """S and R lie apart, and labels are the network's own answers."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(40, 3)).astype(np.float32) + np.where(np.arange(40) < 12, 2, -2)[:, None]
  x = x.astype(np.float32)
  original = models.init(models.mlp((8,), 3), jax.random.key(0), x)
  data = Dataset(x, np.asarray(original(x).argmax(-1)), num_classes=3)
  split = Split(forget=np.arange(12), retain=np.arange(12, 40))
  adapted = models.with_adapters(original, x[:1], ("Dense_0",), 4, KEY)
  after = unlearn.run(unlearn.eul(0.02), adapted, data, split, KEY, epochs=8, batch_size=8)

  def right(network, ids):
    return (np.asarray(network(data.inputs[ids])).argmax(-1) == data.labels[ids]).mean()

  assert right(original, split.forget) == right(original, split.retain) == 1
  assert right(after, split.forget) < 0.5
  assert right(after, split.retain) > 0.9
  np.testing.assert_array_equal(models.without_adapters(after)(x), original(x))


def test_the_teacher_does_not_move():
  """Of text it is the network itself, in the state: a step from elsewhere leaves it there."""
  network, algorithm = bind(linear, jnp.asarray(W, jnp.float32)), unlearn.eul(ETA)
  x, y = (
    jnp.asarray(RNG.normal(size=(11, 2, 4)), jnp.float32),
    jnp.asarray(np.stack([Y, -1 - 0 * Y], 1)),
  )
  session, _ = session_of(x, y, FORGET)
  batches = session.forget.batch(0, 5, 5), session.retain.batch(0, 0, 6)
  state = algorithm.init(network, session)
  now = network.replace(params=jnp.asarray(MOVED, jnp.float32))
  updates, state = algorithm.update(*batches, state, now, KEY)
  assert np.abs(updates.params).max() > 0.5 * ETA
  np.testing.assert_array_equal(state.memory.params, np.float32(W))


@pytest.mark.slow
def test_it_keeps_the_contract_on_adapters_of_a_gpt():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 7, (24, 7)).astype(np.int32)
  labels = tokens[:, 1:].copy()
  labels[:, :2], labels[::2, -1] = -1, -1
  data = Dataset(tokens[:, :-1], labels, num_classes=7)
  split = Split(forget=np.arange(8), retain=np.arange(8, 20))
  model = models.gpt(7, length=6, width=8, depth=1, heads=2)
  network = models.init(model, jax.random.key(0), data.inputs[:1])
  adapted = models.with_adapters(network, data.inputs[:1], ("dense2",), 2, KEY)
  assert len(testing.check_unlearner(unlearn.eul(1e-3), adapted, data, split)) == 33
