"""Distillation by hand in float64, its limits, and the errors of public code: SCRUB's above all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, models, unlearn
from jaxmul.data import Dataset, Split

ETA, DECAY = 0.1, 0.01


def divergence_gradient(x, teacher, student, temperature=1.0):
  """∇_w of mean T² KL(teacher‖student) of a linear classifier with student logits x w."""
  return (
    temperature * x.T @ (softmax(student / temperature) - softmax(teacher / temperature)) / len(x)
  )


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def gradient(w, x, y):
  return x.T @ (softmax(x @ w) - np.eye(w.shape[1])[y]) / len(y)


def linear(w, x):
  return x @ w


def one_update(algorithm, w, s, r, *, meets=("forget", "retain"), at=None):
  """Params after one update of an algorithm that was initialised at w and is applied at `at`."""
  with jax.enable_x64(True):
    params = bind(linear, jnp.asarray(w))
    images, labels = (
      jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]) for a, b in zip(s, r, strict=True)
    )
    n, k = len(labels), len(s[1])
    sets = [
      unlearn.Examples(
        images, labels, jnp.asarray(np.r_[rows, np.zeros(n - len(rows), int)]), count
      )
      for rows, count in ((np.arange(k), jnp.int32(k)), (np.arange(k, n), jnp.int32(n - k)))
    ]
    session = unlearn.Session(*sets, 1, 4, jax.random.key(0), np.arange(n))
    batches = [
      each.batch(0, each.count if name in meets else 0, int(each.count))
      for name, each in zip(("forget", "retain"), sets, strict=True)
    ]
    state = algorithm.init(params, session)
    now = params if at is None else params.replace(params=jnp.asarray(at))
    updates, _ = algorithm.update(*batches, state, now, jax.random.key(1))
    return np.asarray(now.params + updates.params)


@pytest.fixture
def parts():
  rng = np.random.default_rng(3)
  w, moved = rng.normal(size=(2, 4, 3))
  s = rng.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
  r = rng.normal(size=(6, 4)), rng.integers(0, 3, 6)
  return w, moved, s, r


def test_divergence_is_kl_with_its_arguments_in_this_order():
  teacher, student = np.array([[2.0, 0.0]]), np.array([[0.0, 1.0]])
  p, q = softmax(teacher / 4), softmax(student / 4)
  expected = 16 * np.sum(p * np.log(p / q))
  with jax.enable_x64(True):
    got = unlearn.divergence(jnp.asarray(teacher), jnp.asarray(student), 4.0)
  np.testing.assert_allclose(got, [expected], rtol=1e-12)


def test_scrub_ascends_the_divergence_on_forget_without_decay(parts):
  w, moved, s, r = parts
  algorithm = unlearn.scrub(ETA, weight_decay=DECAY)
  new = one_update(algorithm, w, s, r, meets=("forget",), at=moved)
  up = divergence_gradient(s[0], s[0] @ w, s[0] @ moved, 4.0)
  np.testing.assert_allclose(new, moved + ETA * up, rtol=1e-12)


def test_scrub_descends_both_terms_on_retain(parts):
  w, moved, s, r = parts
  algorithm = unlearn.scrub(ETA, gamma=0.7, beta=0.2, weight_decay=DECAY)
  new = one_update(algorithm, w, s, r, meets=("retain",), at=moved)
  down = 0.7 * gradient(moved, *r) + 0.2 * divergence_gradient(r[0], r[0] @ w, r[0] @ moved, 4.0)
  np.testing.assert_allclose(new, moved - ETA * (down + DECAY * moved), rtol=1e-12)


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40))
  params = bind(linear, jnp.asarray(rng.normal(size=(4, 3)), jnp.float32))
  return data, params, Split(forget=np.arange(9), retain=np.arange(9, 40))


def run(problem, algorithm, epochs, batch_size=8):
  data, params, split = problem
  return unlearn.run(
    algorithm, params, data, split, jax.random.key(0), epochs=epochs, batch_size=batch_size
  )


def test_scrub_stops_passing_over_forget_after_msteps(problem):
  data, _, split = problem
  passes = []

  def counting(forget, retain, state, params, key):
    passes.append(1)
    seen = params.params.at[0].add(forget.mask.sum()).at[1].add(retain.mask.sum())
    return params.replace(params=seen - params.params), state

  witness = unlearn.Unlearner(
    lambda p, s: (), counting, passes=unlearn.scrub(msteps=3).passes, identity=("witness",)
  )
  counter = bind(lambda w, x: x @ w[:4, None] * jnp.ones(3), jnp.zeros(4))
  after = unlearn.run(witness, counter, data, split, jax.random.key(0), epochs=5, batch_size=8)
  np.testing.assert_array_equal(after.params[:2], [3 * 9, 5 * 31])
  assert len(passes) == 1  # one trace


def test_scrub_without_forget_passes_and_divergence_is_fine_tune(problem):
  a = run(problem, unlearn.scrub(0.05, gamma=1.0, beta=0.0, msteps=0), 3)
  b = run(problem, unlearn.fine_tune(0.05), 3)
  np.testing.assert_array_equal(a.params, b.params)


def test_scrub_with_nothing_to_do_moves_nothing(problem):
  after = run(problem, unlearn.scrub(0.1, gamma=0.0, beta=0.0, msteps=0, weight_decay=0.0), 3)
  np.testing.assert_array_equal(after.params, problem[1].params)


def test_scrub_student_moves_and_its_teacher_does_not(problem):
  data, params, split = problem
  algorithm, states = unlearn.scrub(0.1), []
  original = algorithm.update

  def kept(forget, retain, state, params, key):
    updates, new = original(forget, retain, state, params, key)
    jax.debug.callback(lambda memory: states.append(np.asarray(memory)), new.memory)
    return updates, new

  watched = unlearn.Unlearner(
    algorithm.init, kept, passes=algorithm.passes, identity=("watched",), tick=algorithm.tick
  )
  after = unlearn.run(watched, params, data, split, jax.random.key(0), epochs=3, batch_size=8)
  jax.effects_barrier()
  assert len(states) == 3 * (2 + 4)
  assert all((each == states[0]).all() for each in states)
  np.testing.assert_allclose(states[0], data.inputs @ np.asarray(params.params), atol=1e-5)
  assert float(jnp.abs(after.params - params.params).max()) > 1e-3


def test_bad_teacher_imitates_the_random_network_on_forget_and_the_original_on_retain(parts):
  w, moved, s, r = parts
  with jax.enable_x64(True):
    initial = bind(linear, jnp.asarray(parts[1][::-1].copy()))
    algorithm = unlearn.bad_teacher(initial, ETA)
    new = one_update(algorithm, w, s, r, at=moved)
  x = np.concatenate([s[0], r[0]])
  teacher = np.concatenate([s[0] @ np.asarray(initial.params), r[0] @ w])
  g = divergence_gradient(x, teacher, x @ moved)
  np.testing.assert_allclose(new, moved - ETA * g / (np.abs(g) + 1e-6), rtol=1e-9)  # Adam, step 1


def test_bad_teacher_refuses_a_teacher_of_other_classes(problem):
  other = bind(lambda w, x: x @ w, np.zeros((problem[0].inputs.shape[1], 2), np.float32))
  with pytest.raises(ValueError, match=r"of 2 classes, must have the 3") as caught:
    run(problem, unlearn.bad_teacher(other), 1)
  assert "\n" not in str(caught.value)


def test_regun_pulls_forget_to_the_mean_heldout_outputs_of_its_mix_of_classes(parts):
  w, moved, s, r = parts
  r = (r[0], np.arange(6) % 3)  # every class has retained examples
  rng = np.random.default_rng(5)
  heldout = Dataset(rng.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 3)
  algorithm = unlearn.regun(heldout, ETA, weight=0.5, weight_decay=DECAY)
  new = one_update(algorithm, w, s, r, at=moved)
  outputs = softmax(heldout.inputs.astype(float) @ w)
  q = np.stack([outputs[heldout.labels == c].mean(0) for c in range(3)])
  pull = s[0].T @ (softmax(s[0] @ moved) - q[s[1]].mean(0)) / 5
  np.testing.assert_allclose(
    new, moved - ETA * (gradient(moved, *r) + 0.5 * pull + DECAY * moved), rtol=1e-6
  )


def test_regun_with_weight_zero_is_fine_tune_and_a_class_without_reference_is_refused(problem):
  data = problem[0]
  heldout = data.take(np.arange(20, 40))
  a = run(problem, unlearn.regun(heldout, 0.05, weight=0.0), 2)
  b = run(problem, unlearn.fine_tune(0.05), 2)
  np.testing.assert_allclose(a.params, b.params, rtol=1e-6)
  few = heldout.take(heldout.ids[heldout.labels != data.labels[0]])
  with pytest.raises(ValueError, match=f"class {data.labels[0]} is in the forget set") as caught:
    run(problem, unlearn.regun(few), 1)
  assert "\n" not in str(caught.value)


def test_regun_of_a_class_that_retain_does_not_hold_has_no_probability_for_it(parts):
  """S is all of the classes 0 and 1, R of class 2: no network on R names 0 or 1."""
  w, moved, s, r = parts
  s, r = (s[0], np.array([0, 1, 1, 0, 1])), (r[0], np.full(6, 2))
  rng = np.random.default_rng(5)
  heldout = Dataset(rng.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 3)
  algorithm = unlearn.regun(heldout, ETA, weight=0.5, weight_decay=0.0)
  new = one_update(algorithm, w, s, r, at=moved)
  pull = s[0].T @ (softmax(s[0] @ moved) - np.array([0, 0, 1])) / 5
  expected = moved - ETA * (gradient(moved, *r) + 0.5 * pull)
  np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_regun_scales_what_is_left_of_each_heldout_output_before_the_mean(parts):
  w, moved, s, r = parts
  s, r = (s[0], np.array([0, 0, 0, 0, 0])), (r[0], np.array([1, 2, 1, 2, 1, 2]))
  rng = np.random.default_rng(5)
  heldout = Dataset(rng.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 3)
  algorithm = unlearn.regun(heldout, ETA, weight=0.5, weight_decay=0.0)
  new = one_update(algorithm, w, s, r, at=moved)
  left = softmax(heldout.inputs[heldout.labels == 0].astype(float) @ w)[:, 1:]
  q = np.concatenate([[0], (left / left.sum(1, keepdims=True)).mean(0)])
  pull = s[0].T @ (softmax(s[0] @ moved) - q) / 5
  expected = moved - ETA * (gradient(moved, *r) + 0.5 * pull)
  np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_regun_forgets_a_whole_class_and_keeps_the_others():
  rng = np.random.default_rng(0)
  centres = 3 * np.eye(3, 4)
  labels = np.arange(240) % 3
  images = (centres[labels] + 0.4 * rng.normal(size=(240, 4))).astype(np.float32)
  train, heldout = Dataset(images[:180], labels[:180]), Dataset(images[180:], labels[180:])
  start = bind(linear, jnp.zeros((4, 3)))
  everything = Split(forget=np.arange(3), retain=np.arange(3, 180))
  key = jax.random.key(0)
  original = unlearn.run(
    unlearn.fine_tune(0.1), start, train, everything, key, epochs=10, batch_size=16
  )

  def accuracies(network):
    right = np.asarray(network(jnp.asarray(heldout.inputs))).argmax(1) == heldout.labels
    return [right[heldout.labels == c].mean() for c in range(3)]

  assert min(accuracies(original)) > 0.95
  forget = np.flatnonzero(train.labels == 2)
  split = Split(forget=forget, retain=np.setdiff1d(train.ids, forget))
  algorithm = unlearn.regun(heldout, 0.1)
  after = unlearn.run(algorithm, original, train, split, key, epochs=5, batch_size=16)
  first, second, forgotten = accuracies(after)
  assert forgotten < 0.05
  assert min(first, second) > 0.9


def test_dmm_descends_to_logits_predicted_without_forget_joined_by_id(parts):
  w, moved, s, r = parts
  rng = np.random.default_rng(6)
  targets, sources = rng.permutation(11), rng.permutation(7)
  beta = rng.normal(size=(11, 7, 3))
  new = one_update(unlearn.dmm(beta, targets, sources, ETA), w, s, r, at=moved)
  x = np.concatenate([s[0], r[0]])
  predicted = x @ w
  for i, target in enumerate(targets):
    for j, source in enumerate(sources):
      if source < 5:
        predicted[target] -= beta[i, j]
  down = 2 * x.T @ (x @ moved - predicted) / len(x)
  np.testing.assert_allclose(new, moved - ETA * down, rtol=1e-12)


def test_dmm_names_the_id_whose_influence_is_missing(problem):
  algorithm = unlearn.dmm(np.zeros((40, 8, 3)), np.arange(40), np.arange(8))
  with pytest.raises(ValueError, match="id 8 is not among the sources") as caught:
    run(problem, algorithm, 1)
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match=r"must be \[3, 1, C\]"):
    unlearn.dmm(np.zeros((3, 2, 3)), np.arange(3), np.arange(1))
  with pytest.raises(ValueError, match=r"influences on 1 logits for a network of 3 classes"):
    run(problem, unlearn.dmm(np.zeros((40, 10, 1)), np.arange(40), np.arange(10)), 1)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: unlearn.scrub(gamma=-1), "gamma=-1, must be at least 0"),
    (lambda: unlearn.scrub(temperature=0), "temperature=0, must be above 0"),
    (lambda: unlearn.l1_sparse(alpha=-1), "alpha=-1, must be at least 0"),
    (lambda: unlearn.sam(unlearn.ssd()), "makes no steps"),
    (lambda: unlearn.cf_k(("a", "b"), k=3), r"k must be in \[1, 2\]"),
    (lambda: unlearn.msg(None, fraction=2), r"fraction=2, must be in \[0, 1\]"),
    (lambda: unlearn.top_k(noise=-1), "noise=-1, must be at least 0"),
    (lambda: unlearn.influence(damping=-1), "damping=-1"),
    (lambda: unlearn.fisher(-1.0), "alpha=-1.0, must be at least 0"),
    (lambda: unlearn.ssd(0.0), "alpha=0.0"),
    (lambda: unlearn.layer_attack(models.features, "head", alpha=2), "alpha=2"),
    (lambda: unlearn.layer_attack(models.features, "head", steps=0), "steps=0, must be"),
    (lambda: unlearn.dmm(np.zeros((2, 1, 3)), [4, 4], [4]), "id 4 more than once in targets"),
    (lambda: unlearn.dmm(np.zeros((1, 2, 3)), [4], [4, 4]), "id 4 more than once in sources"),
    (lambda: unlearn.dmm(np.full((1, 1, 3), np.nan), [4], [4]), "3 influences that are not finite"),
    (lambda: unlearn.regun(Dataset(np.ones((0, 2)), np.ones(0, int))), "no held-out examples"),
    (lambda: unlearn.fine_tune(-0.1), r"learning_rate=-0.1, must be in \[0, inf\)"),
    (lambda: unlearn.fine_tune(np.inf), "learning_rate=inf, must be in"),
    (lambda: unlearn.fine_tune(momentum=1), r"momentum=1, must be in \[0, 1\)"),
    (lambda: unlearn.salun(weight_decay=-1), "weight_decay=-1, must be in"),
    (lambda: unlearn.bad_teacher(None, -0.1), "learning_rate=-0.1, must be in"),
    (lambda: unlearn.msg(None, rest=-1), "rest=-1, must be at least 0"),
    (lambda: unlearn.scrub(msteps=2.5), "msteps=2.5, must be whole epochs"),
  ],
)
def test_hyperparameters_out_of_range_get_one_line(make, message):
  with pytest.raises(ValueError, match=message) as caught:
    make()
  assert "\n" not in str(caught.value)
