"""Decision boundaries: S is pushed over one, relabelled by one, or given a region of its own.

x inputs, y labels, z logits, φ penultimate features. Adversarial examples are made of S once, at
the original network, in evaluation mode; inputs are not clipped, as their range is the user's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import losses
from jaxmul._examples import Batch
from jaxmul.binding import Network
from jaxmul.data.dataset import as_inputs
from jaxmul.unlearn._whole import map_members
from jaxmul.unlearn.base import Session, Unlearner
from jaxmul.unlearn.objective import batch_risk, descend, merged, sgd


def boundary_shrink(
  learning_rate: float = 1e-5, *, radius: float = 0.1, momentum: float = 0.9
) -> Unlearner:
  """Relabels S to the nearest adversarial class, and descends the risk on S alone.

  That class is the likeliest wrong one at x + r sign(∇_x ℓ), at the original params; the true one
  is never taken, so that every label changes. Published for 10 epochs. Needs S; one epoch costs one
  training epoch on S.

  Args:
    learning_rate: η, constant.
    radius: r, at least 0, in units of the inputs.
    momentum: μ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Chen et al., [Boundary Unlearning](https://arxiv.org/abs/2303.11570), 2023.

  Example:
    >>> boundary_shrink().passes
    'forget'
  """

  if not radius >= 0:
    raise ValueError(f"boundary_shrink got radius={radius}, must be at least 0.")

  def remember(network: Network, session: Session) -> jax.Array:
    arguments = (network, jnp.float32(radius))
    return map_members(_nearest_class, arguments, session.forget, session.batch_size)

  def objective(network, turn, nearest):
    relabelled = turn.forget._replace(labels=nearest[turn.forget.rows])
    return batch_risk(network, relabelled, turn.key)

  return descend(
    objective,
    sgd(learning_rate, momentum),
    identity=("boundary_shrink", learning_rate, radius, momentum),
    passes="forget",
    remember=remember,
  )


class _Heads(NamedTuple):
  """The network before and with one class more."""

  original: Network
  wide: Network


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

  Returns:
    An `Unlearner`. Its `init` raises ValueError where `initial` is not one class wider.

  Raises:
    ValueError: a number is outside its range.

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
    del session
    _refuse_unlike(network, initial)
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
    narrow = jax.tree.map(
      lambda wide, old: wide[..., : old.shape[-1]], network.params, heads.original.params
    )
    return heads.original.replace(params=narrow, state=network.state)

  def objective(network, turn, heads):
    del heads
    extra = jax.eval_shape(network, turn.forget.inputs).shape[-1] - 1
    return batch_risk(
      network, turn.forget._replace(labels=jnp.full_like(turn.forget.labels, extra)), turn.key
    )

  return descend(
    objective,
    sgd(learning_rate, momentum),
    identity=("boundary_expand", learning_rate, momentum),
    given=initial,
    passes="forget",
    remember=remember,
    start=start,
    finish=finish,
  )


class _Adversarial(NamedTuple):
  """By row of the data set: inputs [N, ...] and the classes int32 [N] predicted for them."""

  inputs: jax.Array
  labels: jax.Array


def amun(
  learning_rate: float = 0.01,
  *,
  radius: float = 0.1,
  doublings: int = 8,
  steps: int = 50,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Descends the risk on R and on the nearest adversarial examples of S, with their own labels.

  Each example of S is attacked by projected gradient ascent in balls of radius r, 2r, 4r, …; the
  first that fools the original network is taken, with the class predicted for it. Where none does,
  the largest ball counts, with the likeliest wrong class. Needs R and S; one epoch costs one
  training epoch on both, the attacks up to `steps` · (1 + `doublings`) epochs on S, and their
  results memory for one float copy of the data set. The paper tunes rate and epochs; 0.01 and 10
  are our choice.

  Args:
    learning_rate: η, constant.
    radius: r, first Euclidean radius, above 0, in units of the inputs.
    doublings: how often it is doubled, at least 0.
    steps: of each attack, at least 1; 50 in the paper.
    momentum: μ.
    weight_decay: λ.

  Returns:
    An `Unlearner`.

  Raises:
    ValueError: a number is outside its range.

  References:
    Ebrahimpour-Boroojeny et al., [AMUN](https://arxiv.org/abs/2503.00917), 2025.

  Example:
    >>> amun().passes
    'union'
  """

  if not radius > 0:
    raise ValueError(f"amun got radius={radius}, must be above 0.")
  for name, value, least in (("doublings", doublings, 0), ("steps", steps, 1)):
    if not value >= least:
      raise ValueError(f"amun got {name}={value}, must be at least {least}.")

  def remember(network: Network, session: Session) -> _Adversarial:
    dtype = as_inputs(session.forget.inputs[:1]).dtype
    radii = jnp.asarray(radius * 2.0 ** np.arange(doublings + 1), dtype)
    arguments = (network, radii, jnp.int32(steps))
    return map_members(_nearest_adversarial, arguments, session.forget, session.batch_size)

  def objective(network, turn, adversarial):
    at = turn.forget.rows
    attacked = turn.forget._replace(
      inputs=adversarial.inputs[at].astype(turn.forget.inputs.dtype),
      labels=adversarial.labels[at],
    )
    return batch_risk(network, merged(attacked, turn.retain), turn.key)

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    identity=("amun", learning_rate, radius, doublings, steps, momentum, weight_decay),
    passes="union",
    remember=remember,
  )


