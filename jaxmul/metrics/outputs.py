"""What attacks and comparisons read of logits that are kept by id: log p, p_y and φ, in float64.

Logits have shape [..., n, C]: any leading axes (models, seeds), n examples, C classes.
"""

from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from jaxmul._arrays import widened
from jaxmul._dataset import Dataset
from jaxmul._scoring import score
from jaxmul.binding import ApplyFn, Network, as_network, refuse_own_loss
from jaxmul.metrics._given import refuse_positions


def logits_of(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> np.ndarray:
  """Returns the logits float32 [n, C] of every example, in the order of `dataset.ids`.

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    dataset: n examples; uint8 images are scaled to [0, 1].
    apply_fn: `apply_fn(params, inputs) -> logits [B, C]`, evaluation mode.
    batch_size: examples at a time.

  Raises:
    ValueError: the data set is empty, a label is not one of the classes, or examples do not have
      one label each.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> logits_of(np.eye(2), Dataset(np.eye(2), np.array([0, 1])), lambda w, x: x @ w).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
  """
  refuse_positions(dataset, "logits_of", "Use metrics.oracle.outputs, which keeps log-odds")
  network = as_network(params, apply_fn, "logits_of")
  refuse_own_loss(network, "logits_of")
  return score(_logits, network, dataset, batch_size=batch_size)


def log_probabilities(logits: npt.ArrayLike) -> np.ndarray:
  """Returns log p [..., n, C], at most 0.

  Raises:
    ValueError: fewer than two axes, or NaN or inf among the logits.

  Example:
    >>> log_probabilities([[0.0, 0.0]]).round(3).tolist()
    [[-0.693, -0.693]]
  """
  z = _finite(logits)
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def log_odds(logits: npt.ArrayLike, labels: npt.ArrayLike) -> np.ndarray:
  """Returns φ = log p_y − log Σ_{c≠y} p_c [..., n], also z_y − logsumexp_{c≠y} z_c, the margin.

  Args:
    logits: [..., n, C].
    labels: int [n] in [0, C).

  Raises:
    ValueError: shapes do not fit, a label is no class, or NaN or inf among the logits.

  Example:
    >>> log_odds([[1.0, 0.0], [0.0, 1.0]], [0, 0]).tolist()
    [1.0, -1.0]
  """
  z = _finite(logits)
  is_label = _is_label(z, labels)
  others = np.where(is_label, -np.inf, z)
  top = others.max(-1, keepdims=True)
  rest = top[..., 0] + np.log(np.exp(others - top).sum(-1))
  return np.where(is_label, z, 0).sum(-1) - rest


def label_probability(logits: npt.ArrayLike, labels: npt.ArrayLike) -> np.ndarray:
  """Returns p_y [..., n] in [0, 1], from φ, so that a confident p_y is resolved to 1e-16.

  Example:
    >>> label_probability([[0.0, 0.0]], [1]).tolist()
    [0.5]
  """
  return np.exp(-np.logaddexp(0, -log_odds(logits, labels)))


def is_correct(logits: npt.ArrayLike, labels: npt.ArrayLike) -> np.ndarray:
  """Returns bool [..., n]: whether the largest logit is the label's; the first one wins a tie."""
  z = _finite(logits)
  return np.argmax(z, -1) == _labels(z, labels)


def at_label(values: np.ndarray, labels: npt.ArrayLike) -> np.ndarray:
  """Returns values [..., n, C] at labels [n] as [..., n]."""
  return np.where(_is_label(values, labels), values, 0).sum(-1)


def _logits(network: Network, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
  logits = network(batch[0])
  # bfloat16 is no dtype of NumPy's own: a file would not give it back.
  return widened(logits)


def _is_label(values: np.ndarray, labels: npt.ArrayLike) -> np.ndarray:
  return np.arange(values.shape[-1]) == _labels(values, labels)[:, None]


def _labels(values: np.ndarray, given: npt.ArrayLike) -> np.ndarray:
  labels, (n, classes) = np.asarray(given), values.shape[-2:]
  if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f"logits {list(values.shape)} need integer labels [{n}], got {labels.dtype} "
      f"{list(labels.shape)}. Take both by the same ids."
    )
  bad = labels[(labels < 0) | (labels >= classes)]
  if len(bad):
    raise ValueError(f"label {bad[0]} is outside [0, {classes}), the classes of the logits.")
  return labels


def _finite(logits: npt.ArrayLike) -> np.ndarray:
  z = np.asarray(logits, dtype=np.float64)
  if z.ndim < 2 or z.shape[-1] < 2:
    raise ValueError(f"logits must be [..., n, C] with C of at least 2, got shape {z.shape}.")
  if not np.isfinite(z).all():
    where = tuple(int(i) for i in np.argwhere(~np.isfinite(z))[0])
    raise ValueError(f"logits hold {z[where]} at {where}: this model has diverged. Leave it out.")
  return z
