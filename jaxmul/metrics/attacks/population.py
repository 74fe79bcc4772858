"""Attacks that need nothing but the outputs: one threshold for all examples, higher = member."""

from typing import Any

import numpy as np
import numpy.typing as npt

from jaxmul.metrics.outputs import at_label, log_odds, log_probabilities


def loss(logits: npt.ArrayLike, labels: npt.ArrayLike) -> np.ndarray:
  """Returns log p_y [..., n] in nats, at most 0: what was trained on has a small loss.

  Args:
    logits: [..., n, C].
    labels: int [n] in [0, C).

  Raises:
    ValueError: shapes do not fit, a label is no class, or NaN or inf among the logits.

  References:
    Yeom et al., [Privacy Risk in Machine Learning](https://arxiv.org/abs/1709.01604), 2018.

  Example:
    >>> loss([[0.0, 0.0]], [0]).round(3).tolist()
    [-0.693]
  """
  return -np.logaddexp(0, -log_odds(logits, labels))


def entropy(logits: npt.ArrayLike) -> np.ndarray:
  """Returns Σ_c p_c log p_c [..., n] in [−log C, 0]: what was trained on has a small entropy.

  Args:
    logits: [..., n, C]; no labels are needed, and a sure error looks like a member.

  Raises:
    ValueError: fewer than two axes, or NaN or inf among the logits.

  References:
    Song & Mittal, [Systematic Evaluation of Privacy Risks](https://arxiv.org/abs/2003.10595), 2021.

  Example:
    >>> entropy([[0.0, 0.0]]).round(3).tolist()
    [-0.693]
  """
  log_p = log_probabilities(logits)
  return np.sum(np.exp(log_p) * log_p, -1)


def modified_entropy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> np.ndarray:
  """Returns (1 − p_y) log p_y + Σ_{c≠y} p_c log(1 − p_c) [..., n], at most 0.

  0 for a sure and right prediction, −∞ in the limit of a sure and wrong one. Much public code has
  log p_c in place of log(1 − p_c).

  Args:
    logits, labels: as `loss`, and so are errors.

  References:
    Song & Mittal, [Systematic Evaluation of Privacy Risks](https://arxiv.org/abs/2003.10595), 2021.

  Example:
    >>> modified_entropy([[0.0, 0.0]], [0]).round(3).tolist()  # ½ log ½ + ½ log ½
    [-0.693]
  """
  from scipy.special import logsumexp

  log_p = log_probabilities(logits)
  # log(1 − p_c), of the likeliest class by the others' sum, so that p_c near 1 keeps its digits.
  is_likeliest = np.arange(log_p.shape[-1]) == np.argmax(log_p, -1)[..., None]
  others: Any = logsumexp(np.where(is_likeliest, -np.inf, log_p), -1, keepdims=True)
  p = np.exp(log_p)
  log_rest = np.where(is_likeliest, others, np.log1p(-np.where(is_likeliest, 0, p)))
  terms = p * log_rest
  own = np.exp(at_label(log_rest, labels)) * at_label(log_p, labels)
  return own + terms.sum(-1) - at_label(terms, labels)
