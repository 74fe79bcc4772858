"""Noise on some weights, those that matter most to S or any, then the network is tuned on R.

g_S is the gradient of the risk on all of S at the original params θ₀, in evaluation mode.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxmul import _check
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import Chosen, keys_like, replaced, smallest
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.objective import descend, retain_risk, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
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
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range.

  References:
    Zuo et al., [Fine-grained parameter perturbation](https://arxiv.org/abs/2401.04385), 2024.

  Example:
    >>> top_k(fraction=0.1) == top_k(fraction=0.2)
    False
  """

  def rank(network: Network, session: Session) -> optax.Params:
    gradient = full_gradient(network, session.forget, session.batch_size)
    return jax.tree.map(lambda leaf: -(leaf**2), gradient)

  optimizer = sgd(learning_rate, momentum, weight_decay)
  return _perturbed("top_k", rank, optimizer, fraction=fraction, noise=noise)


@algorithm
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

  Raises:
    ValueError: a number is outside its range.

  References:
    Zuo et al., [Fine-grained parameter perturbation](https://arxiv.org/abs/2401.04385), 2024.

  Example:
    >>> random_k() == top_k()
    False
  """

  def rank(network: Network, session: Session) -> optax.Params:
    keys = keys_like(network.params, jax.random.fold_in(session.key, 1))
    return jax.tree.map(
      lambda leaf, key: jax.random.uniform(key, leaf.shape, jnp.float32), network.params, keys
    )

  optimizer = sgd(learning_rate, momentum, weight_decay)
  return _perturbed("random_k", rank, optimizer, fraction=fraction, noise=noise)


def _perturbed(
  caller: str,
  rank: Callable[[Network, Session], optax.Params],
  optimizer: optax.GradientTransformation,
  *,
  fraction: float,
  noise: float,
) -> Unlearner:
  """Adds noise to the weights of lowest rank, and tunes on R."""
  _check.in_range(caller, 0, 1, fraction=fraction)
  _check.at_least(caller, 0, noise=noise)

  def remember(network: Network, session: Session) -> Chosen:
    def noisy(leaf, key):
      spread = noise * jnp.sqrt(jnp.mean(leaf**2))
      return leaf + spread * jax.random.normal(key, leaf.shape, leaf.dtype)

    mask = smallest(rank(network, session), fraction)
    keys = keys_like(network.params, session.key)
    return Chosen(mask, jax.tree.map(noisy, network.params, keys))

  return descend(retain_risk, optimizer, remember=remember, start=replaced)
