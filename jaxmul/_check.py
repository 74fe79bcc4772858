"""Checks of what users pass, before any tracing: one line with the value, the limit and the cure.

Shapes and dtypes are always checked. Values are checked only where they are concrete: under `jit`
they are unknown, and there `losses` answers an impossible label with NaN.
"""

import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxmul import _arrays, _article, losses
from jaxmul._arrays import Array, Inputs
from jaxmul.binding import Network

_NO_CLASSES = (
  "Numbers to predict, or several labels: Dataset(..., classes=False) and jaxmul.bind(..., loss=)."
)
TOKENS = (np.dtype("int32"), np.dtype("int64"))
"""The integer inputs; uint8 is pixels."""
Init = Callable[[Any, jax.Array, Inputs], Network]
"""`(model, key, inputs) -> Network`, as `models.init`, which this module is below."""


def batch(batch: object, caller: str) -> tuple[Inputs, jax.Array]:
  """Returns (inputs [B, ...] float or integer, labels [B, ...]) or raises ValueError."""
  if not isinstance(batch, tuple | list) or len(batch) != 2:
    raise ValueError(
      f"{caller} needs batch = (inputs [B, ...], labels [B]), got {type(batch).__name__}"
      f"{f' of length {len(batch)}' if isinstance(batch, tuple | list) else ''}."
    )
  checked = inputs(batch[0], caller)
  if not _arrays.size(checked):
    raise ValueError(f"{caller} got an empty batch. Pass at least one example.")
  return checked, jnp.asarray(labels(batch[1], _arrays.size(checked), caller))


def inputs(value: object, caller: str, name: str = "") -> Inputs:
  """Returns inputs [B, ...], floats without NaN or inf or tokens from 0, or raises ValueError.

  Args:
    value: array, or a dict of arrays.
    caller: for messages.
    name: which of a dict it is.
  """
  if isinstance(value, Mapping):
    return {key: inputs(part, caller, f"{name}[{key!r}]") for key, part in value.items()}
  value = value if isinstance(value, Array) else np.asarray(value)
  least = 1 if name else 2
  if value.ndim < least:
    raise ValueError(
      f"{caller} needs inputs{name} [B, ...] of rank {least} or more, got shape {value.shape}. "
      "Add a batch axis: inputs[None]."
    )
  dtype = jnp.result_type(value)
  if not jnp.issubdtype(dtype, jnp.floating) and dtype not in TOKENS:
    raise ValueError(
      f"{caller} needs float inputs{name}, got {dtype}. Tokens are int32; scale pixels first: "
      "jaxmul.data.as_inputs(inputs)."
    )
  finite(value, f"{caller}: inputs{name}")
  if dtype in TOKENS and is_concrete(value) and (lowest := np.asarray(value).min(initial=0)) < 0:
    raise ValueError(
      f"{caller} got token {lowest}, must be at least 0. What is not scored is a label of −1, its "
      "token is any."
    )
  return jnp.asarray(value)


def rectangular(value: object, name: str, caller: str) -> Array:
  """Returns a value as an array, or raises ValueError where its rows have different lengths."""
  try:
    return value if isinstance(value, Array) else np.asarray(value)
  except ValueError as error:
    raise ValueError(
      f"{caller} needs {name} of one length, got rows of different lengths. Cut them, or pad them: "
      "a label of −1 is not scored, its token is any."
    ) from error


def labels(value: object, size: int, caller: str) -> Array:
  """Returns labels [B, ...] of numbers, or raises ValueError; `answers` checks what they hold."""
  value = value if isinstance(value, Array) else np.asarray(value)
  if value.ndim < 1:
    raise ValueError(f"{caller} needs labels [B], got shape (). Add a batch axis: labels[None].")
  if len(value) != size:
    raise ValueError(f"{caller} got {size} inputs but {len(value)} labels; they must match.")
  kinds = (np.integer, np.floating, np.bool_)
  if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
    raise ValueError(
      f"{caller} needs labels of numbers, got {value.dtype}. Names become class numbers with "
      "np.unique(labels, return_inverse=True)[1]."
    )
  return value


