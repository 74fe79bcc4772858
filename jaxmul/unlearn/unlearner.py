"""What an unlearning algorithm is, and how one is made: the call is what tells it from others.

θ params, S forget set, R retain set, ℓ cross-entropy, risk = mean ℓ. An `Unlearner` is a pair of
pure functions, as in optax. Settings are closed over; arrays (a teacher, a mask) are made by `init`
and live in the state, so that one compiled program serves every model and every set.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Generic, NamedTuple, ParamSpec, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul import _article
from jaxmul._examples import Batch, Examples
from jaxmul._identity import describe, digest, tree_digest
from jaxmul.binding import FROZEN, Network
from jaxmul.unlearn._equality import holds_arrays, key_of_held, key_of_setting
from jaxmul.unlearn._passes import Alternate, Passes


class Session(NamedTuple):
  """What an algorithm may look at once, before its first step.

  Attributes:
    forget: S, whole.
    retain: R, whole.
    epochs: passes to come.
    batch_size: examples a step.
    key: for random choices.
    ids: int64 [N], the ids of the data set that the rows of S and R point into; None where `init`
      is called without one.
  """

  forget: Examples
  retain: Examples
  epochs: int
  batch_size: int
  key: jax.Array
  ids: np.ndarray | None = None


class Clock(NamedTuple):
  """Where in a run a step is.

  Attributes:
    epoch: int32 scalar from 0.
    step: int32 scalar, of this epoch, from 0.
    steps: int32 scalar, of this epoch.
  """

  epoch: jax.Array
  step: jax.Array
  steps: jax.Array


State = TypeVar("State")
P = ParamSpec("P")


class _Parts(tuple[object, ...]):
  """All functions of an Unlearner and how it walks: its identity where no call is known."""


@dataclasses.dataclass(frozen=True)
class Unlearner(Generic[State]):
  """An unlearning algorithm as two pure functions, and three more for those that need them.

  Attributes:
    init: `(network, session) -> state`, any pytree of arrays.
    update: `(forget, retain, state, network, key) -> (updates, state)`, batches and a `Network` in,
      and out a `Network` of increments as of `optax.apply_updates`; that of a bool
      in the network's state says whether it changes. None for an algorithm of one shot, whose
      result is what `start` returns.
    passes: how an epoch walks: "retain" (over R, S cycled beside it), "forget" (over S, R beside
      it), "union" (over both, in proportion) or `Alternate` (over S, then over R).
    start: `(network, state) -> network`, before the first step: weights reset, a head widened.
    tick: `(state, clock) -> state`, before each step, for what depends on time.
    finish: `(network, state) -> network`, after the last step: a head is narrowed.
    identity: equal for equal algorithms, which share a compiled program. `algorithm` fills it in.
      By default, and where a copy is given other parts, it is the parts themselves: equal to no
      other, and unknown to another process.

  Raises:
    ValueError: `passes` is none of these.
  """

  init: Callable[[Network, Session], State] = dataclasses.field(compare=False)
  update: Callable[[Batch, Batch, State, Network, jax.Array], tuple[Network, State]] | None = (
    dataclasses.field(compare=False)
  )
  _: dataclasses.KW_ONLY
  passes: Passes = "retain"
  start: Callable[[Network, State], Network] | None = dataclasses.field(default=None, compare=False)
  tick: Callable[[State, Clock], State] | None = dataclasses.field(default=None, compare=False)
  finish: Callable[[Network, State], Network] | None = dataclasses.field(
    default=None, compare=False
  )
  identity: Hashable = None

  def __post_init__(self):
    if not isinstance(self.passes, Alternate) and self.passes not in ("retain", "forget", "union"):
      raise ValueError(
        f"Unlearner got passes={self.passes!r}, must be 'retain', 'forget', 'union' or Alternate."
      )
    copied = isinstance(self.identity, Call) and self.identity.parts != self.parts
    if self.identity is None or isinstance(self.identity, _Parts) or copied:
      object.__setattr__(self, "identity", self.parts)

  @property
  def parts(self) -> _Parts:
    """What a copy must share to be the same algorithm."""
    return _Parts((self.passes, self.init, self.update, self.start, self.tick, self.finish))

  @property
  def name(self) -> str:
    """The name of the function that made it, such as "scrub"."""
    if isinstance(self.identity, Call):
      return self.identity.name
    if isinstance(self.identity, _Parts):
      return getattr(self.init, "__qualname__", "unnamed")
    return str(self.identity[0] if isinstance(self.identity, tuple) else self.identity)

  def words(self, *, lasting: bool = True) -> str:
    """Returns the algorithm and everything it was made with in words, arrays by their digest.

    Args:
      lasting: whether equal algorithms must have equal words in every process, as stores need it.

    Raises:
      ValueError: a setting has no text that lasts, such as a lambda, and `lasting`.

    Example:
      >>> from jaxmul import unlearn
      >>> unlearn.neg_grad(0.1).words()
      'neg_grad(learning_rate=0.1, momentum=0.9)'
    """
    if isinstance(self.identity, Call):
      return self.identity.words(lasting=lasting)
    if not lasting:
      return str(self.identity)
    if isinstance(self.identity, _Parts):
      raise ValueError(
        f"{self.name} was made outside of unlearn.algorithm and has no identity, so a run with it "
        "could not be resumed. Make it in a function that @unlearn.algorithm decorates."
      )
    return describe(self.identity)


@dataclasses.dataclass(frozen=True)
class Call:
  """The call that made an Unlearner, which is its identity.

  Attributes:
    make: the function that was called.
    key: what tells its settings apart, for `==` and `hash`; arrays do not count.
    arguments: all arguments by name, with defaults, arrays included.
    parts: of the Unlearner that it made, which no copy with others may pass for.
    held: what its steps hold as constants; a rate that the state carries is none of it.
  """

  make: Callable[..., Unlearner]
  key: Hashable
  _: dataclasses.KW_ONLY
  arguments: Mapping[str, object] = dataclasses.field(compare=False)
  parts: _Parts = dataclasses.field(compare=False)
  held: Hashable = dataclasses.field(compare=False)

  @property
  def name(self) -> str:
    """The name of the function."""
    return self.make.__name__

  def words(self, *, lasting: bool) -> str:
    """Returns the call in words, see `Unlearner.words`."""
    # Ours are known by their public name, which stays when a file is named anew.
    ours = self.make.__module__.startswith("jaxmul.unlearn.")
    function = describe(self.make) if lasting and not ours else self.name
    given = (f"{name}={_words(value, lasting)}" for name, value in self.arguments.items())
    return f"{function}({', '.join(given)})"

  def __repr__(self) -> str:
    return self.words(lasting=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
  """What an epoch is compiled for: the steps of an Unlearner.

  They are equal for equal algorithms, and for two calls of one function whose steps hold the same:
  what differs is then carried in their states, as the learning rate of ours is. JAX keeps them as
  long as the program, so that they hold nothing of what the algorithm was given.

  Attributes:
    update, tick: as of `Unlearner`.
    identity: that of the Unlearner, of a call without its arguments.
  """

  update: Callable[[Batch, Batch, Any, Network, jax.Array], tuple[Network, Any]]
  tick: Callable[[Any, Clock], Any] | None
  identity: Hashable

  @classmethod
  def of(cls, unlearner: Unlearner) -> Self:
    """Returns the steps of an Unlearner that makes some."""
    assert unlearner.update is not None
    identity = unlearner.identity
    if isinstance(identity, Call):
      identity = dataclasses.replace(identity, arguments={}, parts=_Parts())
    return cls(unlearner.update, unlearner.tick, identity)

  def __hash__(self) -> int:
    return hash(self.identity.make if isinstance(self.identity, Call) else self.identity)

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, Steps):
      return NotImplemented
    ours, theirs = self.identity, other.identity
    if isinstance(ours, Call) and isinstance(theirs, Call) and ours.make is theirs.make:
      return ours == theirs or ours.held == theirs.held
    return ours == theirs


def _words(value: object, lasting: bool) -> str:
  if isinstance(value, Unlearner):
    return value.words(lasting=lasting)
  if holds_arrays(value):
    return f"{type(value).__name__} {_contents(value)[:16]}" if lasting else type(value).__name__
  if type(value) is tuple or type(value) is list:
    return f"({', '.join(_words(item, lasting) for item in value)})"
  return describe(value) if lasting else repr(value)


def _contents(value: object) -> str:
  """Returns a digest of arrays; where something beside them has no text, of the arrays alone."""
  try:
    return digest(value)
  except ValueError:
    if not all(isinstance(leaf, np.ndarray | jax.Array) for leaf in jax.tree.leaves(value)):
      raise
    return tree_digest(value)


def algorithm(make: Callable[P, Unlearner]) -> Callable[P, Unlearner]:
  """Decorates a function that makes an Unlearner: the call becomes its identity.

  Two Unlearners are equal, and share a compiled program, if the same function made them with the
  same settings, of the same types. They share it too where what differs is in their states, as the
  learning rate of ours is. Arguments that are or hold arrays (networks, data sets,
  estimates) do not count there: `init` is to bring them into the state, so that one program serves
  all of them. What an `update` was made to hold all the same, such as an array or the number of
  held-out examples, becomes part of the identity: it is right, and compiled anew for each. Stores
  find a run by all arguments, arrays by their contents; settings that are functions must then be
  functions of a module.

  Args:
    make: a function whose arguments decide all that its result does; of a module, if runs are to be
      resumed.

  Returns:
    The same function, whose Unlearners know how they were made.

  Raises:
    ValueError: in the call: the function returned no Unlearner, or a setting cannot be compared.

  Example:
    >>> import optax
    >>> from jaxmul import unlearn
    >>> @unlearn.algorithm
    ... def descent(rate=0.1):
    ...   def objective(network, turn, memory):
    ...     return unlearn.batch_risk(network, turn.retain, turn.key)
    ...   return unlearn.descend(objective, optax.sgd(rate))
    >>> descent(0.1).identity
    descent(rate=0.1)
    >>> descent() == descent(0.1), descent() == descent(0.2)
    (True, False)
  """
  signature = inspect.signature(make)

  @functools.wraps(make)
  def called(*args: P.args, **kwargs: P.kwargs) -> Unlearner:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    made = make(*args, **kwargs)
    if not isinstance(made, Unlearner):
      raise ValueError(
        f"{make.__name__} returned {_article.of(made)}, must return an unlearn.Unlearner, such "
        "as unlearn.descend makes."
      )
    settings = tuple(
      key_of_setting(value, f"{make.__name__} got {name}")
      for name, value in bound.arguments.items()
    )
    # Where arrays were given, a number that was read off them may be held as a constant.
    given = any(holds_arrays(value) for value in bound.arguments.values())
    held = key_of_held((made.update, made.tick))
    identity = Call(
      make,
      (settings, held if given else None),
      arguments=dict(bound.arguments),
      parts=made.parts,
      held=held,
    )
    return dataclasses.replace(made, identity=identity)

  return called


def refuse_uncalled(given: object, caller: str, wanted: str = "an unlearn.Unlearner") -> None:
  """Raises ValueError where something else stands in an Unlearner's place, such as its factory."""
  if not isinstance(given, Unlearner):
    name = getattr(given, "__name__", None)
    raise ValueError(
      f"{caller} got {_article.of(given)}, must be {wanted}."
      if name is None
      else f"{caller} got {name}, which makes an Unlearner and is none. Call it: {name}(...)."
    )


def increment(new: jax.Array, old: jax.Array) -> jax.Array:
  """Returns what makes a leaf of the network's state new: new − old, for bools whether it changes.

  Example:
    >>> import jax.numpy as jnp
    >>> increment(jnp.array([True, False]), jnp.array([True, True])).tolist()
    [False, True]
  """
  return new ^ old if _is_bool(new) else new - old


def apply_increments(network: Network, updates: Network) -> Network:
  """Returns `optax.apply_updates(network, updates)`, where a bool changes if its update says so.

  What is frozen stays, whatever the updates hold.
  """
  changed = optax.apply_updates(network, updates)  # pyright: ignore[reportArgumentType]
  moved = jax.tree.map(
    lambda old, update, new: old ^ update if _is_bool(old) else new, network, updates, changed
  )
  if isinstance(network.state, Mapping) and FROZEN in network.state:
    moved = moved.replace(state={**moved.state, FROZEN: network.state[FROZEN]})
  return moved


def _is_bool(leaf: jax.Array) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.bool_)
