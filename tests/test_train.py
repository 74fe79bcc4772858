"""Training equals a plain loop, is one trace, and gives one model whatever the order or devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmul import _sharding, models, train
from jaxmul._blocks import even_rows, least_rows, shuffled_rows
from jaxmul._examples import examples_of
from jaxmul._identity import describe
from jaxmul.binding import Network, bind
from jaxmul.data import Dataset
from jaxmul.proxies import trackers

KEY = jax.random.key(3)
MLP = models.mlp((8,), 3)
SIZE, BATCH, EPOCHS = 13, 4, 3
STEPS = -(-SIZE // BATCH)


def one_line(pattern, error=ValueError):
  return pytest.raises(error, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def toy(n=SIZE, shape=(6,), seed=0, scale=1.0):
  rng = np.random.default_rng(seed)
  images = scale * rng.normal(size=(n, *shape)).astype(np.float32)
  return Dataset(images, rng.integers(0, 3, n), 10 + 3 * np.arange(n), num_classes=3)


def recipe(model=MLP, **changes):
  return train.Recipe(model, **{"epochs": EPOCHS, "batch_size": BATCH} | changes)


def recorder(steps, batch):
  """Keeps what every step saw, so that a plain loop can follow the same order."""

  def init(n):
    del n
    seen = {
      "rows": jnp.zeros((steps, batch), jnp.int32),
      "labels": jnp.zeros((steps, batch), jnp.int32),
      "logits": jnp.zeros((steps, batch, 3)),
      "losses": jnp.zeros((steps, batch)),
      "epochs": jnp.zeros(steps, jnp.int32),
    }
    return jnp.int32(0), seen

  def update(state, step):
    at, seen = state
    now = dict(zip(("rows", "labels", "logits", "losses", "epochs"), step[:5], strict=True))
    return at + 1, {name: seen[name].at[at].set(value) for name, value in now.items()}

  return train.Tracker(init, update, lambda state: state[1])


# One set of trackers for one recipe and shape: all tests below share one compiled program.
SEEN = {"seen": recorder(EPOCHS * STEPS, BATCH), "events": trackers.learning_events()}


def start(key, inputs):
  """The same initial params in every run, for loops that must begin where `fit` does."""
  del key
  return models.init(MLP, jax.random.key(7), inputs)


def layers(bound):
  """[(kernel, bias), ...] of an MLP, float64."""
  tree = bound.params
  return [
    (np.float64(tree[name]["kernel"]), np.float64(tree[name]["bias"])) for name in sorted(tree)
  ]


def same_bits(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def close(a, b, tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 0, tolerance), a, b)


def finite(tree):
  return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def backpropagation(weights, x, y):
  """By hand, through one hidden ReLU layer: (gradients of the mean loss, total loss, hits)."""
  (w1, b1), (w2, b2) = weights
  hidden = x @ w1 + b1
  active = np.maximum(hidden, 0)
  z = active @ w2 + b2
  p = np.exp(z - z.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  d_z = (p - np.eye(3)[y]) / len(y)
  d_hidden = d_z @ w2.T * (hidden > 0)
  gradients = [(x.T @ d_hidden, d_hidden.sum(0)), (active.T @ d_z, d_z.sum(0))]
  return gradients, -np.log(p[np.arange(len(y)), y]).sum(), (z.argmax(1) == y).sum()


def plain_sgd(weights, data, rows, rates, momentum, decay):
  """PyTorch's SGD with a partial batch at the end of each epoch; (weights, loss, accuracy)."""
  images, labels = np.float64(data.inputs), data.labels
  buffers, losses, accuracies = None, [], []
  for epoch, rate in enumerate(rates):
    total, correct = 0.0, 0
    for batch in rows[epoch * STEPS : (epoch + 1) * STEPS]:
      batch = batch[batch < SIZE]
      gradients, risk, hits = backpropagation(weights, images[batch], labels[batch])
      total, correct = total + risk, correct + hits
      coupled = jax.tree.map(lambda g, w: g + decay * w, gradients, weights)
      if buffers is None:
        buffers = coupled
      else:
        buffers = jax.tree.map(lambda b, g: momentum * b + g, buffers, coupled)
      weights = jax.tree.map(lambda w, b, rate=rate: w - rate * b, weights, buffers)
    losses.append(total / SIZE)
    accuracies.append(correct / SIZE)
  return weights, losses, accuracies


