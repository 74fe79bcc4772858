"""Example-tied dropout: where a network may memorize an example, and how that is thrown away.

Of the M neurons that a layer reads the first F are always on. In training each example also has
some of the others, by coins that its own content tosses: the same ones in every epoch. In
evaluation only the F are on, times s = (F + p_mem (M − F)) / F, so that as much is read as was in
training on average.

A neuron is a row of the kernel of the layer that reads it: it is off where this row is 0.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import lax

from jaxmul import _check
from jaxmul._arrays import Inputs
from jaxmul.binding import ApplyFn, Network, TrainFn
from jaxmul.models._additions import by_path
from jaxmul.models._conv import Conv
from jaxmul.models._init import Model, init
from jaxmul.models._named_layers import Path, named_layers, refuse_no_names

_TIED = "tied"  # what params of such a network stand under: those of `model` are no such network
_HASH = "threefry2x32"


@dataclasses.dataclass(frozen=True)
class ExampleTiedDropout:
  """A model whose memory of an example is kept in neurons of its own, which evaluation leaves out.

  It goes where a model does: `train.Recipe(ExampleTiedDropout(models.gpt(), ("dense2",)))`. The
  network that training ends with goes on training so; `without_tied_neurons` makes a plain network
  of `model` of it.

  An example is told by what it holds, to the last bit, so that nothing has to be carried beside the
  inputs and copies of one text share their neurons; a `Recipe` with `augment` is refused. That,
  and which neurons they are, is ours: the published code goes by the number of an example, and
  masks what each block is given, by mistake along its positions in the place of its channels. The
  published s is (p_fixed + p_mem) / p_fixed, a little larger.

  Attributes:
    model: a Linen module, or what else `models.init` takes that runs Linen layers.
    layers: names of the layers, Linen's `Dense` or `Conv` or our `Conv`, that read the neurons:
      "dense2" of a `gpt`, "Dense_1" of an `mlp`. A name is that of all layers so called; with those
      before it, as "blocks_1/dense2", of one.
    p_fixed: share of the neurons that are always on, in (0, 1].
    p_mem: how likely an example has one of the others, in [0, 1]; at 0 nothing has.

  Raises:
    ValueError: a number is outside its range; when it makes a network, if there is no such layer,
      it is of another kind, or has no neuron left that is always on.

  References:
    Maini et al., [Can Neural Network Memorization Be Localized?](https://arxiv.org/abs/2307.09542),
    2023; on sequences: Sakarvadia et al., [Mitigating Memorization in Language
    Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem).

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> tied = models.ExampleTiedDropout(models.mlp((10,), 2), ("Dense_1",))
    >>> network = models.init(tied, jax.random.key(0), jnp.zeros((1, 3)))
    >>> plain = models.without_tied_neurons(network)
    >>> int((plain.params["Dense_1"]["kernel"] != 0).any(axis=1).sum())
    2
  """

  model: Model
  layers: Sequence[str]
  p_fixed: float = 0.2
  p_mem: float = 0.1

  def __post_init__(self):
    refuse_no_names(self.layers, "ExampleTiedDropout")
    object.__setattr__(self, "layers", tuple(self.layers))
    _check.in_range("ExampleTiedDropout", 0, 1, p_fixed=self.p_fixed, p_mem=self.p_mem)

  def __call__(self, key: jax.Array, inputs: Inputs) -> Network:
    """Returns a fresh network."""
    network = init(self.model, key, inputs)
    neurons = _Neurons(_read(network, inputs, self.layers), self.p_fixed, self.p_mem)
    if lost := [path for path, size in neurons.sizes if not neurons.num_fixed(size)]:
      raise ValueError(
        f"ExampleTiedDropout got p_fixed={self.p_fixed}, which leaves no neuron that is always on "
        f"before layer {'/'.join(lost[0])!r} of {dict(neurons.sizes)[lost[0]]}. Raise it."
      )
    return network.replace(
      params={_TIED: network.params},
      apply_fn=_Evaluation(network.apply_fn, neurons, network.train_fn),
      train_fn=_Train(network.apply_fn, network.train_fn, neurons),
      embed=None if network.embed is None else _Embed(network.embed),
    )


def without_tied_neurons(network: Network) -> Network:
  """Returns a plain network of the model inside: kernels with rows of 0 in place of tied neurons.

  Its outputs are those that the network has in evaluation, and what was kept in the tied neurons is
  gone. Give it to `models.generate(model=)`, `hub.save_gpt`, `models.to_torch` and to unlearning.

  Raises:
    ValueError: the network is none of an `ExampleTiedDropout`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> tied = models.ExampleTiedDropout(models.mlp((10,), 2), ("Dense_1",))
    >>> network, x = models.init(tied, jax.random.key(0), jnp.zeros((1, 3))), jnp.ones((1, 3))
    >>> bool((network(x) == models.without_tied_neurons(network)(x)).all())
    True
  """
  evaluation = network.apply_fn if isinstance(network, Network) else None
  if not isinstance(evaluation, _Evaluation):
    raise ValueError(
      "without_tied_neurons got a network without tied neurons. Train one of "
      "models.ExampleTiedDropout(model, layers)."
    )
  embed = network.embed
  return network.replace(
    params=evaluation.neurons.fixed_alone(network.params[_TIED]),
    apply_fn=evaluation.apply_fn,
    train_fn=evaluation.train_fn,
    embed=embed.embed if isinstance(embed, _Embed) else embed,
  )


@dataclasses.dataclass(frozen=True)
class _Neurons:
  """Which neurons are on.

  Attributes:
    sizes: the path of each layer that reads them, and how many it reads, M.
    p_fixed, p_mem: as of `ExampleTiedDropout`.
  """

  sizes: tuple[tuple[Path, int], ...]
  p_fixed: float
  p_mem: float

  def num_fixed(self, size: int) -> int:
    """Returns F of M."""
    return round(self.p_fixed * size)

  def fixed_alone(self, params: Any) -> Any:
    """Returns params of the model for evaluation: rows times s of what is always on, and 0."""
    leaves = by_path(params)
    for path, size in self.sizes:
      fixed = self.num_fixed(size)
      scale = (fixed + self.p_mem * (size - fixed)) / fixed
      on = jnp.where(jnp.arange(size) < fixed, scale, 0)
      kernel = leaves[*path, "kernel"]
      leaves[*path, "kernel"] = kernel * on[:, None].astype(kernel.dtype)
    return unflatten_dict(leaves)

  def of_examples(self, examples: jax.Array, path: Path, size: int) -> jax.Array:
    """Returns which neurons examples have in training, bool [B, M], by their keys [B]."""
    fixed, layer = self.num_fixed(size), zlib.crc32("/".join(path).encode())

    def others(key):
      own = jax.random.fold_in(key, layer)
      return jax.random.uniform(own, (size - fixed,), jnp.float32) < self.p_mem

    tossed = jax.vmap(others)(examples)
    return jnp.concatenate([jnp.ones((len(examples), fixed), bool), tossed], axis=1)

  def in_training(self, inputs: Inputs) -> contextlib.AbstractContextManager[None]:
    """Within it the layers read only the neurons that each example of a batch has."""
    sizes, examples = dict(self.sizes), example_keys(inputs)

    def masked(call, args, kwargs, context):
      path = context.module.path
      if context.method_name != "__call__" or path not in sizes:
        return call(*args, **kwargs)
      x, *rest = args
      if x.shape[0] != len(examples):
        raise ValueError(
          f"ExampleTiedDropout: layer {'/'.join(path)!r} reads {list(x.shape)} of "
          f"{len(examples)} examples, which must be its first axis. Name another layer."
        )
      on = self.of_examples(examples, path, sizes[path])
      on = on.reshape(len(on), *(1,) * (x.ndim - 2), -1)
      return call(jnp.where(on, x, 0), *rest, **kwargs)

    return nn.intercept_methods(masked)


@dataclasses.dataclass(frozen=True)
class _Evaluation:
  """Evaluation pass; equal for equal ones.

  Attributes:
    apply_fn: of the model.
    neurons: which are on.
    train_fn: of the model, kept for it.
  """

  apply_fn: ApplyFn
  neurons: _Neurons
  train_fn: TrainFn | None

  def __call__(self, variables: Any, inputs: Inputs) -> jax.Array:
    return self.apply_fn(_of_model(variables, self.neurons.fixed_alone), inputs)


@dataclasses.dataclass(frozen=True)
class _Train:
  """Training pass."""

  apply_fn: ApplyFn
  train_fn: TrainFn | None
  neurons: _Neurons

  def __call__(self, params, state, inputs, key, mask):
    own = params[_TIED]
    with self.neurons.in_training(inputs):
      if self.train_fn is not None:
        return self.train_fn(own, state, inputs, key, mask)
      variables = Network(own, state, self.apply_fn).variables
      return self.apply_fn(variables, inputs), state


@dataclasses.dataclass(frozen=True)
class _Embed:
  """What the model embeds integers as."""

  embed: ApplyFn

  def __call__(self, variables: Any, inputs: Inputs) -> jax.Array:
    return self.embed(_of_model(variables, lambda params: params), inputs)


def _of_model(variables: Any, change: Callable[[Any], Any]) -> Any:
  """Returns the variables of the model inside, its params changed."""
  if set(variables) == {_TIED}:  # without a state
    return change(variables[_TIED])
  return {**variables, "params": change(variables["params"][_TIED])}


def _read(network: Network, inputs: Inputs, layers: Sequence[str]) -> tuple[tuple[Path, int], ...]:
  """Returns the paths of layers, and how many neurons each reads."""
  caller = "ExampleTiedDropout"
  sizes: list[tuple[Path, int]] = []
  for path, (kind, x, _) in named_layers(network, inputs, layers, caller).items():
    if not issubclass(kind, nn.Dense | nn.Conv | Conv):
      raise ValueError(
        f"{caller}: layer {'/'.join(path)!r} is a {kind.__name__}, must be a Dense or a Conv, "
        "in whose kernel a row is a neuron."
      )
    kernel = by_path(network.params).get((*path, "kernel"))
    if kernel is None or kernel.shape[-2] != x.shape[-1]:
      raise ValueError(
        f"{caller}: layer {'/'.join(path)!r} has no kernel of its own with a row for each of the "
        f"{x.shape[-1]} neurons that it reads. Name another layer."
      )
    sizes.append((path, x.shape[-1]))
  return tuple(sizes)


def example_keys(inputs: Inputs) -> jax.Array:
  """Returns a key for each example, [B], of what it holds alone: equal for equal ones.

  Args:
    inputs: [B, ...] float or integer, or a dict of arrays; −0 is 0.
  """
  words = jnp.concatenate([_words(leaf) for leaf in jax.tree.leaves(inputs)], axis=1)
  of_place = jax.random.bits(jax.random.key(0, impl=_HASH), (2, words.shape[1]), jnp.uint32)
  sums = [jnp.sum(_mixed(words ^ own), axis=1, dtype=jnp.uint32) for own in of_place]
  return jax.random.wrap_key_data(jnp.stack(sums, axis=1), impl=_HASH)


def _mixed(words: jax.Array) -> jax.Array:
  """Returns uint32 that depend on every bit of uint32, one to one: else sums of a few would meet.

  The constants are those of "lowbias32", https://nullprogram.com/blog/2018/07/31.
  """
  words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
  words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
  return words ^ (words >> 16)


def _words(leaf: jax.Array) -> jax.Array:
  """Returns the bits of an array [B, ...] as uint32 [B, W]."""
  flat = jnp.asarray(leaf).reshape(len(leaf), -1)
  if not jnp.issubdtype(flat.dtype, jnp.inexact):
    return flat.astype(jnp.uint32)
  return lax.bitcast_convert_type(jnp.where(flat == 0, 0, flat).astype(jnp.float32), jnp.uint32)
