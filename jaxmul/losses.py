"""Per-example losses [B] of logits z [B, *P, C] and labels y [B, *P], and their means.

p = softmax(z). Everything is computed from log p, in float32 or the wider type of the logits, so
that a confident example gives a small number and not a rounding of 0 or 1.

P is () where an example has one label, as an image has, and (T,) for text. Where P is not empty, a
label of −1 is not scored, and what an example gets is its mean over the scored positions: the loss
of a text is in nats per token, and p = e^−loss is the geometric mean of its tokens' probabilities.
Each function ends in that one mean, so that a mask [B] of examples never meets positions.
"""

import jax
import jax.numpy as jnp

from jaxmul._arrays import wide_dtype, widened

UNSCORED = -1
"""The label of a position that no loss, score or accuracy counts."""


def log_probabilities(logits: jax.Array) -> jax.Array:
  """Returns log p [B, *P, C], at most 0, float32 or wider.

  Example:
    >>> import jax.numpy as jnp
    >>> float(log_probabilities(jnp.zeros((1, 2)))[0, 0])
    -0.6931471824645996
  """
  return jax.nn.log_softmax(widened(logits), axis=-1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns −log p_y [B] in nats, at least 0.

  A label outside [0, C) gives NaN rather than the loss of another class.

  Example:
    >>> import jax.numpy as jnp
    >>> cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([2])).tolist()
    [nan]
    >>> text = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]))
    >>> float(jnp.exp(-cross_entropy(text, jnp.array([[0, 0, -1]])))[0])  # (½ · ¼)^½
    0.3535533845424652
  """
  logits = scored_only(logits, labels)
  log_p = mean_over_positions(at_label(log_probabilities(logits), labels), labels)
  return 0.0 - log_p  # not −0 for a sure example


def sequence_log_probability(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns log p [B] of whole examples, at most 0: the sum of what the loss is the mean of.

  Example:
    >>> import jax.numpy as jnp
    >>> text = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]))
    >>> float(jnp.exp(sequence_log_probability(text, jnp.array([[0, 0, -1]])))[0])  # ½ · ¼
    0.125
  """
  loss = cross_entropy(logits, labels)
  if labels.ndim == 1:
    return -loss
  count = jnp.sum(labels != UNSCORED, axis=tuple(range(1, labels.ndim)))
  return -loss * count.astype(loss.dtype)


