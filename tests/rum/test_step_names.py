"""A step in a store is found by versions and JAX's settings too; a served request is a record."""

import jax
import numpy as np
import pytest

from jaxmul import _identity, bind, rum, unlearn
from jaxmul.data import Dataset

TOY = Dataset(np.arange(12, dtype=np.float32).reshape(6, 2), np.arange(6) % 3)


def product(w, x):
  return x @ w


@pytest.fixture
def counted():
  """A plan of one step of one shot, and how often it ran."""
  runs = []

  def init(params, session):
    del session
    runs.append(1)
    return params

  shot = unlearn.Unlearner(init, None, identity=("shot",), start=lambda params, state: state)
  return rum.Plan([rum.Step(shot)]), runs


def changes():
  """Contexts in which something about the process is another."""
  raised = pytest.MonkeyPatch()
  raised.setattr(_identity, "RESULTS", _identity.RESULTS + 1)
  yield raised.undo
  other = pytest.MonkeyPatch()
  installed = _identity._installed
  other.setattr(_identity, "_installed", lambda name: "0" if name == "jax" else installed(name))
  yield other.undo
  before = jax.config.values["jax_default_matmul_precision"]
  jax.config.update("jax_default_matmul_precision", "float32")
  yield lambda: jax.config.update("jax_default_matmul_precision", before)


def test_a_step_is_computed_again_under_other_versions_and_settings(counted, tmp_path):
  plan, runs = counted
  params = bind(product, np.ones((2, 3), np.float32))

  def meta_unlearn():
    runs.clear()
    rum.meta_unlearn(plan, params, TOY, [[1]], jax.random.key(0), store=tmp_path)
    return len(runs)

  assert [meta_unlearn(), meta_unlearn()] == [1, 0]
  for undo in changes():
    try:
      assert [meta_unlearn(), meta_unlearn()] == [1, 0]
    finally:
      undo()
  assert meta_unlearn() == 0


def test_a_request_that_was_served_is_read_back_under_any_version(counted, tmp_path):
  plan, runs = counted
  params = bind(product, np.ones((2, 3), np.float32))

  def serve(requests):
    runs.clear()
    given = (plan, params, TOY, requests, jax.random.key(0))
    done = list(rum.stream(*given, score=lambda _, data: data.labels, store=tmp_path))
    return len(runs), [each.entry.finished for each in done]

  computed, first = serve([[0]])
  assert computed == 1
  for undo in changes():
    try:
      assert serve([[0]]) == (0, first)
    finally:
      undo()
  computed, both = serve([[0], [1]])
  assert computed == 1
  assert both[0] == first[0]
