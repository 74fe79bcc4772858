"""Accuracy: the share of examples whose largest logit is the label's; the first one wins a tie.

A text is right where all of its scored positions are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import losses
from jaxmul._dataset import Dataset
from jaxmul.binding import ApplyFn, Network, as_network, refuse_own_loss
from jaxmul.data.split import Split
from jaxmul.metrics._given import or_nan, scored


def accuracy(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> float:
  """Returns the accuracy on a data set, in [0, 1].

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    dataset: n examples; uint8 images are scaled to [0, 1].
    apply_fn: `apply_fn(params, inputs) -> logits [B, C]`, evaluation mode.
    batch_size: examples at a time; bounds the memory and does not change the result.

  Raises:
    ValueError: the data set is empty, a label is not one of the classes, a logit is NaN, or the
      network has a loss of its own.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(4), np.array([0, 1, 2, 0]))
    >>> accuracy(np.eye(4), toy, lambda w, x: x @ w)
    0.75
  """
  return float(np.mean(correct_of(as_network(params, apply_fn, "accuracy"), dataset, batch_size)))


def evaluate(
  params: Any,
  dataset: Dataset,
  split: Split,
  apply_fn: ApplyFn | None = None,
  *,
  batch_size: int = 1024,
) -> dict[str, float]:
  """Returns the accuracy in [0, 1] on each part of a split that is not empty, in one pass.

  Args:
    params, apply_fn, batch_size: as `accuracy`.
    dataset: where the ids of `split` are.
    split: forget, retain, and perhaps heldout and test ids.

  Returns:
    `{"forget": ..., "retain": ..., "test": ..., "heldout": ...}`.

  Raises:
    ValueError: an id is not in the data, or as `accuracy`.

  Example:
    >>> import numpy as np
    >>> from jaxmul.data import Dataset, Split
    >>> toy = Dataset(np.eye(4), np.array([0, 1, 2, 0]))
    >>> split = Split(forget=np.array([3]), retain=np.array([0, 1]), test=np.array([2]))
    >>> evaluate(np.eye(4), toy, split, lambda w, x: x @ w)
    {'forget': 0.0, 'retain': 1.0, 'test': 1.0}
  """
  network = as_network(params, apply_fn, "evaluate")
  names = ("forget", "retain", "test", "heldout")
  ids = [getattr(split, name) for name in names]
  correct = correct_of(network, dataset.take(np.concatenate(ids)), batch_size)
  parts = np.split(correct, np.cumsum([len(part) for part in ids])[:-1])
  return {name: float(np.mean(part)) for name, part in zip(names, parts, strict=True) if len(part)}


def correct_of(network: Network, dataset: Dataset, batch_size: int) -> np.ndarray:
  """Returns 0 or 1 for each example, float64 [n]."""
  refuse_own_loss(network, "accuracy")
  return scored(_correct_or_nan, network, dataset, batch_size, "logits")


def _correct_or_nan(logits: jax.Array, labels: jax.Array) -> jax.Array:
  return or_nan(losses.is_correct(logits, labels).astype(jnp.float32), logits, labels)