def _ascent(logits_of, start, labels, step, steps, project):
  """Returns where `steps` normalised steps up the loss of `labels` lead, projected after each."""

  def up(index, x):
    del index
    gradient = jax.grad(lambda x: jnp.sum(losses.cross_entropy(logits_of(x), labels)))(x)
    return project(x + step * gradient / jnp.maximum(norms(gradient), 1e-30))

  return lax.fori_loop(0, steps, up, start)


def norms(x: jax.Array) -> jax.Array:
  """Returns the Euclidean norm of each example [B, 1, …, 1] of x [B, ...]."""
  return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))


def likeliest_wrong(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the class int32 [B] of the largest logit that is not the label's.

  Example:
    >>> import jax.numpy as jnp
    >>> likeliest_wrong(jnp.array([[5.0, 1.0, 2.0]]), jnp.array([0])).tolist()
    [2]
  """
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  return jnp.argmax(jnp.where(is_label, -jnp.inf, logits), axis=-1).astype(jnp.int32)


def _nearest_class(network: Network, radius, batch: Batch) -> jax.Array:
  def total(inputs):
    return jnp.sum(losses.cross_entropy(network(inputs), batch.labels))

  attacked = batch.inputs + radius * jnp.sign(jax.grad(total)(batch.inputs))
  return likeliest_wrong(network(attacked.astype(batch.inputs.dtype)), batch.labels)


def _nearest_adversarial(network: Network, radii, steps, batch: Batch) -> _Adversarial:
  inputs, labels = batch.inputs, batch.labels
  rank = (-1, *(1,) * (inputs.ndim - 1))

  def attack(found, radius):
    best, done = found

    def project(x):
      moved = x - inputs
      return inputs + moved * jnp.minimum(1, radius / jnp.maximum(norms(moved), 1e-30))

    step = 2.5 * radius / steps
    attacked = _ascent(network, inputs, labels, step, steps, project).astype(inputs.dtype)
    fooled = ~losses.is_correct(network(attacked), labels)
    best = jnp.where(done.reshape(rank), best, attacked)
    return (best, done | fooled), None

  already = ~losses.is_correct(network(inputs), labels)
  (best, _), _ = lax.scan(attack, (inputs, already), radii)
  return _Adversarial(best, likeliest_wrong(network(best), labels))


def _refuse_unlike(network: Network, initial: Network) -> None:
  def fits(old, new):
    return old.shape == new.shape or (
      old.shape[:-1] == new.shape[:-1] and old.shape[-1] + 1 == new.shape[-1]
    )

  same = jax.tree.structure(network.params) == jax.tree.structure(initial.params)
  fitting = same and all(jax.tree.leaves(jax.tree.map(fits, network.params, initial.params)))
  shapes = [
    [jnp.shape(leaf) for leaf in jax.tree.leaves(each.params)] for each in (network, initial)
  ]
  if not fitting or shapes[0] == shapes[1]:
    raise ValueError(
      "boundary_expand needs initial to be the same network with one class more, got other shapes. "
      "Pass models.init(model with num_classes + 1, key, inputs)."
    )
