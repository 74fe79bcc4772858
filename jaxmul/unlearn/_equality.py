"""Hashable keys of values: equal keys only for values that make the same compiled program.

Numbers count with their types, as 1 and 1.0 and a NumPy 1.0 are different constants. A function
that is given as a setting is itself and no other. A function that an algorithm makes anew in each
call is its code and what it holds.
"""

import dataclasses
import functools
import types
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _check
from jaxmul._identity import describe


def holds_arrays(value: object) -> bool:
  """Whether a value is or holds an array of at least one axis, or a random key.

  Example:
    >>> holds_arrays({"w": np.zeros(3)}), holds_arrays((1.0, np.float32(2), np.zeros(())))
    (True, False)
  """
  return any(map(_is_data, jax.tree.leaves(value)))


def key_of_setting(value: object, said: str) -> Hashable:
  """Returns the key of an argument of an algorithm; of arrays it holds their place alone.

  Args:
    value: numbers, text, functions, frozen dataclasses and trees of them; arrays.
    said: beginning of the message, such as "scrub got gamma".

  Raises:
    ValueError: something in it cannot be compared.

  Example:
    >>> key_of_setting(1, "f got x") == key_of_setting(1.0, "f got x")
    False
    >>> key_of_setting(np.zeros(3), "f got x") == key_of_setting(np.ones(4), "f got x")
    True
  """
  key = _key_of_tree(value)
  if not is_hashable(key):
    raise ValueError(
      f"{said}={type(value).__name__}, which cannot be compared with others. Give a number, text, "
      "a function, a frozen dataclass, arrays, or a tuple of them."
    )
  return key


def key_of_held(value: object, inside: tuple[object, ...] = ()) -> Hashable:
  """Returns the key of all that functions hold, arrays by their contents.

  Functions written in Python are told by their code, what they close over and their defaults; what
  they read from their module is not looked at. What cannot be compared equals nothing.

  Args:
    value: functions, and whatever they may hold.
    inside: functions that hold it, for those that hold themselves.

  Example:
    >>> def adder(number):
    ...   return lambda x: x + number
    >>> one, same, two = (key_of_held(adder(number)) for number in (1, 1, 2))
    >>> one == same, one == two
    (True, False)
  """
  key = functools.partial(key_of_held, inside=inside)
  if isinstance(value, types.FunctionType):
    if value in inside:
      return "itself", inside.index(value)
    key = functools.partial(key_of_held, inside=(*inside, value))
    cells = tuple(key(_content(cell)) for cell in value.__closure__ or ())
    defaults = key((value.__defaults__, value.__kwdefaults__))
    return value.__code__, id(value.__globals__), cells, defaults
  if isinstance(value, types.MethodType):
    return key((value.__func__, value.__self__))
  if type(value) is functools.partial:
    return key((value.func, value.args, value.keywords))
  leaves, tree = jax.tree.flatten(value, is_leaf=lambda node: node is None)
  if not jax.tree_util.treedef_is_leaf(tree):
    return tree, tuple(map(key, leaves))
  if isinstance(value, np.ndarray | jax.Array) and _is_data(value):
    return describe(value) if _check.is_concrete(value) else object()
  if dataclasses.is_dataclass(value) and not isinstance(value, type) and not _has_own_hash(value):
    fields = dataclasses.fields(value)
    return type(value), tuple(key(getattr(value, field.name)) for field in fields)
  leaf = _key_of_leaf(value)
  return leaf if is_hashable(leaf) else object()


def is_hashable(value: object) -> bool:
  try:
    hash(value)
  except TypeError:
    return False
  return True


def _content(cell: types.CellType) -> object:
  try:
    return cell.cell_contents
  except ValueError:  # of a function that was not defined yet
    return None


def _key_of_tree(value: object) -> Hashable:
  leaves, tree = jax.tree.flatten(value, is_leaf=lambda node: node is None)
  return tree, tuple("arrays" if _is_data(leaf) else _key_of_leaf(leaf) for leaf in leaves)


def _key_of_leaf(value: object) -> Hashable:
  if isinstance(value, np.ndarray | jax.Array):  # a scalar
    weak = getattr(value, "weak_type", False)
    return type(value), str(value.dtype), weak, _key_of_leaf(value.item())
  if isinstance(value, float):
    return type(value), value.hex()  # 0.0 and -0.0 are equal, and are not the same
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    compared = (field.name for field in dataclasses.fields(value) if field.compare)
    return type(value), value, tuple(_key_of_tree(getattr(value, name)) for name in compared)
  return type(value), value


def _is_data(leaf: object) -> bool:
  if isinstance(leaf, np.ndarray | jax.Array):
    return leaf.ndim > 0 or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type) or _has_own_hash(leaf):
    return False
  return any(holds_arrays(getattr(leaf, field.name)) for field in dataclasses.fields(leaf))


def _has_own_hash(value: object) -> bool:
  """Whether a value is compared by what it holds, all of which can be hashed."""
  return type(value).__hash__ is not object.__hash__ and is_hashable(value)