@pytest.mark.parametrize(
  ("changes", "rates"),
  [
    ({"weight_decay": 0.1, "learning_rate": 0.2}, [0.2, 0.15, 0.05]),  # cosine
    ({"momentum": 0.0, "schedule": train.MultiStep((1, 2), 0.2)}, [0.1, 0.02, 0.004]),
  ],
  ids=["decay, momentum, cosine", "no momentum, multi-step"],
)
def test_fit_equals_a_plain_loop(changes, rates):
  config, data = recipe(start, **changes), toy()
  fit = train.fit(config, data, KEY, trackers=SEEN)
  weights, loss, accuracy = plain_sgd(
    layers(start(None, data.inputs[:1])),
    data,
    fit.scores["rows"],
    rates,
    config.momentum,
    config.weight_decay,
  )
  close(layers(fit.network), weights, 1e-5)
  np.testing.assert_allclose(fit.history.loss, loss, 0, 1e-5)
  np.testing.assert_allclose(fit.history.accuracy, accuracy, 0, 1e-6)


def test_an_optimizer_of_ones_own_takes_the_recipes_rate():
  """AdamW by hand: bias-corrected moments, decay beside them."""
  rates, decay = [0.02, 0.015, 0.005], 0.1
  adamw = functools.partial(optax.adamw, weight_decay=decay)
  data = toy()
  fit = train.fit(recipe(start, learning_rate=0.02, optimizer=adamw), data, KEY, trackers=SEEN)
  weights = layers(start(None, data.inputs[:1]))
  first = second = jax.tree.map(np.zeros_like, weights)
  images, labels = np.float64(data.inputs), data.labels
  for step, batch in enumerate(fit.scores["rows"]):
    batch = batch[batch < SIZE]
    gradients, *_ = backpropagation(weights, images[batch], labels[batch])
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradients)
    unbiased, squares = (
      jax.tree.map(lambda m, rest=1 - beta ** (step + 1): m / rest, moment)
      for beta, moment in ((0.9, first), (0.999, second))
    )
    rate = rates[step // STEPS]
    weights = jax.tree.map(
      lambda w, m, v, rate=rate: w - rate * (m / (np.sqrt(v) + 1e-8) + decay * w),
      *(weights, unbiased, squares),
    )
  close(layers(fit.network), weights, 1e-4)


def test_recipes_of_equal_partials_are_equal_and_have_one_text():
  one, other, third = (
    recipe(optimizer=functools.partial(optax.adamw, weight_decay=decay))
    for decay in (0.1, 0.1, 0.2)
  )
  assert one == other != third
  assert hash(one) == hash(other)
  assert describe(one) == describe(other) != describe(third)
  with one_line("momentum or weight_decay beside an optimizer"):
    recipe(optimizer=optax.adamw, weight_decay=0.1)


def test_each_epoch_sees_each_example_once_in_an_order_of_its_own():
  data = toy()
  seen = train.fit(recipe(), data, KEY, trackers=SEEN).scores
  orders = seen["rows"].reshape(EPOCHS, STEPS * BATCH)
  for order in orders:
    assert sorted(order[:SIZE]) == list(range(SIZE))
    assert (order[SIZE:] == SIZE).all()
  assert not np.array_equal(orders[0], orders[1])
  assert seen["epochs"].tolist() == np.repeat(np.arange(EPOCHS), STEPS).tolist()
  real = seen["rows"] < SIZE
  np.testing.assert_array_equal(seen["labels"][real], data.labels[seen["rows"][real]])


def test_trackers_see_the_forward_pass_before_the_update():
  data = toy()
  seen = train.fit(recipe(start), data, KEY, trackers=SEEN).scores
  rows = seen["rows"][0]
  want = start(None, data.inputs[:1])(data.inputs[rows])
  np.testing.assert_allclose(seen["logits"][0], want, 1e-5, 1e-5)
  log_p = jax.nn.log_softmax(want)[np.arange(BATCH), data.labels[rows]]
  np.testing.assert_allclose(seen["losses"][0], -log_p, 1e-5, 1e-5)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 2), (4, 4), (3, 8)])
