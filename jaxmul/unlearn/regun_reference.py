"""ReGUn: held-out outputs of the same mix of classes are what S is to look like.

q outputs to be imitated, s those of the network that is being unlearned.
"""

import jax
import jax.numpy as jnp

from jaxmul import _check, losses
from jaxmul._dataset import Dataset
from jaxmul._examples import examples_of
from jaxmul.binding import Network
from jaxmul.unlearn._class_only import refuse_positions
from jaxmul.unlearn._teachers import divergence
from jaxmul.unlearn._whole import all_logits, is_member
from jaxmul.unlearn.objective import batch_risk, descend, sgd, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def regun(
  heldout: Dataset,
  learning_rate: float = 0.01,
  *,
  weight: float = 1.0,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> Unlearner:
  """Makes S look held out: w KL(q‖s) on S plus risk_R.

  q is the mean of the original network's softmax outputs on held-out examples with the mix of
  classes of the batch of S: the mean over that batch of its classes' held-out means (the paper
  draws as many held-out examples of each class; this is their expectation). Needs R, S and held-out
  data, all of which passes the network once; one epoch is a pass over R with S cycled beside it,
  and costs two training epochs on R. The paper tunes rate, epochs and weight; 0.01, 5
  epochs and 1 are our choice. BatchNorm statistics follow R only.

  Held-out examples of a class are no target where R holds nothing of it, as when a whole class is
  forgotten: a network that never saw the class never predicts it. There (the paper has no such
  case) the probability of every class without a retained example is taken out of each held-out
  output, the rest is scaled to sum to 1, and q is the mean of that: 0 for these classes, and for
  the others what the original says an example looks like otherwise. One retained example is enough
  to keep a class: how much less a network learns from a few than the original did from all cannot
  be read off the original, so that there the target is too sure of the class. With an oracle or an
  estimate, compare.

  Args:
    heldout: examples never trained on, such as the `proxy` part of `data.cut_heldout`; at least one
      of each class in S.
    learning_rate: η, constant.
    weight: w, at least 0; 0 is `fine_tune`.
    momentum, weight_decay: μ and λ.

  Raises:
    ValueError: a number is outside its range. `init` raises it where a class of S has no held-out
      example, or examples do not have one class each.

  References:
    Mirlach et al., [Reference-Guided Machine Unlearning](https://arxiv.org/abs/2603.11210), 2026.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> regun(Dataset(np.eye(2), np.array([0, 1]))).passes
    'retain'
  """
  _check.at_least("regun", 0, weight=weight)
  if not len(heldout):
    raise ValueError("regun got no held-out examples, must be at least one of each class in S.")

  def remember(network: Network, session: Session) -> jax.Array:
    refuse_positions(network, session, "regun")
    examples = examples_of(heldout)
    logits = all_logits(network, examples, session.batch_size)
    classes = jnp.arange(logits.shape[-1])
    forgotten, retained = (
      jnp.zeros(len(classes), bool).at[part.labels].max(is_member(part))
      for part in (session.forget, session.retain)
    )
    members = examples.labels == classes[:, None]
    _refuse_unknown_class(forgotten & ~members.any(1))
    outputs = jnp.exp(losses.log_probabilities(jnp.where(retained, logits, -jnp.inf)))
    return members @ outputs / jnp.maximum(members.sum(1), 1)[:, None]

  def objective(network, turn, references):
    risk, new = batch_risk(network, turn.retain, turn.key)
    student, _ = train_logits(network, turn.forget, jax.random.fold_in(turn.key, 1))
    share = turn.forget.mask / jnp.maximum(turn.forget.mask.sum(), 1)
    reference = share.astype(references.dtype) @ references[turn.forget.labels]
    log_reference = jnp.log(jnp.maximum(reference, jnp.finfo(reference.dtype).tiny))
    distances = divergence(log_reference, student)
    return risk + weight * losses.masked_mean(distances, turn.forget.mask), new

  return descend(objective, sgd(learning_rate, momentum, weight_decay), remember=remember)


def _refuse_unknown_class(unknown: jax.Array) -> None:
  if _check.is_concrete(unknown) and unknown.any():
    raise ValueError(
      f"regun: class {int(jnp.argmax(unknown))} is in the forget set, but not held out. "
      "Hold out examples of each class."
    )
