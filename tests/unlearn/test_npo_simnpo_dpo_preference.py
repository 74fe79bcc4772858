"""Negative preference by hand, on one label and on text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import R, S, W, bound, softmax

from jaxmul import bind, models, proxies, train, unlearn
from jaxmul.data import Dataset, Split


def value_of(algorithm, original, now, forget, retain):
  """What an algorithm descends, for a network and batches (inputs, labels), and its gradient."""
  n = len(forget[1])
  x, y = (jnp.concatenate(pair) for pair in zip(forget, retain, strict=True))
  sets = [
    unlearn.Examples(x, y, jnp.arange(n), jnp.int32(n)),
    unlearn.Examples(x, y, jnp.arange(n, len(y)), jnp.int32(len(y) - n)),
  ]
  session = unlearn.Session(*sets, 1, 4, jax.random.key(0), np.arange(len(y)))
  state = algorithm.init(original, session)
  turn = unlearn.Turn(
    *(each.batch(jnp.int32(0), each.count, int(each.count)) for each in sets),
    key=jax.random.key(1),
    clock=state.clock,
    epochs=state.epochs,
  )

  def value(theta):
    return algorithm.update.objective(now.replace(params=theta), turn, state.memory)[0]

  return jax.value_and_grad(value)(now.params)


@pytest.mark.parametrize(("beta", "gamma", "alpha"), [(0.1, 1, 1), (2, 1, 0.5), (1, 3, 0)])
def test_its_loss_and_gradient_are_those_by_hand(beta, gamma, alpha):
  (x, y), (z, u) = S, R
  moved = W + 0.3 * np.cos(np.arange(W.size)).reshape(W.shape)
  with jax.enable_x64(True):
    algorithm = unlearn.npo(beta=beta, gamma=gamma, alpha=alpha)
    got, slope = value_of(algorithm, bound(W), bound(moved), S, R)
  ratio = [np.log(softmax(x @ w))[np.arange(len(y)), y] for w in (moved, W)]
  ratio = ratio[0] - ratio[1]
  risk = -np.log(softmax(z @ moved))[np.arange(len(u)), u].mean()
  loss = 2 / beta * np.log1p(np.exp(beta * ratio))
  np.testing.assert_allclose(got, gamma * loss.mean() + alpha * risk, rtol=1e-12)
  weight = 2 / (1 + np.exp(-beta * ratio))  # of ∇ log p
  up = x.T @ (weight[:, None] * (np.eye(3)[y] - softmax(x @ moved))) / len(y)
  down = z.T @ (softmax(z @ moved) - np.eye(3)[u]) / len(u)
  np.testing.assert_allclose(slope, gamma * up + alpha * down, rtol=1e-10, atol=1e-14)


def test_a_text_counts_by_the_sum_over_its_scored_tokens():
  rng = np.random.default_rng(0)
  table, other = rng.normal(size=(2, 5, 5))
  x = rng.integers(0, 5, (6, 4))
  y = rng.integers(0, 5, (6, 4))
  y[:, 0] = -1
  y[2, 2:] = -1

  def log_p(w):
    rows = np.log(softmax(w[x]))
    at = np.take_along_axis(rows, np.maximum(y, 0)[..., None], -1)[..., 0]
    return np.where(y < 0, 0, at).sum(1)

  want = 2 / 0.3 * np.log1p(np.exp(0.3 * (log_p(table) - log_p(other))))
  with jax.enable_x64(True):
    networks = [bind(lambda w, x: w[x], jnp.asarray(w)) for w in (other, table)]
    got, _ = value_of(unlearn.npo(beta=0.3, alpha=0), *networks, (x, y), (x, y))
  np.testing.assert_allclose(got, want.mean(), rtol=1e-12)


def test_it_forgets_text_and_keeps_the_rest():
  rng = np.random.default_rng(0)
  whole = rng.integers(0, 7, (40, 7))
  data = Dataset(whole[:, :-1], whole[:, 1:], num_classes=7)
  split = Split(forget=np.arange(8), retain=np.arange(8, 40))
  model = models.gpt(7, length=6, width=32, depth=1, heads=2)
  adam = functools.partial(optax.adamw, weight_decay=0.0)
  recipe = train.Recipe(model, epochs=80, batch_size=8, learning_rate=1e-2, optimizer=adam)
  original = train.fit(recipe, data, jax.random.key(0)).network
  after = unlearn.run(
    unlearn.npo(1e-3), original, data, split, jax.random.key(1), epochs=10, batch_size=8
  )
  before, now = (proxies.score(proxies.loss, network, data) for network in (original, after))
  assert (now - before)[:8].mean() > 1
  assert (now - before)[:8].mean() > 1.5 * (now - before)[8:].mean()


def test_bad_settings_get_one_line():
  with pytest.raises(ValueError, match=r"\Anpo got beta=0, must be above 0\.\Z"):
    unlearn.npo(beta=0)
  with pytest.raises(ValueError, match=r"\Anpo got alpha=-1, must be at least 0\.\Z"):
    unlearn.npo(alpha=-1)