def test_shuffled_rows_are_a_padded_permutation(count, size):
  rows = np.asarray(shuffled_rows(KEY, count, size))
  assert rows.shape == (-(-count // size), size)
  assert sorted(rows.ravel()[:count]) == list(range(count))
  assert (rows.ravel()[count:] == count).all()


@pytest.mark.parametrize("size", [1, 2, 8])
def test_even_rows_deal_every_example_once_and_pad_with_the_next(size):
  for count in (1, 2, 7, 8, 9, 17, 23):
    steps = -(-count // size)
    rows = np.asarray(even_rows(KEY, count, size))
    assert rows.shape == (steps, -(-count // steps))
    real = rows < count
    assert sorted(rows[real]) == list(range(count))
    dealt = real.sum(1)
    assert (dealt.min(), dealt.max() - dealt.min() <= 1) == (least_rows(count, size), True)
    assert count < size or dealt.min() >= size / 2
    order = rows[real]
    for step in np.flatnonzero(~real.all(1)):
      assert real[step, :-1].all()
      assert rows[step, -1] - count == order[dealt[: step + 1].sum() % count]
      assert rows[step, -1] - count not in rows[step]


@pytest.mark.rounding
def test_same_numbers_with_and_without_jit():
  data = toy(3)
  fixed = start(None, data.inputs[:1])
  config = recipe(lambda key, inputs: fixed, epochs=1, batch_size=2)
  want = train.fit(config, data, KEY)
  with jax.disable_jit():
    got = train.run(config, (), examples_of(data), KEY)
  close((got.network, got.history), (want.network, want.history), 1e-6)


def test_order_of_ids_and_of_the_data_set_do_not_matter():
  data = toy()
  shuffle = np.random.default_rng(1).permutation(data.ids)
  want = train.fit(recipe(), data, KEY, trackers=SEEN)
  for got in (
    train.fit(recipe(), data, KEY, ids=shuffle, trackers=SEEN),
    train.fit(recipe(), data.take(shuffle), KEY, trackers=SEEN),
  ):
    same_bits((got.network, got.scores, got.history), (want.network, want.scores, want.history))
    assert got.ids.tolist() == data.ids.tolist()


def test_fitting_some_ids_is_fitting_a_smaller_data_set():
  small, data = toy(), toy(20)  # `toy` draws images in order, but of another length: not a prefix
  some = np.random.default_rng(2).permutation(data.ids)[:SIZE]
  got = train.fit(recipe(), data, KEY, ids=some, trackers=SEEN)
  want = train.fit(recipe(), data.take(np.sort(some)), KEY, trackers=SEEN)
  same_bits((got.network, got.scores), (want.network, want.scores))
  assert got.ids.tolist() == want.ids.tolist() == sorted(some)
  other = train.fit(recipe(), small, KEY, trackers=SEEN)
  assert not np.array_equal(layers(got.network)[0][0], layers(other.network)[0][0])


def test_equal_keys_give_equal_bits_and_others_do_not():
  data = toy()
  first, again = (train.fit(recipe(), data, KEY, trackers=SEEN) for _ in range(2))
  same_bits((first.network, first.scores), (again.network, again.scores))
  other = train.fit(recipe(), data, jax.random.key(4), trackers=SEEN)
  assert np.abs(layers(first.network)[0][0] - layers(other.network)[0][0]).max() > 0.1
  assert not np.array_equal(first.scores["rows"], other.scores["rows"])


@pytest.mark.rounding
def test_vmap_over_rows_and_keys_equals_one_run_at_a_time():
  data, config = toy(20), recipe()
  rows = np.stack([np.arange(SIZE), np.arange(SIZE) + 7])
  keys = jax.random.split(KEY, 2)
  examples = examples_of(data)

  def one(rows, key):
    return train.run(config, (), examples._replace(rows=rows), key).network

  got = jax.jit(jax.vmap(one))(jnp.asarray(rows), keys)
  for i in range(2):
    want = train.fit(config, data, keys[i], ids=data.ids[rows[i]], trackers=SEEN)
    close(jax.tree.map(lambda leaf, i=i: leaf[i], got), want.network, 1e-6)


TRACES = []


def tenfold_with_noise(key, inputs):
  """Augmentation that counts its traces and leaves its key visible in the inputs."""
  TRACES.append(inputs.shape)
  return jnp.full_like(inputs, jax.random.normal(key)) + 10 * inputs


def test_augmentation_has_a_key_of_each_step_and_equal_recipes_are_one_trace():
  rng = np.random.default_rng(0)
  images = np.repeat(rng.integers(1, 255, (SIZE, 1), dtype=np.uint8), 6, 1)
  data = Dataset(images, rng.integers(0, 3, SIZE), num_classes=3)

  def fit():
    config = recipe(models.mlp((), 3), learning_rate=0.0, augment=tenfold_with_noise)
    return train.fit(config, data, KEY, trackers=SEEN)

  first = fit()
  traced = len(TRACES)
  assert traced > 0
  fit()
  assert len(TRACES) == traced  # a fresh module, equal to the first
  # Without hidden layers all logits are (noise + 10 pixel / 255) × the column sums of the kernel.
  rows, logits = first.scores["rows"][:-1], first.scores["logits"][:-1]
  real = rows < SIZE
  scale = layers(first.network)[0][0].sum(0)
  values = logits[..., 0] / scale[0]
  noise = values - 10 * (images[np.where(real, rows, 0), 0] / 255.0)
  by_step = [noise[i][real[i]] for i in range(len(rows))]
  assert all(np.ptp(step) < 1e-4 for step in by_step)
  assert np.ptp([step[0] for step in by_step]) > 0.1
  assert len({round(float(step[0]), 3) for step in by_step}) == len(by_step)


def test_scores_of_one_name_are_refused():
  twice = {"a": trackers.learning_events(), "b": trackers.learning_events()}
  with pytest.raises(ValueError, match=r"two trackers.*'confidence'.*Drop one") as caught:
    train.fit(recipe(epochs=1), toy(), KEY, trackers=twice)
  assert "\n" not in str(caught.value)


def test_no_examples_are_refused():
  with one_line("no training examples. Pass at least one id"):
    train.fit(recipe(), toy(), KEY, ids=[])


@pytest.mark.parametrize("ids", [{1, 2}, iter([1])])
def test_ids_without_an_order_are_refused(ids):
  with one_line(r"needs integer ids \[1\], got object"):
    train.fit(recipe(), toy(), KEY, ids=ids)


def test_an_id_that_is_not_in_the_data_is_refused():
  with one_line("id 11 is not in the data"):
    train.fit(recipe(), toy(), KEY, ids=[10, 11])


def test_a_label_that_is_no_class_of_the_network_is_refused():
  with one_line(r"fit got label 2, outside \[0, 2\)"):
    train.fit(recipe(models.mlp((8,), 2), epochs=1), toy(), KEY)


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"epochs": 0}, r"epochs=0, must be an integer of at least 1"),
    ({"batch_size": 0}, r"batch_size=0, must be an integer of at least 1"),
    ({"learning_rate": -0.1}, r"learning_rate=-0\.1, must be at least 0"),
    ({"learning_rate": float("nan")}, r"learning_rate=nan, must be at least 0"),
    ({"learning_rate": float("inf")}, "learning_rate=inf, must be finite"),
    ({"weight_decay": -1.0}, r"weight_decay=-1\.0, must be at least 0"),
    ({"momentum": 1.0}, r"momentum=1\.0, must be in \[0, 1\)"),
  ],
)
def test_a_recipe_refuses_impossible_numbers(changes, named):
  with one_line(rf"Recipe got {named}"):
    recipe(**changes)


def test_schedules_follow_their_formulas():
  epochs = np.arange(6)
  np.testing.assert_allclose(train.cosine(epochs, 6), 0.5 + 0.5 * np.cos(np.pi * epochs / 6), 1e-6)
  assert train.constant(epochs, 6).tolist() == [1.0] * 6
  steps = [float(train.MultiStep((2, 4), 0.5)(e, 6)) for e in epochs]
  assert steps == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_a_run_that_diverges_says_where_and_what_to_change():
  config = recipe(epochs=6, batch_size=SIZE, learning_rate=1e9, schedule=train.constant)
  message = r"diverged in epoch \d of 6.*Lower learning_rate \(1000000000\.0\)"
  with one_line(message, train.Diverged) as caught:
    train.fit(config, toy(), KEY)
  kept = caught.value.fit
  assert finite(kept.network)
  good = int(np.flatnonzero(~np.isfinite(kept.history.loss))[0])
  assert good > 1
  assert f"epoch {good + 1} of" in str(caught.value)


def sometimes_nan(key, inputs):
  """Augmentation that spoils about half of the epochs of one step, whatever came before."""
  return jnp.where(jax.random.bernoulli(key), jnp.nan, inputs)


def test_after_divergence_no_later_epoch_changes_anything():
  def fit(epochs):
    config = recipe(epochs=epochs, batch_size=SIZE, augment=sometimes_nan, schedule=train.constant)
    events = {"events": trackers.learning_events()}
    return train.fit(config, toy(), jax.random.key(3), trackers=events)

  with one_line(r"diverged in epoch \d of 12", train.Diverged) as caught:
    fit(12)
  kept = caught.value.fit
  good = int(np.flatnonzero(~np.isfinite(kept.history.loss))[0])
  assert good >= 1
  assert np.isnan(kept.history.loss[good:]).all()
  want = fit(good)
  close((kept.network, kept.scores), (want.network, want.scores), 1e-6)


def test_an_update_that_overflows_is_divergence_though_its_loss_is_finite():
  config = recipe(epochs=2, batch_size=SIZE, learning_rate=1e38)
  with one_line("diverged in epoch 1 of 2", train.Diverged) as caught:
    train.fit(config, toy(scale=100.0), KEY)
  assert finite(caught.value.fit.network)


def test_training_runs_in_double_precision_mode():
  with jax.enable_x64(True):
    fit = train.fit(recipe(), toy(), KEY)
  assert finite((fit.network, fit.history))


class Normed(nn.Module):
  """A small network whose training pass differs in two ways: BatchNorm and dropout."""

  rate: float = 0.0

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    x = nn.Dense(4)(x)
    layer = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    x = layer(x, mask=None if mask is None else mask[:, None])
    x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(x))
    return nn.Dense(3)(x)


