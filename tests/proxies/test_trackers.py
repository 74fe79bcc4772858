"""Trackers are what plain loops compute from the networks that the same training went through."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    lambda state, step: (state[0] + 1, state[1].at[state[0]].set(step.rows)),
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

  bound = start(None, data.inputs[:1])
  theta = bound.params
  buffers = jax.tree.map(jnp.zeros_like, theta)
  seen = np.full((EPOCHS, SIZE, CLASSES), np.nan)

  @jax.jit
  def gradient(theta, x, y):
    def risk(theta):
      z = bound.replace(params=theta)(x)
      return (jax.nn.logsumexp(z, -1) - z[jnp.arange(len(y)), y]).mean(), z

    return jax.grad(risk, has_aux=True)(theta)

  for number, rows in enumerate(fit.scores["order"]):
    rows, epoch = rows[rows < SIZE], number // STEPS
    rate = 0.3 * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
    g, seen[epoch, rows] = gradient(theta, data.inputs[rows], data.labels[rows])
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


def made():
  return [getattr(trackers, name)() for name in trackers.__all__]


def test_trackers_made_twice_are_one_tracker():
  assert made() == made()
  assert trackers.vog(every=2) == trackers.vog(every=2) != trackers.vog()


LENGTH, WIDTH, HIDDEN = 4, 5, 6


def recorder():
  """Records rows, rate and params of each step; these are what every reference starts from."""
  weights = WIDTH * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES

  def update(state, step):
    number, rows, rates, params = state
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(step.network.params)])
    return (
      number + 1,
      rows.at[number].set(step.rows),
      rates.at[number].set(step.learning_rate),
      params.at[number].set(flat),
    )

  steps = LENGTH * STEPS
  return train.Tracker(
    lambda n: (0, jnp.full((steps, BATCH), n), jnp.zeros(steps), jnp.zeros((steps, weights))),
    update,
    lambda state: {"rows": state[1], "rates": state[2], "network": state[3]},
    ("network",),
  )


def unflattened(flat):
  """(b₁, W₁, b₂, W₂) of the network z = relu(x W₁ + b₁) W₂ + b₂, in float64."""
  shapes = [(HIDDEN,), (WIDTH, HIDDEN), (CLASSES,), (HIDDEN, CLASSES)]
  cuts = np.cumsum([np.prod(shape) for shape in shapes])[:-1]
  return [a.reshape(s) for a, s in zip(np.split(np.float64(flat), cuts), shapes, strict=True)]


def seen_by_hand(scores, x, labels, probe):
  """For each [epoch, example]: logits, loss, and by the chain rule written out, all gradients."""
  found = {name: np.full((LENGTH, SIZE), np.nan) for name in ("loss", "rate", "norm", "curvature")}
  found["z"] = np.full((LENGTH, SIZE, CLASSES), np.nan)
  found["dx"], found["dz"] = (np.full((LENGTH, SIZE, WIDTH), np.nan) for _ in range(2))
  for number, rows in enumerate(scores["rows"]):
    b1, w1, b2, w2 = unflattened(scores["network"][number])
    for i in rows[rows < SIZE]:
      at = (number // STEPS, i)
      h = np.maximum(x[i] @ w1 + b1, 0)
      z = h @ w2 + b2
      p = np.exp(z) / np.exp(z).sum()
      jacobian = w1 @ np.diag(h > 0) @ w2  # ∂z/∂x [WIDTH, CLASSES]
      error = p - np.eye(CLASSES)[labels[i]]
      back = (w2 @ error) * (h > 0)
      weights = [back, np.outer(x[i], back), error, np.outer(h, error)]
      found["z"][at], found["loss"][at] = z, -np.log(p[labels[i]])
      found["rate"][at] = scores["rates"][number]
      found["norm"][at] = np.sqrt(sum((w**2).sum() for w in weights))
      found["dx"][at], found["dz"][at] = jacobian @ error, jacobian[:, labels[i]]
      hessian = jacobian @ (np.diag(p) - np.outer(p, p)) @ jacobian.T
      found["curvature"][at] = ((hessian @ probe) ** 2).sum()
  return found


def forgotten(right):
  """Per example: falls from right to wrong, or the number of epochs if it was never right."""
  falls = [sum(a and not b for a, b in itertools.pairwise(r)) for r in right.T.tolist()]
  return [count if r.any() else len(r) for count, r in zip(falls, right.T, strict=True)]


def learned(right):
  """Per example: the first epoch from which it is right to the end."""
  return [next(e for e in range(len(r) + 1) if r[e:].all()) for r in right.T]


def within_class(values, labels):
  scores = np.zeros(len(values))
  for i, y in enumerate(labels):
    group = values[labels == y]
    scores[i] = (values[i] - group.mean()) / group.std() if group.std() > 0 else 0
  return scores


def references(found, labels, every):
  """The tracked scores, from what was seen in every epoch and in every k-th one."""
  z = found["z"]
  right = z.argmax(-1) == labels
  own = np.take_along_axis(z, labels[None, :, None], -1)[..., 0]
  others = np.where(np.eye(CLASSES, dtype=bool)[labels], -np.inf, z).max(-1)
  low, high = np.quantile(found["loss"], [0.25, 0.75], axis=0)
  some = {name: values[every - 1 :: every] for name, values in found.items()}
  return {
    "cumulative_loss": found["loss"].sum(0),
    "area_under_margin": (others - own).mean(0),
    "forgetting_events": forgotten(right),
    "late_learning": learned(right),
    "loss_iqr": high - low,
    "cumulative_gradient": np.sqrt((some["dx"] ** 2).sum(-1)).sum(0),
    "tracin": (some["rate"] * some["norm"] ** 2).sum(0),
    "curvature": some["curvature"].mean(0),
    "vog": within_class(some["dz"].std(0).mean(-1), labels),
  }


@pytest.mark.parametrize("every", [1, 2])
def test_every_tracker_equals_its_reference(every):
  rng = np.random.default_rng(0)
  labels = np.array([0, 1, 0, 1, 2, 0, 1])
  data = Dataset(2 * rng.normal(size=(SIZE, WIDTH)), labels, num_classes=CLASSES)
  recipe = train.Recipe(start, epochs=LENGTH, batch_size=BATCH, learning_rate=0.5)
  tracked = {"recorder": recorder()}
  for name in set(trackers.__all__) - {"learning_events"}:
    gradients = name in ("cumulative_gradient", "tracin", "curvature", "vog")
    tracked[name] = getattr(trackers, name)(*([every] if gradients else []))
  scores = train.fit(recipe, data, jax.random.key(1), trackers=tracked).scores

  probe = np.float64(jax.random.rademacher(jax.random.key(0), (WIDTH,), jnp.float32))
  epochs = np.repeat(np.arange(LENGTH), STEPS)
  cosine = 0.25 * (1 + np.cos(np.pi * epochs / LENGTH))
  np.testing.assert_allclose(scores["rates"], cosine, 1e-6)
  found = seen_by_hand(scores, np.float64(data.inputs), labels, probe)
  want = references(found, labels, every)
  assert set(want) == set(scores) - {"rows", "rates", "network"}
  for name, values in want.items():
    assert scores[name].shape == (SIZE,)
    np.testing.assert_allclose(scores[name], values, 2e-4, 2e-5, err_msg=name)
    assert np.ptp(values) > 0, name


def handed(needs, every=1):
  """A tracker that only remembers, while it is traced, what it was handed."""
  seen = []

  def update(state, step):
    seen.append({name for name, value in step._asdict().items() if value is not None})
    return state

  def init(n, **facts):
    seen.append(facts)
    return jnp.zeros(n)

  return train.Tracker(init, update, lambda state: {str(id(seen)): state}, needs, every), seen


def test_trackers_get_what_they_declare_and_gradients_are_computed_once(monkeypatch):
  from jaxmul import _gradients

  calls = []
  compute = _gradients.of_examples

  def counted(*arguments, **options):
    calls.append(options)
    return compute(*arguments, **options)

  monkeypatch.setattr(_gradients, "of_examples", counted)
  toy = Dataset(np.eye(WIDTH, dtype=np.float32)[:3], np.array([0, 1, 2]), num_classes=CLASSES)
  recipe = train.Recipe(start, epochs=3, batch_size=3)
  always = {"rows", "labels", "logits", "losses", "epoch", "inputs", "learning_rate"}

  free, seen = handed(("epochs", "input_shape"))
  train.fit(recipe, toy, jax.random.key(0), trackers={"": free})
  assert seen[0] == {"epochs": 3, "input_shape": (WIDTH,)}
  assert seen[-1] == always
  assert not calls

  users = [handed(needs) for needs in (("input_gradients",), ("parameter_norms",), ("network",))]
  both = {str(i): tracker for i, (tracker, _) in enumerate(users)}
  train.fit(recipe, toy, jax.random.key(0), trackers=both)
  gradients = always | {"input_gradients", "parameter_norms"}
  assert [seen[-1] for _, seen in users] == [gradients, gradients, gradients | {"network"}]
  assert calls == [{"to_inputs": True, "norms": True}] * len(calls)
  per_trace = len(calls)

  calls.clear()
  train.fit(recipe, toy, jax.random.key(0), trackers={"": handed(("parameter_norms",))[0]})
  assert calls == [{"to_inputs": False, "norms": True}] * per_trace


def test_batch_statistics_do_not_mix_examples_in_a_tracked_gradient():
  """Twice the same image in a batch of others: evaluation mode gives both the same gradient."""
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(6, 8, 8, 3)).astype(np.float32)
  images[1] = images[0]
  toy = Dataset(images, np.zeros(6, int), num_classes=CLASSES)
  recipe = train.Recipe(models.ResNet((1,), 2, CLASSES), epochs=2, batch_size=6)
  both = {"a": trackers.cumulative_gradient(), "b": trackers.tracin()}
  scores = train.fit(recipe, toy, jax.random.key(0), trackers=both).scores
  for values in scores.values():
    np.testing.assert_allclose(values[0], values[1], 1e-5)
    assert np.ptp(values) > 1e-3 * values.max()


def test_impossible_trackers_are_refused_before_the_network_is_traced():
  def never(key, inputs):
    raise AssertionError("traced")

  toy = Dataset(np.eye(3, dtype=np.float32), np.array([0, 1, 2]))
  recipe = train.Recipe(never, epochs=3)

  for some, pattern in [
    (
      [trackers.curvature(), trackers.curvature(2)],
      "two trackers return a score named 'curvature'",
    ),
    ([trackers.tracin(4)], r"tracker of 'tracin' got every=4, must be in \[1, 3\]"),
    ([trackers.vog(0)], r"tracker of 'vog' got every=0, must be in \[1, 3\]"),
    ([handed(("logits",))[0]], "a tracker needs 'logits', must be one of"),
  ]:
    with pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z"):
      train.fit(recipe, toy, jax.random.key(0), trackers=dict(enumerate(some)))
  with pytest.raises(ValueError, match=r"loss_iqr got q=0\.5, must be in \(0\.5, 1\]"):
    trackers.loss_iqr(0.5)
