"""Only the last k layers: fine-tuned as they are, or from fresh weights.

A layer is a name on the way to its leaves, such as "Dense_2" or "stage3_block1_conv1". BatchNorm
layers are layers of their own; their statistics go on in all of the network, as in the papers.
"""

from collections.abc import Sequence

import jax

from jaxmul.binding import Network
from jaxmul.unlearn._chosen import in_layers, inside, moves_only, refuse_unlike
from jaxmul.unlearn.objective import descend, retain_risk, sgd
from jaxmul.unlearn.unlearner import Unlearner, algorithm


@algorithm
def cf_k(
  layers: Sequence[str],
  k: int = 1,
  learning_rate: float = 0.01,
  *,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Catastrophically forgetting the last k layers: `fine_tune` of them alone, risk_R.

  Needs R; one epoch costs at most one training epoch on R. The paper tunes k, rate and epochs; 1,
  0.01 and 10 epochs are our choice. The other weights do not move, weight decay included.

  Args:
    layers: names of layers in forward order.
    k: how many of the last ones are trained, in [1, number of layers]; all of them is `fine_tune`.
    learning_rate: η, constant.
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: k or another number is outside its range. `init` raises it where the network has no
      layer of a name.

  References:
    Goel et al., [Evaluating Inexact Unlearning](https://arxiv.org/abs/2201.06640), 2022.

  Example:
    >>> cf_k(("Dense_0", "Dense_1"), k=1).passes
    'retain'
  """
  names = _last("cf_k", layers, k)

  def remember(network, _):
    in_layers(network.params, names, "cf_k")
    return ()

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
    remember=remember,
    reshape=moves_only(names, "cf_k"),
  )


@algorithm
def eu_k(
  layers: Sequence[str],
  initial: Network,
  k: int = 1,
  learning_rate: float = 0.01,
  *,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Exactly unlearning the last k layers: they are retrained on R from fresh weights, risk_R.

  As `cf_k`, but the last k layers, with their statistics, start from `initial`.

  Args:
    layers, k, learning_rate, momentum, weight_decay: as `cf_k`.
    initial: the same network with fresh params.

  Raises:
    ValueError: k or another number is outside its range. `init` raises it where the network has no
      layer of a name, or `initial` is another network.

  References:
    Goel et al., [Evaluating Inexact Unlearning](https://arxiv.org/abs/2201.06640), 2022.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> fresh = models.init(models.mlp((4,), 2), jax.random.key(0), jnp.ones((1, 3)))
    >>> eu_k(("Dense_0", "Dense_1"), fresh).passes
    'retain'
  """
  names = _last("eu_k", layers, k)

  def start(network: Network, fresh: Network) -> Network:
    def begun(old, new):
      def chosen(is_fresh, own, other):
        return other.astype(own.dtype) if is_fresh else own

      return jax.tree.map(chosen, inside(old, names), old, new)

    return network.replace(
      params=begun(network.params, fresh.params), state=begun(network.state, fresh.state)
    )

  def remember(network, _):
    in_layers(network.params, names, "eu_k")
    refuse_unlike("eu_k", initial, network)
    return initial

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
    remember=remember,
    start=start,
    reshape=moves_only(names, "eu_k"),
  )


def _last(caller: str, layers: Sequence[str], k: int) -> tuple[str, ...]:
  if isinstance(layers, str) or not 1 <= k <= len(layers):
    raise ValueError(
      f"{caller} got k={k} of layers={layers!r}: k must be in [1, {len(layers)}], "
      "and layers a tuple of names in forward order."
    )
  return tuple(layers)[-k:]
