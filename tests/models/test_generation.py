"""Going on from a prompt: greedily it is right exactly where each next token is the likeliest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmul
from jaxmul import data, models, proxies, train

PROMPT = 11
KINDS = pytest.mark.parametrize("positions", ["learned", "rotary"])


@functools.cache
def learned(positions):
  """A network that has learned some of 1,000 math sequences, its data and the whole sequences."""
  starts = np.random.default_rng(0).permutation(np.arange(1000, 9000))[:1000]
  text = data.math_sequences(starts, jax.random.key(0), noisy=500).dataset
  model = models.gpt(14, length=20, width=32, depth=1, heads=2, positions=positions)
  adam = functools.partial(optax.adamw, weight_decay=0.1)
  recipe = train.Recipe(model, epochs=12, batch_size=16, learning_rate=5e-3, optimizer=adam)
  fit = train.fit(recipe, text, jax.random.key(0))
  whole = np.concatenate([text.inputs, text.labels[:, -1:]], axis=1)
  return model, fit.network, data.after_prompt(text, PROMPT), whole


@KINDS
def test_greedy_text_is_right_where_every_next_token_is(positions):
  model, network, text, whole = learned(positions)
  right = proxies.score(proxies.correctness, network, text) == 0
  assert 0.05 < right.mean() < 0.95
  suffix = whole[:, PROMPT:]
  for options in ({"model": model}, {}):
    text = models.generate(network, whole[:, :PROMPT], suffix.shape[1], **options)
    np.testing.assert_array_equal((text == suffix).all(1), right)


@KINDS
def test_what_was_read_may_be_kept_or_read_again_alone_or_in_a_batch(positions):
  model, network, _, whole = learned(positions)
  prompts = whole[:, :PROMPT]
  kept = models.generate(network, prompts, 9, model=model)
  np.testing.assert_array_equal(kept, models.generate(network, prompts, 9))
  alone = [models.generate(network, prompts[i : i + 1], 9, model=model)[0] for i in range(20)]
  np.testing.assert_array_equal(kept[:20], alone)
  some = jax.random.key(1)
  drawn = models.generate(network, prompts, 9, model=model, key=some)
  assert (drawn != kept).any()
  np.testing.assert_array_equal(drawn, models.generate(network, prompts, 9, key=some))


@pytest.mark.parametrize("make", [models.neox, models.llama])
def test_blocks_of_others_go_on_as_all_of_it_read_at_once_says(make):
  options = {"kv_heads": 2, "inner": 24} if make is models.llama else {}
  model, x = make(10, length=12, width=32, depth=2, heads=4, **options), np.zeros((1, 4), int)
  rng = np.random.default_rng(0)
  network = jax.tree.map(
    lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), models.shapes(model, x)
  )
  prompts = rng.integers(0, 10, (30, 4))
  text = models.generate(network, prompts, 8, model=model)
  assert (np.ptp(text, axis=1) > 0).mean() > 0.5
  said = jax.jit(network)(np.concatenate([prompts, text], axis=1)[:, :-1])
  np.testing.assert_array_equal(text, jnp.argmax(said, -1)[:, 3:])


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
    (np.zeros((2, 4)), {}, r"needs prompts int \[B, P\] of at least one token, got float64 \[2, 4"),
    (np.zeros((2, 0), int), {}, r"of at least one token, got int64 \[2, 0\]"),
    (np.zeros((0, 2), int), {}, r"of at least one token, got int64 \[0, 2\]"),
    (
      np.zeros(4, int),
      {},
      r"needs prompts int \[B, P\].*got int64 \[4\]\. One prompt is tokens\[None",
    ),
    ("to be", {}, r"needs prompts int \[B, P\] of at least one token, got <U5 \[\]"),
    ([[1, 2], [1]], {}, "needs prompts of one length, got rows of different lengths"),
    (np.zeros((1, 4), int), {"key": 0}, "generate got key=0, must be one key"),
    (np.zeros((1, 4), int), {"model": "gpt"}, "needs model to be a models.gpt, got str"),
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


TINY = functools.partial(models.gpt, 10, length=8, width=8, depth=2, heads=2)


@pytest.mark.parametrize(
  ("other", "says"),
  [
    ({"num_classes": 12}, r"they differ in \['head'\]\['kernel'\]"),
    ({"depth": 1}, r"they differ in \['blocks_1'\]"),  # of which nothing would be missed
    ({"heads": 4}, "they differ in heads"),
    ({"activation": "relu"}, "they differ in activation"),
    ({"positions": "rotary"}, r"they differ in \['positions'\]"),
  ],
)
def test_another_model_than_the_networks_gets_one_line(other, says):
  network = models.init(TINY(), jax.random.key(0), jnp.zeros((1, 8), int))
  with pytest.raises(ValueError, match=rf"\Agenerate: model= is another[^\n]*{says}[^\n]*\Z"):
    models.generate(network, np.zeros((1, 2), int), 3, model=models.gpt(**fields(TINY(), other)))


def fields(model, other):
  names = ("num_classes", "length", "width", "depth", "heads", "activation", "positions")
  return {name: getattr(model, name) for name in names} | other


def test_a_model_that_differs_in_what_its_params_do_not_tell_is_another():
  make = functools.partial(models.llama, 10, length=8, width=8, depth=1, heads=2)
  network = models.init(make(), jax.random.key(0), jnp.zeros((1, 8), int))
  with pytest.raises(ValueError, match=r"\Agenerate: model= is another.*differ in layout"):
    models.generate(network, np.zeros((1, 2), int), 3, model=make(epsilon=1e-6))


def test_a_rotary_model_may_read_on_past_what_it_was_trained_on():
  short = TINY(positions="rotary")
  network = models.init(short, jax.random.key(0), jnp.zeros((1, 8), int))
  longer = models.gpt(**fields(short, {"length": 20}))
  prompts = np.arange(6).reshape(2, 3)
  text = models.generate(network, prompts, 12, model=longer)
  np.testing.assert_array_equal(text[:, :6], models.generate(network, prompts, 6, model=short))


def test_what_the_network_does_not_know_gets_one_line():
  network = models.init(TINY(), jax.random.key(0), jnp.zeros((1, 8), int))
  for model in (TINY(), None):
    with pytest.raises(
      ValueError, match=r"\Agenerate got token 10, which the network embeds as NaN"
    ):
      models.generate(network, np.array([[1, 10]]), 3, model=model)
  with pytest.raises(
    ValueError, match=r"\Agenerate needs a Network, got dict\. That of train\.fit"
  ):
    models.generate(network.params, np.array([[1, 9]]), 3)
