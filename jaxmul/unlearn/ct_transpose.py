"""CT: convolution kernels are transposed, then the network is tuned on R."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmul.binding import Network
from jaxmul.unlearn._chosen import scaled
from jaxmul.unlearn.objective import Turn, descend, retain_risk, sgd
from jaxmul.unlearn.unlearner import Unlearner, algorithm


@algorithm
def ct(
  learning_rate: float = 1e-3, *, momentum: float = 0.9, weight_decay: float = 5e-4
) -> Unlearner:
  """Convolution transpose: kernels [k, k, I, O] are transposed over their two axes; tunes on R.

  The rate falls along a cosine, η·½(1 + cos(π e/E)) in epoch e from 0. Published for 3 epochs of
  batch 64. Needs R and a network with convolutions; one epoch costs one training epoch on R.
  Kernels that are not square stay as they are.

  Args:
    learning_rate: η, of the first epoch.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`. Its `init` raises ValueError where the network has no square kernels.

  Raises:
    ValueError: a number is outside its range.

  References:
    Cadet et al., [Deep Unlearn](https://arxiv.org/abs/2410.01276), 2024.

  Example:
    >>> ct() == ct()
    True
  """

  def square(leaf) -> bool:
    return jnp.ndim(leaf) == 4 and leaf.shape[0] == leaf.shape[1] > 1

  def remember(network, session):
    del session
    if not any(square(leaf) for leaf in jax.tree.leaves(network.params)):
      raise ValueError(
        "ct needs convolution kernels [k, k, I, O] with k above 1, and this network has none. "
        "Use msg or localized_reset."
      )
    return ()

  def start(network: Network, memory) -> Network:
    del memory
    transposed = jax.tree.map(
      lambda leaf: jnp.swapaxes(leaf, 0, 1) if square(leaf) else leaf, network.params
    )
    return network.replace(params=transposed)

  def reshape(updates: Any, memory, turn: Turn) -> Any:
    del memory
    return scaled(updates, 0.5 * (1 + jnp.cos(jnp.pi * turn.clock.epoch / turn.epochs)))

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
    remember=remember,
    start=start,
    reshape=reshape,
  )
