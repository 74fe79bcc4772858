"""Trackers in a loop of one's own: on the batches of `fit` they give the scores of `fit`."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from markdown_it import MarkdownIt

import jaxmul
from jaxmul import losses, proxies, train

PAGE = Path(__file__).parents[1] / "docs" / "training-loops.md"
EPOCHS, BATCH = 3, 16


@pytest.fixture(scope="module")
def page():
  """What the code of the page defines: its loops have run."""
  names = {}
  for token in MarkdownIt().parse(PAGE.read_text()):
    if token.type == "fence" and token.info == "python":
      exec(compile(token.content, f"{PAGE.name}, line {token.map[0]}", "exec"), names)
  return names


def rows_of_steps(steps):
  """A tracker that only remembers the rows of each step [steps, B]."""

  def update(state, step):
    return state[0].at[state[1]].set(step.rows), state[1] + 1

  return train.Tracker(
    init=lambda n: (jnp.zeros((steps, BATCH), jnp.int32), jnp.int32(0)),
    update=update,
    score=lambda state: {"rows": state[0]},
  )


@pytest.fixture(scope="module")
def fitted(page):
  """A run of `fit` on 40 digits, with its first params and the rows of its steps."""
  training = page["digits"].take(page["digits"].ids[:40])

  def model(key, inputs):
    del inputs
    return jaxmul.bind(page["apply_fn"], page["fresh"](key))

  recipe = train.Recipe(
    model,
    epochs=EPOCHS,
    batch_size=BATCH,
    learning_rate=1e-3,
    schedule=train.constant,
    optimizer=optax.adam,
  )
  trackers = {
    "events": proxies.trackers.learning_events(),
    "tracin": proxies.trackers.tracin(),
    "rows": rows_of_steps(EPOCHS * 3),
  }
  key = jax.random.key(3)
  fit = train.fit(recipe, training, key, trackers=trackers)
  first = page["fresh"](jax.random.split(key)[0])
  return training, fit, first


def batches(training, fit):
  """Yields (epoch, rows, inputs, labels) of each step, without its padding."""
  inputs, labels = map(np.asarray, training.batch())
  for number, rows in enumerate(fit.scores["rows"]):
    rows = rows[rows < len(training)]
    yield number // 3, rows, inputs[rows], labels[rows]


def assert_same_events(found, fit):
  for name, scores in found.items():
    np.testing.assert_allclose(scores, fit.scores[name], atol=1e-5)


def test_the_optax_loop_of_the_page_gives_the_scores_of_fit(page, fitted):
  training, fit, params = fitted
  events = page["events"]
  state, tracked = page["optimizer"].init(params), events.init(len(training))
  for epoch, rows, x, y in batches(training, fit):
    params, state, tracked = page["step"](params, state, tracked, rows, x, y, epoch)
  assert_same_events(events.score(tracked), fit)


def test_the_nnx_loop_of_the_page_gives_the_scores_of_fit(page, fitted):
  training, fit, params = fitted
  model = page["Perceptron"](nnx.Rngs(0))
  for layer, number in ((model.hidden, 1), (model.logits, 2)):
    layer.kernel[...], layer.bias[...] = params[f"w{number}"], params[f"b{number}"]
  optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
  tracked = page["events"].init(len(training))
  for epoch, rows, x, y in batches(training, fit):
    tracked = page["nnx_step"](model, optimizer, tracked, rows, x, y, epoch)
  assert_same_events(page["events"].score(tracked), fit)


def test_a_tracker_of_gradients_gives_the_scores_of_fit(page, fitted):
  training, fit, params = fitted
  state, tracked = page["optimizer"].init(params), page["tracin"].init(len(training))
  events = page["events"].init(len(training))
  for epoch, rows, x, y in batches(training, fit):
    tracked = page["observe"](tracked, params, rows, x, y, epoch)
    params, state, events = page["step"](params, state, events, rows, x, y, epoch)
  np.testing.assert_allclose(
    page["tracin"].score(tracked)["tracin"], fit.scores["tracin"], rtol=1e-3
  )


def test_grain_hands_on_each_row_once_an_epoch_beside_its_own_example(page):
  rows, digits = [], page["digits"]
  for batch in page["dataset"].shuffle(seed=7).batch(64):
    rows.append(batch["rows"])
    np.testing.assert_array_equal(batch["x"], digits.inputs[batch["rows"]])
  assert sorted(np.concatenate(rows)) == list(range(len(digits)))


def test_the_row_n_is_padding(page):
  events = proxies.trackers.cumulative_loss()
  logits, labels = jnp.array([[1.0, 0.0], [5.0, 0.0]]), jnp.array([0, 1])
  loss = losses.cross_entropy(logits, labels)
  seen = train.Step(rows=jnp.array([1, 2]), labels=labels, logits=logits, losses=loss, epoch=0)
  scores = events.score(events.update(events.init(2), seen))["cumulative_loss"]
  np.testing.assert_allclose(scores, [0, loss[0]])