def normed_start(key, inputs):
  del key
  return models.init(Normed(), jax.random.key(7), inputs)


def test_fit_with_batch_norm_equals_a_loop_without_padding():
  data = toy(5)
  config = recipe(normed_start, epochs=2, batch_size=3)
  fit = train.fit(config, data, KEY, trackers={"seen": recorder(4, 3)})

  @jax.jit
  def step(params, buffers, images, labels, rate):
    def risk(theta):
      mask = jnp.ones(len(labels), bool)
      logits, state = params.replace(params=theta).train(images, KEY, mask)
      return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean(), state

    g, state = jax.grad(risk, has_aux=True)(params.params)
    buffers = jax.tree.map(lambda b, g, w: 0.9 * b + g + 5e-4 * w, buffers, g, params.params)
    theta = jax.tree.map(lambda w, b: w - rate * b, params.params, buffers)
    return params.replace(params=theta, state=state), buffers

  params = normed_start(None, data.inputs[:1])
  buffers = jax.tree.map(jnp.zeros_like, params.params)
  for number, rows in enumerate(fit.scores["rows"]):
    rows = rows[rows < 5]
    rate = 0.1 if number < 2 else 0.05
    params, buffers = step(params, buffers, data.inputs[rows], data.labels[rows], rate)
  close(fit.network.params, params.params, 1e-5)
  close(fit.network.state, params.state, 1e-5)


