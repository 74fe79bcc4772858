"""Decision boundaries: S is pushed over one, or given a region of its own.

x inputs, y labels. To push it, adversarial examples are made of S once, at the original network, in
evaluation mode; inputs are not clipped, as their range is the user's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmul import _check, losses
from jaxmul._examples import Batch
from jaxmul.binding import Network, refuse_without_embed
from jaxmul.unlearn._adversarial import likeliest_wrong
from jaxmul.unlearn._class_only import refuse_positions
from jaxmul.unlearn._whole import map_members
from jaxmul.unlearn.objective import batch_risk, descend, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def boundary_shrink(
  learning_rate: float = 1e-5, *, radius: float = 0.1, momentum: float = 0.9
) -> Unlearner:
  """Relabels S to the nearest adversarial class, and descends the risk on S alone.

  That class is the likeliest wrong one at x + r sign(∇_x ℓ), at the original params; the true one
  is never taken, so that every label changes. Published for 10 epochs. Needs S; one epoch costs one
  training epoch on S.

  Args:
    learning_rate: η, constant.
    radius: r, at least 0, in units of the inputs; of tokens, in units of their embeddings.
    momentum: μ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where examples do not have one class
      each, or are tokens and the network has no `embed`.

  References:
    Chen et al., [Boundary Unlearning](https://arxiv.org/abs/2303.11570), 2023.

  Example:
    >>> boundary_shrink().passes
    'forget'
  """
  _check.at_least("boundary_shrink", 0, radius=radius)

  def remember(network: Network, session: Session) -> jax.Array:
    refuse_positions(network, session, "boundary_shrink")
    refuse_without_embed(
      network, session.forget.batch(jnp.int32(0), jnp.int32(1), 1).inputs, "boundary_shrink"
    )
    arguments = (network, jnp.float32(radius))
    return map_members(_nearest_class, arguments, session.forget, session.batch_size)

  def objective(network, turn, nearest):
    relabelled = turn.forget._replace(labels=nearest[turn.forget.rows])
    return batch_risk(network, relabelled, turn.key)

  return descend(objective, sgd(learning_rate, momentum), passes="forget", remember=remember)


def _nearest_class(network: Network, radius, batch: Batch) -> jax.Array:
  def total(inputs):
    return jnp.sum(losses.cross_entropy(network(inputs), batch.labels))

  inputs = network.embedded(batch.inputs)
  attacked = inputs + radius * jnp.sign(jax.grad(total)(inputs))
  return likeliest_wrong(network(attacked.astype(inputs.dtype)), batch.labels)


class _Heads(NamedTuple):
  """The network before and with one class more."""

  original: Network
  wide: Network


@algorithm
def boundary_expand(
  initial: Network, learning_rate: float = 1e-5, *, momentum: float = 0.9
) -> Unlearner:
  """Gives S a class of its own, C, descends the risk on S alone, and drops the class afterwards.

  The network is widened by the weights of the extra class of `initial`, and narrowed at the end.
  Published for 10 epochs. Needs S; one epoch costs one training epoch on S.

  Args:
    initial: the same network with C + 1 classes and fresh params.
    learning_rate: η, constant.
    momentum: μ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where `initial` is not one class
      wider, or examples do not have one class each.

  References:
    Chen et al., [Boundary Unlearning](https://arxiv.org/abs/2303.11570), 2023.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> wide = models.init(models.mlp((4,), 3), jax.random.key(0), jnp.ones((1, 3)))
    >>> boundary_expand(wide).passes
    'forget'
  """

  def remember(network: Network, session: Session) -> _Heads:
    refuse_positions(network, session, "boundary_expand")
    _refuse_unless_one_class_wider(network, initial)
    wide = initial.replace(train_fn=None) if network.train_fn is None else initial
    return _Heads(network, wide)

  def start(network: Network, heads: _Heads) -> Network:
    def widened(old, new):
      if old.shape == new.shape:
        return old
      return jnp.concatenate([old, new[..., old.shape[-1] :].astype(old.dtype)], -1)

    wide = jax.tree.map(widened, network.params, heads.wide.params)
    return heads.wide.replace(params=wide, state=network.state)

  def finish(network: Network, heads: _Heads) -> Network:
    def narrowed(wide, old):
      return wide if wide.shape == old.shape else wide[..., : old.shape[-1]]

    narrow = jax.tree.map(narrowed, network.params, heads.original.params)
    return heads.original.replace(params=narrow, state=network.state)

  def objective(network, turn, _):
    forget = turn.forget
    extra = jax.eval_shape(network, forget.inputs).shape[-1] - 1
    relabelled = forget._replace(labels=jnp.full_like(forget.labels, extra))
    return batch_risk(network, relabelled, turn.key)

  return descend(
    objective,
    sgd(learning_rate, momentum),
    passes="forget",
    remember=remember,
    start=start,
    finish=finish,
  )


def _refuse_unless_one_class_wider(network: Network, initial: Network) -> None:
  def is_wider(old, new):
    return old != () and (*old[:-1], old[-1] + 1) == new

  (old_leaves, old_tree), (new_leaves, new_tree) = (
    jax.tree.flatten(given.params) for given in (network, initial)
  )
  shapes = zip(map(jnp.shape, old_leaves), map(jnp.shape, new_leaves), strict=False)
  changed = [(old, new) for old, new in shapes if old != new]
  if old_tree != new_tree or not changed or not all(is_wider(*pair) for pair in changed):
    raise ValueError(
      "boundary_expand needs initial to be the same network with one class more, got other shapes. "
      "Pass models.init(model with num_classes + 1, key, inputs)."
    )
