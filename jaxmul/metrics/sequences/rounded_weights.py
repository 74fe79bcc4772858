"""Weights of few bits: what was only hidden in small changes of weights comes back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxmul import _check
from jaxmul.binding import FROZEN, Network


def quantized(network: Network, bits: int) -> Network:
  """Returns the network with its weights rounded to b bits, kept in their own dtype.

  Each channel, the last axis of a weight, has its own step s = max |w| / (2^{b−1} − 1), and w
  becomes s · round(w / s). Params of fewer than two axes, such as biases, stay as they are, and so
  does what is no float. Of a network with adapters the frozen weights are rounded as well as the
  adapters, each of them for itself: of K + s A B all three. To round the sum, make it one kernel
  first, with `models.merge_low_rank`.

  Args:
    network: a `Network`.
    bits: b, from 2 to 16; 8 and 4 are usual.

  Raises:
    ValueError: it is no `Network`, or `bits` is outside its range.

  References:
    Zhang et al., [Catastrophic Failure of LLM Unlearning via
    Quantization](https://arxiv.org/abs/2410.16454), 2024, which rounds all weights to the nearest;
    a step for each channel is a usual choice, and ours.

  Example:
    >>> import jax.numpy as jnp, jaxmul
    >>> linear = jaxmul.bind(jnp.matmul, jnp.array([[7.0, 14.0], [2.6, 5.2]]))
    >>> quantized(linear, 4).params.tolist()
    [[7.0, 14.0], [3.0, 6.0]]
  """
  if not isinstance(network, Network):
    raise ValueError(
      f"quantized needs a Network, got {type(network).__name__}. Params become one by jaxmul.bind."
    )
  _check.count(bits, "bits", "quantized")
  _check.in_range("quantized", 2, 16, bits=bits)
  largest = 2 ** (bits - 1) - 1

  def rounded(leaf: jax.Array) -> jax.Array:
    if jnp.ndim(leaf) < 2 or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
      return leaf
    step = jnp.max(jnp.abs(leaf), axis=tuple(range(leaf.ndim - 1)), keepdims=True) / largest
    return jnp.where(step > 0, step * jnp.round(leaf / jnp.where(step > 0, step, 1)), leaf)

  def all_rounded(params: Any) -> Any:
    return jax.tree.map(rounded, params)

  state = network.state
  if isinstance(state, Mapping) and FROZEN in state:
    weights = state[FROZEN]
    state = {**state, FROZEN: {**weights, "params": all_rounded(weights["params"])}}
  return network.replace(params=all_rounded(network.params), state=state)