def seen_rows(params, state, inputs, key, mask):
  """A training pass that mixes its examples, and keeps what it saw of the last batch."""
  del key
  seen = {"inputs": inputs, "mask": mask}
  return (inputs - inputs.mean(0)) @ params, {"seen": seen}


def mixing(key, inputs):
  del key, inputs
  seen = {"inputs": jnp.zeros((3, 6)), "mask": jnp.zeros(3, bool)}
  return bind(lambda v, x: x @ v["params"], jnp.ones((6, 3)), {"seen": seen}, seen_rows)


def test_what_mixes_examples_is_padded_with_other_real_ones():
  data = toy(5)
  fit = train.fit(
    recipe(mixing, epochs=1, batch_size=3), data, KEY, trackers={"seen": recorder(2, 3)}
  )
  seen = fit.network.state["seen"]
  assert seen["mask"].tolist() == [True, True, False]
  rows = [int(np.flatnonzero((data.inputs == x).all(1))[0]) for x in seen["inputs"]]
  assert len(set(rows)) == 3
  ids = fit.scores["rows"]
  assert ids[1].tolist() == [*rows[:2], 5]  # trackers are told n, whatever stands there
  assert rows[2] == ids[0][0]


def test_one_row_is_no_statistic():
  for count, size in ((1, 4), (5, 1), (3, 2)):
    with one_line(r"fit would train on a batch of 1 example.*\['batch_stats'\].*batch_size"):
      train.fit(recipe(normed_start, epochs=1, batch_size=size), toy(count), KEY)
  assert train.fit(recipe(start, epochs=1, batch_size=2), toy(3), KEY)


