"""Going on from a prompt: greedily it is right exactly where each next token is the likeliest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import losses, models, train
from jaxmul.data import Dataset

PROMPT, LENGTH = 4, 12
KINDS = pytest.mark.parametrize("positions", ["learned", "rotary"])


@functools.cache
def learned(positions):
  """A network that has learned half of 1,000 random texts, and its texts [1000, 13]."""
  rng = np.random.default_rng(0)
  whole = np.concatenate([rng.integers(0, 10, (1000, PROMPT + 1)), np.zeros((1000, 8), int)], 1)
  for t in range(PROMPT + 1, LENGTH + 1):
    noise = rng.integers(0, 10, 1000) * (rng.random(1000) < 0.04)
    whole[:, t] = (whole[:, t - 1] + whole[:, t - 3] + noise) % 10
  model = models.gpt(10, length=LENGTH, width=32, depth=1, heads=2, positions=positions)
  recipe = train.Recipe(model, epochs=30, batch_size=50, learning_rate=0.3)
  labels = whole[:, 1:].copy()
  labels[:, : PROMPT - 1] = -1
  fit = train.fit(recipe, Dataset(whole[:, :-1], labels), jax.random.key(0))
  return model, fit.network, whole, labels


@KINDS
def test_greedy_text_is_right_where_every_next_token_is(positions):
  model, network, whole, labels = learned(positions)
  right = np.asarray(losses.is_correct(network(jnp.asarray(whole[:, :-1])), jnp.asarray(labels)))
  assert 0.05 < right.mean() < 0.95
  suffix = whole[:, PROMPT:]
  for options in ({"model": model}, {}):
    text = models.generate(network, whole[:, :PROMPT], suffix.shape[1], **options)
    np.testing.assert_array_equal((text == suffix).all(1), right)


@KINDS
def test_what_was_read_may_be_kept_or_read_again_alone_or_in_a_batch(positions):
  model, network, whole, _ = learned(positions)
  prompts = whole[:, :PROMPT]
  kept = models.generate(network, prompts, 9, model=model)
  np.testing.assert_array_equal(kept, models.generate(network, prompts, 9))
  alone = [models.generate(network, prompts[i : i + 1], 9, model=model)[0] for i in range(20)]
  np.testing.assert_array_equal(kept[:20], alone)
  some = jax.random.key(1)
  drawn = models.generate(network, prompts, 9, model=model, key=some)
  assert (drawn != kept).any()
  np.testing.assert_array_equal(drawn, models.generate(network, prompts, 9, key=some))


def test_tokens_are_drawn_as_often_as_they_are_likely():
  likely = jnp.log(jnp.array([0.1, 0.2, 0.7]))
  network = jaxmul.bind(lambda p, x: jnp.broadcast_to(p, (*x.shape, 3)), likely)
  prompts = np.zeros((20_000, 1), int)
  for temperature, power in ((1.0, 1), (0.5, 2)):
    want = np.exp(likely) ** power / np.sum(np.exp(likely) ** power)
    text = models.generate(network, prompts, 2, key=jax.random.key(0), temperature=temperature)
    for column in np.asarray(text).T:
      np.testing.assert_allclose(np.bincount(column) / len(prompts), want, atol=0.015)
  equals = jaxmul.bind(lambda p, x: jnp.zeros((*x.shape, 3)), {})
  assert (models.generate(equals, prompts, 3) == 0).all()


def test_bfloat16_and_a_tied_head_keep_what_they_read():
  model = models.gpt(10, length=8, width=16, depth=2, heads=2, tied=True, dtype=jnp.bfloat16)
  network = models.init(model, jax.random.key(0), jnp.zeros((1, 8), int))
  text = models.generate(network, np.arange(6).reshape(2, 3), 5, model=model)
  np.testing.assert_array_equal(text, models.generate(network, np.arange(6).reshape(2, 3), 5))


@pytest.mark.parametrize(
  ("prompts", "options", "says"),
  [
    (np.zeros((2, 4)), {}, r"needs prompts int \[B, P\] of at least one token, got float32 \[2, 4"),
    (np.zeros((2, 0), int), {}, r"of at least one token, got int32 \[2, 0\]"),
    (np.zeros(4, int), {}, r"needs inputs \[B, \.\.\.\] of rank 2 or more"),
    (np.full((1, 2), -1), {}, "got token -1, must be at least 0"),
    (np.zeros((1, 4), int), {"temperature": 0.0}, r"temperature=0\.0, must be above 0; key=None"),
    (np.zeros((1, 9), int), {"model": models.gpt(length=12)}, "9 tokens and 5 more are longer"),
  ],
)
def test_bad_input_gets_one_line(prompts, options, says):
  network = jaxmul.bind(lambda p, x: jax.nn.one_hot(x, 10), {})
  with pytest.raises(ValueError, match=rf"\A[^\n]*{says}[^\n]*\Z"):
    models.generate(network, prompts, 5, **options)
  with pytest.raises(ValueError, match=r"\Agenerate got num_tokens=0"):
    models.generate(network, np.zeros((1, 2), int), 0)
