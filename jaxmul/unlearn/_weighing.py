"""γ L_S + α L_R: what is forgotten beside what is kept, for all objectives that weigh the two.

L_S is the mean over S of what an algorithm says of each example. L_R keeps R: the risk on it, or
KL(θ₀‖θ) there, θ₀ the original network, the mean over examples of that over scored positions.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax
import optax

from jaxmul import _check, losses
from jaxmul.binding import Network
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._teachers import divergence, has_positions, logits_to_imitate
from jaxmul.unlearn._whole import all_logits
from jaxmul.unlearn.objective import Turn, batch_risk, descend, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner

Memory = TypeVar("Memory")

Keep = Literal["risk", "kl"]
"""What L_R is."""

Teacher = jax.Array | Network | None
"""What L_R needs of the original: its logits [N, C] of R, of text itself, or nothing."""


class Weights(NamedTuple):
  """γ, α and which L_R."""

  gamma: float
  alpha: float
  keep: Keep


def weighed(
  caller: str,
  forget_losses: Callable[[Network, Turn, Memory], jax.Array],
  weights: Weights,
  optimizer: optax.GradientTransformation,
  remember: Callable[[Network, Session], Memory] = lambda network, session: (),
) -> Unlearner:
  """Returns the Unlearner that descends γ L_S + α L_R, of networks that give classes.

  An epoch is a pass over R with the batches of S cycled beside it. Where α is 0 nothing of R is
  looked at, and it is a pass over S.

  Args:
    caller: name of the algorithm, for messages.
    forget_losses: `(network, turn, memory) -> [B]` of the batch of S.
    weights: of both terms.
    optimizer: as of `descend`.
    remember: as of `descend`, what `forget_losses` need.

  Raises:
    ValueError: a weight is outside its range, or `keep` is another.
  """
  gamma, alpha, keep = weights
  _check.at_least(caller, 0, gamma=gamma, alpha=alpha)
  refuse_other_keep(caller, keep)

  def remember_both(network: Network, session: Session) -> tuple[Memory, Teacher]:
    refuse_own_loss(network, caller)
    teacher = teacher_on_retain(keep, network, session) if alpha else None
    return remember(network, session), teacher

  def objective(network, turn, both):
    memory, teacher = both
    new = network
    away = forget_losses(network, turn, memory)
    value = gamma * losses.masked_mean(away, turn.forget.mask)
    if alpha:
      kept, new = retain_term(keep, network, turn, teacher)
      value += alpha * kept
    return value, new

  passes = "retain" if alpha else "forget"
  return descend(objective, optimizer, passes=passes, remember=remember_both)


def refuse_other_keep(caller: str, keep: str) -> None:
  """Raises ValueError where `keep` is no name of a retain term."""
  if keep not in ("risk", "kl"):
    raise ValueError(f"{caller} got keep={keep!r}, must be 'risk' or 'kl'.")


def teacher_on_retain(keep: Keep, network: Network, session: Session) -> Teacher:
  """Returns what `retain_term` needs of the original network."""
  if keep == "risk":
    return None
  if has_positions(session):
    return network
  return all_logits(network, session.retain, session.batch_size)


def retain_term(
  keep: Keep, network: Network, turn: Turn, teacher: Teacher
) -> tuple[jax.Array, Network]:
  """Returns L_R of a batch of R in training mode, 0 of an empty one, and the network after it."""
  if keep == "risk" or teacher is None:
    return batch_risk(network, turn.retain, turn.key)
  student, new = train_logits(network, turn.retain, turn.key)
  target = logits_to_imitate(teacher, turn.retain)
  distances = divergence(target, student, labels=turn.retain.labels)
  return losses.masked_mean(distances, turn.retain.mask), new