def still(key, inputs):
  del key, inputs
  return bind(lambda v, x: (x - v["mean"]) @ v["params"], jnp.ones((6, 3)), {"mean": jnp.zeros(6)})


def test_training_in_evaluation_mode_is_said_once():
  says = r"train\.fit: the network has \['mean'\] and no train_fn.*Bind it with train_fn=\."
  with pytest.warns(UserWarning, match=says) as caught:
    fit = train.fit(recipe(still, epochs=1), toy(), KEY)
  assert len(caught) == 1
  assert "\n" not in str(caught[0].message)
  assert fit.network.state["mean"].tolist() == [0] * 6


def test_dropout_follows_the_key():
  bound = models.init(Normed(0.5), KEY, jnp.ones((1, 6)))
  call = jax.jit(Network.train)
  x = toy(4).inputs
  first, again, other = (call(bound, x, jax.random.key(s), jnp.ones(4, bool)) for s in (0, 0, 1))
  same_bits(first, again)
  assert not np.array_equal(first[0], other[0])
  same_bits(first[1], other[1])  # BatchNorm comes before


RESNET = models.ResNet((1,), 4, 3)


@pytest.fixture(scope="module")
def resnet():
  bound = jax.jit(functools.partial(models.init, RESNET))(KEY, jnp.zeros((1, 4, 4, 2)))
  return bound, np.random.default_rng(0).normal(size=(3, 4, 4, 2)).astype(np.float32)


