"""gpt is GPT-2's block in numpy, looks at nothing that comes later, and embeds its tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import models, proxies, train
from jaxmul.data import Dataset
from jaxmul.proxies import trackers

VOCABULARY, LENGTH, WIDTH, HEADS = 7, 9, 8, 2
tiny = functools.partial(models.gpt, VOCABULARY, length=LENGTH, width=WIDTH, depth=2, heads=HEADS)


def tokens(n=4, length=6):
  return np.random.default_rng(0).integers(0, VOCABULARY, (n, length)).astype(np.int32)


def filled(model, x):
  """A network with weights large enough that everything matters."""
  rng = np.random.default_rng(1)
  like = models.shapes(model, x)
  return jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), leaf.dtype), like)


def reference(params, x, activation="gelu", tied=False, positions="learned"):
  """The forward pass, one head and one position at a time, in float64, or complex as params are."""
  p = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float64(0), params)

  def norm(at, v):
    v = v - v.mean(-1, keepdims=True)
    v = v / np.sqrt((v * v).mean(-1, keepdims=True) + 1e-5)
    return v * at["scale"] + at["bias"]

  def turned(v, t):
    """Pairs of entries as complex numbers, which turning multiplies."""
    if positions == "learned":
      return v
    half = len(v) // 2
    cos, sin = (f(t / 10_000 ** (np.arange(half) / half)) for f in (np.cos, np.sin))
    a, b = v[:half], v[half:]
    return np.concatenate([a * cos - b * sin, a * sin + b * cos])

  def dense(at, v):
    return v @ at["kernel"] + at.get("bias", 0)

  def act(v):
    if activation == "relu":
      return np.maximum(v, 0)
    return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))

  answers = []
  for row in x:
    h = p["tokens"]["embedding"][row]
    h = h + p["positions"]["embedding"][: len(row)] if positions == "learned" else h
    for name in ("blocks_0", "blocks_1"):
      at = p[name]
      q, k, v = np.split(dense(at["qkv"], norm(at["norm1"], h)), 3, -1)
      size, seen = WIDTH // HEADS, np.zeros_like(h)
      for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for t in range(len(row)):
          keys = np.stack([turned(k[s, part], s) for s in range(t + 1)])
          weights = np.exp(keys @ turned(q[t, part], t) / np.sqrt(size))
          seen[t, part] = weights / weights.sum() @ v[: t + 1, part]
      h = h + dense(at["out"], seen)
      h = h + dense(at["dense2"], act(dense(at["dense1"], norm(at["norm2"], h))))
    h = norm(p["norm"], h)
    answers.append(h @ p["tokens"]["embedding"].T if tied else dense(p["head"], h))
  return np.stack(answers)


OPTIONS = pytest.mark.parametrize(
  "options",
  [{}, {"activation": "relu"}, {"tied": True}, {"positions": "rotary"}],
  ids=["gelu", "relu", "tied", "rotary"],
)


@OPTIONS
def test_it_is_a_plain_forward_pass_in_numpy(options):
  x = tokens()
  network = filled(tiny(**options), x)
  want = reference(network.params, x, **options)
  assert want.std() > 0.1
  np.testing.assert_allclose(jax.jit(network)(x), want, rtol=1e-5, atol=2e-6)


@OPTIONS
def test_losses_and_their_gradients_are_those_of_numpy_in_float64(options):
  x, labels = tokens(), np.roll(tokens(), -1, axis=1)
  labels[:, 0] = -1
  with jax.enable_x64(True):
    params = jax.tree.map(lambda leaf: leaf.astype(float), filled(tiny(**options), x).params)
    network = models.init(tiny(**options), jax.random.key(0), x).replace(params=params)
    along = jax.tree.map(np.cos, params)
    ours, slope = jax.jvp(
      lambda p: proxies.loss(network.replace(params=p), (x, labels)), (params,), (along,)
    )

  def loss(step):
    moved = jax.tree.map(lambda leaf, to: np.asarray(leaf) + step * np.asarray(to), params, along)
    logits = reference(moved, x, **options)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    at = np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return -at[:, 1:].mean(-1)

  np.testing.assert_allclose(ours, loss(0), atol=1e-10)
  if "activation" not in options:  # a derivative without differences: f(x + iε) = f(x) + iε f'(x)
    np.testing.assert_allclose(slope, loss(1e-30j).imag / 1e-30, rtol=1e-10, atol=1e-10)


def test_what_comes_later_is_not_seen():
  x = tokens()
  network = filled(tiny(), x)
  other = x.copy()
  other[:, 4:] = (other[:, 4:] + 1) % VOCABULARY
  np.testing.assert_array_equal(network(other)[:, :4], network(x)[:, :4])
  assert (network(other)[:, 4:] != network(x)[:, 4:]).any()
  np.testing.assert_allclose(network(x[:, :4]), network(x)[:, :4], rtol=1e-5, atol=1e-6)


def test_vectors_of_tokens_stand_for_them():
  x = tokens()
  network = filled(tiny(), x)
  vectors = network.embedded(jnp.asarray(x))
  assert vectors.shape == (*x.shape, WIDTH)
  np.testing.assert_array_equal(vectors, network.params["tokens"]["embedding"][x])
  np.testing.assert_array_equal(jax.jit(network)(vectors), jax.jit(network)(x))
  assert network.embedded(vectors) is vectors
  assert models.init(tiny(), jax.random.key(0), x).embed == network.embed  # nothing traced twice


def test_initial_weights_are_those_of_gpt2():
  model = models.gpt(50, length=50, width=64, depth=2, heads=2)
  params = models.init(model, jax.random.key(0), jnp.zeros((1, 3), int)).params
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name, layer = path[-1].key, path[-2].key
    want = {"bias": 0, "scale": 0}.get(name, 0.01 if layer in ("out", "dense2") else 0.02)
    np.testing.assert_allclose(np.std(leaf), want, rtol=0.05, err_msg=str(path))


def test_dropout_follows_the_key_and_only_trains():
  x, key, mask = tokens(), jax.random.key(0), jnp.ones(4, bool)
  network = filled(tiny(dropout=0.5), x)
  first, _ = network.train(jnp.asarray(x), key, mask)
  np.testing.assert_array_equal(network.train(jnp.asarray(x), key, mask)[0], first)
  assert (network.train(jnp.asarray(x), jax.random.key(1), mask)[0] != first).any()
  np.testing.assert_array_equal(network(x), filled(tiny(), x)(x))
  still, _ = filled(tiny(), x).train(jnp.asarray(x), key, mask)
  np.testing.assert_array_equal(still, network(x))


def test_bfloat16_computes_in_it_and_keeps_its_params():
  network = models.init(tiny(dtype=jnp.bfloat16), jax.random.key(0), tokens())
  assert network(tokens()).dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(network.params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("tied", [True, False])
def test_it_answers_as_gpt2_of_transformers_does(tied):
  torch = pytest.importorskip("torch", reason="PyTorch comes with the extra bench")
  transformers = pytest.importorskip("transformers", reason="it comes with the extra bench")
  config = transformers.GPT2Config(
    vocab_size=VOCABULARY,
    n_positions=LENGTH,
    n_embd=WIDTH,
    n_layer=2,
    n_head=HEADS,
    tie_word_embeddings=tied,
    bos_token_id=None,
    eos_token_id=None,
  )
  theirs = transformers.GPT2LMHeadModel(config).eval()
  rng = np.random.default_rng(2)
  with torch.no_grad():
    for weight in theirs.parameters():
      weight.copy_(torch.from_numpy(0.4 * rng.normal(size=tuple(weight.shape))))
    want = theirs(torch.from_numpy(tokens(length=LENGTH)).long()).logits.numpy()
  weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
  network = models.init(tiny(tied=tied), jax.random.key(0), tokens())
  network = network.replace(params=of_gpt2(weights, tied))
  assert want.std() > 0.1
  np.testing.assert_allclose(network(tokens(length=LENGTH)), want, atol=1e-4)


def of_gpt2(weights, tied):
  """GPT-2's weights under the names of ours: its layers are stored [in, out], as ours are."""

  def norm(name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

  def dense(name):
    return {"kernel": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}

  params = {
    "tokens": {"embedding": weights["transformer.wte.weight"]},
    "positions": {"embedding": weights["transformer.wpe.weight"]},
    "norm": norm("transformer.ln_f"),
  }
  for number in range(2):
    block = f"transformer.h.{number}"
    params[f"blocks_{number}"] = {
      "norm1": norm(f"{block}.ln_1"),
      "qkv": dense(f"{block}.attn.c_attn"),
      "out": dense(f"{block}.attn.c_proj"),
      "norm2": norm(f"{block}.ln_2"),
      "dense1": dense(f"{block}.mlp.c_fc"),
      "dense2": dense(f"{block}.mlp.c_proj"),
    }
  if not tied:
    params["head"] = {"kernel": weights["lm_head.weight"].T}
  return params


def text(n=12, length=6):
  """Sequences that count upwards from a start that is not scored."""
  start = np.arange(n) % VOCABULARY
  whole = (start[:, None] + np.arange(length + 1)) % VOCABULARY
  labels = whole[:, 1:].copy()
  labels[:, 0] = -1
  return Dataset(whole[:, :-1], labels, strata=start % 2)


def test_it_learns_to_count_and_every_tracker_rides_along():
  recipe = train.Recipe(tiny(), epochs=25, batch_size=4, learning_rate=0.3)
  every = {name: getattr(trackers, name)() for name in trackers.__all__}
  fit = train.fit(recipe, text(), jax.random.key(0), trackers=every)
  assert fit.history.loss[0] > 1.5
  assert fit.history.accuracy[-1] == 1
  for name, scores in fit.scores.items():
    assert scores.shape == (12,), name
    assert np.isfinite(scores).all(), name
  assert np.ptp(fit.scores["vog"]) > 0
  assert (proxies.score(proxies.correctness, fit.network, text()) == 0).all()


def test_padding_of_a_batch_and_unscored_tokens_after_the_last_change_no_score():
  network = filled(tiny(), tokens())
  short = text()
  longer = Dataset(
    np.pad(short.inputs, ((0, 0), (0, 3)), constant_values=2),
    np.pad(short.labels, ((0, 0), (0, 3)), constant_values=-1),
  )
  for proxy in (proxies.loss, proxies.entropy, proxies.margin, proxies.grand):
    want = proxies.score(proxy, network, short)
    np.testing.assert_allclose(proxies.score(proxy, network, longer), want, 1e-4)


def fitted(inputs, labels):
  recipe = train.Recipe(tiny(), epochs=1)
  return train.fit(recipe, Dataset(inputs, labels, num_classes=9), jax.random.key(0))


def scored(inputs, labels):
  network = filled(tiny(), tokens())
  return proxies.score(proxies.loss, network, Dataset(inputs, labels, num_classes=9))


@pytest.mark.parametrize(
  ("call", "says"),
  [
    (lambda: models.gpt("a"), "gpt got num_classes='a', must be an integer of at least 1"),
    (lambda: models.gpt(heads=0), "gpt got heads=0, must be an integer of at least 1"),
    (lambda: models.gpt(width=10, heads=4), "width=10 and heads=4; heads must divide"),
    (
      lambda: models.gpt(activation="tanh"),
      "activation='tanh', must be one of gelu, relu, exact_gelu, silu",
    ),
    (lambda: models.gpt(positions="sine"), "positions='sine', must be 'learned' or 'rotary'"),
    (lambda: models.gpt(width=6, heads=2, positions="rotary"), "each head has 3 entries"),
    (lambda: models.neox(width=32, rotary_share=0.2), "each head has 1 entries to turn"),
    (lambda: models.neox(rotary_share=1.5), r"neox got rotary_share=1\.5, must be in \[0, 1\]"),
    (lambda: models.llama(heads=4, kv_heads=3), "llama got heads=4 and kv_heads=3; kv_heads must"),
    (lambda: models.llama(inner=0), "llama got inner=0, must be an integer of at least 1"),
    (lambda: models.llama(epsilon=0.0), r"llama got epsilon=0\.0, must be above 0"),
    (lambda: models.gpt(dropout=1.0), r"dropout=1\.0, must be in \[0, 1\)"),
    (lambda: models.shapes(tiny(), jnp.zeros((1, 10), int)), "got 10 tokens, at most 9 have"),
    (lambda: models.shapes(tiny(), jnp.zeros((1, 4, 5))), r"or their vectors \[B, T, 8\]"),
    (lambda: models.shapes(tiny(), jnp.zeros((1, 4))), r"gpt needs tokens int \[B, T\]"),
    (
      lambda: fitted(text().inputs.astype(np.uint8), text().labels),
      r"got float32 \[1, 6\]\. uint8 are taken for pixels: tokens\.astype\('int32'\)",
    ),
    (
      lambda: fitted(text().inputs + 1, text().labels + 1),
      r"fit got token 7, which the network embeds as NaN.*models\.gpt\(dataset\.num_classes\)",
    ),
    (
      lambda: fitted(text(length=10).inputs, text(length=10).labels),
      "gpt got 10 tokens, at most 9 have a position",
    ),
    (
      lambda: fitted(text().inputs, text().labels[:, :-1]),
      r"fit needs labels \[12, 6\] for logits \[12, 6, 7\], got shape \(12, 5\): one label",
    ),
    (
      lambda: fitted(text().inputs, text().labels[:, -1]),
      r"fit needs labels \[12, 6\] for logits \[12, 6, 7\], got shape \(12,\): one label for each",
    ),
    (
      lambda: scored(text().inputs, text().labels[:, :-1]),
      r"score needs labels \[12, 6\] for logits \[12, 6, 7\], got shape \(12, 5\)",
    ),
    (
      lambda: scored(text(length=10).inputs, text(length=10).labels),
      "gpt got 10 tokens, at most 9 have a position",
    ),
    (
      lambda: scored(text().inputs + 1, text().labels),
      "score got token 7, which the network embeds as NaN",
    ),
    (
      lambda: train.fit(train.Recipe(tiny()), Dataset([[0, 7]], [[1, 0]]), jax.random.key(0)),
      "fit got token 7, which the network embeds as NaN: its vocabulary is smaller",
    ),
    (
      lambda: proxies.loss(filled(tiny(), tokens()), (np.array([[0, 9]]), np.array([[1, 0]]))),
      "loss got token 9, which the network embeds as NaN",
    ),
    (
      lambda: proxies.loss(filled(tiny(), tokens()), (np.array([[0, -3]]), np.array([[1, 0]]))),
      "loss got token -3, must be at least 0",
    ),
    (
      lambda: models.shapes(models.mlp(), jnp.zeros((1, 4), int)),
      "a network of images got int32 inputs, which are tokens",
    ),
  ],
)
def test_bad_input_gets_one_line(call, says):
  with pytest.raises(ValueError, match=rf"\A[^\n]*{says}"):  # jax adds lines of its own
    call()


def test_without_embed_what_needs_gradients_of_inputs_says_so():
  network, (inputs, labels) = filled(tiny(), tokens()).replace(embed=None), text().batch()
  for name in ("curvature", "input_gradient"):
    with pytest.raises(ValueError, match=rf"\A{name} takes gradients of inputs, which are int32"):
      getattr(proxies, name)(network, (inputs, labels))
  recipe = train.Recipe(lambda key, inputs: network, epochs=1)
  gradients = {"": proxies.trackers.cumulative_gradient()}
  with pytest.raises(ValueError, match="the tracker of 'cumulative_gradient' takes gradients of"):
    train.fit(recipe, text(), jax.random.key(0), trackers=gradients)
  assert proxies.grand(network, (inputs, labels)).shape == (12,)
