"""Relabelling: teach the network random labels for S while it goes on with R."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmul.binding import Network
from jaxmul.unlearn._chosen import refuse_fraction, smallest
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.base import Session, Unlearner
from jaxmul.unlearn.objective import batch_risk, descend, merged, only, sgd


def random_label(
  learning_rate: float = 0.1,
  *,
  never_true: bool = False,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Risk on R ∪ S with S relabelled uniformly at random, anew in each epoch.

  Published for 10 epochs. Needs R and S; one epoch costs one training epoch on both. A batch holds
  R and S in their proportion.

  Args:
    learning_rate: η, constant.
    never_true: draw among the other C − 1 classes, so that every label is wrong.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Golatkar et al., [Eternal Sunshine](https://arxiv.org/abs/1911.04933), 2020.

  Example:
    >>> random_label().passes
    'union'
  """
  return descend(
    _relabelled_risk(never_true),
    sgd(learning_rate, momentum, weight_decay),
    identity=("random_label", learning_rate, never_true, momentum, weight_decay),
    passes="union",
  )


def salun(
  learning_rate: float = 0.1,
  *,
  fraction: float = 0.5,
  never_true: bool = False,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """`random_label` that moves only the most salient weights: the largest |∇risk_S(θ₀)|.

  The gradient is that of the whole of S at the params the run starts from; the other weights do not
  move at all, weight decay and momentum included. Published for 10 epochs. Needs R and S; one epoch
  costs one training epoch on both, and the mask one pass over S.

  Args:
    learning_rate: η, constant.
    fraction: share of the weights that may move, in [0, 1].
    never_true: see `random_label`.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Fan et al., [SalUn](https://arxiv.org/abs/2310.12508), 2023.

  Example:
    >>> salun(fraction=0.5) == salun(fraction=0.5)
    True
  """
  refuse_fraction("salun", fraction)

  def remember(network: Network, session: Session) -> Any:
    return saliency_mask(full_gradient(network, session.forget, session.batch_size), fraction)

  return descend(
    _relabelled_risk(never_true),
    sgd(learning_rate, momentum, weight_decay),
    identity=("salun", learning_rate, fraction, never_true, momentum, weight_decay),
    passes="union",
    remember=remember,
    reshape=lambda updates, mask, turn: only(updates, mask),
  )


def saliency_mask(gradient: Any, fraction: float) -> Any:
  """Returns bool like gradient: True for exactly the top `fraction` of |gradient| over all leaves.

  Equal values are told apart by position, so that the count is exact.

  Args:
    gradient: any pytree of arrays; all leaves are ranked together.
    fraction: share that is True, in [0, 1].

  Raises:
    ValueError: fraction is outside [0, 1].

  References:
    Fan et al., [SalUn](https://arxiv.org/abs/2310.12508), 2023.

  Example:
    >>> import jax.numpy as jnp
    >>> saliency_mask(jnp.array([0.1, -3.0, 2.0, 0.0]), 0.5).tolist()
    [False, True, True, False]
  """
  refuse_fraction("saliency_mask", fraction)
  return smallest(jax.tree.map(lambda leaf: -jnp.abs(leaf), gradient), fraction)


def random_labels(
  key: jax.Array, labels: jax.Array, num_classes: int, never_true: bool
) -> jax.Array:
  """Returns uniformly random labels int32 [B], never the given ones if `never_true`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> labels = jnp.zeros(100, int)
    >>> bool((random_labels(jax.random.key(0), labels, 3, never_true=True) != 0).all())
    True
  """
  if never_true:
    shift = jax.random.randint(key, labels.shape, 1, num_classes, jnp.int32)
    return (labels + shift) % num_classes
  return jax.random.randint(key, labels.shape, 0, num_classes, jnp.int32)


def _relabelled_risk(never_true: bool):
  def objective(network, turn, memory):
    del memory
    label_key, train_key = jax.random.split(turn.key)
    forget = turn.forget
    num_classes = jax.eval_shape(network, forget.inputs).shape[-1]
    labels = random_labels(label_key, forget.labels, num_classes, never_true)
    relabelled = forget._replace(labels=labels.astype(forget.labels.dtype))
    return batch_risk(network, merged(relabelled, turn.retain), train_key)

  return objective