def test_what_padding_rows_hold_never_enters_batch_statistics(resnet):
  bound, real = resnet
  call = jax.jit(Network.train)
  want, full = call(bound, real, KEY, jnp.ones(3, bool))
  mask = jnp.array([True, True, True, False, False])
  for padding in (real[:2], np.full((2, 4, 4, 2), 1e3, np.float32)):
    logits, state = call(bound, np.concatenate([real, padding]), KEY, mask)
    close(state, full, 1e-6)
    np.testing.assert_allclose(logits[:3], want, 1e-4, 1e-5)


def test_batch_statistics_move_by_a_tenth(resnet):
  bound, x = resnet
  _, state = jax.jit(Network.train)(bound, x, KEY, jnp.array([True, True, False]))
  kernel = bound.params["stem"]["kernel"]
  dims = ("NHWC", "HWIO", "NHWC")
  stem = jax.lax.conv_general_dilated(x[:2], kernel, (1, 1), "SAME", dimension_numbers=dims)
  stem = np.float64(stem).reshape(-1, 4)
  stats = state["batch_stats"]["norm"]
  np.testing.assert_allclose(stats["mean"], 0.1 * stem.mean(0), 1e-5, 1e-7)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * stem.var(0), 1e-5)


MANY = 16
NETWORKS = {"mlp": (MLP, (6,)), "cnn": (models.cnn((3, 4), 6, 3), (4, 4, 2))}


@functools.cache
def ensemble(name):
  """16 models of 21 steps on subsets of their own: (one(x, shared), xs, shared, one by one)."""
  model, shape = NETWORKS[name]
  data, config = toy(16, shape), recipe(model, epochs=7, learning_rate=0.05)

  def one(x, shared):
    result = train.run(config, (), shared._replace(rows=x["rows"]), x["key"])
    return result.network, result.history

  rng = np.random.default_rng(0)
  rows = np.stack([np.sort(rng.permutation(16)[:10]) for _ in range(MANY)])
  keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(MANY))
  xs = {"rows": jnp.asarray(rows), "key": keys}
  shared = examples_of(data)
  alone = jax.jit(one)
  each = [alone(jax.tree.map(lambda leaf, i=i: leaf[i], xs), shared) for i in range(MANY)]
  return one, xs, shared, jax.tree.map(lambda *leaves: np.stack(leaves), *each)


@functools.cache
def spread(name, width):
  """The ensemble compiled for eight devices."""
  one, xs, shared, _ = ensemble(name)
  return jax.jit(_sharding.map_models(one, jax.devices()[:8], width)).lower(xs, shared).compile()


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.mark.rounding
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_models_on_eight_devices_equal_models_one_at_a_time(name, width, eight):
  del eight
  _, xs, shared, want = ensemble(name)
  text = spread(name, width).as_text()
  assert not [word for word in COLLECTIVES if word in text]
  got = spread(name, width)(xs, shared)
  close(got, want, 1e-6)
  assert len(jax.tree.leaves(got)[0].sharding.device_set) == 8
  kernels = jax.tree.leaves(want)[1]
  assert np.abs(kernels[0] - kernels[1]).max() > 0.1  # the models differ: order matters


@pytest.mark.rounding
def test_the_number_of_devices_does_not_change_a_bit_at_equal_width(eight):
  one, xs, shared, _ = ensemble("mlp")
  few = jax.jit(_sharding.map_models(one, eight[:1], 2))(xs, shared)
  same_bits(few, spread("mlp", 2)(xs, shared))


def test_milestones_may_be_a_list():
  assert hash(train.MultiStep([1, 2])) == hash(train.MultiStep((1, 2)))


def test_float_ids_are_refused_not_truncated():
  with pytest.raises(ValueError, match="integer ids"):
    train.fit(recipe(epochs=1), toy(), KEY, ids=[1.5, 2.2])
