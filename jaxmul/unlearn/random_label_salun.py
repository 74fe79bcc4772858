"""Relabelling: S gets random labels while the network goes on with R; all weights move, or some."""

import jax
import jax.numpy as jnp
import optax

from jaxmul import _check, losses
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import only, smallest
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._whole import full_gradient
from jaxmul.unlearn.objective import batch_risk, descend, merged, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def random_label(
  learning_rate: float = 0.1,
  *,
  never_true: bool = False,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Risk on R ∪ S with S relabelled uniformly at random, anew in each epoch.

  Published for 10 epochs. Needs R and S; one epoch costs one training epoch on both. A batch holds
  R and S in their proportion. Of text each scored position gets a random token of its own.

  Args:
    learning_rate: η, constant.
    never_true: draw among the other C − 1 classes, so that every label is wrong.
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range.

  References:
    Golatkar et al., [Eternal Sunshine](https://arxiv.org/abs/1911.04933), 2020.

  Example:
    >>> random_label().passes
    'union'
  """

  def remember(network: Network, _: Session) -> tuple[()]:
    refuse_own_loss(network, "random_label")
    return ()

  optimizer = sgd(learning_rate, momentum, weight_decay)
  return descend(relabelled_risk(never_true), optimizer, passes="union", remember=remember)


def random_labels(
  key: jax.Array, labels: jax.Array, num_classes: int, never_true: bool
) -> jax.Array:
  """Returns uniformly random labels int32 [B, *P], never the given ones if `never_true`.

  Each scored position gets a label of its own; one that is not scored stays so.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> labels = jnp.zeros(100, int)
    >>> bool((random_labels(jax.random.key(0), labels, 3, never_true=True) != 0).all())
    True
  """
  if never_true:
    shift = jax.random.randint(key, labels.shape, 1, num_classes, jnp.int32)
    drawn = (labels + shift) % num_classes
  else:
    drawn = jax.random.randint(key, labels.shape, 0, num_classes, jnp.int32)
  return drawn if labels.ndim == 1 else jnp.where(labels == losses.UNSCORED, labels, drawn)


def relabelled_risk(never_true: bool):
  def objective(network, turn, _):
    label_key, train_key = jax.random.split(turn.key)
    forget = turn.forget
    num_classes = jax.eval_shape(network, forget.inputs).shape[-1]
    labels = random_labels(label_key, forget.labels, num_classes, never_true)
    relabelled = forget._replace(labels=labels.astype(forget.labels.dtype))
    return batch_risk(network, merged(relabelled, turn.retain), train_key)

  return objective


@algorithm
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
    learning_rate, never_true, momentum, weight_decay: as `random_label`.
    fraction: share of the weights that may move, in [0, 1].

  Raises:
    ValueError: a number is outside its range.

  References:
    Fan et al., [SalUn](https://arxiv.org/abs/2310.12508), 2023.

  Example:
    >>> salun(fraction=0.5) == salun(fraction=0.5)
    True
  """
  _check.in_range("salun", 0, 1, fraction=fraction)

  def remember(network: Network, session: Session) -> optax.Params:
    refuse_own_loss(network, "salun")
    return saliency_mask(full_gradient(network, session.forget, session.batch_size), fraction)

  return descend(
    relabelled_risk(never_true),
    sgd(learning_rate, momentum, weight_decay),
    passes="union",
    remember=remember,
    reshape=lambda updates, mask, turn: only(updates, mask),
  )


def saliency_mask(gradient: optax.Updates, fraction: float) -> optax.Updates:
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
  _check.in_range("saliency_mask", 0, 1, fraction=fraction)
  return smallest(jax.tree.map(lambda leaf: -jnp.abs(leaf), gradient), fraction)
