"""How much of a text a network knows, token by token, when it is given the true ones before.

References:
  Dorna et al., [OpenUnlearning](https://arxiv.org/abs/2506.12618), 2025, and its code, for both;
  extraction strength is of Carlini et al., [Extracting Training
  Data](https://arxiv.org/abs/2012.07805), 2020.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import losses
from jaxmul._dataset import Dataset
from jaxmul.binding import ApplyFn
from jaxmul.metrics._given import network_of_text, or_nan, scored


def exact_memorization(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> np.ndarray:
  """Returns the share of a text's scored tokens that are the likeliest, float64 [n] in [0, 1].

  Args:
    params, apply_fn, batch_size: as `metrics.accuracy`.
    dataset: n sequences with labels [n, T].

  Raises:
    ValueError: examples have one label each, a logit is NaN, or as `metrics.accuracy`.

  Example:
    >>> import jax
    >>> from jaxmul import bind, data
    >>> counts = bind(lambda p, x: jax.nn.one_hot((x + 1) % 10, 10), {})
    >>> text = data.Dataset(np.array([[3, 1, 2, 3]]), np.array([[1, 2, 3, 4]]))
    >>> exact_memorization(counts, text).tolist()
    [0.75]
  """
  return _shares(_token_accuracy, params, dataset, apply_fn, batch_size, "exact_memorization")


def extraction_strength(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> np.ndarray:
  """Returns the longest end of a text that greedy decoding gives, as a share, float64 [n].

  1 − k / T, with k the fewest of T scored tokens after which the network, given them, goes on with
  all of the rest: 1 where nothing has to be given. Where not even the last token is right it is 0;
  OpenUnlearning's code says 1 / T there, and leaves the last token of a text out.

  Args:
    params, dataset, apply_fn, batch_size: as `exact_memorization`; errors are the same.

  Example:
    >>> import jax
    >>> from jaxmul import bind, data
    >>> counts = bind(lambda p, x: jax.nn.one_hot((x + 1) % 10, 10), {})
    >>> text = data.Dataset(np.array([[0, 3, 1, 2]]), np.array([[1, 9, 2, 3]]))
    >>> extraction_strength(counts, text).tolist()
    [0.5]
  """
  return _shares(_right_end, params, dataset, apply_fn, batch_size, "extraction_strength")


def _shares(function, params, dataset, apply_fn, batch_size, caller) -> np.ndarray:
  network = network_of_text(params, dataset, apply_fn, caller)
  return scored(function, network, dataset, batch_size, "logits")


def _token_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  return or_nan(losses.token_accuracy(logits, labels), logits, labels)


def _right_end(logits: jax.Array, labels: jax.Array) -> jax.Array:
  is_right = (jnp.argmax(logits, axis=-1) == labels) | (labels == losses.UNSCORED)
  to_the_end = jnp.flip(jnp.cumprod(jnp.flip(is_right, axis=1), axis=1), axis=1)
  share = losses.mean_over_positions(to_the_end.astype(jnp.float32), labels)
  return or_nan(share, logits, labels)
