"""AMUN: S is relabelled by its nearest adversarial examples.

x inputs, y labels. Adversarial examples are made of S once, at the original network, in evaluation
mode; inputs are not clipped, as their range is the user's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _check, losses
from jaxmul._arrays import is_float, kinds
from jaxmul._examples import Batch
from jaxmul._gradients import per_example
from jaxmul.binding import Network
from jaxmul.unlearn._adversarial import ascended, likeliest_wrong, norms
from jaxmul.unlearn._class_only import refuse_positions
from jaxmul.unlearn._whole import map_members
from jaxmul.unlearn.objective import batch_risk, descend, merged, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


class _Adversarial(NamedTuple):
  """By row of the data set: inputs [N, ...] and the classes int32 [N] predicted for them."""

  inputs: jax.Array
  labels: jax.Array


@algorithm
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
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where examples do not have one class
      each, or are tokens.

  References:
    Ebrahimpour-Boroojeny et al., [AMUN](https://arxiv.org/abs/2503.00917), 2025.

  Example:
    >>> amun().passes
    'union'
  """
  _check.above("amun", 0, radius=radius)
  _check.at_least("amun", 0, doublings=doublings)
  _check.at_least("amun", 1, steps=steps)

  def remember(network: Network, session: Session) -> _Adversarial:
    refuse_positions(network, session, "amun")
    example = session.forget.batch(jnp.int32(0), jnp.int32(1), 1).inputs
    if not is_float(example):
      raise ValueError(
        f"amun trains on adversarial inputs, and inputs of {kinds(example)} have none. Use "
        "boundary_shrink, which takes them at embeddings, or an algorithm that works from the loss."
      )
    radii = jnp.asarray(radius * 2.0 ** np.arange(doublings + 1), example.dtype)
    arguments = (network, radii, jnp.int32(steps))
    return map_members(_nearest_adversarial, arguments, session.forget, session.batch_size)

  def objective(network, turn, adversarial):
    inputs, labels = (of_all[turn.forget.rows] for of_all in adversarial)
    inputs = inputs.astype(turn.forget.inputs.dtype)
    attacked = turn.forget._replace(inputs=inputs, labels=labels)
    return batch_risk(network, merged(attacked, turn.retain), turn.key)

  optimizer = sgd(learning_rate, momentum, weight_decay)
  return descend(objective, optimizer, passes="union", remember=remember)


def _nearest_adversarial(
  network: Network, radii: jax.Array, steps: jax.Array, batch: Batch
) -> _Adversarial:
  inputs, labels = batch.inputs, batch.labels

  def total(x):
    return jnp.sum(losses.cross_entropy(network(x), labels))

  def attack(carry, radius):
    best, done = carry

    def up(_, x):
      moved = ascended(total, x, 2.5 * radius / steps) - inputs
      return inputs + moved * jnp.minimum(1, radius / jnp.maximum(norms(moved), 1e-30))

    attacked = lax.fori_loop(0, steps, up, inputs).astype(inputs.dtype)
    fooled = ~losses.is_correct(network(attacked), labels)
    best = jnp.where(per_example(done, inputs), best, attacked)
    return (best, done | fooled), None

  already = ~losses.is_correct(network(inputs), labels)
  (best, _), _ = lax.scan(attack, (inputs, already), radii)
  return _Adversarial(best, likeliest_wrong(network(best), labels))
