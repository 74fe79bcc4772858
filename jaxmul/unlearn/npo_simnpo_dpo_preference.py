"""Preference: the answers of S are the worse ones, of a pair or alone.

p is the probability of a whole example, of text the product over its scored tokens, and p₀ that of
the original network. Each algorithm descends γ L_S + α L_R with an L_S that fades once p has
fallen, so that it does not diverge as ascent does; see `_weighing` for L_R.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import _article, _check, losses
from jaxmul._dataset import Dataset
from jaxmul._examples import Batch, Examples, examples_of
from jaxmul._ids import find
from jaxmul.binding import Network
from jaxmul.unlearn._weighing import Keep, Weights, weighed
from jaxmul.unlearn._whole import is_member, map_members
from jaxmul.unlearn.objective import Turn, adamw, train_logits
from jaxmul.unlearn.unlearner import Session, Unlearner, algorithm


@algorithm
def npo(
  learning_rate: float = 1e-5,
  *,
  beta: float = 0.1,
  gamma: float = 1.0,
  alpha: float = 1.0,
  weight_decay: float = 0.0,
  keep: Keep = "risk",
) -> Unlearner:
  """Away from the original network's answers on S, R kept: γ L_S + α L_R, by AdamW.

  L_S is the mean over S of −(2/β) log σ(−β (log p − log p₀)), p₀ of the original network. Its
  gradient is that of ascent times a weight that falls from 1 to 0 as p falls below p₀, so that it
  does not diverge as `neg_grad` does. Published for 10 epochs on language models. Needs R and S;
  one epoch is a pass over R with the batches of S cycled beside it, and costs two training epochs
  on R. With α = 0 nothing of R is looked at, and an epoch is a pass over S. BatchNorm statistics
  follow R only.

  Args:
    learning_rate: of AdamW, whose ε is 1e-6.
    beta: β, above 0; towards 0 it is ascent.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled.
    keep: L_R, "risk" on R or "kl", KL(θ₀‖θ) there.

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
  _check.above("npo", 0, beta=beta)

  def forget_losses(network, turn, log_p0):
    ratio = _forget_log_p(network, turn) - log_p0[turn.forget.rows]
    return -2 / beta * jax.nn.log_sigmoid(-beta * ratio)

  weights, optimizer = Weights(gamma, alpha, keep), adamw(learning_rate, weight_decay)
  return weighed("npo", forget_losses, weights, optimizer, _log_p_of_forget)


@algorithm
def simnpo(
  learning_rate: float = 1e-5,
  *,
  beta: float = 4.5,
  delta: float = 0.0,
  gamma: float = 0.125,
  alpha: float = 1.0,
  weight_decay: float = 0.0,
  keep: Keep = "risk",
) -> Unlearner:
  """Away from low losses on S, whatever the original's were: γ L_S + α L_R, by AdamW.

  L_S is the mean over S of −(2/β) log σ(β (ℓ − δ)), ℓ an example's loss, of text the mean over its
  scored tokens. The weight of an example depends neither on the length of a text nor on how well
  the original knew it. Published for 10 epochs. Needs R and S; costs and statistics are those of
  `npo`.

  Args:
    learning_rate: of AdamW, whose ε is 1e-6.
    beta: β, above 0; towards 0 it is ascent.
    delta: δ in nats per token; the paper's γ is β δ.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled.
    keep: L_R, "risk" on R or "kl", KL(θ₀‖θ) there.

  Raises:
    ValueError: a number is outside its range. `init` raises it where the network has a loss of its
      own.

  References:
    Fan et al., [Simplicity Prevails](https://arxiv.org/abs/2410.07163), 2024. The defaults are
    those of open-unlearning.

  Example:
    >>> simnpo(delta=1.0) == simnpo()
    False
  """
  _check.above("simnpo", 0, beta=beta)

  def forget_losses(network, turn, _):
    logits, _ = train_logits(network, turn.forget, jax.random.fold_in(turn.key, 1))
    loss = losses.cross_entropy(logits, turn.forget.labels)
    return -2 / beta * jax.nn.log_sigmoid(beta * (loss - delta))

  weights, optimizer = Weights(gamma, alpha, keep), adamw(learning_rate, weight_decay)
  return weighed("simnpo", forget_losses, weights, optimizer)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pairs:
  """What is preferred to S.

  Attributes:
    answers: m of them.
    places: int32 [N], the answer to each row of the data set, 0 where a row has none.
    worse: log p₀ [N] of the rows.
    better: log p₀ [m] of the answers.
  """

  answers: Examples
  places: jax.Array
  worse: jax.Array
  better: jax.Array


