"""Loss truncation equals a plain loop over the last losses, alone and in a training run."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models, proxies, retraining, train
from jaxmul._truncation import ranked
from jaxmul.data import Dataset

RNG = np.random.default_rng(0)
MLP = models.mlp((8,), 3)
N, BATCH, EPOCHS = 13, 4, 3
TOY = Dataset(RNG.normal(size=(N, 6)).astype(np.float32), RNG.integers(0, 3, N), num_classes=3)


def plain_weights(steps, share, window):
  """Weights of steps of losses by a loop with a list: the last `window` of all that were seen."""
  seen, weights = [], []
  for losses, mask in steps:
    seen += [loss for loss, real in zip(losses, mask, strict=True) if real]
    if len(seen) < window:
      weights.append(np.ones(len(losses)))
      continue
    limit = np.quantile(np.array(seen[-window:], float), 1 - share)
    weights.append((losses <= limit).astype(float))
  return weights


def recipe(weighting=None, **changes):
  settings = {"epochs": EPOCHS, "batch_size": BATCH, "momentum": 0.0, "weight_decay": 0.0}
  return train.Recipe(MLP, **settings | changes, weighting=weighting)


@pytest.mark.parametrize(("share", "window"), [(0.4, 7), (0.13, 10), (0.0, 5), (0.9, 4)])
def test_weights_are_those_of_a_plain_loop(share, window):
  steps = [(RNG.normal(size=4).astype("f"), RNG.random(4) < 0.8) for _ in range(12)]
  drop = train.LossTruncation(share, window)
  state, update = drop.init(), jax.jit(drop.update)
  dropped = 0
  for (losses, mask), want in zip(steps, plain_weights(steps, share, window), strict=True):
    losses = np.where(mask, losses, np.nan)  # what padding holds must not matter
    weights, state = update(state, losses, mask)
    np.testing.assert_array_equal(np.asarray(weights)[mask], want[mask])
    dropped += np.sum(want[mask] == 0)
  assert (dropped == 0) == (share == 0)
  assert 0 < state.count < 2 * window


def test_a_rank_is_that_of_sorting():
  values = np.concatenate([RNG.normal(size=50), [0.0, -0.0, 1e-30, 3e38, 1.0, 1.0]]).astype("f")
  got = jax.vmap(ranked, (None, 0))(jnp.asarray(values), jnp.arange(len(values)))
  np.testing.assert_array_equal(got, np.sort(values))


def test_the_largest_loss_is_kept_where_nothing_is_dropped():
  """In the published code a loss that equals the quantile is dropped."""
  losses = jnp.arange(11.0)

  def num_kept(share):
    drop = train.LossTruncation(share, 11)
    return drop.update(drop.init(), losses, jnp.ones(11, bool))[0].sum()

  published = losses < jnp.quantile(losses, 1.0)
  # (1 - 0.9) * 10 is less than 1 in floats: two of eleven are kept, not one.
  none, most, theirs = jax.jit(lambda: (num_kept(0.0), num_kept(0.9), published.sum()))()
  assert (none, most, theirs) == (11, 2, 10)


@functools.cache
def kept():
  """What each step of a run saw: the losses of its examples, NaN where it is padding."""
  steps = EPOCHS * -(-N // BATCH)

  def init(n):
    del n
    zeros = jnp.zeros((steps, BATCH))
    return jnp.int32(0), zeros, zeros.astype(jnp.int32)

  def update(state, step):
    number, losses, rows = state
    return number + 1, losses.at[number].set(step.losses), rows.at[number].set(step.rows)

  return train.Tracker(init, update, lambda state: {"losses": state[1], "rows": state[2]})


def by_hand(params, x, y, weights):
  """One step of gradient descent on Σ w ℓ / B of an MLP, in float64."""
  w1, b1, w2, b2 = params
  hidden = x @ w1 + b1
  active = np.maximum(hidden, 0)
  z = active @ w2 + b2
  p = np.exp(z - z.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  d_z = weights[:, None] * (p - np.eye(3)[y]) / len(y)
  d_hidden = d_z @ w2.T * (hidden > 0)
  gradients = (x.T @ d_hidden, d_hidden.sum(0), active.T @ d_z, d_z.sum(0))
  return [w - 0.1 * g for w, g in zip(params, gradients, strict=True)]


def flat(network):
  layers = (network.params["Dense_0"], network.params["Dense_1"])
  return [np.float64(layer[name]) for layer in layers for name in ("kernel", "bias")]


def test_a_run_descends_what_is_left_of_each_batch():
  truncated = recipe(train.LossTruncation(0.4, 8), schedule=train.constant)
  key = jax.random.key(0)
  fit = train.fit(truncated, TOY, key, trackers={"kept": kept()})
  losses, rows = (np.asarray(fit.scores[name]) for name in ("losses", "rows"))
  weights = plain_weights([(own, r < N) for own, r in zip(losses, rows, strict=True)], 0.4, 8)
  params = flat(models.init(MLP, jax.random.split(key)[0], TOY.example))
  for own, row in zip(weights, rows, strict=True):
    real = row < N
    params = by_hand(params, np.float64(TOY.inputs)[row[real]], TOY.labels[row[real]], own[real])
  assert sum((own == 0).sum() for own in weights) > 5
  for got, want in zip(flat(fit.network), params, strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)
  # History and trackers are of all examples.
  np.testing.assert_allclose(fit.history.loss[0], losses[:4][rows[:4] < N].mean(), 1e-6)


def test_a_share_of_zero_changes_nothing():
  plain, none = (
    train.fit(recipe(weighting), TOY, jax.random.key(0))
    for weighting in (None, train.LossTruncation(0.0, 8))
  )
  for a, b in zip(flat(plain.network), flat(none.network), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.slow
def test_it_drops_wrong_labels_more_than_right_ones():
  """Two blobs and some labels that only memory could fit: these are left unfitted."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 2, 80)
  x = (rng.normal(size=(80, 4)) + 3 * y[:, None]).astype("f")
  wrong = np.arange(80) < 8
  noisy = Dataset(x, np.where(wrong, 1 - y, y))
  right = {}
  for weighting in (None, train.LossTruncation(0.2, 80)):
    setting = train.Recipe(
      models.mlp((64,), 2), epochs=150, batch_size=20, weighting=weighting, weight_decay=0.0
    )
    network = train.fit(setting, noisy, jax.random.key(0)).network
    answers = np.argmax(network(noisy.inputs), -1)
    right[weighting is None] = np.mean(answers == noisy.labels, where=wrong)
  assert right[True] > 0.7
  assert right[False] < 0.3


