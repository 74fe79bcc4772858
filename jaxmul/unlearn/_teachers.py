"""Outputs to be imitated, and how far a network is from them.

t outputs to be imitated (of the original network, of a random one, …), s those of the network that
is being unlearned. KL(t‖s) at temperature T is that of softmax(t/T) and softmax(s/T); the factor T²
keeps the size of its gradient.

Where an example has one label, the outputs to imitate are computed once, as a table [N, C], and no
teacher is run again. A table [N, T, C] of text would be larger than most networks: there the
teacher itself is held, and run on each batch. No step can move either.
"""

import jax
import jax.numpy as jnp

from jaxmul import losses
from jaxmul._arrays import widened, without_padding
from jaxmul._examples import Batch
from jaxmul.binding import Network
from jaxmul.unlearn._whole import all_logits
from jaxmul.unlearn.unlearner import Session


def divergence(
  teacher: jax.Array,
  student: jax.Array,
  temperature: float = 1.0,
  *,
  labels: jax.Array | None = None,
) -> jax.Array:
  """Returns T² KL(softmax(t/T) ‖ softmax(s/T)) [B] in nats, at least 0, from logits [B, *P, C].

  Args:
    teacher: t, the logits that are imitated.
    student: s, of the same shape.
    temperature: T.
    labels: int [B, *P], which say which positions are scored: an example gets the mean over those.
      Needed where P is not empty.

  Raises:
    ValueError: logits have positions and there are no labels, or labels of other positions.

  Example:
    >>> import jax.numpy as jnp
    >>> divergence(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 2.0]]), 4.0).tolist()
    [0.0]
  """
  if labels is not None:
    teacher, student = (losses.scored_only(logits, labels) for logits in (teacher, student))
  elif student.ndim > 2:
    raise ValueError(
      f"divergence got logits {list(student.shape)} and no labels, which say what positions are "
      "scored. Pass labels=batch.labels."
    )
  log_t, log_s = (losses.log_probabilities(z / temperature) for z in (teacher, student))
  distances = temperature**2 * jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1)
  return distances if labels is None else losses.mean_over_positions(distances, labels)


def own_logits(network: Network, session: Session) -> jax.Array:
  """The original network's logits [N, C] of S and R."""
  logits = all_logits(network, session.retain, session.batch_size)
  logits += all_logits(network, session.forget, session.batch_size)
  return widened(logits)


def has_positions(session: Session) -> bool:
  """Whether an example has a label at each position, and not one."""
  return session.forget.labels.ndim > 1


def logits_to_imitate(teacher: jax.Array | Network, batch: Batch) -> jax.Array:
  """Returns the logits [B, *P, C] of a teacher, a table by row or a network, for a batch."""
  if isinstance(teacher, Network):
    return teacher(without_padding(batch.inputs, batch.mask))
  return teacher[batch.rows]
