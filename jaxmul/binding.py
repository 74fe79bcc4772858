"""Params that know their own forward pass.

A `Network` is params θ, state s that is not trained (BatchNorm statistics) and static functions:
the evaluation pass `apply_fn` and, optionally, the training pass `train_fn`, the loss that it is
trained with, and `embed` for inputs that have no gradient. It is a pytree, so it goes through
`jit`, `vmap` and `grad` like plain params, and it can be called. Only `params` is ever
differentiated, decayed, masked or normed.
"""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from jaxmul import _arrays, _article, _outputs, losses
from jaxmul._arrays import Array, Inputs
from jaxmul._blocks import least_rows

ApplyFn = Callable[[Any, Inputs], jax.Array]
TrainFn = Callable[..., tuple[jax.Array, Any]]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]

FROZEN = "frozen"
"""Under this name a state holds weights that are used and never moved, if there are any."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """Params with their forward pass; made by `bind`.

  Attributes:
    params: any pytree, the only part that is trained; of a Linen module what its variables hold
      under "params".
    state: mapping such as `{"batch_stats": ...}`, or None; what stands under `FROZEN` never moves.
    apply_fn: static, `apply_fn(variables, inputs [B, ...]) -> outputs [B, *P, C]`, evaluation mode,
      each example independent of the others; variables are `network.variables`.
    train_fn: static, `train_fn(params, state, inputs, key, mask) -> (outputs [B, *P, C], state)`,
      or None where training and evaluation are the same computation.
    loss: static, `loss(outputs [B, *P, C], labels) -> [B]`, what it is trained with.
    embed: static, `embed(variables, inputs [B, ...]) -> embedded [B, ...]`, floats which `apply_fn`
      takes in place of the integer inputs; None where inputs are floats.
  """

  params: Any
  state: Any
  apply_fn: ApplyFn = dataclasses.field(metadata={"static": True})
  train_fn: TrainFn | None = dataclasses.field(default=None, metadata={"static": True})
  loss: LossFn = dataclasses.field(default=losses.cross_entropy, metadata={"static": True})
  embed: ApplyFn | None = dataclasses.field(default=None, metadata={"static": True})

  def __call__(self, inputs: Inputs) -> jax.Array:
    """Returns evaluation-mode outputs [B, *P, C] of inputs [B, ...]."""
    outputs = self.apply_fn(self.variables, inputs)
    if self.loss is losses.cross_entropy:  # a loss of one's own takes what it was made for
      _outputs.refuse_other(outputs, "evaluation")
    return outputs

  def embedded(self, inputs: Inputs) -> Inputs:
    """Returns inputs as floats [B, ...] that a gradient can be taken at: those of `embed`, if any.

    Floats stay as they are; they may be embedded already.

    Raises:
      ValueError: `embed` returns anything but one array.
    """
    if self.embed is None or _arrays.is_float(inputs):
      return inputs
    vectors = self.embed(self.variables, inputs)
    if not isinstance(vectors, Array):
      raise ValueError(
        f"embed returned {_arrays.kinds(vectors)}, must return one array of floats [B, ...] that "
        "apply_fn takes in place of the inputs."
      )
    return vectors

  @property
  def variables(self) -> Any:
    """What `apply_fn` is given: params with state, or params alone where state is None."""
    return self.params if self.state is None else {"params": self.params, **self.state}

  def train(self, inputs: Inputs, key: jax.Array, mask: jax.Array) -> tuple[jax.Array, Any]:
    """Returns training-mode outputs [B, *P, C] and the new state.

    Without a single real row the state stays as it is, and the outputs are those of a full batch:
    statistics of no rows would be NaN, and so would every gradient through them.

    Args:
      inputs: [B, ...].
      key: for dropout and the like.
      mask: bool [B]; rows that are False are padding. A `train_fn` that takes no account of it sees
        what they hold: in training other examples of the same set.

    Raises:
      ValueError: the state that `train_fn` returns has another structure, shape or dtype, or the
        outputs are no array.
    """
    if self.train_fn is None:
      return self(inputs), self.state
    some = mask.any()
    # A copy of the tree: Equinox makes a state that was set useless to whoever holds it.
    given = jax.tree.map(lambda leaf: leaf, self.state)
    outputs, state = self.train_fn(self.params, given, inputs, key, mask | ~some)
    _refuse_other_state(state, self.state)
    if self.loss is losses.cross_entropy:
      _outputs.refuse_other(outputs, "training")
    return outputs, jax.tree.map(lambda new, old: jnp.where(some, new, old), state, self.state)

  def replace(self, **changes: object) -> Self:
    """Returns a copy with the named fields changed."""
    return dataclasses.replace(self, **changes)


def bind(
  apply_fn: ApplyFn,
  params: Any,
  state: Any = None,
  train_fn: TrainFn | None = None,
  *,
  loss: LossFn = losses.cross_entropy,
  embed: ApplyFn | None = None,
  outputs: _outputs.Pick | None = None,
) -> Network:
  """Binds params to their forward pass.

  Args:
    apply_fn: `apply_fn(params, inputs [B, ...]) -> outputs [B, *P, C]`, evaluation mode; P is ()
      for images and (T,) for text. Inputs are those of the data set: an array, or a dict of
      arrays. With `state` it gets `{"params": params, **state}` instead of `params`.
    params: any pytree; of a Linen module `variables["params"]`, or all variables if there are no
      others; or an `nnx.Module`, whose `nnx.Param` become the params, everything else it carries
      the state, and its `train()` and `eval()` the two modes. Of an Equinox module its float arrays
      become the params; the functions are given the whole module.
    state: mapping of what the network carries but does not train, such as
      `{"batch_stats": variables["batch_stats"]}`; None if there is nothing.
    train_fn: `train_fn(params, state, inputs, key, mask) -> (outputs, state)`; needed wherever
      training mode differs (BatchNorm, dropout). Without it the network trains in evaluation mode:
      statistics are used and never updated, nothing is dropped, and whoever trains a network with
      state warns. Rows where `mask` is False must not count in statistics if that can be done; they
      hold other examples of the same set, so that they do little harm where it cannot.
    loss: `loss(outputs, labels) -> [B]`, what the network is trained with and scored by; each
      example's own, and a function made once. With another than cross-entropy, as for several
      labels or numbers to predict, outputs and labels may be of any shape [B, ...]; what needs the
      probabilities of classes then says so.
    embed: for integer inputs, or a dict of arrays, `embed(params, inputs) -> embedded [B, ...]` of
      floats, such as the vectors of tokens [B, T, D], with params as `apply_fn` gets them.
      `apply_fn(params, embedded)` must return what `apply_fn(params, inputs)` does. Curvature and
      gradients of inputs are taken there; without it, they refuse such inputs.
    outputs: where a pass returns a tuple, a dict or another object, picks the logits [B, *P, C] of
      it, in evaluation and in training: `outputs=lambda out: out["logits"]`. A function made once.

  Returns:
    A `Network`, callable and usable wherever params are. Bind once per module: two different
    function objects are two traces.

  Raises:
    ValueError: `state` is not a mapping, or holds a "params" entry; `loss`, `embed` or `outputs`
      cannot be called; or an `nnx.Module` cannot be split, or is given with a state or `train_fn`.

  Example:
    >>> import jax.numpy as jnp, jaxmul
    >>> linear = jaxmul.bind(lambda w, x: x @ w, jnp.eye(2))
    >>> linear(jnp.array([[1.0, 2.0]])).tolist()
    [[1.0, 2.0]]
    >>> both = jaxmul.bind(lambda w, x: (x @ w, x), jnp.eye(2), outputs=lambda out: out[0])
    >>> both(jnp.array([[1.0, 2.0]])).tolist()
    [[1.0, 2.0]]
  """
  if not callable(apply_fn):
    raise ValueError(
      f"bind needs a callable apply_fn, got {type(apply_fn).__name__}. "
      "The order is jaxmul.bind(model.apply, params)."
    )
  for name, function in (("loss", loss), ("embed", embed), ("outputs", outputs)):
    if not callable(function) and (name == "loss" or function is not None):
      raise ValueError(
        f"bind needs {name} to be a function, got {type(function).__name__}. See jaxmul.bind."
      )
  if state is not None and (not isinstance(state, Mapping) or "params" in state):
    raise ValueError(
      f"bind needs state to be a mapping without 'params', got {_describe(state)}. "
      "Pass state={'batch_stats': variables['batch_stats']}."
    )
  if is_a(params, "flax.nnx"):
    if state is not None or train_fn is not None:
      raise ValueError(
        f"bind got {_describe(params)}, an nnx.Module, with state or train_fn: it has its own. "
        "Drop them."
      )
    network = _of_nnx(params, apply_fn, "bind").replace(loss=loss, embed=embed)
  else:
    if state is None:
      params, state = _bare(params)
    network = _of_equinox(Network(params, state, apply_fn, train_fn, loss, embed))
  return network if outputs is None else picking(network, outputs)


def picking(network: Network, outputs: _outputs.Pick) -> Network:
  """Returns a network whose passes return what `outputs` picks of theirs."""
  apply_fn, train_fn = network.apply_fn, network.train_fn
  return network.replace(
    apply_fn=_outputs.Evaluation(apply_fn, outputs),
    train_fn=None if train_fn is None else _outputs.Training(train_fn, outputs),
  )


def _bare(params: Any) -> tuple[Any, Any]:
  """Returns params and state of what a Linen module without statistics calls its variables."""
  if isinstance(params, Mapping) and set(params) == {"params"}:
    return params["params"], {}
  return params, None


def is_a(value: object, package: str) -> bool:
  """Whether a value is a module of flax.linen, flax.nnx or equinox, without importing any."""
  module = getattr(sys.modules.get(package), "Module", None)
  return module is not None and isinstance(value, module)


def call_self(params: Callable[[Inputs], jax.Array], inputs: Inputs) -> jax.Array:
  """The apply_fn of a pytree that is itself a function of its inputs (NNX, Equinox)."""
  return params(inputs)


def as_network(params: Any, apply_fn: ApplyFn | None, caller: str) -> Network:
  """Returns params as a `Network`, whichever of the three forms of the call was used.

  Raises:
    ValueError: `params` cannot be called and no `apply_fn` is given, both know a forward pass, or
      it is a Linen module, which has no params, or an Equinox module that needs more than inputs.
  """
  if isinstance(params, Network):
    if apply_fn is not None:
      raise ValueError(f"{caller} got a Network and an apply_fn: params are bound, drop apply_fn.")
    return params
  if is_a(params, "flax.nnx"):
    return _of_nnx(params, apply_fn, caller)
  if apply_fn is not None:
    params, state = _bare(params)
    return _of_equinox(Network(params, state, apply_fn))
  if is_a(params, "flax.linen"):
    raise ValueError(
      f"{caller} got {_describe(params)}, a module without params. "
      "Make some: jaxmul.models.init(module, key, inputs)."
    )
  _refuse_equinox(params, caller)
  if is_a(params, "equinox") and callable(params):
    from jaxmul.models.equinox_modules import call

    return _of_equinox(Network(params, None, call))
  if callable(params):
    return Network(params, None, call_self)
  raise ValueError(
    f"{caller} needs apply_fn: params is {_describe(params)}, not callable. Pass "
    "apply_fn=model.apply, or bind it once with jaxmul.bind(model.apply, params)."
  )


def losses_of(network: Network, outputs: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns each example's own loss [B] of a network's outputs, in float32 or wider.

  Raises:
    ValueError: the network's loss is a function of its user's that returns anything else.
  """
  loss = network.loss(outputs, labels)
  if jnp.shape(loss) != (len(labels),):
    raise ValueError(
      f"the loss of a network must return [B] = [{len(labels)}], one number an example, got "
      f"{jnp.shape(loss)}. Take the mean over what an example has more of."
    )
  return _arrays.widened(jnp.asarray(loss))


