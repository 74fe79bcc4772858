"""Outputs to be imitated, and how far a network is from them.

t outputs to be imitated (of the original network, of a random one, …), s those of the network that
is being unlearned. KL(t‖s) at temperature T is that of softmax(t/T) and softmax(s/T); the factor T²
keeps the size of its gradient. The outputs to imitate are computed once, as a table [N, C]: no step
can move a teacher, and none is run again.
"""

import jax
import jax.numpy as jnp

from jaxmul import losses
from jaxmul.binding import Network
from jaxmul.unlearn._whole import all_logits
from jaxmul.unlearn.unlearner import Session


def divergence(teacher: jax.Array, student: jax.Array, temperature: float = 1.0) -> jax.Array:
  """Returns T² KL(softmax(t/T) ‖ softmax(s/T)) [B] in nats, at least 0, from logits [B, C].

  Example:
    >>> import jax.numpy as jnp
    >>> divergence(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 2.0]]), 4.0).tolist()
    [0.0]
  """
  log_t, log_s = (losses.log_probabilities(z / temperature) for z in (teacher, student))
  return temperature**2 * jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)


def own_logits(network: Network, session: Session) -> jax.Array:
  """The original network's logits [N, C] of S and R."""
  logits = all_logits(network, session.retain, session.batch_size)
  return logits + all_logits(network, session.forget, session.batch_size)