def test_going_on_with_a_recipe_goes_on_truncating():
  network = models.init(MLP, jax.random.key(0), TOY.example)
  after = [
    flat(proxies.heldout_retrain(network, TOY, recipe(weighting), jax.random.key(1)))
    for weighting in (train.LossTruncation(0.0, 4), train.LossTruncation(0.4, 4))
  ]
  assert max(np.abs(a - b).max() for a, b in zip(*after, strict=True)) > 1e-3


def test_models_without_part_of_the_data_are_trained_so():
  truncated = recipe(train.LossTruncation(0.4, 4))
  schedule = retraining.leave_out(truncated, TOY, jax.random.key(1), num_models=2, fraction=0.5)
  chunk = retraining.run_chunk(schedule, 0)
  assert np.isfinite(chunk.p_in).all()
  assert not len(chunk.diverged)
  others = {dataclasses.replace(schedule, recipe=own).hash for own in (recipe(), truncated)}
  assert len(others) == 2
  assert schedule.hash in others


def plain_update(drop):
  return drop.update(drop.init(), jnp.zeros(4), jnp.ones(4, bool))


@pytest.mark.parametrize(
  ("call", "named"),
  [
    (lambda: train.LossTruncation(1.0), "share=1"),
    (lambda: train.LossTruncation(-0.1), "share=-0.1"),
    (lambda: train.LossTruncation(0.4, 0), "window=0"),
    (lambda: plain_update(train.LossTruncation(0.4, 3)), "a step of 4 examples"),
    (lambda: recipe(0.4), "must have init and update"),
    (lambda: recipe(train.LossTruncation(0.4, 3)), "Use window=4"),
  ],
)
def test_mistakes_are_one_line(call, named):
  with pytest.raises(ValueError, match=rf"\A[^\n]*{named}[^\n]*\Z"):
    call()