def margins(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns z_y − max_{c≠y} z_c [B], in logits: positive where the label is predicted.

  Example:
    >>> import jax.numpy as jnp
    >>> margins(jnp.array([[1.0, 3.0, 0.0]]), jnp.array([1])).tolist()
    [2.0]
  """
  logits = widened(scored_only(logits, labels))
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
  return mean_over_positions(at_label(logits, labels) - others, labels)


def log_odds(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns φ = log p − log(1 − p) [B], by which attacks and memorization compare models.

  Of an image p is p_y, and φ comes from the logits. Of a text it is e^−ℓ, the geometric mean of its
  tokens' probabilities, with ℓ the mean loss over scored positions: p can be read off φ. log p_t
  comes from the log-odds of each position, so that a confident text is resolved too.

  References:
    Carlini et al., [Membership Inference From First Principles](https://arxiv.org/abs/2112.03570).

  Example:
    >>> import jax.numpy as jnp
    >>> log_odds(jnp.array([[0.0, 0.0]]), jnp.array([0])).tolist()
    [0.0]
    >>> text = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]]))
    >>> phi = log_odds(text, jnp.array([[0, 0, -1]]))
    >>> round(float(jax.nn.sigmoid(phi)[0]), 6)  # (½ · ¼)^½
    0.353553
  """
  logits = widened(scored_only(logits, labels))
  is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
  others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
  phi = at_label(logits, labels) - others
  if labels.ndim == 1:
    return phi
  loss = mean_over_positions(jax.nn.softplus(-phi), labels)
  return -loss - jnp.log(-jnp.expm1(-loss))


def log_odds_and_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns [B, 2], float32 or wider: φ, and 1 where the example is right, else 0.

  Example:
    >>> import jax.numpy as jnp
    >>> log_odds_and_correct(jnp.array([[0.0, 1.0]]), jnp.array([1])).tolist()
    [[1.0, 1.0]]
  """
  phi = log_odds(logits, labels)
  return jnp.stack([phi, is_correct(logits, labels).astype(phi.dtype)], axis=-1)


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns bool [B]: whether the largest logit is the label's, at every scored position.

  The first of tied logits wins. Of a text this is whether greedy decoding from its unscored prompt
  gives the rest: a greedy continuation is right as long as each next token is.

  Example:
    >>> import jax.numpy as jnp
    >>> text = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> [is_correct(text, jnp.array([y])).tolist() for y in ([0, 1], [0, 0], [0, -1])]
    [[True], [False], [True]]
  """
  _refuse_other_positions(logits, labels)
  right = jnp.argmax(logits, axis=-1) == labels
  if labels.ndim == 1:
    return right
  return jnp.all(right | (labels == UNSCORED), axis=tuple(range(1, labels.ndim)))


def token_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the share [B] of scored positions whose largest logit is the label's, in [0, 1].

  With one label an example it is 1 or 0, as `is_correct`. The first of tied logits wins.

  Example:
    >>> import jax.numpy as jnp
    >>> text = jnp.array([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    >>> token_accuracy(text, jnp.array([[0, 0, -1]])).tolist()
    [0.5]
  """
  _refuse_other_positions(logits, labels)
  right = jnp.argmax(logits, axis=-1) == labels
  return mean_over_positions(right.astype(wide_dtype(logits.dtype)), labels)


def mean_over_positions(values: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns values [B, *P] as [B], each example's mean over its scored positions.

  The values themselves where P is (); 0 for an example without a scored position, which a `Dataset`
  refuses. Unscored values may be anything, NaN included, without touching the result or its
  gradient.

  Example:
    >>> import jax.numpy as jnp
    >>> values, labels = jnp.array([[1.0, 3.0, jnp.nan]]), jnp.array([[0, 4, -1]])
    >>> mean_over_positions(values, labels).tolist()
    [2.0]
  """
  if values.shape != labels.shape:
    raise ValueError(
      f"a mean over positions needs values of the labels' shape {labels.shape}, got {values.shape}."
    )
  if labels.ndim == 1:
    return values
  scored, positions = labels != UNSCORED, tuple(range(1, labels.ndim))
  total = jnp.sum(jnp.where(scored, widened(values), 0), axis=positions)
  return total / jnp.maximum(jnp.sum(scored, axis=positions), 1).astype(total.dtype)


def mean_of_largest(values: jax.Array, labels: jax.Array, share: float) -> jax.Array:
  """Returns values [B, T] as [B]: the mean of the largest ⌊share · scored⌋ of them, but of one.

  Unscored values may be anything, NaN included.

  Args:
    values: [B, T].
    labels: int [B, T], −1 where a position is not scored.
    share: of the scored positions, in (0, 1].

  Raises:
    ValueError: the share is outside its range, or the shapes differ.

  Example:
    >>> import jax.numpy as jnp
    >>> values, labels = jnp.array([[1.0, 4.0, 2.0, 9.0]]), jnp.array([[0, 3, 1, -1]])
    >>> mean_of_largest(values, labels, 0.7).tolist()
    [3.0]
  """
  if not 0 < share <= 1:
    raise ValueError(f"a mean of the largest got share={share}, must be in (0, 1].")
  if values.shape != labels.shape or labels.ndim != 2:
    raise ValueError(
      f"a mean of the largest needs values and labels [B, T], got {values.shape} and "
      f"{labels.shape}."
    )
  scored, values = labels != UNSCORED, widened(values)
  count = jnp.maximum(jnp.floor(share * jnp.sum(scored, axis=1)), 1)
  largest = -jnp.sort(jnp.where(scored, -values, jnp.inf), axis=1)
  taken = jnp.arange(labels.shape[1]) < count[:, None]
  return jnp.sum(jnp.where(taken, largest, 0), axis=1) / count.astype(values.dtype)


def mean_of_least_likely(logits: jax.Array, labels: jax.Array, share: float) -> jax.Array:
  """Returns the mean loss [B] in nats of the least likely share of a text's tokens: Min-K %.

  Args:
    logits: [B, T, C]; what is not scored may be anything.
    labels: int [B, T], −1 where a position is not scored.
    share: of the scored tokens, as `mean_of_largest`, whose errors are these.

  References:
    Shi et al., [Detecting Pretraining Data](https://arxiv.org/abs/2310.16789), 2023, whose score is
    minus this.

  Example:
    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.75, 0.25]]]))
    >>> round(float(jnp.exp(-mean_of_least_likely(logits, jnp.array([[0, 1]]), 0.5)[0])), 3)
    0.25
  """
  log_p = log_probabilities(scored_only(logits, labels))
  return mean_of_largest(-at_label(log_p, labels), labels, share)


def scored_only(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns logits [B, *P, C] with zeros where a position is not scored; the same where P is ().

  What padding holds, NaN included, then touches no gradient.

  Raises:
    ValueError: logits and labels are not of the same examples and positions.
  """
  _refuse_other_positions(logits, labels)
  if labels.ndim == 1:
    return logits
  return jnp.where((labels != UNSCORED)[..., None], logits, 0)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns the mean of values [B] where mask [B] is True; 0 where nothing is.

  Masked values may be anything, NaN included, without touching the result or its gradient.

  Raises:
    ValueError: values and mask differ in shape, as where positions were not averaged before.

  Example:
    >>> import jax.numpy as jnp
    >>> float(masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([True, False])))
    1.0
  """
  if jnp.shape(values) != jnp.shape(mask):
    raise ValueError(
      f"masked_mean got values {jnp.shape(values)} and a mask {jnp.shape(mask)} of examples, must "
      "be [B] both. Average over positions first: losses.mean_over_positions(values, labels)."
    )
  total = jnp.sum(jnp.where(mask, widened(jnp.asarray(values)), 0))
  return total / jnp.maximum(jnp.sum(mask), 1).astype(total.dtype)


def at_label(values: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns values [B, *P, C] at labels [B, *P] as [B, *P]; NaN for a label outside [0, C)."""
  wrapped = jnp.where(labels < 0, values.shape[-1], labels)
  return jnp.take_along_axis(values, wrapped[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[
    ..., 0
  ]


def _refuse_other_positions(logits: jax.Array, labels: jax.Array) -> None:
  if jnp.shape(logits)[:-1] != jnp.shape(labels):
    raise ValueError(
      f"a loss got logits {jnp.shape(logits)} and labels {jnp.shape(labels)}, must be [B, *P, C] "
      "and [B, *P]."
    )