def refuse_own_loss(
  network: Network,
  caller: str,
  cure: str = "Use the loss, grand, curvature, or the trackers cumulative_loss and tracin",
) -> None:
  """Raises ValueError where a network is not trained with cross-entropy: it has no p of classes."""
  if network.loss is not losses.cross_entropy:
    name = getattr(network.loss, "__name__", type(network.loss).__name__)
    raise ValueError(
      f"{caller} needs probabilities of classes, but the network is bound with a loss of its own, "
      f"{name}. {cure}."
    )


def refuse_without_embed(network: Network, inputs: Inputs, caller: str) -> None:
  """Raises ValueError where inputs have no gradient and the network does not embed them."""
  if network.embed is None and not _arrays.is_float(inputs):
    raise ValueError(
      f"{caller} takes gradients of inputs, which are {_arrays.kinds(inputs)}. Bind the network "
      "with embed=, which makes one array of floats of them: jaxmul.bind(apply_fn, params, "
      "embed=embed)."
    )


def refuse_batch_stats(network: Network, caller: str) -> None:
  """Raises ValueError where a parameter gradient would also differentiate BatchNorm statistics."""
  if (
    network.state is None
    and isinstance(network.params, Mapping)
    and "batch_stats" in network.params
  ):
    raise ValueError(
      f"{caller} takes parameter gradients, but params holds 'batch_stats', which is not trained. "
      "Bind them apart: jaxmul.bind(model.apply, variables['params'], "
      "state={'batch_stats': variables['batch_stats']})."
    )


