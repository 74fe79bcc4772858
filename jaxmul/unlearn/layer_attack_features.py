"""An attack on the features that the last layer sees, which alone is then changed.

φ penultimate features, W and b kernel and bias of the last layer: z = φ W + b.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from jaxmul import _check, losses
from jaxmul._arrays import by_way
from jaxmul._examples import Batch
from jaxmul.binding import Network
from jaxmul.unlearn._adversarial import ascended, likeliest_wrong, norms
from jaxmul.unlearn._chosen import in_layers, moves_only
from jaxmul.unlearn._class_only import refuse_positions
from jaxmul.unlearn._teachers import divergence
from jaxmul.unlearn._whole import map_members
from jaxmul.unlearn.objective import descend, sgd
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm

FeaturesFn = Callable[[Network, jax.Array], jax.Array]


class _Attacked(NamedTuple):
  """By row of the data set: φ [N, F], logits [N, C] at the adversarial φ, and their class [N]."""

  features: jax.Array
  teacher: jax.Array
  labels: jax.Array


@algorithm
def layer_attack(
  features_fn: FeaturesFn,
  head: str,
  learning_rate: float = 0.01,
  *,
  alpha: float = 0.5,
  temperature: float = 4.0,
  step: float = 0.1,
  steps: int = 100,
  momentum: float = 0.9,
) -> Unlearner:
  """Changes the last layer alone so that S crosses its nearest boundary, without retain data.

  Normalised gradient steps on φ, stopped where the prediction changes ("partial"), give adversarial
  features φ'. Where S is still predicted right the objective is (1 − α) ℓ(z, y') + α T² KL(t‖z), y'
  the likeliest wrong class and t the original network's logits at φ' (y' is the predicted class
  there unless `steps` were too few to cross); elsewhere KL to the student's own outputs,
  which has no gradient. Needs S; the features are computed once, and an epoch costs one pass over S
  through one layer. The paper tunes rate and epochs; 0.01 and 10 are our choice.

  Args:
    features_fn: `(network, inputs [B, ...]) -> φ [B, F]` in evaluation mode, such as
      `models.features(model, head)`.
    head: name of the last layer, with leaves "kernel" [F, C] and "bias" [C].
    learning_rate: η, constant.
    alpha: α in [0, 1].
    temperature: T, above 0.
    step: length of a step on φ, above 0, in units of the mean norm of φ over S.
    steps: at most so many, at least 1.
    momentum: μ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has no such layer,
      or examples do not have one class each.

  References:
    Kim et al., [Layer Attack Unlearning](https://arxiv.org/abs/2312.16823), 2023.

  Example:
    >>> from jaxmul import models
    >>> layer_attack(models.features(models.mlp(), "Dense_2"), "Dense_2").passes
    'forget'
  """
  _check.in_range("layer_attack", 0, 1, alpha=alpha)
  _check.above("layer_attack", 0, temperature=temperature, step=step)
  _check.at_least("layer_attack", 1, steps=steps)

  def remember(network: Network, session: Session) -> _Attacked:
    refuse_positions(network, session, "layer_attack")
    in_layers(network.params, (head,), "layer_attack")
    arguments = (Partial(features_fn), network)
    features = map_members(_features, arguments, session.forget, 256)
    length = step * jnp.sum(norms(features)) / session.forget.count  # rows outside S are 0
    arguments = (features, *_head(network, head), length, jnp.int32(steps))
    teacher, labels = map_members(_attack, arguments, session.forget, 256)
    return _Attacked(features, teacher, labels)

  def objective(network, turn, attacked):
    features, teacher, labels = (of_all[turn.forget.rows] for of_all in attacked)
    kernel, bias = _head(network, head)
    student = features @ kernel + bias
    terms = (1 - alpha) * losses.cross_entropy(student, labels)
    terms += alpha * divergence(teacher, student, temperature)
    right = losses.is_correct(student, turn.forget.labels)
    return losses.masked_mean(jnp.where(right, terms, 0), turn.forget.mask), network

  return descend(
    objective,
    sgd(learning_rate, momentum),
    passes="forget",
    remember=remember,
    reshape=moves_only((head,), "layer_attack"),
  )


def _features(features_fn: FeaturesFn, network: Network, batch: Batch) -> jax.Array:
  return features_fn(network, batch.inputs)


def _attack(features, kernel, bias, length, steps, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Returns logits [B, C] and wrong class [B] at features just across the boundary."""
  phi, labels = features[batch.rows], batch.labels

  def total(phi):
    return jnp.sum(losses.cross_entropy(phi @ kernel + bias, labels))

  def up(_, phi):
    inside = losses.is_correct(phi @ kernel + bias, labels)
    return jnp.where(inside[:, None], ascended(total, phi, length), phi)

  logits = lax.fori_loop(0, steps, up, phi) @ kernel + bias
  return logits, likeliest_wrong(logits, labels)


def _head(network: Network, head: str) -> tuple[jax.Array, jax.Array]:
  ways = by_way(network.params)
  found = sorted((way.split("/")[-1], way) for way in ways if f"/{head}/" in f"/{way}/")
  if [name for name, _ in found] != ["bias", "kernel"]:
    raise ValueError(
      f"layer_attack: layer {head!r} has {', '.join(way for _, way in found)}, must have one "
      "kernel and one bias."
    )
  bias, kernel = (ways[way] for _, way in found)
  return kernel, bias
