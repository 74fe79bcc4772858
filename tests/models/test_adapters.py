"""Adapters and low-rank additions: what moves, what stays, and what several requests are as one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import checkpoint, data, models, proxies, unlearn
from jaxmul.unlearn.unlearner import apply_increments

MODEL = models.gpt(7, length=6, width=8, depth=1, heads=2)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 7, (12, 6)).astype(np.int32)
LABELS = np.concatenate([TOKENS[:, 1:], np.full((12, 1), -1)], 1)
TEXT = data.Dataset(TOKENS, LABELS, num_classes=7)
SPLIT = data.Split(forget=np.arange(3), retain=np.arange(3, 10))
KINDS = pytest.mark.parametrize("kind", ["adapters", "low_rank"])


@functools.cache
def text_network():
  return models.init(MODEL, jax.random.key(0), TOKENS[:1])


def added(network, inputs, kind, layers=("dense2",), size=2, key=1):
  make = models.with_adapters if kind == "adapters" else models.with_low_rank
  return make(network, inputs, layers, size, jax.random.key(key))


@functools.cache
def adapted(kind):
  return added(text_network(), TOKENS[:1], kind)


def moved(network, seed=2):
  """With other weights than those it began with, none of them 0."""
  rng = np.random.default_rng(seed)
  return network.replace(
    params=jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), network.params)
  )


def same_bits(a, b):
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


@KINDS
def test_it_begins_as_the_network_was(kind):
  network = adapted(kind)
  np.testing.assert_array_equal(network(TOKENS), text_network()(TOKENS))
  assert jax.tree.structure(network.params).num_leaves == 2
  vectors = text_network().embedded(TOKENS)
  np.testing.assert_array_equal(network.embedded(TOKENS), vectors)
  np.testing.assert_allclose(network(vectors), network(TOKENS), rtol=1e-6)


def test_only_adapters_move_and_without_them_the_original_is_back():
  network = adapted("adapters")
  given = unlearn.eul(0.1, warmup=0.0), network, TEXT, SPLIT, jax.random.key(0)
  after = unlearn.run(*given, epochs=2, batch_size=4)
  for leaf, old in zip(jax.tree.leaves(after.params), jax.tree.leaves(network.params), strict=True):
    assert np.abs(leaf - old).max() > 0
  assert np.abs(after(TOKENS) - text_network()(TOKENS)).max() > 1e-3
  assert same_bits(models.without_adapters(after), text_network())


def test_what_is_frozen_stays_whatever_an_update_says():
  """−0 too, to which 0 may not be added."""
  network = adapted("adapters")
  zeros = jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), network.state)
  network = network.replace(state=zeros)
  after = apply_increments(network, jax.tree.map(jnp.ones_like, network))
  assert same_bits(after.state, zeros)
  assert not same_bits(after.params, network.params)


@KINDS
def test_the_outputs_are_those_of_the_formula(kind):
  """A bottleneck after a dense layer and new kernels, in numpy."""
  x = RNG.normal(size=(4, 3)).astype(np.float32)
  network = models.init(models.mlp((5,), 2), jax.random.key(0), x)
  now = moved(added(network, x, kind, ("Dense_0",)))
  first, last = (jax.tree.map(np.asarray, network.params[f"Dense_{i}"]) for i in (0, 1))
  own = now.params["Dense_0"]
  if kind == "adapters":
    y = x @ first["kernel"] + first["bias"]
    y = y + np.maximum(y @ own["down"], 0) @ own["up"]
  else:
    y = x @ (first["kernel"] + own["a"] @ own["b"]) + first["bias"]
  want = np.maximum(y, 0) @ last["kernel"] + last["bias"]
  np.testing.assert_allclose(now(x), want, rtol=1e-5, atol=1e-6)
  twice = models.with_low_rank(network, x, ("Dense_0",), 2, jax.random.key(1), scale=2.0)
  twice = models.merge_low_rank(moved(twice))
  difference = twice.params["Dense_0"]["kernel"] - first["kernel"]
  if kind == "low_rank":
    np.testing.assert_allclose(difference, 2 * own["a"] @ own["b"], rtol=1e-4, atol=1e-6)


def test_merged_kernels_answer_as_the_additions_do():
  now = moved(adapted("low_rank"))
  merged = models.merge_low_rank(now)
  assert jax.tree.structure(merged) == jax.tree.structure(text_network())
  np.testing.assert_allclose(merged(TOKENS), now(TOKENS), rtol=1e-4, atol=1e-5)
  assert np.abs(merged(TOKENS) - text_network()(TOKENS)).max() > 1e-2


def test_a_name_is_that_of_all_layers_and_with_others_before_it_of_one():
  tokens = jnp.zeros((1, 2), int)
  network = models.shapes(models.gpt(7, length=6, width=8, depth=2, heads=2), tokens)

  def shapes(*layers):
    def make(network):
      return models.with_adapters(network, tokens, layers, 2, jax.random.key(1)).params

    return jax.tree.map(jnp.shape, jax.eval_shape(make, network))

  one = {"down": (8, 2), "up": (2, 8)}
  assert shapes("dense2") == {"blocks_0": {"dense2": one}, "blocks_1": {"dense2": one}}
  assert shapes("blocks_1/dense2", "norm") == {"blocks_1": {"dense2": one}, "norm": one}


def test_dropout_goes_on_and_statistics_stay():
  model = models.gpt(7, length=6, width=8, depth=1, heads=2, dropout=0.5)
  network = added(models.init(model, jax.random.key(0), TOKENS[:1]), TOKENS[:1], "adapters")
  outputs, state = network.train(TOKENS, jax.random.key(3), np.ones(12, bool))
  assert np.abs(outputs - network(TOKENS)).max() > 0.01
  assert same_bits(state, network.state)

  class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
      return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))

  x = RNG.normal(size=(8, 3)).astype(np.float32)
  plain = models.init(Norm(), jax.random.key(0), x)
  images = data.Dataset(x, np.arange(8) % 2)
  network = added(plain, x, "low_rank", ("Dense_0",), 1)
  # A lone row and no warning: there are no statistics that would be taken.
  split = data.Split(forget=np.arange(1), retain=np.arange(1, 6))
  given = unlearn.neg_grad_plus(0.1), network, images, split, jax.random.key(0)
  after = unlearn.run(*given, epochs=1, batch_size=4)
  assert same_bits(models.without_adapters(after), plain)
  assert models.without_adapters(after).train_fn == plain.train_fn
  # Evaluation mode, as statistics that stay would be of another mode.
  outputs, _ = network.train(x, jax.random.key(0), np.ones(8, bool))
  np.testing.assert_array_equal(outputs, network(x))


def test_a_convolution_can_be_followed():
  x = RNG.normal(size=(2, 8, 8, 1)).astype(np.float32)
  network = models.init(models.cnn((3,), 4, 2), jax.random.key(0), x)
  now = added(network, x, "adapters", ("Conv_0",))
  assert jax.tree.map(jnp.shape, now.params) == {"Conv_0": {"down": (3, 2), "up": (2, 3)}}
  assert np.abs(moved(now)(x) - network(x)).max() > 1e-3
  product = models.inner_products(now, (x, np.zeros(2, int)))["Conv_0"]["down"]
  assert product.shape == (3, 3)


def test_a_checkpoint_holds_it(tmp_path):
  now = moved(adapted("low_rank"))
  checkpoint.save(tmp_path / "adapted", now)
  assert same_bits(checkpoint.load(tmp_path / "adapted", adapted("low_rank")), now)


def test_text_goes_on_with_its_additions_whether_what_was_read_is_kept_or_not():
  now = moved(adapted("adapters"))
  kept = models.generate(now, TOKENS[:, :2], 4, model=MODEL)
  np.testing.assert_array_equal(kept, models.generate(now, TOKENS[:, :2], 4))
  assert (kept != models.generate(text_network(), TOKENS[:, :2], 4, model=MODEL)).any()


def test_features_are_those_with_the_additions():
  x = RNG.normal(size=(4, 3)).astype(np.float32)
  model = models.mlp((5,), 2)
  network = models.init(model, jax.random.key(0), x)
  now = moved(added(network, x, "adapters", ("Dense_0",)))
  last = network.params["Dense_1"]
  seen = models.features(model, "Dense_1")(now, x)
  np.testing.assert_allclose(seen @ last["kernel"] + last["bias"], now(x), rtol=1e-5)


def test_scores_are_of_the_adapters_alone():
  """There is no tap for them: gradients are taken one by one."""
  x = RNG.normal(size=(4, 3)).astype(np.float32)
  labels = np.arange(4) % 2
  network = models.init(models.mlp((5,), 2), jax.random.key(0), x)
  now = moved(added(network, x, "low_rank", ("Dense_0",)))
  assert not models.has_ghost_norms(now, x)

  def gradient(image, label):
    def loss(params):
      logits = now.replace(params=params)(image[None])
      return jaxmul.losses.cross_entropy(logits, label[None])[0]

    return jax.grad(loss)(now.params)

  each = jax.vmap(gradient)(x, labels)
  want = jnp.sqrt(sum(jnp.sum(leaf**2, (1, 2)) for leaf in jax.tree.leaves(each)))
  np.testing.assert_allclose(proxies.grand(now, (x, labels)), want, rtol=1e-5)
  kept = proxies.curvature(models.merge_low_rank(now), (x, labels), key=jax.random.key(0))
  np.testing.assert_allclose(
    proxies.curvature(now, (x, labels), key=jax.random.key(0)), kept, rtol=1e-2
  )


def dense(rng, count=1):
  """A network of one dense layer in float64, and it with low-rank additions, one a request."""

  class One(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(3, name="layer", param_dtype=jnp.float64)(x)

  network = models.init(One(), jax.random.key(0), jnp.zeros((1, 4)))
  fresh = added(network, jnp.zeros((1, 4)), "low_rank", ("layer",))
  weights = [
    {
      "layer": {
        "a": jnp.asarray(rng.normal(size=(4, 2))),
        "b": jnp.asarray(rng.normal(size=(2, 3))),
      }
    }
    for _ in range(count)
  ]
  return network, [fresh.replace(params=each) for each in weights]


def change(network):
  own = network.params["layer"]
  return np.asarray(own["a"] @ own["b"])


@pytest.mark.parametrize("rows", [6, 1])
def test_fused_additions_are_the_least_squares_solution(rows):
  """Where fewer rows than inputs make it one of many, it is that nearest to the mean."""
  rng = np.random.default_rng(1)
  with jax.enable_x64(True):
    _, requests = dense(rng, 2)
    xs = rng.normal(size=(2, rows, 4))
    products = [
      models.inner_products(each, (jnp.asarray(x), jnp.zeros(rows, int)))
      for each, x in zip(requests, xs, strict=True)
    ]
    np.testing.assert_allclose(products[0]["layer"]["a"], xs[0].T @ xs[0], rtol=1e-12)
    fused = models.fuse_adapters(requests, products)
    assert jax.tree.map(jnp.shape, fused.params) == {"layer": {"a": (4, 4), "b": (4, 3)}}
    deltas = [change(each) for each in requests]
    targets = [x @ delta for x, delta in zip(xs, deltas, strict=True)]
    mean = sum(deltas) / 2
    stacked = np.concatenate(xs)
    residual = np.concatenate(targets) - stacked @ mean
    want = mean + np.linalg.lstsq(stacked, residual, rcond=None)[0]
    np.testing.assert_allclose(change(fused), want, rtol=1e-8, atol=1e-10)


@KINDS
def test_fusing_one_request_is_that_request(kind):
  """Bit for bit, though three examples of five tokens do not span all directions."""
  now = moved(adapted(kind))
  products = models.inner_products(now, (TOKENS[:3], LABELS[:3]))
  assert same_bits(models.fuse_adapters([now], [products]), now)


def test_each_map_of_fused_adapters_solves_its_own_least_squares():
  """Of adapters: D on what layers return, U on what relu leaves; text at scored positions alone."""
  requests = [moved(adapted("adapters"), seed) for seed in (2, 3)]
  parts = [(TOKENS[:3], LABELS[:3]), (TOKENS[3:6], LABELS[3:6])]
  products = [models.inner_products(*each) for each in zip(requests, parts, strict=True)]
  with jax.enable_x64(True):
    fused = models.fuse_adapters(
      *(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), each) for each in (requests, products))
    )
  for name in ("down", "up"):
    grams, weights = (
      [np.asarray(each["blocks_0"]["dense2"][name], float) for each in trees]
      for trees in (products, [each.params for each in requests])
    )
    right = sum(gram @ weight for gram, weight in zip(grams, weights, strict=True))
    got = sum(grams) @ np.asarray(fused.params["blocks_0"]["dense2"][name])
    np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-4 * np.abs(right).max())
  # What one request says of its own examples: 15 scored tokens, each once.
  more = [
    (np.concatenate([TOKENS[:3], TOKENS[:3]]), np.concatenate([LABELS[:3], -(LABELS[:3] ** 0)]))
  ]
  unscored = models.inner_products(requests[0], more[0])
  np.testing.assert_allclose(
    unscored["blocks_0"]["dense2"]["down"], products[0]["blocks_0"]["dense2"]["down"], rtol=1e-5
  )


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda n: models.with_adapters(n, TOKENS, "dense2", 2, jax.random.key(0)), "must be a tuple"),
    (lambda n: added(n, TOKENS, "adapters", ("dense3",)), "no layer 'dense3'. It has Dropout_0, "),
    (lambda n: added(n, TOKENS, "adapters", ("blocks_0",)), "'blocks_0' returns .*, must return"),
    (lambda n: added(n, TOKENS, "low_rank", ("norm",)), "'norm' is a LayerNorm, must be a Dense"),
    (lambda n: added(n, TOKENS, "adapters", size=0), "width=0"),
    (lambda n: added(adapted("adapters"), TOKENS, "low_rank"), "a network that has adapters"),
    (lambda n: models.without_adapters(n), "without_adapters got a network without adapters"),
    (lambda n: models.merge_low_rank(adapted("adapters")), "no part of any kernel"),
    (lambda n: models.inner_products(n, (TOKENS, LABELS)), "a network without adapters"),
    (lambda n: models.fuse_adapters([], []), "0 networks and 0 products"),
    (lambda n: models.fuse_adapters([adapted("low_rank")], [{}]), r"no products \[32, 32\]"),
    (
      lambda n: models.fuse_adapters([adapted("low_rank"), adapted("adapters")], [{}, {}]),
      "of other networks, layers or kinds",
    ),
    (
      lambda n: models.fuse_adapters(
        [adapted("adapters"), added(n, TOKENS, "adapters", size=3)], [{}, {}]
      ),
      "got widths",
    ),
    (
      lambda n: added(
        jaxmul.bind(lambda p, x: x @ p["w"], {"w": jnp.eye(2)}), jnp.eye(2), "low_rank"
      ),
      "no layer 'dense2'. Linen layers are found, no others",
    ),
  ],
)
def test_what_cannot_be_done_is_said_in_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call(text_network())
  assert "\n" not in str(caught.value)


def test_the_share_of_the_weights_of_gpt_2_is_what_the_page_says():
  """Counted, of the smallest GPT-2: nothing is computed."""
  model = models.gpt(50257, length=1024, width=768, depth=12, heads=12, tied=True)
  tokens = jnp.zeros((1, 2), int)
  network = models.shapes(model, tokens)

  def adapters(network):
    return models.with_adapters(network, tokens, ("dense2",), 32, jax.random.key(0))

  counts = [
    sum(leaf.size for leaf in jax.tree.leaves(each.params))
    for each in (network, jax.eval_shape(adapters, network))
  ]
  assert counts == [124_439_808, 12 * 2 * 768 * 32]
  shares = [round(100 * counts[1] * width / 32 / counts[0], 2) for width in (8, 16, 32, 64)]
  assert shares == [0.12, 0.24, 0.47, 0.95]
