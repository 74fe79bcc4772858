"""EUL: the original network is followed on R and fled from on S, in turns, by adapters alone.

t outputs of the original network, s those of the network that is being unlearned, ℓ cross-entropy.
"""

import jax
import jax.numpy as jnp
import optax

from jaxmul import _check, losses
from jaxmul.binding import Network
from jaxmul.unlearn._chosen import scaled
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._passes import Alternate
from jaxmul.unlearn._teachers import divergence, has_positions, logits_to_imitate, own_logits
from jaxmul.unlearn.objective import Turn, at_rate, descend, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def eul(
  learning_rate: float = 5e-5,
  *,
  alpha: float = 0.8,
  task: float = 1.0,
  gamma: float = 0.2,
  warmup: float = 0.06,
) -> Unlearner:
  """Descends L_KL + λ L_task + γ L_LM: away from the original network on S, and back to it on R.

  L_KL = KL(t‖s) on R − α KL(t‖s) on S, L_task is ℓ on R, and L_LM is −ℓ on S, each the mean over
  examples of that over scored positions. In each epoch a pass over S descends
  −α KL(t‖s) − γ ℓ, then a pass over R KL(t‖s) + λ ℓ, by Adam. Published for 3 or 5 epochs. Needs R
  and S; an epoch costs one training epoch on both, and the original one forward pass over both in
  all, or of text in each epoch. What is descended on S has no lower bound: the rate and the number
  of epochs limit how far it goes. BatchNorm statistics follow R only.

  It moves the params of the network it is given. Those of `models.with_adapters` are adapters
  alone, as published: 0.5 % of the weights of a T5. It forgets more than a network that never saw
  S: the paper's is right on 65.7 % of S, and one retrained without it on 92.5 %. Judge it by its
  distance from oracles.

  The equations of the paper could not be read, only what it says of them. Ours are the place of α,
  which it says balances S and R; that S comes before R, where its epochs begin with R; one Adam for
  both kinds of pass; and ℓ in both last terms, as the labels of a text are what its model was
  trained to predict, where the paper masks words.

  Args:
    learning_rate: η of Adam at its highest, whose ε is 1e-6.
    alpha: α, at least 0.
    task: λ, at least 0.
    gamma: γ, at least 0.
    warmup: share of all steps, in [0, 1), in which the rate rises; it then falls to 0, both
      linearly.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has a loss of its
      own.

  References:
    Chen and Yang, [Unlearn What You Want to Forget](https://arxiv.org/abs/2310.20150), 2023.

  Example:
    >>> eul(alpha=0.5).passes
    Alternate(forget_epochs=None)
  """
  _check.rate(learning_rate, "learning_rate", float("inf"))
  _check.at_least("eul", 0, alpha=alpha, task=task, gamma=gamma)
  _check.rate(warmup, "warmup", 1)

  def remember(network: Network, session: Session) -> jax.Array | Network:
    refuse_own_loss(network, "eul")
    return network if has_positions(session) else own_logits(network, session)

  def terms(student, teacher, batch, distance, loss):
    target = logits_to_imitate(teacher, batch)
    apart = divergence(target, student, labels=batch.labels)
    values = distance * apart + loss * losses.cross_entropy(student, batch.labels)
    return losses.masked_mean(values, batch.mask)

  def away(network, turn, teacher):
    student, _ = train_logits(network, turn.forget, turn.key)
    return terms(student, teacher, turn.forget, -alpha, -gamma), network

  def back(network, turn, teacher):
    student, new = train_logits(network, turn.retain, turn.key)
    return terms(student, teacher, turn.retain, 1.0, task), new

  def objective(network, turn, teacher):
    return jax.lax.cond(turn.forget.mask.any(), away, back, network, turn, teacher)

  def reshape(updates: optax.Updates, _: jax.Array | Network, turn: Turn) -> optax.Updates:
    clock = turn.clock
    total = turn.epochs * clock.steps
    done = (clock.epoch * clock.steps + clock.step) / total
    falls = (1 - done) / (1 - warmup)
    rises = (done + 1 / total) / warmup if warmup else 1.0
    return scaled(updates, jnp.minimum(1.0, jnp.minimum(rises, falls)))

  adam = optax.chain(optax.scale_by_adam(eps=1e-6), at_rate(learning_rate))
  return descend(objective, adam, passes=Alternate(None), remember=remember, reshape=reshape)
