"""SCRUB: away from the original network on S, back to it on R.

t outputs of the original network, the teacher, and s those of the network that is being unlearned.
"""

import jax
import jax.numpy as jnp

from jaxmul import _check, losses
from jaxmul.binding import Network
from jaxmul.unlearn._answers import refuse_own_loss
from jaxmul.unlearn._passes import Alternate
from jaxmul.unlearn._teachers import divergence, has_positions, logits_to_imitate, own_logits
from jaxmul.unlearn.objective import descend, sgd, train_logits
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

  def apart(network, turn, teacher):
    student, _ = train_logits(network, turn.forget, turn.key)
    target, labels = logits_to_imitate(teacher, turn.forget), turn.forget.labels
    each = divergence(target, student, temperature, labels=labels)
    # The decay that the optimizer adds is taken out again: this is pure ascent.
    decay = 0.5 * weight_decay * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(network.params))
    return -losses.masked_mean(each, turn.forget.mask) - decay, network

  def together(network, turn, teacher):
    student, new = train_logits(network, turn.retain, turn.key)
    target, labels = logits_to_imitate(teacher, turn.retain), turn.retain.labels
    risk = losses.cross_entropy(student, labels)
    each = gamma * risk + beta * divergence(target, student, temperature, labels=labels)
    return losses.masked_mean(each, turn.retain.mask), new

  def objective(network, turn, teacher):
    return jax.lax.cond(turn.forget.mask.any(), apart, together, network, turn, teacher)

  return descend(
    objective,
    sgd(learning_rate, momentum, weight_decay),
    passes=Alternate(msteps),
    remember=remember,
  )
