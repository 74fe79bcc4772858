"""MSG, CT and localized reset: the network is damaged where it matters, then tuned on R.

Kernels are the weights of convolutions [kh, kw, I, O] where the network has any, and those of dense
layers [I, O] where it has none. g_S and g_P are gradients of the risk at the original params θ₀, in
evaluation mode.
"""

import jax
import jax.numpy as jnp
import optax

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import Chosen, kernels, refuse_unlike, replaced, scaled, smallest
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.objective import Turn, descend, retain_risk, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def msg(
  initial: Network,
  learning_rate: float = 1e-3,
  *,
  fraction: float = 0.3,
  rest: float = 0.1,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Masked small gradients: per kernel, resets the weights of smallest |g_P − g_S|; tunes on R.

  P is a random part of R as large as S, or all of R where R is smaller; it is drawn once. The
  gradients of a kernel's other weights are scaled by `rest`. Biases, normalisations and, beside
  convolutions, dense layers move in full. All weights decay. The rate rises over the first
  A = ⌈E/2⌉ of E epochs, to η·e/A in epoch e from 1, and then falls, to η·(E + 1 − e)/(E + 1 − A).
  Of 5 epochs these are η/3, 2η/3, η, 2η/3, η/3. Published for 5 epochs of batch 64. All this is as
  in the paper's code, but for the new values, which it draws He-normal by fan-out. Needs R and S;
  one epoch costs one training epoch on R, and the mask two passes over S.

  Args:
    initial: the same network with fresh params, for the new values.
    learning_rate: η, the highest.
    fraction: share of each kernel that is reset, in [0, 1]; with 0 and `rest` 1 this is
      fine-tuning at the rates above.
    rest: factor on the gradients of the other weights of a kernel, at least 0.
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where `initial` is another network.

  References:
    Cadet et al., [Deep Unlearn](https://arxiv.org/abs/2410.01276), 2024.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> fresh = models.init(models.mlp((4,), 2), jax.random.key(0), jnp.ones((1, 3)))
    >>> msg(fresh).passes
    'retain'
  """
  _check.in_range("msg", 0, 1, fraction=fraction)
  _check.at_least("msg", 0, rest=rest)

  def remember(network: Network, session: Session) -> Chosen:
    refuse_unlike("msg", initial, network)
    size, count = session.batch_size, session.forget.count
    shuffled = session.retain.shuffled(session.key)
    part = shuffled._replace(count=jnp.minimum(shuffled.count, count))
    difference = jax.tree.map(
      lambda p, s: jnp.abs(p - s),
      full_gradient(network, part, size),
      full_gradient(network, session.forget, size),
    )
    mask = jax.tree.map(
      lambda kernel, d: smallest(d, fraction) if kernel else jnp.zeros(d.shape, bool),
      kernels(network.params),
      difference,
    )
    return Chosen(mask, initial.params)

  def objective(network: Network, turn: Turn, chosen: Chosen) -> tuple[jax.Array, Network]:
    def slowed(kernel: bool, mask: jax.Array, weight: jax.Array) -> jax.Array:
      """The weight itself, with a gradient that is scaled."""
      if not kernel:
        return weight
      fixed = jax.lax.stop_gradient(weight)
      return fixed + jnp.where(mask, 1.0, rest).astype(weight.dtype) * (weight - fixed)

    slow = jax.tree.map(slowed, kernels(network.params), chosen.mask, network.params)
    return retain_risk(network.replace(params=slow), turn, chosen)

  def reshape(updates: optax.Updates, _: Chosen, turn: Turn) -> optax.Updates:
    number, rising, after = turn.clock.epoch + 1, (turn.epochs + 1) // 2, turn.epochs + 1
    rate = jnp.minimum(number / rising, (after - number) / (after - rising))
    return scaled(updates, rate)

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    remember=remember,
    start=replaced,
    reshape=reshape,
  )


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
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no square
      kernels.

  References:
    Cadet et al., [Deep Unlearn](https://arxiv.org/abs/2410.01276), 2024.

  Example:
    >>> ct() == ct()
    True
  """

  def square(leaf) -> bool:
    return jnp.ndim(leaf) == 4 and leaf.shape[0] == leaf.shape[1] > 1

  def remember(network, _):
    if not any(square(leaf) for leaf in jax.tree.leaves(network.params)):
      raise ValueError(
        "ct needs convolution kernels [k, k, I, O] with k above 1, and this network has none. "
        "Use msg or localized_reset."
      )
    return ()

  def start(network: Network, _) -> Network:
    transposed = jax.tree.map(
      lambda leaf: jnp.swapaxes(leaf, 0, 1) if square(leaf) else leaf, network.params
    )
    return network.replace(params=transposed)

  def reshape(updates: optax.Updates, _: tuple[()], turn: Turn) -> optax.Updates:
    return scaled(updates, 0.5 * (1 + jnp.cos(jnp.pi * turn.clock.epoch / turn.epochs)))

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
    remember=remember,
    start=start,
    reshape=reshape,
  )


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
    reset = iter(jax.tree.leaves(smallest(unimportance, fraction)))
    masks = [
      jnp.broadcast_to(next(reset), w.shape) if kernel else jnp.zeros(w.shape, bool)
      for kernel, w in zip(is_kernel, weights, strict=True)
    ]
    return Chosen(jax.tree.unflatten(tree, masks), initial.params)

  optimizer = sgd(learning_rate, momentum, weight_decay)
  return descend(retain_risk, optimizer, remember=remember, start=replaced)
