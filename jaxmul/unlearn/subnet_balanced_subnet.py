"""A mask on the weights of the MLPs is trained, the weights are not: S is lost with what it drops.

A score s stands for each weight w of the kernels. A kernel loses the share of its weights with the
smallest |s|; the others stay as they are. The step from |s| to the mask has no gradient, so that of
the mask is handed to |s| ("straight through"): ∂/∂s = w · ∂/∂(masked w) · sign(s). Handed to s
itself, it would have the wrong sign wherever s < 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import smallest
from jaxmul.unlearn._mlp_kernels import Layers, mlp_kernels, names, picked, put
from jaxmul.unlearn._passes import Passes
from jaxmul.unlearn.objective import Objective, batch_risk, descend, forget_gain, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


class _Frozen(NamedTuple):
  """The params of the original network, and the scores of its kernels before the first step."""

  params: optax.Params
  scores: list[jax.Array]


@algorithm
def subnet(
  learning_rate: float = 0.1,
  *,
  fraction: float = 0.1,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  layers: Layers = None,
) -> Unlearner:
  """Drops a share of the MLPs' weights by a mask that is trained on S alone: −risk_S.

  As `balanced_subnet` with α = 0, but an epoch is a pass over S. Needs S only; one epoch costs one
  training epoch on S. BatchNorm statistics follow S.

  Args:
    learning_rate, fraction, momentum, weight_decay, layers: as `balanced_subnet`.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no layer of a
      name, or no kernels.

  References:
    Sakarvadia et al., [Mitigating Memorization in Language
    Models](https://arxiv.org/abs/2410.02159), 2024.

  Example:
    >>> subnet().passes
    'forget'
  """
  optimizer = sgd(learning_rate, momentum, weight_decay)
  return _trained_mask("subnet", forget_gain, optimizer, fraction, layers=layers, passes="forget")


@algorithm
def balanced_subnet(
  learning_rate: float = 0.1,
  *,
  fraction: float = 0.1,
  alpha: float = 0.05,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
  layers: Layers = None,
) -> Unlearner:
  """Drops a share of the MLPs' weights by a trained mask: α risk_R − (1 − α) risk_S.

  The mask alone is trained: a kernel [..., I, O] keeps all but the share of its weights with the
  smallest |s|. Scores s are drawn uniformly within ±1/√fan-in, and SGD moves them, decay included;
  weights, biases, norms and embeddings do not move. The result has the masked weights, and is a
  network as any other. Needs R and S; one epoch is a pass over R with the batches of S cycled
  beside it, and costs two training epochs on R. BatchNorm statistics follow R only.

  Published for 1 to 20 epochs of batch 64 and shares from 1e-5 to 0.3, which it tunes; 0.1 and 5
  epochs are our choice. Its code fills a batch with S and R together, and is NaN at the first
  without either; here every step has a batch of each. It rounds the number of dropped weights down,
  and takes the number of outputs for the fan-in of its kernels [I, O].

  Args:
    learning_rate: η, of the scores.
    fraction: share of each kernel that is dropped, in [0, 1]; 0 changes nothing.
    alpha: α in [0, 1]; at 0 only S counts.
    momentum, weight_decay: μ and λ, of the scores.
    layers: names of the layers whose kernels may lose weights. By default the dense layers [D, M]
      and [M, D] of the MLPs of a transformer; of a network without these all kernels.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no layer of a
      name, or no kernels.

  References:
    Sakarvadia et al., [Mitigating Memorization in Language
    Models](https://arxiv.org/abs/2410.02159), 2024 (TinyMem).

  Example:
    >>> balanced_subnet(layers=("dense1", "dense2")).passes
    'retain'
  """
  _check.in_range("balanced_subnet", 0, 1, alpha=alpha)

  def objective(network, turn, _):
    risk_retain, new = batch_risk(network, turn.retain, turn.key)
    risk_forget, _ = batch_risk(network, turn.forget, jax.random.fold_in(turn.key, 1))
    return alpha * risk_retain - (1 - alpha) * risk_forget, new

  optimizer = sgd(learning_rate, momentum, weight_decay)
  return _trained_mask(
    "balanced_subnet", objective, optimizer, fraction, layers=layers, passes="retain"
  )


def _trained_mask(
  caller: str,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  fraction: float,
  *,
  layers: Layers,
  passes: Passes,
) -> Unlearner:
  """Descends an objective of the masked network, with scores in the place of its params."""
  _check.in_range(caller, 0, 1, fraction=fraction)
  layers = names(layers, caller)

  def remember(network: Network, session: Session) -> _Frozen:
    kernels = picked(network.params, mlp_kernels(network.params, layers, caller))
    keys = jax.random.split(session.key, len(kernels))
    return _Frozen(network.params, [_drawn(*pair) for pair in zip(keys, kernels, strict=True)])

  def start(network: Network, frozen: _Frozen) -> Network:
    return network.replace(params=frozen.scores)

  def masked(network: Network, frozen: _Frozen) -> Network:
    chosen = mlp_kernels(frozen.params, layers, caller)
    pairs = zip(picked(frozen.params, chosen), network.params, strict=True)
    kept = [_masked(weight, score, fraction) for weight, score in pairs]
    return network.replace(params=put(frozen.params, chosen, kept))

  return descend(
    lambda network, turn, frozen: objective(masked(network, frozen), turn, frozen),
    optimizer,
    passes=passes,
    remember=remember,
    start=start,
    finish=masked,
  )


def _drawn(key: jax.Array, kernel: jax.Array) -> jax.Array:
  """Scores like a kernel [..., I, O]: PyTorch's `kaiming_uniform_` with a = √5."""
  bound = 1 / np.sqrt(kernel.size / kernel.shape[-1])
  # In float32 whatever the params are: the same numbers under float64.
  drawn = jax.random.uniform(key, kernel.shape, jnp.float32, -bound, bound)
  return drawn.astype(kernel.dtype)


def _masked(weight: jax.Array, score: jax.Array, fraction: float) -> jax.Array:
  """A kernel without the weights of smallest |s|; its gradient with respect to s is w sign(s)."""
  magnitude = jnp.abs(score)
  fixed = lax.stop_gradient(magnitude)
  return jnp.where(smallest(fixed, fraction), 0, weight) + weight * (magnitude - fixed)
