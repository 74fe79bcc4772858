"""Preferences by hand, on one label and on text."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import R, S, W, bound, softmax
from by_hand_text import (
  CLASSES,
  ETA,
  FORGET,
  NOW,
  ORIGINAL,
  RETAIN,
  begun,
  check_step,
  gradient,
  kl,
  log_p,
  network,
  risk,
  texts,
  up,
  value_of,
)

from jaxmul import models, proxies, train, unlearn
from jaxmul.data import Dataset, Split


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


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def npo(beta):
  """Values and derivatives of S: summed log-probabilities beside the original's."""
  ratio = log_p(NOW, FORGET)[1].sum(1) - log_p(ORIGINAL, FORGET)[1].sum(1)
  weight = 2 * sigmoid(beta * ratio)
  return 2 / beta * np.log1p(np.exp(beta * ratio)), weight[:, None, None] * up(NOW, FORGET)


def simnpo(beta, delta):
  _, own, scored = log_p(NOW, FORGET)
  loss = -own.sum(1) / scored.sum(1)
  weight = 2 * sigmoid(-beta * (loss - delta)) / scored.sum(1)
  each = 2 / beta * np.log1p(np.exp(-beta * (loss - delta)))
  return each, weight[:, None, None] * up(NOW, FORGET)


@pytest.mark.parametrize(("keep", "of_retain"), [("risk", risk), ("kl", kl)])
def test_a_step_on_text_is_the_one_by_hand(keep, of_retain):
  common = {"gamma": 2.0, "alpha": 0.7, "keep": keep}
  weights = {"gamma": 2.0, "alpha": 0.7}
  kept = of_retain(NOW, RETAIN)
  check_step(unlearn.npo(ETA, beta=0.3, **common), npo(0.3), kept, **weights)
  decayed = unlearn.simnpo(ETA, beta=2.0, delta=0.4, weight_decay=0.1, **common)
  check_step(decayed, simnpo(2.0, 0.4), kept, **weights, decay=0.1)


ANSWERS = texts(4, 6)
"""Of the ids 2, 9, 0, 1; S are 0 to 2, and 9 is no example at all."""


def alternatives(ids=(2, 9, 0, 1)):
  return Dataset(*ANSWERS, np.array(ids), CLASSES)


def test_dpo_takes_the_answer_of_the_same_id_of_any_length():
  beta, better = 0.5, tuple(part[[2, 3, 0]] for part in ANSWERS)
  gain, loss = (
    log_p(NOW, text)[1].sum(1) - log_p(ORIGINAL, text)[1].sum(1) for text in (better, FORGET)
  )
  want = 2 / beta * np.log1p(np.exp(-beta * (gain - loss)))
  weight = (2 * sigmoid(-beta * (gain - loss)))[:, None, None]
  slope = gradient(FORGET, weight * up(NOW, FORGET)) - gradient(better, weight * up(NOW, better))
  with jax.enable_x64(True):
    algorithm = unlearn.dpo(alternatives(), beta=beta, alpha=0)
    networks = network(ORIGINAL), network(NOW)
    got, by_params = value_of(algorithm, *networks, FORGET, RETAIN)
  np.testing.assert_allclose(got, want.mean(), rtol=1e-12)
  np.testing.assert_allclose(by_params, slope, rtol=1e-10, atol=1e-14)


def test_an_example_without_an_alternative_is_named():
  with (
    jax.enable_x64(True),
    pytest.raises(ValueError, match=r"^dpo: id 1 of the forget set has no"),
  ):
    begun(unlearn.dpo(alternatives((2, 9, 0, 8))), network(ORIGINAL), FORGET, RETAIN)
  wide = Dataset(ANSWERS[0], np.where(ANSWERS[1] == 4, 7, ANSWERS[1]), num_classes=8)
  with jax.enable_x64(True), pytest.raises(ValueError, match=r"^dpo: alternatives got label 7"):
    begun(unlearn.dpo(wide), network(ORIGINAL), FORGET, RETAIN)


def test_a_token_that_the_network_does_not_know_is_named():
  def known(table, x):
    return table.at[x].get(mode="fill", fill_value=jnp.nan)

  answers = Dataset(np.where(ANSWERS[0] == 4, 7, ANSWERS[0]), ANSWERS[1], num_classes=CLASSES)
  with jax.enable_x64(True), pytest.raises(ValueError, match=r"^dpo: alternatives got token 7"):
    begun(unlearn.dpo(answers), network(ORIGINAL).replace(embed=known), FORGET, RETAIN)


@pytest.mark.parametrize("make", [unlearn.npo, unlearn.simnpo])
def test_towards_no_beta_it_is_ascent(make):
  """On the sum over tokens, or on their mean."""
  scored = 1 if make is unlearn.npo else (FORGET[1] >= 0).sum(1)[:, None, None]
  with jax.enable_x64(True):
    algorithm = make(beta=1e-7, gamma=1, alpha=0)
    _, slope = value_of(algorithm, network(ORIGINAL), network(NOW), FORGET, RETAIN)
  np.testing.assert_allclose(slope, gradient(FORGET, up(NOW, FORGET) / scored), rtol=1e-5)


def raw_logits(network, turn, memory):
  """MUSE's: the logits of the whole vocabulary are taken for log p."""
  del memory
  gap = ORIGINAL[turn.forget.inputs] - network(turn.forget.inputs)
  return -2 / 0.3 * jnp.mean(jax.nn.log_sigmoid(0.3 * gap)), network


def test_raw_logits_in_the_place_of_log_p_are_seen():
  good = unlearn.npo(ETA, beta=0.3, alpha=0)
  wrong = dataclasses.replace(good, update=dataclasses.replace(good.update, objective=raw_logits))
  nothing = np.zeros(5), np.zeros((5, 4, CLASSES))
  check_step(good, npo(0.3), nothing, gamma=1, alpha=0)
  with pytest.raises(AssertionError):
    check_step(wrong, npo(0.3), nothing, gamma=1, alpha=0)


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
