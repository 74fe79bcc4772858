"""SCRUB and bad teaching: other networks are imitated, or fled from.

t outputs of a teacher, such as the original network, and s those of the network that is being
unlearned.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmul import _check, losses
from jaxmul.binding import Network
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._passes import Alternate
from jaxmul.unlearn._teachers import divergence, has_positions, logits_to_imitate, own_logits
from jaxmul.unlearn._whole import all_logits
from jaxmul.unlearn.objective import descend, merged, sgd, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def scrub(
  learning_rate: float = 5e-3,
  *,
  gamma: float = 0.99,
  beta: float = 0.001,
  msteps: int = 4,
  temperature: float = 4.0,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Away from the original network on S, and back to it on R, in turns.

  In each of the first `msteps` epochs a pass over S ascends T² KL(t‖s); then, in every epoch, a
  pass over R descends γ risk_R + β T² KL(t‖s), t the original network. Published for 5 epochs.
  Needs R and S; an epoch costs one training epoch on both, and the teacher one forward pass over
  both in all, or of text in each epoch. γ and β are tuned in the paper; the defaults are those of
  its published code. One optimizer serves both kinds of pass, as there, so that momentum goes on
  between them; the ascent is not decayed. BatchNorm statistics follow R only.

  Args:
    learning_rate: η, constant.
    gamma: γ, at least 0.
    beta: β, at least 0.
    msteps: epochs that pass over S.
    temperature: T, above 0.
    momentum: μ.
    weight_decay: λ, in the passes over R.

  Raises:
    ValueError: a number is outside its range.

  References:
    Kurmanji et al., [Towards Unbounded Machine Unlearning](https://arxiv.org/abs/2302.09880), 2023.

  Example:
    >>> scrub(msteps=2).passes
    Alternate(forget_epochs=2)
  """
  _check.at_least("scrub", 0, gamma=gamma, beta=beta, msteps=msteps)
  if msteps != int(msteps):
    raise ValueError(f"scrub got msteps={msteps}, must be whole epochs.")
  _check.above("scrub", 0, temperature=temperature)

  def remember(network: Network, session: Session) -> jax.Array | Network:
    refuse_own_loss(network, "scrub")
    return network if has_positions(session) else own_logits(network, session)

  def from_teacher(student, teacher, batch):
    target = logits_to_imitate(teacher, batch)
    return divergence(target, student, temperature, labels=batch.labels)

  def apart(network, turn, teacher):
    student, _ = train_logits(network, turn.forget, turn.key)
    distance = losses.masked_mean(from_teacher(student, teacher, turn.forget), turn.forget.mask)
    # The decay that the optimizer adds is taken out again: this is pure ascent.
    decay = 0.5 * weight_decay * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(network.params))
    return -distance - decay, network

  def together(network, turn, teacher):
    student, new = train_logits(network, turn.retain, turn.key)
    terms = gamma * losses.cross_entropy(student, turn.retain.labels)
    terms += beta * from_teacher(student, teacher, turn.retain)
    return losses.masked_mean(terms, turn.retain.mask), new

  def objective(network, turn, teacher):
    return jax.lax.cond(turn.forget.mask.any(), apart, together, network, turn, teacher)

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    passes=Alternate(msteps),
    remember=remember,
  )


class _Teachers(NamedTuple):
  """Of text: the networks that are imitated on each set."""

  forget: Network
  retain: Network


@algorithm
def bad_teacher(
  initial: Network, learning_rate: float = 1e-4, *, temperature: float = 1.0
) -> Unlearner:
  """Imitates a random network on S and the original one on R: KL(t‖s) on both, by Adam.

  Published for 1 epoch. Needs R and S; one epoch costs one training epoch on both, and the teachers
  one forward pass in all, or of text in each epoch. Adam's ε is 1e-6: the gradient on R begins as
  mere rounding errors, which at the usual 1e-8 become steps of full length, and others on other
  devices.

  Args:
    initial: a network with fresh params and as many classes, the incompetent teacher.
    learning_rate: of Adam.
    temperature: T, above 0.

  Raises:
    ValueError: a number is outside its range. `init` raises it where `initial` has another number
      of classes.

  References:
    Chundawat et al., [Can Bad Teaching Induce Forgetting?](https://arxiv.org/abs/2205.08096), 2022.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxmul import models
    >>> fresh = models.init(models.mlp((4,), 2), jax.random.key(0), jnp.ones((1, 3)))
    >>> bad_teacher(fresh).passes
    'union'
  """
  _check.rate(learning_rate, "learning_rate", np.inf)
  _check.above("bad_teacher", 0, temperature=temperature)

  def remember(network: Network, session: Session) -> jax.Array | _Teachers:
    refuse_own_loss(network, "bad_teacher")
    if has_positions(session):
      example = session.forget.batch(jnp.int32(0), jnp.int32(1), 1).inputs
      good, bad = (jax.eval_shape(teacher, example) for teacher in (network, initial))
      _refuse_other_classes(bad, good)
      return _Teachers(initial, network)
    good = all_logits(network, session.retain, session.batch_size)
    bad = all_logits(initial, session.forget, session.batch_size)
    _refuse_other_classes(bad, good)
    return good + bad

  def objective(network, turn, teachers):
    batch = merged(turn.forget, turn.retain)
    student, new = train_logits(network, batch, turn.key)
    if isinstance(teachers, _Teachers):
      pairs = zip(teachers, (turn.forget, turn.retain), strict=True)
      target = jnp.concatenate([logits_to_imitate(*pair) for pair in pairs])
    else:
      target = logits_to_imitate(teachers, batch)
    distances = divergence(target, student, temperature, labels=batch.labels)
    return losses.masked_mean(distances, batch.mask), new

  optimizer = optax.adam(learning_rate, eps=1e-6)
  return descend(objective, optimizer, passes="union", remember=remember)


def _refuse_other_classes(bad, good) -> None:
  if bad.shape != good.shape:
    raise ValueError(
      f"bad_teacher got an initial network of {bad.shape[-1]} classes, must have the "
      f"{good.shape[-1]} of the original."
    )
