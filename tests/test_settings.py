"""JAX's settings are read, set again for a while, and given back, for one thread where JAX can."""

import threading
import time

import jax
import jax.numpy as jnp
import pytest

from jaxmul import _settings
from jaxmul._settings import applied, current

# Part of what JAX traces under, and no part of a number: where it runs, what it refuses, what it
# says, or another way to the same bits.
NO_NUMBERS = {
  *("jax_default_device", "check_vma", "jax_no_execution", "jax_mutable_array_checks"),
  *("jax_debug_key_reuse", "jax_check_static_indices", "jax_numpy_rank_promotion"),
  *("jax_error_checking_behavior_nan", "jax_error_checking_behavior_divide"),
  *("jax_error_checking_behavior_oob", "jax_allow_f16_reductions", "jax_auto_pcast"),
  *("jax_pallas_enable_debug_checks", "jax_raise_on_ppermute_sort_diff"),
  *("jax_hlo_source_file_canonicalization_regex", "jax_remove_size_one_mesh_axis_from_type"),
  *("jax_enable_pgle", "jax_pgle_profiling_runs", "jax_xla_profile_version"),
  *("jax_threefry_gpu_kernel_lowering", "jax_use_emit_pipeline_primitive"),
}


def test_every_flag_that_jax_traces_under_was_looked_at():
  from jax._src import config

  if not hasattr(getattr(config, "config_ext", None), "trace_context_names"):
    pytest.skip("this jaxlib does not say what JAX traces under")
  flags = set(config.trace_context_names()) & set(jax.config.values)
  assert flags - set(_settings._NAMES) - NO_NUMBERS == set()


# One that is set for a thread, an enum, one that may be None, and two for the whole process.
CHANGED = {
  "jax_enable_x64": True,
  "jax_numpy_dtype_promotion": "strict",
  "jax_default_matmul_precision": "float32",
  "jax_random_seed_offset": 3,
  "jax_disable_most_optimizations": True,
}


def planned(name):
  """The settings of a process where one was changed in Python."""
  before = jax.config.values[name]
  jax.config.update(name, CHANGED[name])
  try:
    return current()
  finally:
    jax.config.update(name, before)


@pytest.mark.parametrize("name", CHANGED)
def test_a_setting_holds_inside_and_not_after(name):
  before, then = current(), planned(name)
  assert {a for a, _ in set(before) ^ set(then)} == {name}
  with applied(then):
    assert current() == then
    with applied(then):
      assert current() == then
    assert current() == then
  assert current() == before
  with pytest.raises(KeyError), applied(then):
    raise KeyError
  assert current() == before


def test_a_setting_of_the_thread_gives_way_and_comes_back():
  wide = planned("jax_enable_x64")
  with applied(wide):
    narrow = tuple((n, False if n == "jax_enable_x64" else v) for n, v in current())
    with applied(narrow):
      assert jnp.asarray(1.0).dtype == jnp.float32
    assert jnp.asarray(1.0).dtype == jnp.float64
  assert jnp.asarray(1.0).dtype == jnp.float32


def test_other_settings_of_the_whole_process_are_refused_inside():
  before = current()
  with applied(planned("jax_random_seed_offset")):
    with pytest.raises(RuntimeError, match="inside another one"), applied(before):
      pass
    assert current() != before
  assert current() == before


def test_threads_with_different_settings_do_not_meet():
  """Each sees its own offset: the whole process has but one, so that they take turns."""
  found, plain = [], current()

  def work(settings):
    for _ in range(20):
      with applied(settings):
        for _ in range(3):
          found.append(current() == settings)
          time.sleep(1e-4)

  threads = [
    threading.Thread(target=work, args=(with_offset(plain, number),)) for number in (0, 1, 1, 2)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert found == [True] * len(threads) * 60
  assert current() == plain


def test_threads_with_equal_settings_do_not_wait():
  both, settings = threading.Barrier(2, timeout=30), with_offset(current(), 1)

  def work():
    with applied(settings):
      both.wait()

  other = threading.Thread(target=work)
  other.start()
  work()
  other.join()


def with_offset(settings, offset):
  return tuple((n, offset if n == "jax_random_seed_offset" else v) for n, v in settings)


def test_a_setting_that_this_jax_lacks_is_refused_in_one_line():
  for strange in ((*current(), ("jax_of_tomorrow", 1)), current()[1:]):
    with pytest.raises(RuntimeError, match="setting") as caught, applied(strange):
      pass
    assert "\n" not in str(caught.value)
