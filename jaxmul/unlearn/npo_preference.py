"""Negative preference: ascent on the forget set that fades as the original network is left.

log p is the log-probability of a whole example: of text the sum over its scored tokens.
"""

import jax
import numpy as np
import optax

from jaxmul import _check, losses
from jaxmul._examples import Batch
from jaxmul.binding import Network
from jaxmul.unlearn._class_only import refuse_own_loss
from jaxmul.unlearn._whole import map_members
from jaxmul.unlearn.objective import at_rate, batch_risk, descend, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm

_EPSILON = 1e-6
"""Of AdamW. With 1e-8 a gradient that is only rounding, as that of key biases, makes a whole step:
another number of devices would move params elsewhere by up to twice the rate."""


@algorithm
def npo(
  learning_rate: float = 1e-5,
  *,
  beta: float = 0.1,
  gamma: float = 1.0,
  alpha: float = 1.0,
  weight_decay: float = 0.0,
) -> Unlearner:
  """Away from the original network's answers on S, risk_R kept: γ L_S + α risk_R, by AdamW.

  L_S is the mean over S of −(2/β) log σ(−β (log p − log p₀)), p₀ of the original network. Its
  gradient is that of ascent times a weight that falls from 1 to 0 as p falls below p₀, so that it
  does not diverge as `neg_grad` does. Published for 10 epochs on language models. Needs R and S;
  one epoch is a pass over R with the batches of S cycled beside it, and costs two training epochs
  on R. BatchNorm statistics follow R only.

  Args:
    learning_rate: of AdamW, whose ε is 1e-6.
    beta: β, above 0; towards 0 it is ascent.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has a loss of its
      own.

  References:
    Zhang et al., [Negative Preference Optimization](https://arxiv.org/abs/2404.05868), 2024, with
    the retain term of its NPO+RT. MUSE's code takes raw logits of the whole vocabulary for log p.

  Example:
    >>> npo(beta=0.5) == npo()
    False
  """
  _check.rate(learning_rate, "learning_rate", np.inf)
  _check.above("npo", 0, beta=beta)
  _check.at_least("npo", 0, gamma=gamma, alpha=alpha, weight_decay=weight_decay)

  def remember(network: Network, session: Session) -> jax.Array:
    refuse_own_loss(network, "npo")
    return map_members(_log_p, (network,), session.forget, session.batch_size)

  def objective(network, turn, log_p0):
    risk, new = batch_risk(network, turn.retain, turn.key)
    logits, _ = train_logits(network, turn.forget, jax.random.fold_in(turn.key, 1))
    log_p = losses.sequence_log_probability(logits, turn.forget.labels)
    ratio = log_p - log_p0[turn.forget.rows]
    preference = -2 / beta * jax.nn.log_sigmoid(-beta * ratio)
    return gamma * losses.masked_mean(preference, turn.forget.mask) + alpha * risk, new

  adamw = optax.chain(
    optax.scale_by_adam(eps=_EPSILON),
    optax.add_decayed_weights(weight_decay),
    at_rate(learning_rate),
  )
  return descend(objective, adamw, remember=remember)


def _log_p(network: Network, batch: Batch) -> jax.Array:
  return losses.sequence_log_probability(network(batch.inputs), batch.labels)
