"""Gradients added up over microbatches are those of the batch, and so is what trackers are told."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fits import KEY, NETWORKS, WIDE, difference, params_of, recipe, toy

from jaxmul import bind, models, train
from jaxmul._blocks import dealt, together
from jaxmul._identity import describe
from jaxmul.data import Dataset
from jaxmul.proxies import trackers


def one_line(message):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z")


def recorder(steps, batch):
  """Keeps what every step saw."""

  def init(n):
    del n
    numbers = {"losses": jnp.zeros((steps, batch)), "logits": jnp.zeros((steps, batch, 3))}
    return jnp.int32(0), numbers | {"rows": jnp.zeros((steps, batch), jnp.int32)}

  def update(state, step):
    at, seen = state
    return at + 1, {name: seen[name].at[at].set(getattr(step, name)) for name in seen}

  return train.Tracker(init, update, lambda state: state[1])


SEEN = {"seen": recorder(6, 8)}  # two epochs of 8, 8 and 5 examples
GRADIENTS = {"csg": trackers.cumulative_gradient(), "tracin": trackers.tracin(every=2)}


@pytest.mark.parametrize(
  ("size", "changes"), [(2, {}), (4, {"optimizer": optax.adamw})], ids=["sgd", "adamw"]
)
def test_microbatches_do_not_matter_beyond_rounding(size, changes):
  """The last step has 5 examples: of its 4 microbatches of 2 three hold a row of padding."""
  config, data, riders = recipe(**changes), toy(), SEEN | GRADIENTS
  whole = train.fit(config, data, KEY, trackers=riders)
  parts = train.fit(dataclasses.replace(config, microbatch=size), data, KEY, trackers=riders)
  assert 0 < difference(params_of(whole), params_of(parts)) < 1e-5
  assert difference(whole.history, parts.history) < 1e-5
  np.testing.assert_array_equal(parts.scores["rows"], whole.scores["rows"])
  real = whole.scores["rows"] < len(data)
  for name in ("losses", "logits"):
    np.testing.assert_allclose(parts.scores[name][real], whole.scores[name][real], 1e-5, 1e-5)
  for name in ("cumulative_gradient", "tracin"):
    np.testing.assert_allclose(parts.scores[name], whole.scores[name], 1e-4, 1e-5)


def test_float64_agrees_to_ten_digits():
  with jax.enable_x64(True):
    data, config = toy(NETWORKS["cnn"][1]), recipe(WIDE["cnn"])
    whole, parts = (
      train.fit(dataclasses.replace(config, microbatch=size), data, KEY) for size in (None, 2)
    )
    assert jax.tree.leaves(parts.network.params)[0].dtype == jnp.float64
    assert difference(params_of(whole), params_of(parts)) < 1e-10


def test_a_weighting_is_told_the_losses_of_the_whole_batch():
  config, data = recipe(weighting=train.LossTruncation(0.5, window=8), learning_rate=0.3), toy()
  whole, parts, plain = (
    train.fit(each, data, KEY)
    for each in (
      config,
      dataclasses.replace(config, microbatch=2),
      dataclasses.replace(config, weighting=None),
    )
  )
  assert difference(params_of(whole), params_of(parts)) < 1e-5
  assert difference(params_of(whole), params_of(plain)) > 1e-2


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False, mask=None):
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
    x = norm(nn.Dense(4)(x), mask=None if mask is None else mask[:, None])
    return nn.Dense(3)(nn.relu(x))


def normed(key, inputs):
  del key
  return models.init(Normed(), jax.random.key(7), inputs)


def test_batch_norm_takes_statistics_of_each_microbatch_as_a_plain_loop_does():
  """Three steps of 7, each of two microbatches of 4 and 3 examples, here without padding."""
  config, data = recipe(normed, epochs=1, momentum=0.0, weight_decay=0.0, microbatch=4), toy()
  fit = train.fit(config, data, KEY, trackers={"seen": recorder(3, 8)})
  network = normed(None, data.inputs[:1])

  @jax.jit
  def gradient_of(network, inputs, labels):
    def risk(theta):
      logits, state = network.replace(params=theta).train(inputs, KEY, jnp.ones(len(labels), bool))
      return -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].sum() / 7, state

    return jax.grad(risk, has_aux=True)(network.params)

  for step in fit.scores["rows"]:
    rows = step[step < len(data)]
    assert len(rows) == 7
    total, state = jax.tree.map(jnp.zeros_like, network.params), network.state
    for part in (rows[0::2], rows[1::2]):
      before = network.replace(state=state)
      gradient, state = gradient_of(before, data.inputs[part], data.labels[part])
      total = jax.tree.map(jnp.add, total, gradient)
    params = jax.tree.map(lambda w, g: w - 0.05 * g, network.params, total)
    network = network.replace(params=params, state=state)
  assert difference(params_of(fit), {"params": network.params, "state": network.state}) < 1e-5
  whole = train.fit(dataclasses.replace(config, microbatch=None), data, KEY)
  assert difference(params_of(fit), params_of(whole)) > 1e-3  # other statistics


def test_a_microbatch_of_one_example_has_no_statistics():
  with one_line(r"fit would train on a microbatch of 1 example.*Take a larger microbatch\."):
    train.fit(recipe(normed, microbatch=2), toy(), KEY)


WIDTHS = []


def seen_widths(params, state, inputs, key, mask):
  del key, mask
  WIDTHS.append(len(inputs))
  return inputs @ params, state


def linear(params, inputs):
  return inputs @ params["params"]


def counting(key, inputs):
  del key, inputs
  return bind(linear, jnp.ones((6, 3)), {}, seen_widths)


def test_no_more_than_a_microbatch_passes_at_a_time_and_there_is_one_trace():
  train.fit(recipe(counting, microbatch=4), toy(), KEY)
  assert set(WIDTHS) == {4}
  traced = len(WIDTHS)
  train.fit(recipe(counting, microbatch=4), toy(seed=1), KEY)
  assert len(WIDTHS) == traced


def times(w, inputs):
  return inputs * w


def value(outputs, labels):
  del labels
  return outputs[:, 0]


def two(key, inputs):
  del key, inputs
  return bind(times, jnp.full((1,), 2, jnp.bfloat16), loss=value)


def test_gradients_of_bfloat16_params_are_added_in_float32():
  """512 times 1 / 512: added in bfloat16, that would stay at a half."""
  data = Dataset(np.ones((512, 1), np.float32), np.zeros(512, int))
  config = train.Recipe(
    two, epochs=1, batch_size=512, learning_rate=1.0, momentum=0.0, weight_decay=0.0, microbatch=1
  )
  assert float(train.fit(config, data, KEY).network.params[0]) == 1.0


def test_microbatches_are_split_over_devices(eight):
  model, shape = NETWORKS["resnet"]
  config, data = recipe(model, microbatch=4, epochs=1), toy(shape)
  events = {"events": trackers.learning_events()}
  one, two = (
    train.fit(config, data, KEY, devices=devices, trackers=events)
    for devices in (None, jax.devices()[:2])
  )
  assert 0 < difference(params_of(one), params_of(two)) < 1e-5
  assert difference(one.scores, two.scores) < 1e-5
  with one_line(r"fit got microbatch=4 for 8 devices, which must divide it\. Use 8\."):
    train.fit(config, data, KEY, devices=jax.devices()[:8])


@pytest.mark.parametrize(
  ("size", "message"),
  [
    (3, r"microbatch=3, must divide batch_size=8\. Use 2\."),
    (16, r"microbatch=16, must divide batch_size=8\. Use 8\."),
    (0, "microbatch=0, must be an integer of at least 1"),
    (2.0, "microbatch=2.0, must be an integer of at least 1"),
  ],
)
def test_a_microbatch_that_does_not_fit_is_refused(size, message):
  with one_line(f"Recipe got {message}" if size in (3, 16) else message):
    recipe(microbatch=size)


def test_recipes_without_microbatches_keep_their_text():
  assert "microbatch" not in describe(recipe())
  assert describe(recipe(microbatch=4)) != describe(recipe()) != describe(recipe(microbatch=2))


def test_rows_are_dealt_in_turn_and_put_together_again():
  rows = {"a": jnp.arange(12).reshape(6, 2), "b": jnp.arange(6)}
  parts = dealt(rows, 3)
  assert parts["b"].tolist() == [[0, 3], [1, 4], [2, 5]]
  jax.tree.map(np.testing.assert_array_equal, together(parts), rows)
