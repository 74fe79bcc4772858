"""JAX's settings that change numbers: read where a schedule is made, set again where it is run.

A worker process starts with JAX's defaults. What its parent has changed in Python, by
`jax.config.update` or a context manager, does not reach it by itself.
"""

import contextlib
import enum
import threading
from collections.abc import Iterator
from typing import Any

import jax

Settings = tuple[tuple[str, Any], ...]

# What decides a value, its dtype or its rounding, in JAX 0.7 … 0.12. A version that lacks one is
# asked for the others; a test fails where JAX has one that nobody has looked at.
_NAMES = (
  *("jax_enable_x64", "jax_explicit_x64_dtypes", "jax_default_dtype_bits"),
  *("jax_numpy_dtype_promotion", "jax_default_matmul_precision", "jax_disable_jit"),
  *("jax_default_prng_impl", "jax_threefry_partitionable", "jax_random_seed_offset"),
  *("jax_safer_randint", "jax_high_dynamic_range_gumbel", "jax_softmax_custom_jvp"),
  *("jax_accurate_erf_inv", "jax_use_hlo_logistic_lowering", "jax_use_direct_linearize"),
  *("jax_scan3", "jax_remat3", "jax_custom_vjp3", "jax_custom_jvp3", "jax_vjp3"),
  *("jax_remat_barrier_no_cotangents", "eager_constant_folding"),
  *("jax_use_simplified_jaxpr_constants", "jax_embedded_constants_max_bytes"),
  *("jax_disable_most_optimizations", "jax_compiler_enable_remat_pass"),
  *("jax_optimization_level", "jax_exec_time_optimization_effort"),
  *("jax_memory_fitting_level", "jax_memory_fitting_effort"),
  *("jax_use_shardy_partitioner", "jax_pallas_use_mosaic_gpu"),
  *("jax_ragged_dot_use_gpu_pallas_triton_lowering", "jax_ragged_dot_use_ragged_dot_instruction"),
)
# Those that can be set for one thread alone; the others are set for the whole process.
_LOCAL = {
  *("jax_enable_x64", "jax_numpy_dtype_promotion", "jax_default_matmul_precision"),
  *("jax_default_prng_impl", "jax_threefry_partitionable", "jax_softmax_custom_jvp"),
  "jax_disable_jit",
}


def current() -> Settings:
  """Returns the settings of this thread as sorted pairs, which can be hashed, compared and sent."""
  values = jax.config.values
  return tuple(sorted((name, _plain(values[name])) for name in _NAMES if name in values))


@contextlib.contextmanager
def applied(settings: Settings) -> Iterator[None]:
  """Inside, the settings are these; afterwards they are as before. What is equal is not touched.

  Threads that want different values of what the whole process shares wait for each other.

  Args:
    settings: of `current`, in this process or another one.

  Raises:
    RuntimeError: this JAX lacks one of them, or keeps another value.

  Example:
    >>> import jax
    >>> with jax.default_matmul_precision("float32"):
    ...   exact = current()
    >>> with applied(exact):
    ...   jax.config.jax_default_matmul_precision
    'float32'
  """
  before = dict(current())
  if unknown := sorted(before.keys() ^ dict(settings).keys()):
    raise RuntimeError(
      f"JAX's setting {unknown[0]} is not known both here and where the schedule was made. "
      "Use one version of JAX."
    )
  shared = tuple((name, value) for name, value in settings if name not in _LOCAL)
  with contextlib.ExitStack() as stack:
    stack.enter_context(_whole_process.applied(shared))
    for name, value in settings:
      if name in _LOCAL and before[name] != value:
        stack.enter_context(_manager(name)(value))
    if wrong := sorted(name for name, _ in set(current()) ^ set(settings)):
      raise RuntimeError(f"JAX's setting {wrong[0]} cannot be made that of the schedule.")
    yield


class _WholeProcess:
  """What all threads share: set by the first that enters, given back by the last that leaves."""

  def __init__(self):
    self._turn, self._inside = threading.Condition(), []
    self._now: Settings = ()
    self._before: dict[str, Any] = {}

  @contextlib.contextmanager
  def applied(self, wanted: Settings) -> Iterator[None]:
    """Inside, the settings are these, for all threads; who wants others waits."""
    me = threading.get_ident()
    with self._turn:
      if me in self._inside and wanted != self._now:
        raise RuntimeError("a chunk was run inside another one that has other settings of JAX.")
      self._turn.wait_for(lambda: not self._inside or wanted == self._now)
      if not self._inside:
        self._now, self._before = wanted, {}
        for name, value in wanted:
          if (old := dict(current())[name]) != value:
            self._before[name] = old
            jax.config.update(name, value)
      self._inside.append(me)
    try:
      yield
    finally:
      with self._turn:
        self._inside.remove(me)
        if not self._inside:
          for name, value in self._before.items():
            jax.config.update(name, value)
          self._turn.notify_all()


_whole_process = _WholeProcess()


def _manager(name: str) -> Any:
  """Returns JAX's context manager for a setting of a thread."""
  name = name.removeprefix("jax_")
  if name == "enable_x64" and not hasattr(jax, name):  # before JAX 0.8
    from jax import experimental

    return experimental.enable_x64  # pyright: ignore[reportAttributeAccessIssue]
  return getattr(jax, name)


def _plain(value: Any) -> Any:
  """Returns a member of an enum, which may be another object in another process, by its name."""
  return value.name.lower() if isinstance(value, enum.Enum) else value
