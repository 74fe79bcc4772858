"""Proxies read off one backward pass: ∇ℓ of each example, by its params θ or its input x.

ℓ is the network's own loss. Where inputs are tokens, x are their vectors, as the network embeds
them. Both are [B], float32, higher = more memorized, of the evaluation pass.
"""

from typing import Any

import jax

from jaxmul._blocks import small_blocks
from jaxmul._gradients import lengths, of_examples
from jaxmul.binding import ApplyFn, refuse_batch_stats
from jaxmul.proxies.outputs import Batch, checked


def grand(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """GraNd, ‖∇_θ ℓ‖₂: how hard an example pulls at the network.

  No per-example gradient exists where every param belongs to one dense, convolution, normalisation
  or embedding layer of a Linen network (`models.has_ghost_norms`): about the cost of one plain
  gradient, and the memory of one. Any other network gets `vmap(grad)`, as many examples at a time
  as fit in 256 MB of gradients.

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree. Only its float leaves are
      differentiated.
    batch: `(inputs [B, ...], labels int [B, *P])`, inputs float or tokens.
    apply_fn: `apply_fn(params, inputs) -> outputs [B, *P, C]`, evaluation mode.

  Returns:
    Scores [B], float32, at least 0, in nats per unit of the params.

  Raises:
    ValueError: `params` is not callable and no `apply_fn` is given, raw variables hold batch
      statistics, or the batch is not as above.

  References:
    Paul et al., [Deep Learning on a Data Diet](https://arxiv.org/abs/2107.07075), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> def model(w, x): return x @ w
    >>> batch = (jnp.array([[3.0, 4.0]]), jnp.array([0]))
    >>> round(grand(jnp.zeros((2, 2)), batch, model).item(), 4)  # ‖x‖ ‖p − onehot(y)‖
    3.5355
  """
  network, inputs, labels = checked(params, batch, apply_fn, "grand")
  refuse_batch_stats(network, "grand")
  return small_blocks(lambda x, y: of_examples(network, x, y, norms=True).norms, inputs, labels)


def input_gradient(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """‖∇_x ℓ‖₂ [B] in nats per input unit, float32, at least 0; arguments and errors as `grand`.

  Params are not differentiated: raw variables with batch statistics are fine.

  References:
    Cumulative sample gradient, [OpenReview jeTiBeW3iZ](https://openreview.net/forum?id=jeTiBeW3iZ).

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> round(input_gradient(jnp.eye(2), batch, lambda w, x: x @ w).item(), 4)  # ‖W(p − onehot)‖
    0.7071
  """
  network, inputs, labels = checked(params, batch, apply_fn, "input_gradient", by_inputs=True)

  def norms(inputs, labels):
    return lengths(of_examples(network, inputs, labels, to_inputs=True).inputs)

  return small_blocks(norms, inputs, labels)
