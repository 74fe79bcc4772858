"""Damage, then repair: kernels are partly reset, transposed or perturbed, then tuned on R.

Kernels are the weights of convolutions [kh, kw, I, O] where the network has any, and those of dense
layers [I, O] where it has none. g_S and g_R are gradients of the risk on all of S and of R at the
original params θ₀, in evaluation mode.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmul.binding import Network
from jaxmul.unlearn._chosen import refuse_fraction, smallest
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.base import Session, Unlearner
from jaxmul.unlearn.layers import refuse_unlike
from jaxmul.unlearn.objective import Turn, descend, retain_risk, sgd


class Chosen(NamedTuple):
  """Weights that are replaced: a bool mask and new values, both like params."""

  mask: Any
  values: Any


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
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`. Its `init` raises ValueError where `initial` is another network.

  Raises:
    ValueError: a number is outside its range.

  References:
    Cadet et al., [Deep Unlearn](https://arxiv.org/abs/2410.01276), 2024.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> fresh = models.init(models.mlp((4,), 2), jax.random.key(0), jnp.ones((1, 3)))
    >>> msg(fresh).passes
    'retain'
  """
  refuse_fraction("msg", fraction)
  if not rest >= 0:
    raise ValueError(f"msg got rest={rest}, must be at least 0.")

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

  def reshape(updates: Any, chosen: Chosen, turn: Turn) -> Any:
    del chosen
    number, rising, after = turn.clock.epoch + 1, (turn.epochs + 1) // 2, turn.epochs + 1
    rate = jnp.minimum(number / rising, (after - number) / (after - rising))
    return _scaled(updates, rate)

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    identity=("msg", learning_rate, fraction, rest, momentum, weight_decay),
    given=initial,
    remember=remember,
    start=_replaced,
    reshape=reshape,
  )


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
    return _scaled(updates, 0.5 * (1 + jnp.cos(jnp.pi * turn.clock.epoch / turn.epochs)))

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
    identity=("ct", learning_rate, momentum, weight_decay),
    remember=remember,
    start=start,
    reshape=reshape,
  )


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
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`. Its `init` raises ValueError where `initial` is another network.

  Raises:
    ValueError: a number is outside its range.

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
  refuse_fraction("localized_reset", fraction)

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

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
    identity=("localized_reset", learning_rate, fraction, momentum, weight_decay),
    given=initial,
    remember=remember,
    start=_replaced,
  )


def top_k(
  learning_rate: float = 0.01,
  *,
  fraction: float = 0.1,
  noise: float = 1.0,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Perturbs the weights that matter most to S, with the largest g_S²; then tunes on R.

  The noise is normal, its deviation `noise` times the root mean square of the leaf. Needs R and S;
  one epoch costs one training epoch on R, and the ranking a pass over S. The paper tunes its
  settings; the defaults, and 5 epochs, are our choice.

  Args:
    learning_rate: η, constant.
    fraction: share of all weights that is perturbed, in [0, 1].
    noise: relative deviation, at least 0; 0 is `fine_tune`.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Zuo et al., [Fine-grained parameter perturbation](https://arxiv.org/abs/2401.04385), 2024.

  Example:
    >>> top_k(fraction=0.1) == top_k(fraction=0.2)
    False
  """

  def rank(network: Network, session: Session) -> Any:
    gradient = full_gradient(network, session.forget, session.batch_size)
    return jax.tree.map(lambda leaf: -(leaf**2), gradient)

  return _perturbed("top_k", rank, learning_rate, fraction, noise, momentum, weight_decay)


def random_k(
  learning_rate: float = 0.01,
  *,
  fraction: float = 0.1,
  noise: float = 1.0,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """`top_k` with weights chosen at random: needs R only.

  Args:
    learning_rate, fraction, noise, momentum, weight_decay: as `top_k`.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Zuo et al., [Fine-grained parameter perturbation](https://arxiv.org/abs/2401.04385), 2024.

  Example:
    >>> random_k() == top_k()
    False
  """

  def rank(network: Network, session: Session) -> Any:
    leaves, tree = jax.tree.flatten(network.params)
    keys = jax.random.split(jax.random.fold_in(session.key, 1), len(leaves))
    drawn = [jax.random.uniform(k, w.shape, jnp.float32) for k, w in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)

  return _perturbed("random_k", rank, learning_rate, fraction, noise, momentum, weight_decay)


def kernels(network: Any) -> Any:
  """Returns a bool like each leaf: convolution kernels, or dense ones where there are none.

  Example:
    >>> import numpy as np
    >>> kernels({"kernel": np.zeros((3, 2)), "bias": np.zeros(2)})
    {'bias': False, 'kernel': True}
  """
  ranks = [jnp.ndim(leaf) for leaf in jax.tree.leaves(network)]
  rank = 4 if 4 in ranks else 2
  return jax.tree.map(lambda leaf: jnp.ndim(leaf) == rank, network)


def _perturbed(name, rank, learning_rate, fraction, noise, momentum, weight_decay) -> Unlearner:
  refuse_fraction(name, fraction)
  if not noise >= 0:
    raise ValueError(f"{name} got noise={noise}, must be at least 0.")

  def remember(network: Network, session: Session) -> Chosen:
    mask = smallest(rank(network, session), fraction)
    leaves, tree = jax.tree.flatten(network.params)
    keys = jax.random.split(session.key, len(leaves))
    values = [
      leaf + noise * jnp.sqrt(jnp.mean(leaf**2)) * jax.random.normal(key, leaf.shape, leaf.dtype)
      for key, leaf in zip(keys, leaves, strict=True)
    ]
    return Chosen(mask, jax.tree.unflatten(tree, values))

  return descend(
    retain_risk,
    sgd(learning_rate, momentum, weight_decay),
    identity=(name, learning_rate, fraction, noise, momentum, weight_decay),
    remember=remember,
    start=_replaced,
  )


def _replaced(network: Network, chosen: Chosen) -> Network:
  def replaced(mask, value, weight):
    return jnp.where(mask, value.astype(weight.dtype), weight)

  return network.replace(params=jax.tree.map(replaced, *chosen, network.params))


def _scaled(updates: Any, rate: jax.Array) -> Any:
  """Returns updates at another rate: those of SGD are proportional to it."""
  return jax.tree.map(lambda moved: rate.astype(moved.dtype) * moved, updates)
