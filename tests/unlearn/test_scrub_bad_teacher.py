"""SCRUB and bad teaching by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import DECAY, ETA, divergence_gradient, gradient, linear, one_update, run, softmax

from jaxmul import bind, unlearn


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


def test_scrub_stops_passing_over_forget_after_msteps(problem):
  data, _, split = problem
  passes = []

  def counting(forget, retain, state, params, key):
    passes.append(1)
    seen = params.params.at[0].add(forget.mask.sum()).at[1].add(retain.mask.sum())
    return params.replace(params=seen - params.params), state

  passes_of_scrub = unlearn.scrub(msteps=3).passes
  witness = unlearn.Unlearner(lambda p, s: (), counting, passes=passes_of_scrub)
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

  watched = dataclasses.replace(algorithm, update=kept)
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
