"""Localized reset: channels that matter most to S are reset, then the network is tuned on R.

Kernels are the weights of convolutions [kh, kw, I, O] where the network has any, and those of dense
layers [I, O] where it has none. g_S is the gradient of the risk on all of S at the original params
θ₀, in evaluation mode.
"""

import jax
import jax.numpy as jnp

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import Chosen, kernels, refuse_unlike, replaced, smallest
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.objective import descend, retain_risk, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def localized_reset(
  initial: Network,
  learning_rate: float = 0.01,
  *,
  fraction: float = 0.3,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """DEL: resets the channels that matter most to S, with the largest mean |θ · g_S|; tunes on R.

  A channel is one output of a kernel; channels of all kernels are ranked together. Needs R and S;
  one epoch costs one training epoch on R, and the ranking a pass over S. The paper tunes rate,
  epochs and share; 0.01, 10 epochs and 0.3 are our choice.

  Args:
    initial: the same network with fresh params, for the new values.
    learning_rate: η, constant.
    fraction: share of all channels that is reset, in [0, 1]; 0 is `fine_tune`.
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where `initial` is another network.

  References:
    Torkzadehmahani et al., [Improved Localized Machine
    Unlearning](https://arxiv.org/abs/2412.02432).

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> fresh = models.init(models.mlp((4,), 2), jax.random.key(0), jnp.ones((1, 3)))
    >>> localized_reset(fresh).passes
    'retain'
  """
  _check.in_range("localized_reset", 0, 1, fraction=fraction)

  def remember(network: Network, session: Session) -> Chosen:
    refuse_unlike("localized_reset", initial, network)
    gradient = full_gradient(network, session.forget, session.batch_size)
    is_kernel, tree = jax.tree.flatten(kernels(network.params))
    weights, gradients = jax.tree.leaves(network.params), jax.tree.leaves(gradient)
    unimportance = [
      -jnp.abs(w * g).reshape(-1, w.shape[-1]).mean(0)
      for kernel, w, g in zip(is_kernel, weights, gradients, strict=True)
      if kernel
    ]
    reset = iter(smallest(unimportance, fraction))
    masks = [
      jnp.broadcast_to(next(reset), w.shape) if kernel else jnp.zeros(w.shape, bool)
      for kernel, w in zip(is_kernel, weights, strict=True)
    ]
    return Chosen(jax.tree.unflatten(tree, masks), initial.params)

  optimizer = sgd(learning_rate, momentum, weight_decay)
  return descend(retain_risk, optimizer, remember=remember, start=replaced)