def class_numbers(labels: Array, num_classes: int, caller: str) -> None:
  """Raises ValueError where labels [B, *P] are not class numbers: the rule of impossible labels.

  They are integers in [0, num_classes). Where P is not empty −1 stands for a position that is not
  scored, and every example has one that is. Values are seen only where they are concrete.
  """
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(
      f"{caller} needs integer labels, got {labels.dtype}. Class numbers: "
      f"labels.astype('int32'). {_NO_CLASSES}"
    )
  if not is_concrete(labels) or not labels.size:
    return
  values = np.asarray(labels)  # not np.min(labels): under jit that would be traced
  has_positions = values.ndim > 1
  low, high = int(values.min()), int(values.max())
  if low < (losses.UNSCORED if has_positions else 0) or high >= num_classes:
    raise ValueError(
      f"{caller} got label {high if high >= num_classes else low}, outside [0, {num_classes}). "
      f"Number classes from 0{'; −1 is not scored' if has_positions else ''}."
    )
  if has_positions:
    empty = np.flatnonzero((values == losses.UNSCORED).all(axis=tuple(range(1, values.ndim))))
    if len(empty):
      raise ValueError(
        f"{caller} got an example without a scored position (row {empty[0]}, {len(empty)} in all): "
        "all of its labels are −1. Leave it out."
      )


def answers(network: Network, inputs: Inputs, labels: Array, caller: str) -> None:
  """Raises ValueError where labels are not what a network's outputs on inputs are scored by.

  With cross-entropy they are class numbers [B, *P] for outputs [B, *P, C]; a loss of one's own must
  return [B].

  Args:
    network: a `Network`, or its shapes.
    inputs: [B, ...], or one of them, [1, ...]; only shape and dtype matter.
    labels: [B, ...].
    caller: for messages.
  """
  if not len(labels):
    return
  static, arrays = _arrays.split(network)
  asked = inputs
  if _arrays.size(inputs) != len(labels):
    asked = _arrays.shapes(inputs, len(labels))
  outputs = _forward.eval_shape(static, arrays, asked)  # traced once for all that ask
  if network.loss is losses.cross_entropy:
    _refuse_other_positions(outputs.shape, labels, caller)
    class_numbers(labels, outputs.shape[-1], caller)
    return
  example = jax.ShapeDtypeStruct(labels.shape, jax.dtypes.canonicalize_dtype(labels.dtype))
  loss = jax.eval_shape(network.loss, outputs, example)
  if loss.shape != (len(labels),):
    raise ValueError(
      f"{caller} needs the network's loss to return [B] = [{len(labels)}], one number an example, "
      f"got {loss.shape}. Take the mean over what an example has more of."
    )


def enough_outputs(network: Network, inputs: Inputs, num_classes: int, caller: str) -> None:
  """Raises ValueError where a network's logits are of fewer classes than labels to come can be.

  Args:
    network: a `Network`, or its shapes; nothing is done where it has a loss of its own.
    inputs: one of them, [1, ...].
    num_classes: of the data.
    caller: for messages.
  """
  if network.loss is not losses.cross_entropy:
    return
  outputs = _forward.eval_shape(*_arrays.split(network), inputs)
  if outputs.shape[-1] < num_classes:
    raise ValueError(
      f"{caller} got a Streamed of num_classes={num_classes}, but a network of "
      f"{outputs.shape[-1]} outputs. Give it {num_classes}, or the Streamed its own number."
    )


def tokens(network: Network, inputs: Inputs, caller: str) -> None:
  """Raises ValueError where the largest of the tokens is none that a network embeds.

  Nothing is done where inputs or the network are traced, or inputs are not embedded.
  """
  if network.embed is None or not all(map(is_concrete, jax.tree.leaves(inputs))):
    return
  if not all(map(is_concrete, _arrays.split(network)[1])):
    return
  if (largest := _largest(inputs)) is not None:
    _refuse_unknown(network.embedded(_all_largest(inputs)), largest, caller)


def fresh_tokens(init: Init, model: Any, inputs: Inputs, caller: str) -> None:
  """As `tokens`, of the network that `init` makes of a model, a key and inputs."""
  if (largest := _largest(inputs)) is not None:
    embedded = _embedded_at_first(init, model, jax.random.key(0), _all_largest(inputs))
    _refuse_unknown(embedded, largest, caller)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embedded_at_first(init: Init, model: Any, key: jax.Array, inputs: Inputs) -> jax.Array:
  return init(model, key, inputs).embedded(inputs)


