"""One schedule is one set of models, whatever JAX's settings are where a chunk of it is trained.

That `processes`, `devices`, Ray and a distributed job do so too is seen in `test_executors`.
"""

import concurrent.futures
import dataclasses
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import _identity, data, models, retraining, train
from jaxmul.retraining import train_key

# The first two give other models, the last one other last bits. None reaches a worker by itself.
FLAGS = {
  "jax_threefry_partitionable": False,
  "jax_enable_x64": True,
  "jax_disable_most_optimizations": True,
}
RECIPE = train.Recipe(models.mlp((8,)), epochs=2, batch_size=32, learning_rate=0.1)


def digits():
  found = data.digits()
  return found.take(found.ids[:80])


def schedule(recipe=RECIPE):
  key = jax.random.key(0, impl="threefry2x32")
  return retraining.leave_out(recipe, digits(), key, num_models=2, chunk_size=2)


class set_in_python:
  """As a user does at the top of a script, and back again."""

  def __init__(self, name, value):
    self.name, self.value = name, value

  def __enter__(self):
    self.before = jax.config.values[self.name]
    jax.config.update(self.name, self.value)

  def __exit__(self, *_):
    jax.config.update(self.name, self.before)


@pytest.fixture(scope="module")
def scheduled():
  """{flag: (schedule, its chunk)}, made and trained by a script that sets the flag."""
  found = {None: (schedule(), retraining.run_chunk(schedule(), 0))}
  for name, value in FLAGS.items():
    with set_in_python(name, value):
      found[name] = schedule(), retraining.run_chunk(schedule(), 0)
  return found


def same(chunk, other, tolerance=0.0):
  return all(
    np.allclose(getattr(chunk, name), getattr(other, name), rtol=0, atol=tolerance, equal_nan=True)
    for name in vars(chunk)
  )


def test_settings_are_in_the_hash_and_decide_the_models(scheduled):
  assert len({each.hash for each, _ in scheduled.values()}) == len(scheduled)
  plain = scheduled[None][1]
  assert not same(scheduled["jax_threefry_partitionable"][1], plain, 0.5)
  assert not same(scheduled["jax_enable_x64"][1], plain)


@pytest.mark.parametrize("name", [None, *FLAGS])
def test_a_chunk_is_trained_with_the_settings_of_its_schedule(scheduled, name):
  work, chunk = scheduled[name]
  assert same(retraining.run_chunk(work, 0), chunk)
  for other, value in FLAGS.items():
    with set_in_python(other, value):
      assert same(retraining.run_chunk(work, 0), chunk)
      assert jax.config.values[other] == value
  with jax.enable_x64(True), jax.threefry_partitionable(False):
    assert same(retraining.run_chunk(work, 0), chunk)


def test_devices_leave_alone_the_settings_of_who_reads_their_chunks(scheduled):
  work, chunk = scheduled["jax_threefry_partitionable"]
  for _, found in retraining.devices()(work, [0]):
    assert same(found, chunk, 1e-2)
    assert jax.config.values["jax_threefry_partitionable"]


def test_a_pool_of_fresh_processes_trains_with_the_settings_of_each_schedule(scheduled):
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    execute = retraining.pool(pool)
    for work, chunk in scheduled.values():
      ((_, found),) = execute(work, [0])
      assert same(found, chunk, 1e-2)


def drawn_inside(examples, key):
  """A learner of which the params come from a number of its own: a seed, and JAX's defaults."""
  del key
  width = examples.inputs[0].size
  return Linear(jax.random.normal(jax.random.key(7), (width, 10)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
  w: jax.Array

  def __call__(self, inputs):
    return jnp.reshape(inputs, (len(inputs), -1)) @ self.w


def test_what_a_learner_of_ones_own_draws_follows_the_schedule():
  """The offset of seeds and the default kind of keys, which JAX does not compile apart."""
  chunks = [retraining.run_chunk(schedule(drawn_inside), 0)]
  for name, value in (("jax_random_seed_offset", 3), ("jax_default_prng_impl", "rbg")):
    with set_in_python(name, value):
      work = schedule(drawn_inside)
      chunks.append(retraining.run_chunk(work, 0))
    assert same(retraining.run_chunk(work, 0), chunks[-1])
  assert not any(same(chunks[a], chunks[b], 0.01) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_one_model_can_be_trained_again_with_the_key_of_its_schedule(scheduled):
  work, _ = scheduled["jax_threefry_partitionable"]
  with set_in_python("jax_threefry_partitionable", False):
    expected = jax.random.key_data(train_key(work, 1))
  np.testing.assert_array_equal(jax.random.key_data(train_key(work, 1)), expected)
  plain = jax.random.key_data(train_key(scheduled[None][0], 1))
  assert not np.array_equal(plain, expected)


def test_a_store_made_under_other_settings_or_versions_is_refused(scheduled, tmp_path, monkeypatch):
  work, chunk = scheduled[None]
  store = retraining.Store(tmp_path, work)
  store.describe()
  store.commit(0, chunk)

  def refused(other):
    with pytest.raises(ValueError, match="settings or versions differ") as caught:
      retraining.Store(tmp_path, other)
    assert "\n" not in str(caught.value)
    return str(caught.value)

  said = refused(scheduled["jax_enable_x64"][0])
  assert "(jax_enable_x64 was False and is True)" in said
  with monkeypatch.context() as patch:
    patch.setattr(_identity, "RESULTS", _identity.RESULTS + 1)
    assert f"(results was {_identity.RESULTS - 1} and is {_identity.RESULTS})" in refused(
      schedule()
    )
  with monkeypatch.context() as patch:
    installed = _identity._installed
    patch.setattr(_identity, "_installed", lambda name: {"jax": "0.6"}.get(name) or installed(name))
    assert f"(jax was {jax.__version__} and is 0.6)" in refused(schedule())
  (tmp_path / "schedule.jaxmul").unlink()
  assert "versions differ. Use another folder" in refused(scheduled["jax_enable_x64"][0])
  retraining.Store(tmp_path, schedule())


def test_a_process_with_other_versions_trains_nothing_for_a_schedule(scheduled, monkeypatch):
  work, _ = scheduled[None]
  strange = dataclasses.replace(work, versions=work.versions | {"numpy": "1.26"})
  for run in (retraining.run_chunk, lambda *given: list(retraining.devices()(given[0], [0]))):
    with pytest.raises(RuntimeError, match=r"the schedule was made with 1\.26") as caught:
      run(strange, 0)
    assert "\n" not in str(caught.value)


def test_the_order_of_the_test_examples_is_part_of_a_schedule():
  """Their outputs are kept in that order."""
  dataset = digits()
  hashes = {
    retraining.leave_out(
      RECIPE,
      dataset.take(dataset.ids[:60]),
      jax.random.key(0, impl="threefry2x32"),
      num_models=2,
      test=dataset.take(ids),
    ).hash
    for ids in (dataset.ids[60:], dataset.ids[60:][::-1], dataset.ids[61:])
  }
  assert len(hashes) == 3
