"""ReGUn by hand, and on whole classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import DECAY, ETA, gradient, linear, one_update, run, session_on, softmax

from jaxmul import bind, unlearn
from jaxmul.data import Dataset, Split


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


def test_regun_passes_heldout_examples_in_batches():
  sizes = []

  def watched(w, x):
    sizes.append(len(x))
    return x @ w

  heldout = Dataset(np.ones((50, 4), np.float32), np.arange(50) % 3)
  session = session_on(np.ones((4, 4), np.float32))
  unlearn.regun(heldout).init(bind(watched, jnp.ones((4, 3))), session)
  assert max(sizes) == session.batch_size


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