def _largest(inputs: Inputs) -> int | None:
  leaves = jax.tree.leaves(inputs)
  return max(
    (int(leaf.max()) for leaf in leaves if leaf.dtype in TOKENS and leaf.size), default=None
  )


def _all_largest(inputs: Inputs) -> Inputs:
  """One example whose tokens are the largest of each array, and its other numbers 0."""

  def one(leaf):
    is_tokens = leaf.dtype in TOKENS and leaf.size
    kind = jnp.int32 if is_tokens else as_dtype(leaf)
    return jnp.full((1, *leaf.shape[1:]), np.asarray(leaf).max() if is_tokens else 0, kind)

  def as_dtype(leaf):
    return jnp.float32 if leaf.dtype == np.uint8 else leaf.dtype

  return jax.tree.map(one, inputs)


def _refuse_unknown(vectors: jax.Array, token: int, caller: str) -> None:
  if not is_concrete(vectors):
    return  # inside a jit of the caller's even what is known is traced
  if jnp.issubdtype(vectors.dtype, jnp.floating) and not np.isfinite(np.asarray(vectors)).all():
    raise ValueError(
      f"{caller} got token {token}, which the network embeds as NaN: its vocabulary is smaller. "
      "Give it one of all tokens, such as models.gpt(dataset.num_classes)."
    )


def _refuse_other_positions(outputs: tuple[int, ...], labels: Array, caller: str) -> None:
  count = len(labels)
  if labels.ndim == 1 and outputs in ((count,), (count, 1)):
    raise ValueError(
      f"{caller} needs apply_fn to return logits [B, C] of at least 2 classes, got "
      f"{list(outputs)}, one number an example. That of a sigmoid becomes two logits with "
      "jnp.stack([0 * z, z], -1), z [B]; numbers to predict take jaxmul.bind(..., loss=)."
    )
  if len(outputs) < 2 or outputs[0] != count:
    raise ValueError(
      f"{caller} needs apply_fn to return logits [B, C] = [{count}, C], or [B, *P, C] for labels "
      f"[B, *P], got {outputs}."
    )
  if len(outputs) == 2 and labels.ndim > 1:
    raise ValueError(
      f"{caller} needs labels [B] for logits [B, C], got shape {labels.shape}. "
      f"One-hot labels become class numbers with labels.argmax(-1). {_NO_CLASSES}"
    )
  if outputs[:-1] != labels.shape:
    raise ValueError(
      f"{caller} needs labels {list(outputs[:-1])} for logits {list(outputs)}, got shape "
      f"{labels.shape}: one label for each position that the network answers at."
    )


def outputs(network: Network, inputs: Inputs, caller: str) -> None:
  """Warns where what a network returns looks like probabilities; see `logits`.

  Args:
    network: nothing is done where it, or inputs, are traced, or its outputs are no logits.
    inputs: a few of them [n, ...]: one small forward pass.
    caller: whose caller is told.
  """
  static, arrays = _arrays.split(network)
  if (
    network.loss is losses.cross_entropy
    and _arrays.size(inputs)
    and all(map(is_concrete, (*arrays, *jax.tree.leaves(inputs))))
  ):
    logits(_forward(static, arrays, inputs), caller, stacklevel=4)


def logits(value: jax.Array, caller: str, *, stacklevel: int = 3) -> None:
  """Warns where concrete outputs [B, *P, C] look like probabilities, whose softmax is nearly flat.

  That is where each of the first eight examples lies in [0, 1] and sums to 1 within 1e-3, and not
  all of these numbers are 0 or 1, as the inputs of a toy are.

  Args:
    value: what a network returned.
    caller: the function that took it for logits.
    stacklevel: as of `warnings.warn`, from here.
  """
  if value.ndim < 2 or value.shape[-1] < 2:
    return
  if not is_concrete(value) or not getattr(value, "is_fully_addressable", True):
    return
  rows = np.asarray(value[:8]).astype(np.float64).reshape(-1, value.shape[-1])
  sure = (rows == 0) | (rows == 1)
  is_share = (rows >= 0).all() and (rows <= 1).all() and (np.abs(rows.sum(1) - 1) < 1e-3).all()
  if len(rows) and is_share and not sure.all():
    warnings.warn(
      f"{caller} takes logits, but this network's outputs lie in [0, 1] and sum to 1, as "
      "probabilities do. Return what its softmax is given.",
      stacklevel=stacklevel,
    )


