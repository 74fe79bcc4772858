"""Proxies read off one evaluation pass: z logits, p = softmax(z), y the label.

All are [B], float32, higher = more memorized, and equal whatever the batch size or order. Of text
each is the mean over an example's scored positions, but `confidence` is 1 − e^−loss, and
`correctness` counts an example as right where all of its positions are. All but `loss` need
probabilities of classes, and refuse a network that is bound with another loss.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmul import _check, losses
from jaxmul.binding import (
  ApplyFn,
  Network,
  as_network,
  losses_of,
  refuse_own_loss,
  refuse_without_embed,
)
from jaxmul.losses import mean_over_positions

Batch = tuple[jax.Array, jax.Array]


def confidence(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """1 − p_y: labels the network is unsure of tend to be memorized late.

  Args:
    params: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    batch: `(inputs [B, ...], labels int [B, *P])`, inputs float or tokens.
    apply_fn: `apply_fn(params, inputs) -> logits [B, *P, C]`, evaluation mode.

  Returns:
    Scores [B], float32 in [0, 1].

  Raises:
    ValueError: `params` is not callable and no `apply_fn` is given; the batch is not as above; or
      the network is bound with a loss of its own.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> confidence(jnp.zeros((2, 2)), (jnp.ones((1, 2)), jnp.array([0])), lambda w, x: x @ w).item()
    0.5
  """
  logits, labels = _forward(params, batch, apply_fn, "confidence")
  return -jnp.expm1(-losses.cross_entropy(logits, labels))


def max_confidence(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """1 − max_c p_c [B], float32 in [0, 1 − 1/C]; arguments and errors as `confidence`.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> max_confidence(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item()
    0.5
  """
  logits, labels = _forward(params, batch, apply_fn, "max_confidence")
  return max_confidences(logits, labels)


def entropy(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """−Σ p log p [B] in nats, float32 in [0, log C], with 0·log 0 = 0; the rest as `confidence`.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> round(entropy(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item(), 4)
    0.6931
  """
  logits, labels = _forward(params, batch, apply_fn, "entropy")
  return mean_over_positions(entropies(logits), labels)


def correctness(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """1[argmax z ≠ y] [B], float32, 0 or 1; of text 1 where any scored position is wrong.

  Arguments and errors are those of `confidence`.

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> correctness(jnp.eye(2), (jnp.eye(2), jnp.array([0, 0])), lambda w, x: x @ w).tolist()
    [0.0, 1.0]
  """
  logits, labels = _forward(params, batch, apply_fn, "correctness")
  return 1.0 - losses.is_correct(logits, labels).astype(jnp.float32)


def loss(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """The network's loss [B]: cross-entropy −log p_y in nats, at least 0, or its own.

  Arguments and errors are those of `confidence`, but any loss will do.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> round(loss(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item(), 4)
    0.6931
  """
  network, inputs, labels = checked(params, batch, apply_fn, "loss")
  outputs = network(inputs)
  if network.loss is losses.cross_entropy:
    _check.logits(outputs, "loss", stacklevel=3)
  return losses_of(network, outputs, labels)


def margin(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """−(z_y − max_{c≠y} z_c) [B] in logits, float32; arguments and errors as `confidence`.

  References:
    Pleiss et al., [Area Under the Margin](https://arxiv.org/abs/2001.10528), 2020.

  Example:
    >>> import jax.numpy as jnp
    >>> margin(jnp.eye(2), (jnp.eye(2), jnp.array([0, 0])), lambda w, x: x @ w).tolist()
    [-1.0, 1.0]
  """
  logits, labels = _forward(params, batch, apply_fn, "margin")
  return -losses.margins(logits, labels)


def el2n(params: Any, batch: Batch, apply_fn: ApplyFn | None = None) -> jax.Array:
  """‖p − onehot(y)‖₂ [B], float32 in [0, √2]; arguments and errors as `confidence`.

  References:
    Paul et al., [Deep Learning on a Data Diet](https://arxiv.org/abs/2107.07075), 2021.

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> round(el2n(jnp.zeros((2, 2)), batch, lambda w, x: x @ w).item(), 4)
    0.7071
  """
  logits, labels = _forward(params, batch, apply_fn, "el2n")
  p = jnp.exp(losses.log_probabilities(logits))
  error = p - jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype)
  return mean_over_positions(jnp.sqrt(jnp.sum(error**2, axis=-1)), labels)


def max_confidences(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns 1 − max_c p_c [B] of logits [B, *P, C], the mean over scored positions."""
  sure = jnp.max(losses.log_probabilities(logits), axis=-1)
  return mean_over_positions(-jnp.expm1(sure), labels)


def entropies(logits: jax.Array) -> jax.Array:
  """Returns −Σ p log p [B, *P] in nats of logits [B, *P, C]; a class of probability 0 adds 0."""
  log_p = losses.log_probabilities(logits)
  return -jnp.sum(jnp.where(jnp.isneginf(log_p), 0.0, jnp.exp(log_p) * log_p), axis=-1)


def _forward(
  params: Any, batch: Batch, apply_fn: ApplyFn | None, caller: str
) -> tuple[jax.Array, jax.Array]:
  network, inputs, labels = checked(params, batch, apply_fn, caller)
  refuse_own_loss(network, caller)
  logits = network(inputs)
  _check.logits(logits, caller, stacklevel=4)
  return logits, labels


def checked(
  params: Any, batch: Batch, apply_fn: ApplyFn | None, caller: str, *, by_inputs: bool = False
) -> tuple[Network, jax.Array, jax.Array]:
  """Returns a network and its batch, or raises ValueError; `by_inputs` differentiates inputs."""
  network = as_network(params, apply_fn, caller)
  inputs, labels = _check.batch(batch, caller)
  if by_inputs:
    refuse_without_embed(network, inputs, caller)
  _check.tokens(network, inputs, caller)
  _check.answers(network, inputs, labels, caller)
  return network, inputs, labels