def refuse_untrainable(network: Network, caller: str) -> None:
  """Raises ValueError where params cannot be trained: batch statistics, or what is no float."""
  refuse_batch_stats(network, caller)
  for path, leaf in jax.tree_util.tree_leaves_with_path(network.params):
    kind = getattr(leaf, "dtype", None)
    if not isinstance(leaf, float) and (kind is None or not jnp.issubdtype(kind, jnp.inexact)):
      raise ValueError(
        f"{caller} trains all params, but {jax.tree_util.keystr(path) or 'params'} is "
        f"{type(leaf).__name__ if kind is None else kind}. Bind the float arrays alone and close "
        "over the rest."
      )


def warn_without_train_fn(network: Network, caller: str, cure: str = "") -> None:
  """Warns where a network with state is about to be trained in evaluation mode."""
  if network.train_fn is None and _moves(network.state):
    warnings.warn(
      f"{caller}: the network has {sorted(network.state)} and no train_fn. It trains in evaluation "
      f"mode: statistics stay as they are, nothing is dropped. Bind it with train_fn={cure}.",
      stacklevel=3,
    )


def refuse_lone_rows(
  network: Network,
  count: int,
  batch_size: int,
  caller: str,
  cure: str = "Take another batch_size, or more examples",
  microbatch: int | None = None,
) -> None:
  """Raises ValueError where a step on some of `count` examples would take statistics of one."""
  kind = "batch"
  if microbatch is not None and least_rows(count, batch_size) > 1:
    kind, cure = "microbatch", "Take a larger microbatch"
  least = least_rows(count, batch_size, microbatch)
  if least < 2 and network.train_fn is not None and _moves(network.state):
    raise ValueError(
      f"{caller} would train on a {kind} of {least} example, must be at least 2 for a network with "
      f"{sorted(network.state)}: one row has no statistics. {cure}."
    )


