"""Each answer on S for itself: ascent that is weighed by its own confidence, or softer answers.

p is the probability of the label at a position (of an image there is one), z are the logits there,
z₀ those of the original network. Each algorithm descends γ L_S + α L_R, where L_S is the mean over
S of the mean over scored positions; see `_weighing` for L_R. Public code takes one mean over all
tokens of a batch, in which long texts count more.
"""

import jax
import jax.numpy as jnp

from jaxmul import _check, losses
from jaxmul.binding import Network
from jaxmul.unlearn._teachers import has_positions, logits_to_imitate
from jaxmul.unlearn._weighing import Keep, Weights, weighed
from jaxmul.unlearn._whole import all_logits
from jaxmul.unlearn.objective import Turn, adamw, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def wga(
  learning_rate: float = 1e-5,
  *,
  beta: float = 1.0,
  gamma: float = 1.0,
  alpha: float = 1.0,
  weight_decay: float = 0.0,
  keep: Keep = "risk",
) -> Unlearner:
  """Weighted gradient ascent on S, R kept: γ L_S + α L_R, by AdamW.

  At each position L_S is p^β log p with a weight p^β that has no gradient: what is forgotten
  already pulls no more, as ascent would. Published for 5 epochs. Needs R and S; one epoch is a pass
  over R with the batches of S cycled beside it, and costs two training epochs on R. With α = 0
  nothing of R is looked at, and an epoch is a pass over S. BatchNorm statistics follow R only.

  Args:
    learning_rate: of AdamW, whose ε is 1e-6.
    beta: β, at least 0; 0 is ascent.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled.
    keep: L_R, "risk" on R or "kl", KL(θ₀‖θ) there.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has a loss of its
      own.

  References:
    Wang et al., [Rethinking LLM Unlearning Objectives](https://arxiv.org/abs/2502.19301), 2025. The
    defaults are those of open-unlearning.

  Example:
    >>> wga(beta=2.0) == wga()
    False
  """
  _check.at_least("wga", 0, beta=beta)

  def forget_losses(network, turn, _):
    logits, labels = _logits_of_forget(network, turn), turn.forget.labels
    log_p = losses.at_label(losses.log_probabilities(logits), labels)
    weight = jax.lax.stop_gradient(jnp.exp(beta * log_p))
    return losses.mean_over_positions(weight * log_p, labels)

  weights, optimizer = Weights(gamma, alpha, keep), adamw(learning_rate, weight_decay)
  return weighed("wga", forget_losses, weights, optimizer)


@algorithm
def ce_u(
  learning_rate: float = 1e-5,
  *,
  gamma: float = 1.0,
  alpha: float = 0.0,
  weight_decay: float = 0.0,
  keep: Keep = "risk",
) -> Unlearner:
  """Cross-entropy to the network's own answers on S without the label: γ L_S + α L_R, by AdamW.

  At each position the target is softmax(z) with the label's logit at −∞, of the network as it is,
  without a gradient. Published for 10 epochs without a retain term. Needs S, and R where α is above
  0; one epoch is a pass over S, and costs one training epoch on it, or that of `wga`. The paper
  also leaves out the first token of an answer: give it the label −1.

  Args:
    learning_rate: of AdamW, whose ε is 1e-6.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled.
    keep: L_R, "risk" on R or "kl", KL(θ₀‖θ) there.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has a loss of its
      own.

  References:
    Yang, [CE-U: Cross Entropy Unlearning](https://arxiv.org/abs/2503.01224), 2025. Rate and epochs
    are those of open-unlearning.

  Example:
    >>> ce_u().passes, ce_u(alpha=1.0).passes
    ('forget', 'retain')
  """

  def forget_losses(network, turn, _):
    logits, labels = _logits_of_forget(network, turn), turn.forget.labels
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(is_label, -jnp.inf, jax.lax.stop_gradient(logits))
    return _cross_entropy_to(others, logits, labels)

  weights, optimizer = Weights(gamma, alpha, keep), adamw(learning_rate, weight_decay)
  return weighed("ce_u", forget_losses, weights, optimizer)


@algorithm
def undial(
  learning_rate: float = 1e-4,
  *,
  beta: float = 10.0,
  gamma: float = 1.0,
  alpha: float = 0.0,
  weight_decay: float = 0.0,
  keep: Keep = "risk",
) -> Unlearner:
  """Cross-entropy to the original's answers on S with a lower logit of the label, by AdamW.

  At each position the target is softmax(z₀ − β 1[y]), 1[y] the label's unit vector, and what is
  descended γ L_S + α L_R. It stays fixed, so that there is an end to descend to. Published for 10
  epochs without a retain term. Needs S, and R where α is above 0; one epoch is a pass over S, and
  costs one training epoch on it, or that of `wga`, and the teacher one forward pass over S in all,
  or of text in each epoch. Open-unlearning's code also counts positions that are not scored.

  Args:
    learning_rate: of AdamW, whose ε is 1e-6.
    beta: β, at least 0; 0 is to imitate the original.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled.
    keep: L_R, "risk" on R or "kl", KL(θ₀‖θ) there.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has a loss of its
      own.

  References:
    Dong et al., [UNDIAL](https://arxiv.org/abs/2402.10052), 2024. The defaults are those of
    open-unlearning.

  Example:
    >>> undial().passes
    'forget'
  """
  _check.at_least("undial", 0, beta=beta)

  def remember(network: Network, session: Session) -> jax.Array | Network:
    if has_positions(session):
      return network
    return all_logits(network, session.forget, session.batch_size)

  def forget_losses(network, turn, teacher):
    logits, labels = _logits_of_forget(network, turn), turn.forget.labels
    original = losses.scored_only(logits_to_imitate(teacher, turn.forget), labels)
    lowered = original - beta * jax.nn.one_hot(labels, logits.shape[-1], dtype=original.dtype)
    return _cross_entropy_to(lowered, logits, labels)

  weights, optimizer = Weights(gamma, alpha, keep), adamw(learning_rate, weight_decay)
  return weighed("undial", forget_losses, weights, optimizer, remember)


def _logits_of_forget(network: Network, turn: Turn) -> jax.Array:
  """Training-mode logits [B, *P, C] of a batch of S, 0 where a position is not scored."""
  logits, _ = train_logits(network, turn.forget, jax.random.fold_in(turn.key, 1))
  return losses.scored_only(logits, turn.forget.labels)


def _cross_entropy_to(target: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns −Σ_c softmax(t)_c log softmax(z)_c [B], the mean over scored positions."""
  share = jnp.exp(losses.log_probabilities(target))
  entropies = -jnp.sum(share * losses.log_probabilities(logits), axis=-1)
  return losses.mean_over_positions(entropies, labels)
