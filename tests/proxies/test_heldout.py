"""Holdout retraining is plain SGD that stops in time; its divergence is the symmetric KL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import models, train
from jaxmul.binding import Network
from jaxmul.data import Dataset
from jaxmul.proxies import heldout_divergence, heldout_recipe, heldout_retrain

KEY = jax.random.key(0)
INF = np.inf


def one_line(pattern, error=ValueError):
  return pytest.raises(error, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def linear(w, x):
  return x @ w


def recipe(**changes):
  defaults = {"epochs": 5, "batch_size": 8, "learning_rate": 0.1, "schedule": train.constant}
  return train.Recipe(models.mlp((8,), 3), **defaults | changes)


def heldout(n=8, seed=0):
  rng = np.random.default_rng(seed)
  return Dataset(rng.normal(size=(n, 4)), rng.integers(0, 3, n), num_classes=3)


def weights(seed=1):
  return np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)


def divergence(z, other):
  """½[KL(p‖q) + KL(q‖p)], each KL by its definition."""
  log_p, log_q = (row - row.max() - np.log(np.exp(row - row.max()).sum()) for row in (z, other))
  p, q = np.exp(log_p), np.exp(log_q)
  return 0.5 * ((p * (log_p - log_q)).sum() + (q * (log_q - log_p)).sum())


def constant(z):
  """A network that answers z whatever it is asked, and a batch to ask."""
  z = jnp.asarray(z, jnp.float32)
  return z, (np.ones((len(z), 2), np.float32), np.zeros(len(z), int)), lambda w, x: w


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_divergence_equals_both_divergences_by_definition(scale):
  rng = np.random.default_rng(0)
  before, after = (scale * rng.normal(size=(2, 9, 4))).astype(np.float32)
  z, batch, apply = constant(before)
  got = heldout_divergence(z, jnp.asarray(after), batch, apply)
  want = [divergence(*np.float64(pair)) for pair in zip(before, after, strict=True)]
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9)
  assert (got >= 0).all()
  back = heldout_divergence(jnp.asarray(after), z, batch, apply)
  np.testing.assert_allclose(back, got, rtol=1e-6)


def test_divergence_of_a_network_from_itself_is_zero_at_any_scale():
  z, batch, apply = constant([[0.0, 0, 0], [300, 0, -300], [3e38, -3e38, 0]])
  assert heldout_divergence(z, z, batch, apply).tolist() == [0.0, 0.0, 0.0]


def test_a_class_impossible_before_and_after_adds_nothing():
  z, batch, apply = constant([[0.0, 0, -INF], [0.0, 1, -INF]])
  after = jnp.asarray([[0.0, 0, -INF], [0.0, 0, -INF]])
  want = divergence(np.array([0.0, 1]), np.array([0.0, 0]))
  np.testing.assert_allclose(heldout_divergence(z, after, batch, apply), [0, want], rtol=1e-6)


def test_a_class_that_becomes_possible_is_infinitely_far():
  z, batch, apply = constant([[0.0, 0, -INF]])
  assert heldout_divergence(z, jnp.zeros((1, 3)), batch, apply).tolist() == [INF]


def test_divergence_takes_all_forms_of_the_call():
  x, y = heldout().batch()
  want = heldout_divergence(weights(1), weights(2), (x, y), linear)
  bound = [jaxmul.bind(linear, weights(seed)) for seed in (1, 2)]
  np.testing.assert_array_equal(heldout_divergence(*bound, (x, y)), want)
  jitted = jax.jit(lambda a, b: heldout_divergence(a, b, (x, y)))(*bound)
  np.testing.assert_allclose(jitted, want, rtol=1e-5)
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *bound)
  many = jax.vmap(lambda after: heldout_divergence(bound[0], after, (x, y)))(stacked)
  np.testing.assert_allclose(many, jnp.stack([jnp.zeros(8), want]), rtol=1e-5, atol=1e-6)
  with one_line("heldout_divergence needs apply_fn"):
    heldout_divergence({"w": x}, {"w": x}, (x, y))
  with one_line("heldout_divergence needs float inputs"):
    heldout_divergence(*bound, (np.ones((2, 4), np.uint8), y[:2]))


def test_retraining_equals_plain_full_batch_sgd():
  data, start = heldout(), weights()
  got = heldout_retrain(jaxmul.bind(linear, start), data, recipe(weight_decay=0.01), KEY)
  w, buffer = np.float64(start), 0.0
  for _ in range(5):
    z = np.float64(data.inputs) @ w
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    gradient = np.float64(data.inputs).T @ (p - np.eye(3)[data.labels]) / len(data)
    buffer = 0.9 * buffer + gradient + 0.01 * w
    w = w - 0.1 * buffer
  assert isinstance(got, Network)
  np.testing.assert_allclose(got.params, w, 0, 1e-5)
  assert np.abs(w - start).max() > 0.01


def test_one_key_is_one_result():
  data, bound = heldout(), jaxmul.bind(linear, weights())
  config = recipe(batch_size=3, epochs=2)
  first, again, other = (
    heldout_retrain(bound, data, config, jax.random.key(seed)).params for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def counting(*falls):
  """A network that counts its epochs, of one step each, and whose loss falls in those named."""

  def train_fn(params, state, inputs, key, mask):
    del key, mask
    epoch = state["epochs"] + 1
    sure = jnp.sum(epoch >= jnp.asarray(falls)).astype(jnp.float32)
    logits = jnp.stack([sure, jnp.zeros(())])[None] + 0 * inputs[:, :1] * params
    return logits, {"epochs": epoch}

  def apply_fn(variables, x):
    return x[:, :2] * variables["params"]

  return jaxmul.bind(apply_fn, jnp.ones(()), {"epochs": jnp.array(0)}, train_fn)


@pytest.mark.parametrize(
  ("falls", "patience", "epochs", "want"),
  [
    ((1,), 4, 30, 5),
    ((1, 2, 3, 4, 5, 6), 4, 30, 10),
    ((1,), 2, 30, 3),
    ((1, 4), 4, 30, 8),  # a fall starts the count anew
    ((1, 6), 4, 30, 5),
    (tuple(range(1, 10)), 4, 7, 7),
  ],
)
def test_retraining_stops_after_epochs_without_a_lower_loss(falls, patience, epochs, want):
  two = Dataset(np.ones((2, 4)), np.zeros(2, int), num_classes=2)
  got = heldout_retrain(counting(*falls), two, recipe(epochs=epochs), KEY, patience=patience)
  assert int(got.state["epochs"]) == want


def test_the_papers_patience_is_four():
  two = Dataset(np.ones((2, 4)), np.zeros(2, int), num_classes=2)
  assert int(heldout_retrain(counting(1), two, recipe(epochs=30), KEY).state["epochs"]) == 5


def test_the_papers_recipe_changes_rate_length_and_schedule_only():
  base = train.Recipe(models.mlp(), epochs=7, batch_size=32, momentum=0.5, weight_decay=0.1)
  got = heldout_recipe(base)
  assert (got.epochs, got.learning_rate, got.schedule) == (30, 0.1, train.constant)
  assert (got.model, got.batch_size, got.momentum, got.weight_decay) == (base.model, 32, 0.5, 0.1)


def test_a_network_with_batch_norm_keeps_its_state_apart():
  model = models.ResNet((1,), 4, 3)
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(4, 4, 4, 1)), np.arange(4) % 3)
  bound = jax.jit(lambda key: models.init(model, key, data.inputs[:1]))(KEY)
  got = heldout_retrain(bound, data, recipe(epochs=1, batch_size=2), KEY)
  assert jax.tree.structure(got) == jax.tree.structure(bound)
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), got.state, bound.state)
  assert min(jax.tree.leaves(moved)) > 0


def test_a_step_on_one_example_is_refused_where_it_would_be_a_statistic():
  data = heldout(5)
  with one_line(r"heldout_retrain would train on a batch of 1 example.*Take another batch_size"):
    heldout_retrain(counting(1), data, recipe(batch_size=2), KEY)
  bound = jaxmul.bind(linear, weights())  # examples are independent: one is as good as two
  assert heldout_retrain(bound, data, recipe(batch_size=2, epochs=1), KEY)


def test_a_network_that_trains_in_evaluation_mode_is_said_to():
  frozen = jaxmul.bind(lambda v, x: (x - v["mean"]) @ v["params"], weights(), {"mean": 0.0})
  with pytest.warns(UserWarning, match=r"heldout_retrain: .*\['mean'\] and no train_fn") as caught:
    heldout_retrain(frozen, heldout(), recipe(epochs=1), KEY)
  assert len(caught) == 1
  assert "\n" not in str(caught[0].message)


def test_nothing_to_learn_from_is_refused():
  bound = jaxmul.bind(linear, weights())
  with one_line("heldout_retrain got no held-out examples"):
    heldout_retrain(bound, heldout(0), recipe(), KEY)
  with one_line("patience=0, must be at least 1"):
    heldout_retrain(bound, heldout(), recipe(), KEY, patience=0)
  with one_line("heldout_retrain needs apply_fn"):
    heldout_retrain({"w": weights()}, heldout(), recipe(), KEY)  # pyright: ignore


def test_a_label_that_is_no_class_of_the_network_is_refused():
  data = Dataset(heldout().inputs, np.full(8, 3))
  with one_line(r"heldout_retrain got label 3, outside \[0, 3\)"):
    heldout_retrain(jaxmul.bind(linear, weights()), data, recipe(), KEY)


def test_divergence_refuses_what_a_network_is_not_asked():
  z, (x, y), apply = constant(np.eye(3))
  with one_line(r"heldout_divergence got label 3, outside \[0, 3\)"):
    heldout_divergence(z, z, (x, y + 3), apply)
  with pytest.raises(ValueError, match="heldout_divergence needs integer labels, got float32"):
    jax.jit(lambda y: heldout_divergence(z, z, (x, y), apply))(np.float32(y))
  with one_line(r"heldout_divergence got label 2, outside \[0, 2\)"):
    heldout_divergence(z, z[:, :2], (x, y + 2), apply)


def test_divergence_refuses_a_token_that_either_network_does_not_know():
  small, large = (
    models.init(models.gpt(size, length=4, width=8, depth=1, heads=2), KEY, jnp.zeros((1, 4), int))
    for size in (5, 6)
  )
  batch = (np.full((1, 4), 5), np.zeros((1, 4), int))
  for before, after in ((small, large), (large, small)):
    with one_line("heldout_divergence got token 5, which the network embeds as NaN"):
      heldout_divergence(before, after, batch)


def test_retraining_that_diverges_says_so():
  with one_line(r"heldout_retrain diverged.*Lower learning_rate", FloatingPointError):
    heldout_retrain(jaxmul.bind(linear, weights()), heldout(), recipe(learning_rate=1e38), KEY)
