"""What a value is, as one text and one digest: what every cache and every hash is named by.

Configurations are told by their fields, functions by their names, arrays by their contents. Never
by a path, which may hold something else tomorrow, and never by the text of the source, which a
comment changes: where the code gives other results, a person raises `RESULTS`.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import inspect
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

import jaxmul
from jaxmul import _arrays, _article
from jaxmul._dataset import Dataset
from jaxmul.binding import Network, is_a
from jaxmul.data.split import Split
from jaxmul.losses import cross_entropy

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

# Raise it by one in the commit after which equal inputs give other results, here or in a script: a
# formula or a default is mended, random numbers are drawn in another order. Everything that was
# kept is then computed again. Not for new options, names, docs, or rounding.
RESULTS = 3
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def digest(*values: object) -> str:
  """Returns the SHA-256 of values, 64 hex digits: equal in every process for equal values.

  Args:
    values: whatever `describe` has a text for.

  Raises:
    ValueError: as `describe`.

  Example:
    >>> len(digest(np.zeros(3))), digest(np.zeros(3)) == digest(np.zeros(3, np.float32))
    (64, False)
  """
  return hashed(describe(values))


def hashed(*parts: str | bytes | memoryview) -> str:
  """Returns the SHA-256 of texts and bytes, one after another, 64 hex digits."""
  state = hashlib.sha256()
  for part in parts:
    state.update(part.encode() if isinstance(part, str) else part)
  return state.hexdigest()


def versions(*more: str) -> dict[str, str]:
  """Returns what decides results besides their inputs: `RESULTS` and the versions of packages.

  Args:
    more: packages besides JAX, jaxlib, Flax, optax and NumPy.
  """
  ours = {"jaxmul": jaxmul.__version__, "results": str(RESULTS)}
  return ours | {name: _installed(name) for name in (*_PACKAGES, *more)}


@functools.cache
def _installed(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "not installed"


def tree_digest(tree: object) -> str:
  """Returns the SHA-256 of the arrays of a pytree, with their names, dtypes and shapes."""
  parts: list[str | bytes | memoryview] = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    value = np.ascontiguousarray(leaf)
    parts += [f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}", _bytes_of(value)]
  return hashed(*parts)


def describe(value: object) -> str:
  """Returns a text that is equal for equal values in any process, for hashes and records.

  Args:
    value: numbers, strings, None, enums; tuples, lists, dicts and dataclasses of them, such as
      recipes, Linen modules or plans; functions of a module, by their names; arrays and keys, by
      their contents; a `Dataset` or `Split`, whatever the order of its ids; a `Network`; an
      `Estimate`, which has a digest of its own; objects with a `__repr__` of their own.

  Raises:
    ValueError: it holds a lambda or local function, a path, or an object without a text.

  Example:
    >>> describe({"rates": (0.1, 0.2), "norm": np.linalg.norm})
    "{'norm': numpy.linalg.norm, 'rates': (0.1, 0.2)}"
  """
  if isinstance(value, Dataset):
    order = np.argsort(value.ids)
    if (value.ids[1:] > value.ids[:-1]).all():  # no copy of what may be most of the memory
      order = slice(None)
    arrays = _arrays.rows((value.inputs, value.labels, value.ids), order)
    more = () if value.strata is None else (value.strata[order],)
    more += () if value.families is None else ("families", value.families[order])
    more += () if value.classes else ("numbers",)
    return f"Dataset{describe((*arrays, value.num_classes, *more))}"
  if isinstance(value, Split):
    parts = {f.name: np.sort(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return f"Split{describe(parts)}"
  if isinstance(value, Network):
    functions = describe(tuple(_functions(value)))
    return f"Network({tree_digest((value.params, value.state))}, {functions})"
  if isinstance(own := getattr(value, "digest", None), str):
    return f"{_name(type(value))} {own}"
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = ", ".join(f"{name}={describe(field)}" for name, field in _fields(value))
    return f"{_name(type(value))}({fields})"
  if isinstance(value, enum.Enum):
    return f"{_name(type(value))}.{value.name}"
  if isinstance(value, tuple | list):
    return f"({', '.join(describe(part) for part in value)})"
  if isinstance(value, set | frozenset):
    return f"set{describe(sorted(map(describe, value)))}"
  if isinstance(value, Mapping):
    items = sorted((describe(name), describe(part)) for name, part in value.items())
    return f"{{{', '.join(f'{name}: {text}' for name, text in items)}}}"
  if isinstance(value, functools.partial):
    return f"partial{describe((value.func, *value.args, *sorted(value.keywords.items())))}"
  if isinstance(value, np.generic):
    return f"{value.dtype}:{value.item()!r}"
  if isinstance(value, np.ndarray | jax.Array):
    return _array(value)
  if isinstance(value, os.PathLike):
    raise ValueError(
      f"the path {os.fspath(value)!r} does not tell what is there. Give its content."
    )
  if inspect.ismethod(value) and not inspect.isclass(value.__self__):
    return f"{describe(value.__self__)}.{value.__name__}"
  if callable(value) and hasattr(value, "__qualname__"):
    if "<" in value.__qualname__:
      raise ValueError(
        f"{value.__qualname__} cannot be told from another such function, so a run with it "
        "could not be resumed. Use a module-level function, such as one that calls what a factory "
        "made, or a frozen dataclass."
      )
    return _name(value)
  if type(value).__repr__ is object.__repr__ or " at 0x" in repr(value):
    raise ValueError(
      f"{_article.of(value)} has no text of its own: a run with it could not be "
      "resumed. Use a frozen dataclass or give it a __repr__."
    )
  return repr(value)


def describe_functions(network: Network) -> str:
  """Returns the text of a network's forward passes; one that is a lambda has none."""
  texts = []
  for function in _functions(network):
    with contextlib.suppress(ValueError):
      texts.append(describe(function))
  return describe(texts)


def _functions(network: Network) -> list[object]:
  """What a network does, with its loss and embedding where they are not the usual ones."""
  functions: list[object] = [network.apply_fn, network.train_fn]
  if network.loss is not cross_entropy:
    functions.append(("loss", network.loss))
  return functions if network.embed is None else [*functions, ("embed", network.embed)]


def _fields(value: "DataclassInstance") -> list[tuple[str, object]]:
  # A field that came later is left out at its default: what does without it keeps its text.
  fields = [
    (f.name, getattr(value, f.name))
    for f in dataclasses.fields(value)
    if not (f.metadata.get("later") and getattr(value, f.name) == f.default)
  ]
  if not is_a(value, "flax.linen"):
    return fields
  # A Linen module is a dataclass with two fields more. Its parent is where it is nested; by its
  # name, where it was given one, its initial params are drawn.
  return [(k, v) for k, v in fields if k != "parent" and (k != "name" or v is not None)]


def _array(value: np.ndarray | jax.Array) -> str:
  if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
    return f"key {jax.random.key_impl(value)} {_array(np.asarray(jax.random.key_data(value)))}"
  array = np.asarray(value)
  if array.dtype.hasobject:
    raise ValueError("an array of objects has no text of its own. Give arrays of numbers or text.")
  return f"{array.dtype}{array.shape}{hashed(_bytes_of(array))}"


def _bytes_of(array: np.ndarray) -> memoryview:
  """Returns what `array.tobytes()` holds, without a copy where it lies in that order."""
  return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _name(value: Callable[..., object]) -> str:
  return f"{value.__module__}.{value.__qualname__}"
