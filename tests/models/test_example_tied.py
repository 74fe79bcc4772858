"""Example-tied dropout: each example has neurons of its own in training, and none in evaluation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import losses, models, proxies, retraining, train
from jaxmul.data import Dataset
from jaxmul.models._example_tied import example_keys
from jaxmul.models._same_model import refuse_other

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
SIZE, FIXED = 20, 4
SCALE = (FIXED + 0.1 * (SIZE - FIXED)) / FIXED
GPT = models.gpt(7, length=6, width=8, depth=1, heads=2)
TOKENS = RNG.integers(0, 7, (5, 6)).astype(np.int32)


class Shown(nn.Module):
  """Shows which neurons are on, at each position: outputs [B, T, M] are 1 or 0."""

  @nn.compact
  def __call__(self, x):
    ones = nn.Dense(SIZE, kernel_init=nn.initializers.zeros, bias_init=nn.initializers.ones)(x)

    def eye(key, shape, dtype=jnp.float32):
      del key
      return jnp.eye(*shape, dtype=dtype)

    return nn.Dense(SIZE, kernel_init=eye, use_bias=False, name="reader")(nn.relu(ones))


@functools.cache
def shown(p_mem=0.1):
  tied = models.ExampleTiedDropout(Shown(), ("reader",), p_mem=p_mem)
  return jax.jit(lambda x: models.init(tied, KEY, x))(jnp.zeros((1, 3, 2)))


@jax.jit
def train_pass(network, inputs, key):
  return network.train(inputs, key, jnp.ones(len(inputs), bool))[0]


def in_training(network, inputs, key=0):
  return np.asarray(train_pass(network, inputs, jax.random.key(key)))


def sequences(count, seed=1):
  return np.random.default_rng(seed).normal(size=(count, 3, 2)).astype(np.float32)


def drops_neurons(on):
  """Whether masks [B, T, M] switch off neurons of whole examples, and leave none without any."""
  return (on == on[:, :1]).all() and on[:, :, :FIXED].all()


def test_an_example_has_the_fixed_neurons_and_a_tenth_of_the_others():
  on = in_training(shown(), sequences(400))
  assert drops_neurons(on)
  assert set(np.unique(on)) == {0, 1}
  own = on[:, 0, FIXED:]
  count = own.size
  assert abs(own.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / count)
  assert np.abs(own.mean(0) - 0.1).max() < 4.5 * np.sqrt(0.1 * 0.9 / len(own))  # of each neuron
  # As many examples as by chance have the very same neurons, 0.82 of all pairs having each.
  codes = own @ 2.0 ** np.arange(own.shape[1])
  pairs = codes[:, None] == codes[None]
  share = (pairs.sum() - len(own)) / (len(own) * (len(own) - 1))
  assert abs(share - 0.82 ** (SIZE - FIXED)) < 0.03


def test_neurons_are_the_examples_own_in_every_batch_whatever_the_key():
  network, x = shown(), sequences(12)
  on = in_training(network, x)
  order = RNG.permutation(12)
  np.testing.assert_array_equal(in_training(network, x[order], key=5), on[order])
  np.testing.assert_array_equal(in_training(network, x[[3, 3, *range(10)]])[:2], on[[3, 3]])
  one = jax.vmap(lambda example: train_pass(network, example[None], KEY)[0])(x)
  np.testing.assert_array_equal(one, on)


def test_evaluation_has_the_fixed_neurons_alone_at_the_scale_of_training():
  network, x = shown(), sequences(5)
  want = np.zeros((5, 3, SIZE))
  want[..., :FIXED] = SCALE
  np.testing.assert_allclose(network(x), want, rtol=1e-6)
  plain = models.without_tied_neurons(network)
  np.testing.assert_array_equal(plain(x), network(x))
  assert not np.asarray(plain.params["reader"]["kernel"])[FIXED:].any()
  assert plain.train_fn is None
  assert plain.apply_fn == models.init(Shown(), KEY, x[:1]).apply_fn


def by_position(inputs, seen=()):
  """What the published code does: it masks positions, and only those of the first batch.

  Masks [B, T, M] of inputs [B, T, ...], of which examples whose numbers are in `seen` were in it.
  """
  count, length = inputs.shape[:2]
  mask = np.zeros((count, length, SIZE))
  mask[:, : max(1, int(0.2 * length))] = 1
  rows = np.random.default_rng(0).random((count, length, 1)) < 0.1
  mask = np.maximum(mask, rows)
  return np.where(np.isin(np.arange(count), seen)[:, None, None], mask, 0) if len(seen) else mask


def test_the_published_errors_are_caught():
  x = sequences(6)
  assert not drops_neurons(by_position(x))
  whole = in_training(shown(), x)
  ours_first = whole * np.isin(np.arange(6), (0, 1))[:, None, None]
  assert not drops_neurons(ours_first)  # examples after the first batch have no neuron at all
  assert drops_neurons(whole)


def test_all_neurons_fixed_is_the_plain_network_and_none_tied_is_evaluation():
  x = sequences(4)
  tied = models.ExampleTiedDropout(models.mlp((8, 8), 3), ("Dense_1", "Dense_2"), p_fixed=1.0)

  @jax.jit
  def outputs(x):
    network, plain = models.init(tied, KEY, x), models.init(models.mlp((8, 8), 3), KEY, x)
    return plain(x), network(x), train_pass(network, x, KEY)

  want, *others = outputs(x)
  for got in others:
    np.testing.assert_array_equal(got, want)
  none = shown(p_mem=0.0)
  np.testing.assert_array_equal(in_training(none, x), none(x))


def with_neurons(params, on):
  """Params of a gpt whose second dense layers have rows of 0 but where `on`, [M] of each block."""
  blocks = {
    name: params[name] | {"dense2": params[name]["dense2"] | {"kernel": kernel}}
    for name, row in on.items()
    for kernel in [params[name]["dense2"]["kernel"] * row[:, None]]
  }
  return params | blocks


def test_a_gpt_equals_one_network_for_each_example():
  tied = models.ExampleTiedDropout(GPT, ("dense2",), p_mem=0.3)
  network, plain = jax.jit(lambda x: (models.init(tied, KEY, x), models.init(GPT, KEY, x)))(
    TOKENS[:1]
  )
  neurons, keys = network.apply_fn.neurons, example_keys(TOKENS)
  on = {path[0]: np.asarray(neurons.of_examples(keys, path, 32)) for path, _ in neurons.sizes}
  other = neurons.of_examples(keys, ("blocks_1", "dense2"), 32)  # each layer has its own
  assert set(on) == {"blocks_0"}
  assert (on["blocks_0"] != other).any()

  @jax.jit
  def passes(tokens):
    def one(tokens, masks):
      return plain.replace(params=with_neurons(plain.params, masks))(tokens[None])[0]

    return train_pass(network, tokens, KEY), jax.vmap(one)(tokens, on)

  got, want = passes(TOKENS)
  np.testing.assert_allclose(got, want, atol=1e-6)
  fixed = round(0.2 * 32)
  scale = (fixed + 0.3 * (32 - fixed)) / fixed
  evaluation = with_neurons(plain.params, dict.fromkeys(on, scale * (np.arange(32) < fixed)))

  @jax.jit
  def evaluations(tokens):
    by_hand = plain.replace(params=evaluation)
    return by_hand(tokens), network(tokens), network(network.embedded(tokens))

  want, *others = evaluations(TOKENS)
  for got in others:
    np.testing.assert_allclose(got, want, atol=1e-6)
  # The plain network is one of the model; the other is refused, as its params are others.
  refuse_other(GPT, models.without_tied_neurons(network), "generate")
  with pytest.raises(ValueError, match="another than the network's"):
    models.generate(network, TOKENS[:, :2], 3, model=GPT)


def test_training_moves_the_fixed_neurons_and_the_examples_own():
  x = sequences(2)[:, 0]
  tied = models.ExampleTiedDropout(models.mlp((SIZE,), 2), ("Dense_1",), p_mem=0.3)
  recipe = train.Recipe(tied, epochs=3, weight_decay=0.0)
  data = Dataset(np.abs(x), np.array([0, 1]), num_classes=2)
  fit = train.fit(recipe, data, KEY, [0])
  start = jax.jit(lambda x: models.init(tied, jax.random.split(KEY)[0], x))(x[:1])
  neurons = fit.network.apply_fn.neurons
  on = np.asarray(neurons.of_examples(example_keys(data.inputs[:1]), ("Dense_1",), SIZE))[0]
  before, after = (net.params["tied"]["Dense_1"]["kernel"] for net in (start, fit.network))
  moved = np.asarray((before != after).any(axis=1))
  assert not moved[~on].any()
  assert moved[on].any()
  assert 0 < on[FIXED:].sum() < SIZE - FIXED


def test_models_without_part_of_the_data_are_trained_so():
  data = Dataset(sequences(12)[:, 0], RNG.integers(0, 2, 12), num_classes=2)
  schedules = []
  for layers, p_mem in ((("Dense_1",), 0.1), (["Dense_1"], 0.1), (("Dense_1",), 0.5)):
    tied = models.ExampleTiedDropout(models.mlp((SIZE,), 2), layers, p_mem=p_mem)
    recipe = train.Recipe(tied, epochs=2, batch_size=5)
    schedules.append(retraining.leave_out(recipe, data, KEY, num_models=2, fraction=0.5))
  assert schedules[0].recipe == schedules[1].recipe
  assert len({schedule.hash for schedule in schedules}) == 2
  chunk = retraining.run_chunk(schedules[0], 0)
  assert np.isfinite(chunk.p_in).all()
  assert not len(chunk.diverged)


def test_keys_are_of_content_alone():
  binary = np.unique(RNG.integers(0, 2, (3000, 16)), axis=0).astype(np.float32)
  tokens = np.stack([np.roll(np.arange(8), n) for n in range(8)])

  def keys(inputs):
    return np.asarray(key_data(inputs))

  for inputs in (binary, tokens, np.eye(8, dtype=np.float32)):
    assert len(np.unique(keys(inputs)[:, 0])) == len(np.unique(keys(inputs)[:, 1])) == len(inputs)
  np.testing.assert_array_equal(keys(-binary * 0), keys(binary * 0))
  both = {"image": binary[:4], "age": np.array([1, 1, 2, 2])}
  assert len(np.unique(keys(both), axis=0)) == 4
  with jax.enable_x64(True):
    np.testing.assert_array_equal(keys(binary.astype(float)), want := keys(binary))
  np.testing.assert_array_equal(keys(binary), want)


@jax.jit
def key_data(inputs):
  return jax.random.key_data(example_keys(inputs))


class Normalized(nn.Module):
  """Convolutions with BatchNorm; the second one reads in groups if asked to."""

  groups: int = 1

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Conv(10, (3, 3))(x))
    x = nn.Conv(4, (3, 3), feature_group_count=self.groups)(nn.relu(x))
    return nn.LayerNorm()(x.mean((1, 2)))


def test_networks_with_statistics_keep_them():
  images = RNG.normal(size=(6, 5, 5, 2)).astype(np.float32)
  tied = models.ExampleTiedDropout(Normalized(), ("Conv_1",))

  @jax.jit
  def trained(images):
    network = models.init(tied, KEY, images[:1])
    outputs, state = network.train(images, KEY, jnp.ones(6, bool))
    network = network.replace(state=state)
    plain = models.without_tied_neurons(network)
    return outputs, network(images), plain(images), plain

  outputs, got, want, plain = trained(images)
  assert outputs.shape == (6, 4)
  assert np.abs(plain.state["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0
  assert not np.asarray(plain.params["Conv_1"]["kernel"])[:, :, 2:].any()
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_gradient_norms_of_examples_are_those_of_autodiff():
  x, y = sequences(4)[:, 0], np.array([0, 1, 1, 0])
  tied = models.ExampleTiedDropout(models.mlp((SIZE,), 2), ("Dense_1",))
  network = jax.jit(lambda x: models.init(tied, KEY, x))(x[:1])

  def norm(x, y):
    def loss(params):
      return losses.cross_entropy(network.replace(params=params)(x[None]), y[None])[0]

    leaves = jax.tree.leaves(jax.grad(loss)(network.params))
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves))

  np.testing.assert_allclose(
    proxies.grand(network, (x, y)), jax.jit(jax.vmap(norm))(x, y), rtol=1e-5
  )


def flipped(key, inputs):
  del key
  return inputs


def tied_mlp(layers=("Dense_1",), **changes):
  return models.ExampleTiedDropout(models.mlp((8,), 2), layers, **changes)


def made(model, shape=(1, 3)):
  return models.init(model, KEY, jnp.zeros(shape))


IMAGE = (1, 5, 5, 2)


@pytest.mark.parametrize(
  ("call", "named"),
  [
    (lambda: tied_mlp("Dense_1"), "must be a tuple of names"),
    (lambda: tied_mlp(p_fixed=1.2), "p_fixed=1.2"),
    (lambda: tied_mlp(p_mem=-0.1), "p_mem=-0.1"),
    (lambda: made(tied_mlp(("dense2",))), "no layer 'dense2'. It has Dense_0, Dense_1"),
    (lambda: made(tied_mlp(p_fixed=0.05)), "no neuron that is always on"),
    (
      lambda: made(models.ExampleTiedDropout(Normalized(), ("LayerNorm_0",)), IMAGE),
      "LayerNorm, must be a Dense or a Conv",
    ),
    (
      lambda: made(models.ExampleTiedDropout(Normalized(2), ("Conv_1",)), IMAGE),
      "no kernel of its own with a row for each of the 10",
    ),
    (lambda: train.Recipe(tied_mlp(), augment=flipped), "each view would be another"),
    (lambda: models.without_tied_neurons(made(models.mlp((8,), 2))), "without tied neurons"),
  ],
)
def test_mistakes_are_one_line(call, named):
  with pytest.raises(ValueError, match=rf"\A[^\n]*{named}[^\n]*\Z"):
    call()
