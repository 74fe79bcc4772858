"""Plans: the published figures, one trace for equal steps, and what a step refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, rum, unlearn
from jaxmul.data import Dataset


def test_neg_grad_plus_plan_has_the_published_figures():
  steps = rum.neg_grad_plus_plan().steps
  assert [step.unlearner for step in steps] == [
    unlearn.neg_grad_plus(rate, alpha=alpha)
    for rate, alpha in ((0.01, 0.99), (0.01, 0.97), (0.001, 0.97))
  ]
  assert [step.epochs for step in steps] == [5, 5, 10]
  assert [step.batch_size for step in steps] == [256] * 3
  assert not any(step.freeze_statistics for step in steps)


def test_salun_plan_has_the_published_figures():
  low, medium, high = rum.salun_plan().steps
  assert low.unlearner is None
  assert (medium.unlearner, medium.epochs) == (unlearn.fine_tune(0.1), 10)
  assert (high.unlearner, high.epochs) == (unlearn.salun(0.1, fraction=0.5), 5)
  assert medium.batch_size == high.batch_size == 256
  assert [step.batch_size for step in rum.salun_plan(32).steps[1:]] == [32, 32]


def test_groups_of_one_size_are_traced_once():
  def still():
    @chex.assert_max_traces(n=1)
    def update(forget, retain, state, params, key):
      return jax.tree.map(jnp.zeros_like, params), state

    return unlearn.Unlearner(lambda params, session: (), update, identity=("still in a plan",))

  toy = Dataset(np.zeros((40, 1)), np.arange(40) % 2)
  params = bind(lambda w, x: x @ w, jnp.zeros((1, 2)))
  plan = rum.Plan([rum.Step(still(), 2, 8) for _ in range(3)])
  groups = [np.arange(4), np.arange(4, 8), np.arange(8, 12)]
  rum.meta_unlearn(plan, params, toy, groups, jax.random.key(0))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: rum.Step(unlearn.neg_grad(), 0), "epochs=0, must be an integer of at least 1"),
    (lambda: rum.Step(unlearn.neg_grad(), 1.5), "epochs=1.5, must be an integer"),
    (lambda: rum.Step(unlearn.neg_grad(), 1, 0), "batch_size=0, must be an integer of at least 1"),
    (lambda: rum.Step(unlearn.neg_grad(), 1, 8.0), "batch_size=8.0, must be an integer"),
    (lambda: rum.Step(unlearn.fine_tune), r"Call it: fine_tune\(\.\.\.\)"),
    (lambda: rum.Step("fine_tune"), "got a str, must be an unlearn.Unlearner or None"),
    (lambda: rum.neg_grad_plus_plan(0), "batch_size=0"),
    (lambda: rum.Plan([unlearn.neg_grad()]), r"got an Unlearner.*Wrap an algorithm: rum.Step"),
  ],
)
def test_a_step_that_cannot_run_gets_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


def test_numpy_numbers_make_a_step():
  assert rum.Step(None, np.int64(3), np.int32(8)) == rum.Step(None, 3, 8)
