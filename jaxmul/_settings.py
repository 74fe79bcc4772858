"""JAX's settings that change numbers: read where work is planned, set again wherever it is done.

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
)
# Those that can be set for one thread alone; the others are set for the whole process.
_LOCAL = (
  *("enable_x64", "numpy_dtype_promotion", "default_matmul_precision", "disable_jit"),
  *("default_prng_impl", "threefry_partitionable", "softmax_custom_jvp"),
)
_whole_process = threading.RLock()


def current() -> Settings:
  """Returns the settings of this thread as sorted pairs, which can be hashed, compared and sent."""
  values = jax.config.values
  return tuple(sorted((name, _plain(values[name])) for name in _NAMES if name in values))


@contextlib.contextmanager
def applied(settings: Settings) -> Iterator[None]:
  """Inside, the settings are these; afterwards they are as before. What is equal is not touched.

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
  changed = {name: value for name, value in settings if before.get(name, ...) != value}
  with contextlib.ExitStack() as stack:
    if any(name.removeprefix("jax_") not in _LOCAL for name in changed):
      stack.enter_context(_whole_process)
    for name, value in changed.items():
      if name not in before:
        raise RuntimeError(
          f"this JAX has no setting {name}. Use the version that planned the work."
        )
      local = name.removeprefix("jax_")
      if local in _LOCAL:
        stack.enter_context(_manager(local)(value))
      else:
        stack.callback(jax.config.update, name, before[name])
        jax.config.update(name, value)
    wrong = sorted(name for name, value in set(current()) ^ set(settings))
    if wrong:
      raise RuntimeError(f"JAX's setting {wrong[0]} cannot be made that of the plan.")
    yield


def _manager(name: str) -> Any:
  if name == "enable_x64" and not hasattr(jax, name):  # before JAX 0.8
    from jax import experimental

    return experimental.enable_x64  # pyright: ignore[reportAttributeAccessIssue]
  return getattr(jax, name)


def _plain(value: Any) -> Any:
  """Returns a member of an enum, which may be another object in another process, by its name."""
  return value.name.lower() if isinstance(value, enum.Enum) else value
