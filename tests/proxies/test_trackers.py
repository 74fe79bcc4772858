"""Learning events are the means that a plain loop over the same training computes."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import models, train
from jaxmul.data import Dataset
from jaxmul.proxies import trackers

SIZE, BATCH, EPOCHS, CLASSES = 7, 3, 3, 4
STEPS = -(-SIZE // BATCH)
NAMES = {"confidence", "max_confidence", "correctness", "entropy"}


def start(key, inputs):
  """The same initial params in every run, so that a plain loop can begin there."""
  del key
  return models.init(models.mlp((6,), CLASSES), jax.random.key(7), inputs)


def order():
  """Records the rows of each step, and nothing that could be a score."""
  return train.Tracker(
    lambda n: (jnp.int32(0), jnp.zeros((EPOCHS * STEPS, BATCH), jnp.int32) + n),
    lambda state, step: (state[0] + 1, state[1].at[state[0]].set(step.ids)),
    lambda state: {"order": state[1]},
  )


def events(logits, labels):
  """The four scores of logits [epochs, n, C], in float64, term by term."""
  sums = {name: np.zeros(len(labels)) for name in NAMES}
  for z in np.float64(logits):
    for i, y in enumerate(labels):
      p = np.exp(z[i] - z[i].max())
      p /= p.sum()
      sums["confidence"][i] += 1 - p[y]
      sums["max_confidence"][i] += 1 - p.max()
      sums["correctness"][i] += float(z[i].argmax() != y)
      sums["entropy"][i] -= sum(q * np.log(q) for q in p if q > 0)
  return {name: total / len(logits) for name, total in sums.items()}


def test_learning_events_equal_a_plain_loop_over_the_same_training():
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(SIZE, 5)), rng.integers(0, CLASSES, SIZE), num_classes=CLASSES)
  recipe = train.Recipe(start, epochs=EPOCHS, batch_size=BATCH, learning_rate=0.3)
  both = {"events": trackers.learning_events(), "order": order()}
  fit = train.fit(recipe, data, jax.random.key(1), trackers=both)

  bound = start(None, data.images[:1])
  theta = bound.params
  buffers = jax.tree.map(jnp.zeros_like, theta)
  seen = np.full((EPOCHS, SIZE, CLASSES), np.nan)

  @jax.jit
  def gradient(theta, x, y):
    def risk(theta):
      z = bound.apply_fn(theta, x)
      return (jax.nn.logsumexp(z, -1) - z[jnp.arange(len(y)), y]).mean(), z

    return jax.grad(risk, has_aux=True)(theta)

  for number, rows in enumerate(fit.scores["order"]):
    rows, epoch = rows[rows < SIZE], number // STEPS
    rate = 0.3 * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
    g, seen[epoch, rows] = gradient(theta, data.images[rows], data.labels[rows])
    buffers = jax.tree.map(lambda b, g, w: 0.9 * b + g + 5e-4 * w, buffers, g, theta)
    theta = jax.tree.map(lambda w, b, rate=rate: w - rate * b, theta, buffers)

  want = events(seen, data.labels)
  assert set(fit.scores) == NAMES | {"order"}
  for name in NAMES:
    assert fit.scores[name].dtype == np.float32
    assert fit.scores[name].shape == (SIZE,)
    np.testing.assert_allclose(fit.scores[name], want[name], 0, 1e-5, err_msg=name)
    assert np.ptp(fit.scores[name]) > 0.01


def step(rows, logits, losses, labels=None, epoch=0):
  labels = np.zeros(len(rows), int) if labels is None else labels
  return train.Step(
    jnp.asarray(rows),
    jnp.asarray(labels),
    jnp.asarray(logits),
    jnp.asarray(losses),
    jnp.int32(epoch),
  )


def test_padding_rows_never_count():
  tracker = trackers.learning_events()
  logits, losses = np.full((3, CLASSES), np.nan), np.full(3, np.nan)
  logits[0], losses[0] = 0, np.log(CLASSES)
  state = tracker.update(tracker.init(2), step([1, 2, 2], logits, losses))
  scores = tracker.score(state)
  for name, value in {
    "confidence": 1 - 1 / CLASSES,
    "max_confidence": 1 - 1 / CLASSES,
    "correctness": 0,
    "entropy": np.log(CLASSES),
  }.items():
    np.testing.assert_allclose(scores[name], [0, value], 1e-6, err_msg=name)


def test_a_class_of_probability_zero_adds_nothing():
  tracker = trackers.learning_events()
  logits = np.array([[0, -np.inf, -np.inf, -np.inf], [3e38, -3e38, -3e38, -3e38]], np.float32)
  state = tracker.update(tracker.init(2), step([0, 1], logits, [0.0, 0.0]))
  assert {name: score.tolist() for name, score in tracker.score(state).items()} == {
    name: [0.0, 0.0] for name in NAMES
  }


def test_scores_are_means_over_epochs_oriented_to_memorization():
  tracker = trackers.learning_events()
  right, wrong = np.array([4.0, 0, 0, 0]), np.array([0, 4.0, 0, 0])
  state = tracker.init(2)
  for epoch, second in enumerate([wrong, wrong, right]):
    logits = np.stack([right, second])
    losses = np.log(np.exp(logits).sum(1)) - logits[:, 0]
    state = tracker.update(state, step([0, 1], logits, losses, epoch=epoch))
  scores = tracker.score(state)
  np.testing.assert_allclose(scores["correctness"], [0, 2 / 3], 1e-6)
  assert scores["confidence"][1] > scores["confidence"][0]


def test_trackers_made_twice_are_one_tracker():
  assert trackers.learning_events() == trackers.learning_events()