@algorithm
def dpo(
  alternatives: Dataset,
  learning_rate: float = 1e-5,
  *,
  beta: float = 0.1,
  gamma: float = 1.0,
  alpha: float = 1.0,
  weight_decay: float = 0.0,
  keep: Keep = "risk",
) -> Unlearner:
  """Prefers given answers to those of S: γ L_S + α L_R, by AdamW.

  L_S is the mean over S of −(2/β) log σ(β (log p'/p'₀ − log p/p₀)), p' the probability of the
  alternative, such as "I don't know" after the same question. The paper has no factor 2/β; it is
  open-unlearning's, with which DPO without an alternative is `npo`. Published for 10 epochs. Needs
  R, S and the alternatives; an epoch is that of `npo`, and costs three training epochs on R.

  Args:
    alternatives: for each example of S one with its id, what is preferred to it: of text the tokens
      and labels of another answer, of any length; of an image the same image and another class.
      Others are ignored.
    learning_rate: of AdamW, whose ε is 1e-6.
    beta: β, above 0.
    gamma, alpha: γ and α, at least 0.
    weight_decay: of AdamW, decoupled.
    keep: L_R, "risk" on R or "kl", KL(θ₀‖θ) there.

  Raises:
    ValueError: a number is outside its range. `init` raises it where an example of S has no
      alternative, labels are no classes of the network, or it has a loss of its own.

  References:
    Rafailov et al., [Direct Preference Optimization](https://arxiv.org/abs/2305.18290), 2023; for
    unlearning: Maini et al., [TOFU](https://arxiv.org/abs/2401.06121), 2024. The defaults are those
    of open-unlearning.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> dpo(Dataset(np.eye(2), labels=np.array([1, 0]), ids=np.array([7, 5]))).passes
    'retain'
  """
  _check.above("dpo", 0, beta=beta)
  if not isinstance(alternatives, Dataset):
    raise ValueError(
      f"dpo got {_article.of(alternatives)} as alternatives, must be a Dataset with the ids of S."
    )

  def remember(network: Network, session: Session) -> _Pairs:
    worse = _log_p_of_forget(network, session)
    if _check.is_concrete(worse) and jnp.isfinite(worse).all():  # else it has diverged already
      _check.tokens(network, alternatives.inputs, "dpo: alternatives")
    _check.answers(network, alternatives.example, alternatives.labels, "dpo: alternatives")
    places = _places(alternatives, session)
    answers = examples_of(alternatives)
    better = map_members(_log_p, (network,), answers, session.batch_size)
    return _Pairs(answers=answers, places=jnp.asarray(places), worse=worse, better=better)

  def forget_losses(network, turn, pairs):
    places = pairs.places[turn.forget.rows]
    answers = pairs.answers.gather(places, turn.forget.mask)
    logits, _ = train_logits(network, answers, jax.random.fold_in(turn.key, 2))
    better = losses.sequence_log_probability(logits, answers.labels) - pairs.better[places]
    worse = _forget_log_p(network, turn) - pairs.worse[turn.forget.rows]
    return -2 / beta * jax.nn.log_sigmoid(beta * (better - worse))

  weights, optimizer = Weights(gamma, alpha, keep), adamw(learning_rate, weight_decay)
  return weighed("dpo", forget_losses, weights, optimizer, remember)


def _places(alternatives: Dataset, session: Session) -> np.ndarray:
  """Returns the row int32 [N] of each example's alternative, 0 where it has none."""
  if session.ids is None:
    raise ValueError("dpo joins its alternatives by id, but the session has no ids. Use run.")
  places = find(alternatives.ids, session.ids)
  forgotten = is_member(session.forget)
  if _check.is_concrete(forgotten) and len(missing := np.flatnonzero(forgotten & (places < 0))):
    raise ValueError(
      f"dpo: id {session.ids[missing].min()} of the forget set has no alternative ({len(missing)} "
      "have none). Give one of each."
    )
  return np.maximum(places, 0).astype(np.int32)


def _forget_log_p(network: Network, turn: Turn) -> jax.Array:
  """log p [B] of a batch of S in training mode."""
  logits, _ = train_logits(network, turn.forget, jax.random.fold_in(turn.key, 1))
  return losses.sequence_log_probability(logits, turn.forget.labels)


def _log_p_of_forget(network: Network, session: Session) -> jax.Array:
  """log p [N] of S in evaluation mode, 0 in other rows."""
  return map_members(_log_p, (network,), session.forget, session.batch_size)


def _log_p(network: Network, batch: Batch) -> jax.Array:
  return losses.sequence_log_probability(network(batch.inputs), batch.labels)
