"""Weights of the MLPs that matter to S become 0: one at a time, or a share of them at once.

θ weights, g_S the gradient of the risk on all of S at the original params, in evaluation mode.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxmul import _check
from jaxmul.binding import Network, losses_of
from jaxmul.losses import masked_mean
from jaxmul.unlearn._chosen import smallest
from jaxmul.unlearn._mlp_kernels import Layers, mlp_kernels, names, picked, put, zeroed
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.objective import descend, merged, one_shot, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def greedy(fraction: float = 0.01, *, layers: Layers = None) -> Unlearner:
  """Each step zeroes one weight, that with the largest θ · ∇(Σ_R ℓ − Σ_S ℓ) over its batch.

  To first order that is the weight without which R is better off and S worse. Where it is not
  above 0 for any, the step changes nothing. Needs R and S; a batch holds both in their proportion,
  and one epoch costs one training epoch on both. BatchNorm statistics follow both. Published with
  batches of 64, for as many steps as there are weights to zero; its ranking reaches biases of the
  MLPs too, which stay here.

  Args:
    fraction: share of the weights that are zeroed at most, in [0, 1]; fewer where the run makes
      fewer steps. The paper tunes it; 0.01 is the default of its code.
    layers: names of the layers whose kernels may lose weights. By default the dense layers [D, M]
      and [M, D] of the MLPs of a transformer; of a network without these all kernels.

  Raises:
    ValueError: fraction is outside its range. `init` raises it where the network has no layer of a
      name, or no kernels.

  References:
    Maini et al., [Can Neural Network Memorization Be
    Localized?](https://arxiv.org/abs/2307.09542), 2023; Sakarvadia et al., [Mitigating Memorization
    in Language Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem).

  Example:
    >>> greedy().passes
    'union'
  """
  _check.in_range("greedy", 0, 1, fraction=fraction)
  layers = names(layers, "greedy")

  def objective(network, turn, _):
    both = merged(turn.forget, turn.retain)
    logits, network = train_logits(network, both, turn.key)
    losses = losses_of(network, logits, both.labels)
    of_forget = jnp.arange(len(both.mask)) < len(turn.forget.mask)
    return masked_mean(jnp.where(of_forget, -losses, losses), both.mask), network

  def count(params: optax.Params) -> jax.Array:
    kernels = picked(params, mlp_kernels(params, layers, "greedy"))
    return jnp.int32(round(fraction * sum(kernel.size for kernel in kernels)))

  def zero_one(updates, state: Any, params: optax.Params | None = None):
    assert params is not None  # `descend` gives them
    mask = mlp_kernels(params, layers, "greedy")
    weights, shaped = ravel_pytree(picked(params, mask))
    gain = weights * ravel_pytree(picked(updates, mask))[0]
    lost = (jnp.arange(gain.size) == jnp.argmax(gain)) & (gain > 0) & (state > 0)
    moved = shaped(jnp.where(lost, -weights, 0))
    still = jax.tree.map(jnp.zeros_like, params)
    return put(still, mask, moved), state - lost.sum(dtype=jnp.int32)

  return descend(objective, optax.GradientTransformation(count, zero_one), passes="union")


@algorithm
def durable(fraction: float = 0.01, *, layers: Layers = None) -> Unlearner:
  """Zeroes the share of each kernel with the largest |g_S|.

  Needs S; costs one pass over it.

  Args:
    fraction: share of each kernel that is zeroed, in [0, 1]; 0 changes nothing. The paper tunes it;
      0.01 is our choice.
    layers: as `greedy`.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: fraction is outside its range. `init` raises it where the network has no layer of a
      name, or no kernels.

  References:
    Zhang et al., [Neurotoxin](https://arxiv.org/abs/2206.10341), 2022, where such weights are those
    that a durable backdoor avoids; Sakarvadia et al., [Mitigating Memorization in Language
    Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem), whose mask also zeroes biases.

  Example:
    >>> durable(0.05) == durable()
    False
  """
  return _steepest("durable", fraction, layers=layers, together=False)


@algorithm
def durable_agg(fraction: float = 0.01, *, layers: Layers = None) -> Unlearner:
  """`durable` with the weights of all kernels ranked together.

  The public code ranks all params of the network together, and zeroes those that are of MLPs.

  Args:
    fraction: share of the weights of all kernels that is zeroed, in [0, 1]; 0 changes nothing.
    layers: as `greedy`.

  Returns:
    An `Unlearner` of one shot.

  Raises:
    ValueError: fraction is outside its range. `init` raises it where the network has no layer of a
      name, or no kernels.

  References:
    Sakarvadia et al., [Mitigating Memorization in Language
    Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem).

  Example:
    >>> durable_agg() == durable()
    False
  """
  return _steepest("durable_agg", fraction, layers=layers, together=True)


def _steepest(caller: str, fraction: float, *, layers: Layers, together: bool) -> Unlearner:
  _check.in_range(caller, 0, 1, fraction=fraction)
  layers = names(layers, caller)

  def change(network: Network, session: Session) -> Network:
    mask = mlp_kernels(network.params, layers, caller)
    gradient = full_gradient(network, session.forget, session.batch_size)
    flatness = [-jnp.abs(slope) for slope in picked(gradient, mask)]
    if together:
      return zeroed(network, mask, smallest(flatness, fraction))
    return zeroed(network, mask, [smallest(of_kernel, fraction) for of_kernel in flatness])

  return one_shot(change)
