"""What a network of text goes on with where its own answers are scored: greedy decoding by rows.

`models.generate` wants prompts of one length; here each row has its own. A scored position is
answered by the network, and the answer is what it reads next; what is not scored is given.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import losses
from jaxmul._dataset import Dataset
from jaxmul._scoring import score
from jaxmul.binding import ApplyFn, Network
from jaxmul.metrics._given import network_of_text, refuse_diverged, refuse_other_than_tokens

_DIVERGED = -2


def continuations(
  params: Any, dataset: Dataset, apply_fn: ApplyFn | None = None, *, batch_size: int = 1024
) -> np.ndarray:
  """Returns the greedy continuation of each sequence's prompt, int32 [n, T]; −1 where unscored.

  Args:
    params, apply_fn, batch_size: as `metrics.accuracy`; the network answers each position from what
      is before it alone. All of a sequence is read again for each of its tokens.
    dataset: n sequences of which what follows a prompt is scored, as `data.after_prompt` and
      `data.questions` return them.

  Returns:
    Tokens at the positions of the labels that they stand for; of equally likely ones the smallest.
    On CPU they are the same whatever the batch size.

  Raises:
    ValueError: inputs are no tokens, such as a dict or floats, a logit is NaN, or as
      `metrics.accuracy`.

  Example:
    >>> import jax
    >>> from jaxmul import bind, data
    >>> counts = bind(lambda p, x: jax.nn.one_hot((x + 1) % 10, 10), {})
    >>> text = data.Dataset(np.array([[3, 1, 2], [1, 2, 5]]), np.array([[1, 2, 3], [-1, 5, 6]]))
    >>> continuations(counts, text).tolist()
    [[4, 5, 6], [-1, 3, 4]]
  """
  network = network_of_text(params, dataset, apply_fn, "continuations")
  refuse_other_than_tokens(dataset, "continuations")
  made = score(_continued, network, dataset, batch_size=batch_size)
  diverged = np.where((made == _DIVERGED).any(1), np.nan, 0.0)
  refuse_diverged(diverged, dataset, "logits")
  return made


def _continued(network: Network, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
  given, labels = batch
  is_scored = labels != losses.UNSCORED
  some = jnp.any(is_scored, axis=0)
  first, last = jnp.argmax(some), labels.shape[1] - 1 - jnp.argmax(some[::-1])

  def answer(position, carry):
    text, made = carry
    logits = network(text)[:, position]
    token = jnp.argmax(logits, axis=-1).astype(made.dtype)
    token = jnp.where(jnp.any(jnp.isnan(logits), axis=-1), _DIVERGED, token)
    asked = is_scored[:, position]
    made = made.at[:, position].set(jnp.where(asked, token, losses.UNSCORED))
    # The last answer is read by nobody: its place is outside of the text.
    read = jnp.where(asked, jnp.maximum(token, 0).astype(text.dtype), text[:, position + 1])
    return text.at[:, position + 1].set(read, mode="drop"), made

  nothing = jnp.full(labels.shape, losses.UNSCORED, jnp.int32)
  return lax.fori_loop(first, last + 1, answer, (given, nothing))[1]
