"""Neurons of the MLPs that S needs are switched off: found by gates that are trained on S.

A gate multiplies each neuron, a unit that a kernel [M, D] reads. The gates alone are trained, to
keep the risk on S low and to be few: those that stay open tell which neurons S needs. In the end
their rows of the kernels are 0, the gates are gone, and nothing else has moved. Adam, in evaluation
mode.

References:
  Chang et al., [Do Localization Methods Actually Localize Memorized Data in
  LLMs?](https://arxiv.org/abs/2311.09060), 2023; as mitigations Sakarvadia et al., [Mitigating
  Memorization in Language Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.unlearn._mlp_kernels import (
  Layers,
  gated,
  names,
  neuron_kernels,
  picked,
  without_neurons,
)
from jaxmul.unlearn.objective import Turn, adamw, batch_risk, descend
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm

_LOW, _HIGH = -0.1, 1.1
"""Where the hard concrete distribution begins and ends before it is cut to [0, 1]."""

Gates = list[jax.Array]
"""One number a neuron, [M] for each kernel."""


class _Ungated(NamedTuple):
  """The params of the original network, and the gates before the first step."""

  params: optax.Params
  gates: Gates


@algorithm
def slimming_neurons(
  learning_rate: float = 0.1,
  *,
  fraction: float = 0.01,
  penalty: float = 1.0,
  layers: Layers = None,
) -> Unlearner:
  """Switches off the neurons with the largest gates c: risk_S + λ · mean |c|, c cut to [0, 1].

  Gates begin at 1. They are ranked as they are, before the cut, so that fewer of them are equal;
  Adam's first step moves each by the rate, so that a run needs several.
  Needs S only; an epoch is a pass over S and costs one training epoch. The paper tunes rate, λ and
  epochs; λ = 1 and 5 epochs are our choice. (Its code has λ = 1000, at which all gates close alike,
  and adds up the gradients of an epoch.)

  Args:
    learning_rate: of Adam, constant.
    fraction: share of each layer's neurons that is switched off, in [0, 1]; 0 changes nothing.
    penalty: λ, at least 0.
    layers: names of the layers that read the neurons, such as "Dense_1" of `models.mlp` with one
      hidden layer. By default the second dense layers [M, D] of the MLPs of a transformer; another
      network needs names.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no layer of a
      name, or no MLP is found.

  References:
    Liu et al., [Network Slimming](https://arxiv.org/abs/1708.06519), 2017, and those above.

  Example:
    >>> slimming_neurons().passes
    'forget'
  """
  _check.at_least("slimming_neurons", 0, penalty=penalty)

  def first(key, neurons):
    del key
    return jnp.ones(neurons, jnp.float32)

  def price(gates):
    return jnp.abs(jnp.concatenate(gates)).mean()

  return _trained_gates(
    "slimming_neurons",
    learning_rate,
    fraction,
    layers,
    gates=_Gates(
      first=first,
      drawn=lambda gates, key: [_cut(gate) for gate in gates],
      price=price,
      penalty=penalty,
    ),
  )


@algorithm
def hard_concrete_neurons(
  learning_rate: float = 0.1,
  *,
  fraction: float = 0.01,
  penalty: float = 1.0,
  temperature: float = 2 / 3,
  layers: Layers = None,
) -> Unlearner:
  """Switches off the neurons whose random gates are likeliest open: risk_S + λ · mean P(c > 0).

  A gate is c = min(1, max(0, 1.2 σ((logit u + a) / T) − 0.1)), u uniform, anew in each step; a is
  trained, from N(0, 0.01²). P(c > 0) = σ(a − T log(1/11)); its mean is over the neurons of a layer,
  and then over layers. Neurons are ranked by a. Needs S only; an epoch is a pass over S and costs
  one training epoch. The paper tunes rate, λ and epochs; λ = 1 and 5 epochs are our choice (its
  code has 1000).

  Args:
    learning_rate, fraction, penalty, layers: as `slimming_neurons`.
    temperature: T, above 0; towards 0 gates are 0 or 1.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no layer of a
      name, or no MLP is found.

  References:
    Louizos et al., [Learning Sparse Neural Networks through L0
    Regularization](https://arxiv.org/abs/1712.01312), 2017, and those above.

  Example:
    >>> hard_concrete_neurons(temperature=0.5) == hard_concrete_neurons()
    False
  """
  _check.at_least("hard_concrete_neurons", 0, penalty=penalty)
  _check.above("hard_concrete_neurons", 0, temperature=temperature)

  def first(key, neurons):
    return 0.01 * jax.random.normal(key, (neurons,), jnp.float32)

  def drawn(logits, key):
    keys = jax.random.split(key, len(logits))
    return [_hard_concrete(*pair, temperature) for pair in zip(logits, keys, strict=True)]

  def price(logits):
    shift = temperature * np.log(-_LOW / _HIGH)
    return jnp.stack([jax.nn.sigmoid(a - shift).mean() for a in logits]).mean()

  return _trained_gates(
    "hard_concrete_neurons",
    learning_rate,
    fraction,
    layers,
    gates=_Gates(first=first, drawn=drawn, price=price, penalty=penalty),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Gates:
  """How gates begin, what they are in a step, and what they cost."""

  first: Callable[[jax.Array, int], jax.Array]
  drawn: Callable[[Gates, jax.Array], Gates]
  price: Callable[[Gates], jax.Array]
  penalty: float


def _trained_gates(
  caller: str, learning_rate: float, fraction: float, layers: Layers, *, gates: _Gates
) -> Unlearner:
  """Descends the risk on S of the gated network, with gates in the place of its params."""
  _check.rate(learning_rate, "learning_rate", np.inf)
  _check.in_range(caller, 0, 1, fraction=fraction)
  layers = names(layers, caller)

  def remember(network: Network, session: Session) -> _Ungated:
    kernels = picked(network.params, neuron_kernels(network.params, layers, caller))
    keys = jax.random.split(session.key, len(kernels))
    begun = [
      gates.first(key, kernel.shape[-2]).astype(kernel.dtype)
      for key, kernel in zip(keys, kernels, strict=True)
    ]
    return _Ungated(network.params, begun)

  def objective(network: Network, turn: Turn, original: _Ungated) -> tuple[jax.Array, Network]:
    train_key, gate_key = jax.random.split(turn.key)
    whole = network.replace(params=original.params, train_fn=None)
    mask = neuron_kernels(original.params, layers, caller)
    with_gates = gated(whole, mask, gates.drawn(network.params, gate_key))
    risk, _ = batch_risk(with_gates, turn.forget, train_key)
    return risk + gates.penalty * gates.price(network.params), network

  def finish(network: Network, original: _Ungated) -> Network:
    whole = network.replace(params=original.params)
    mask = neuron_kernels(original.params, layers, caller)
    return without_neurons(whole, mask, network.params, fraction)

  return descend(
    objective,
    adamw(learning_rate),
    passes="forget",
    remember=remember,
    start=lambda network, original: network.replace(params=original.gates),
    finish=finish,
  )


def _cut(gate: jax.Array) -> jax.Array:
  """Gates cut to [0, 1]; the gradient is 1 there, both ends included, and 0 elsewhere."""
  inside = (gate >= 0) & (gate <= 1)
  return jnp.where(inside, gate, jnp.where(gate > 0, 1, 0))


def _hard_concrete(logit: jax.Array, key: jax.Array, temperature: float) -> jax.Array:
  # Drawn in float32 whatever the params are: the same numbers under float64.
  u = jax.random.uniform(key, logit.shape, jnp.float32, 1e-4, 1 - 1e-4).astype(logit.dtype)
  stretched = jax.nn.sigmoid((jnp.log(u) - jnp.log1p(-u) + logit) / temperature)
  return jnp.clip(stretched * (_HIGH - _LOW) + _LOW, 0, 1)