def frozen(network: Network) -> dict[str, Any]:
  """Returns the state of a network whose own params stand beside all of `network`, which stays."""
  return {FROZEN: {"params": network.params, "state": network.state}}


def _moves(state: Any) -> bool:
  """Whether there is anything in a state that training moves."""
  if isinstance(state, Mapping):
    state = {name: part for name, part in state.items() if name != FROZEN}
  return bool(jax.tree.leaves(state))


def _refuse_other_state(new: object, old: object) -> None:
  """Raises ValueError where a training pass returns another kind of state than it was given."""

  def kinds(state):
    leaves, structure = jax.tree.flatten(state)
    return structure, [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]

  def by_name(state):
    parts = state if isinstance(state, Mapping) else {} if state is None else {"state": state}
    return {str(name): kinds(part) for name, part in parts.items()}

  if kinds(new) == kinds(old):
    return
  got, wanted = by_name(new), by_name(old)
  changed = [name for name in got | wanted if got.get(name) != wanted.get(name)]
  name = min(changed, default="state")
  raise ValueError(
    f"the training pass changes the structure, shapes or dtypes of {name!r}, which must stay as it "
    "was given. Make all of it when the network is made, and leave out what is not carried on."
  )


def _of_nnx(module: Any, apply_fn: ApplyFn | None, caller: str) -> Network:
  # Which needs flax.nnx: it is imported if there is one.
  from jaxmul.models.nnx_modules import network_of

  return network_of(module, apply_fn, caller)


def _of_equinox(network: Network) -> Network:
  """Returns a network whose params, of an Equinox module, are its float arrays alone."""
  if not is_a(network.params, "equinox"):
    return network
  from jaxmul.models.equinox_modules import Joined, JoinedInState, parts

  params, rest = parts(network.params)
  if rest is None:
    return network
  joined = Joined if network.state is None else JoinedInState
  train_fn, embed = network.train_fn, network.embed
  return network.replace(
    params=params,
    apply_fn=joined(network.apply_fn, rest),
    train_fn=None if train_fn is None else Joined(train_fn, rest),
    embed=None if embed is None else joined(embed, rest),
  )


def _refuse_equinox(params: object, caller: str) -> None:
  """Raises ValueError where an Equinox module cannot be called with inputs alone."""
  if not is_a(params, "equinox"):
    return
  layers = sys.modules["equinox"].nn

  def is_special(node):
    return isinstance(node, layers.StateIndex | layers.Dropout)

  for node in jax.tree.leaves(params, is_leaf=is_special):
    if isinstance(node, layers.StateIndex):
      raise ValueError(
        f"{caller} got {_describe(params)} of Equinox that carries state, such as BatchNorm's. "
        "Bind it: jaxmul.bind(apply_fn, params, {'name': state}, train_fn)."
      )
    if isinstance(node, layers.Dropout) and node.inference is False and node.p:
      raise ValueError(
        f"{caller} got {_describe(params)} of Equinox whose dropout is on. Pass "
        "eqx.nn.inference_mode(model); to train, jaxmul.bind(apply_fn, params, None, train_fn)."
      )


def _describe(value: object) -> str:
  if isinstance(value, Mapping):
    return f"{_article.of(value)} with keys {sorted(map(str, value))[:4]}"
  return _article.of(value)
