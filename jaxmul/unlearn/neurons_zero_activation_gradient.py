"""Neurons of the MLPs that matter to S are switched off: found by passes over S, one shot.

A neuron is a unit h_j that a kernel W [M, D] reads, as those between the two dense layers of a
transformer's MLP. Off means that its row of W is 0: the rest of the network is as if h_j were 0,
whatever the activation function, and no bias moves. All in evaluation mode, at the original params.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import _check, losses, models
from jaxmul._arrays import by_way
from jaxmul._examples import Batch, Examples
from jaxmul.binding import Network, losses_of
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._mlp_kernels import (
  Layers,
  gated,
  names,
  neuron_kernels,
  picked,
  without_neurons,
)
from jaxmul.unlearn._whole import sum_blocks
from jaxmul.unlearn.objective import one_shot
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def zero_out_neurons(fraction: float = 0.01, *, layers: Layers = None) -> Unlearner:
  """Switches off the neurons without which, one at a time, the risk on S is highest.

  Needs S; costs one pass over it for each neuron. (The public code keeps the neuron in question and
  switches off all the others of its layer.)

  Args:
    fraction: share of each layer's neurons that is switched off, in [0, 1]; 0 changes nothing. The
      paper tunes it; 0.01 is the default of its code.
    layers: names of the layers that read the neurons, such as "Dense_1" of `models.mlp` with one
      hidden layer. By default the second dense layers [M, D] of the MLPs of a transformer; another
      network needs names.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: fraction is outside its range. `init` raises it where the network has no layer of a
      name, or no MLP is found.

  References:
    Chang et al., [Do Localization Methods Actually Localize Memorized Data in
    LLMs?](https://arxiv.org/abs/2311.09060), 2023; Sakarvadia et al., [Mitigating Memorization in
    Language Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem), which switches neurons off
    by their column and bias of the layer before: the same where the activation of 0 is 0.

  Example:
    >>> zero_out_neurons(0.1) == zero_out_neurons()
    False
  """
  return _without("zero_out_neurons", _risks_without, fraction, layers)


@algorithm
def activation_neurons(fraction: float = 0.01, *, layers: Layers = None) -> Unlearner:
  """Switches off the neurons with the largest |mean of h_j over S| · ‖W_j‖.

  The mean is over the scored positions of each example, of images over all, and then over S. Needs
  S and a Linen network, whose layers can be watched; costs one pass over S.

  Args:
    fraction, layers: as `zero_out_neurons`.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: fraction is outside its range. `init` raises it where the network has no layer of a
      name, no MLP is found, or the network is not of Linen.

  References:
    As `zero_out_neurons`.

  Example:
    >>> activation_neurons() == zero_out_neurons()
    False
  """
  return _without("activation_neurons", _activations, fraction, layers)


@algorithm
def integrated_gradient_neurons(
  fraction: float = 0.01, *, steps: int = 20, layers: Layers = None
) -> Unlearner:
  """Switches off the neurons that p, the probability of S's labels, owes most to.

  All neurons of a layer are multiplied by c, which goes from 0 to 1; a neuron's score is the mean
  over c of its part of ∂p/∂c, p the mean over the scored positions of each example and over S. As
  the steps become many, the scores of a layer add up to what p gains from it. The path is sampled
  at the middles of `steps` equal parts. Needs S; costs `steps` training epochs on S for each layer.

  In the public code only the neurons at the position before the label are multiplied, and the path
  is sampled at both of its ends. Here those at all positions are: what attention brings from
  earlier ones counts.

  Args:
    fraction, layers: as `zero_out_neurons`.
    steps: points on the path, at least 1.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no layer of a
      name, no MLP is found, or the network has a loss of its own.

  References:
    Dai et al., [Knowledge Neurons](https://arxiv.org/abs/2104.08696), 2021; and those of
    `zero_out_neurons`.

  Example:
    >>> integrated_gradient_neurons(steps=5) == integrated_gradient_neurons()
    False
  """
  _check.count(steps, "steps", "integrated_gradient_neurons")

  def scores(network, examples, size, layers):
    refuse_own_loss(network, "integrated_gradient_neurons")
    return _integrated(network, examples, size, layers, steps)

  return _without("integrated_gradient_neurons", scores, fraction, layers)


Scores = Callable[[Network, Examples, int, Layers], list[jax.Array]]
"""`(network, S, block size, layers) -> scores`, [M] for each kernel."""


def _without(caller: str, scores: Scores, fraction: float, layers: Layers) -> Unlearner:
  _check.in_range(caller, 0, 1, fraction=fraction)
  layers = names(layers, caller)

  def change(network: Network, session: Session) -> Network:
    mask = neuron_kernels(network.params, layers, caller)
    scores_of_s = scores(network, session.forget, session.batch_size, layers)
    return without_neurons(network, mask, scores_of_s, fraction)

  return one_shot(change)


def _open(network: Network, mask) -> list[jax.Array]:
  """Gates of 1 for all neurons."""
  return [jnp.ones(kernel.shape[-2], kernel.dtype) for kernel in picked(network.params, mask)]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _risks_without(
  network: Network, examples: Examples, size: int, layers: Layers
) -> list[jax.Array]:
  mask = neuron_kernels(network.params, layers, "zero_out_neurons")
  gates = _open(network, mask)

  def total(batch: Batch, place: int, neuron: jax.Array) -> jax.Array:
    off = [gate.at[neuron].set(0) if k == place else gate for k, gate in enumerate(gates)]
    outputs = gated(network, mask, off)(batch.inputs)
    return jnp.sum(jnp.where(batch.mask, losses_of(network, outputs, batch.labels), 0))

  def totals(batch: Batch) -> list[jax.Array]:
    return [
      lax.map(functools.partial(total, batch, place), jnp.arange(gate.size))
      for place, gate in enumerate(gates)
    ]

  return sum_blocks(totals, examples, size)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _activations(network: Network, examples: Examples, size: int, layers: Layers):
  mask = neuron_kernels(network.params, layers, "activation_neurons")
  chosen = [tuple(way.split("/")[:-1]) for way, is_picked in by_way(mask).items() if is_picked]

  def sums(batch: Batch) -> list[jax.Array]:
    means = [_mean(h, batch.labels) for h in models.layer_inputs(network, batch.inputs, chosen)]
    return [jnp.sum(jnp.where(batch.mask[:, None], mean, 0), 0) for mean in means]

  sizes = [
    jnp.sqrt(jnp.sum(jnp.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1) ** 2, 1))
    for kernel in picked(network.params, mask)
  ]
  totals = sum_blocks(sums, examples, size)
  return [jnp.abs(total) * norm for total, norm in zip(totals, sizes, strict=True)]


def _mean(activations: jax.Array, labels: jax.Array) -> jax.Array:
  """Activations [B, ..., M] as [B, M]: the mean over scored positions, or over all."""
  if activations.shape[:-1] == labels.shape:
    return jax.vmap(losses.mean_over_positions, (-1, None), -1)(activations, labels)
  return activations.reshape(len(activations), -1, activations.shape[-1]).mean(1)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _integrated(
  network: Network, examples: Examples, size: int, layers: Layers, steps: int
) -> list[jax.Array]:
  mask = neuron_kernels(network.params, layers, "integrated_gradient_neurons")
  gates = _open(network, mask)

  def total(gate: jax.Array, place: int, batch: Batch) -> jax.Array:
    those = [gate if k == place else other for k, other in enumerate(gates)]
    logits = gated(network, mask, those)(batch.inputs)
    p = losses.at_label(jnp.exp(losses.log_probabilities(logits)), batch.labels)
    return jnp.sum(jnp.where(batch.mask, losses.mean_over_positions(p, batch.labels), 0))

  def of_layer(place: int, batch: Batch) -> jax.Array:
    def with_slope(step, so_far):
      slope = jax.grad(total)(gates[place] * (step + 0.5) / steps, place, batch)
      return so_far + slope / steps

    return lax.fori_loop(0, steps, with_slope, jnp.zeros_like(gates[place]))

  def of_all(batch: Batch) -> list[jax.Array]:
    return [of_layer(place, batch) for place in range(len(gates))]

  return sum_blocks(of_all, examples, size)