@functools.partial(jax.jit, static_argnums=0)
def _forward(static, arrays, inputs):
  return _arrays.joined(static, arrays)(inputs)


def finite(value: Array, name: str) -> None:
  """Raises ValueError where a concrete array holds NaN or inf."""
  if is_concrete(value) and jnp.issubdtype(jnp.result_type(value), jnp.floating):
    numbers = np.asarray(value)
    good = np.isfinite(numbers)
    if not good.all():
      place = tuple(int(i) for i in np.argwhere(~good)[0])
      raise ValueError(
        f"{name} hold {numbers[place]} at {place}, must be finite. Drop or repair these rows."
      )


def count(value: object, name: str, caller: str) -> None:
  """Raises ValueError where a number of epochs, examples, … is not an integer of at least 1."""
  if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
    raise ValueError(f"{caller} got {name}={value!r}, must be an integer of at least 1.")


def key(value: object, caller: str) -> None:
  """Raises ValueError where something else stands in a key's place, such as its seed."""
  is_key = isinstance(value, Array) and (
    (jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and not value.ndim)
    or (value.dtype == jnp.uint32 and value.ndim == 1)
  )
  if not is_key:
    given = repr(value) if isinstance(value, int | float | str) else _article.of(value)
    raise ValueError(f"{caller} got key={given}, must be one key. Make one: jax.random.key(0).")


def widths(value: object, name: str, caller: str) -> tuple[int, ...]:
  """Returns widths, one for each layer, or raises ValueError where they are one number."""
  if not isinstance(value, Iterable):
    raise ValueError(
      f"{caller} got {name}={value!r}, must be a tuple, one for each layer: {caller}(({value},)). "
      f"The classes are {caller}(num_classes={value})."
    )
  return tuple(value)


def in_range(caller: str, low: float, high: float, **numbers: float) -> None:
  """Raises ValueError where a number, given by its name, is outside [low, high]."""
  for name, value in numbers.items():
    _number(value, f"{caller} got {name}")
    if not low <= value <= high:
      raise ValueError(f"{caller} got {name}={value}, must be in [{low}, {high}].")


def at_least(caller: str, low: float, **numbers: float) -> None:
  """Raises ValueError where a number, given by its name, is below low, or infinite."""
  for name, value in numbers.items():
    _number(value, f"{caller} got {name}")
    if not value >= low:
      raise ValueError(f"{caller} got {name}={value}, must be at least {low}.")
    if is_infinite(value):
      raise ValueError(f"{caller} got {name}={value}, must be finite.")


def above(caller: str, low: float, **numbers: float) -> None:
  """Raises ValueError where a number, given by its name, is not above low, or infinite."""
  for name, value in numbers.items():
    _number(value, f"{caller} got {name}")
    if not value > low:
      raise ValueError(f"{caller} got {name}={value}, must be above {low}.")
    if is_infinite(value):
      raise ValueError(f"{caller} got {name}={value}, must be finite.")


def rate(value: float, name: str, below: float) -> None:
  """Raises ValueError where a learning rate, momentum, … is outside [0, below)."""
  _number(value, name)
  if not 0 <= value < below:
    raise ValueError(f"{name}={value}, must be in [0, {below}).")


def _number(value: object, what: str) -> None:
  """Raises ValueError where text, None, a truth value or a list stands in a number's place."""
  if isinstance(value, bool | np.bool_) or not isinstance(value, Real | Array):
    raise ValueError(f"{what}={value!r}, must be a number.")


def is_infinite(value: float) -> bool:
  """Whether a number that is not below 0 is inf, or an integer that no float can hold."""
  return bool(value == math.inf) or (isinstance(value, int) and value > sys.float_info.max)


def is_concrete(value: object) -> bool:
  """Whether the values of an array can be read now: it is not being traced."""
  return not isinstance(value, Tracer)
