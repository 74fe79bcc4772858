"""Relearning: how soon a little of the forgotten text brings back the rest.

What is gone has to be learned anew, as a retrained network would; what was only hidden comes back
in a few steps. So the number of steps is read beside that of a retrained network.

References:
  Hu et al., [Jogging the Memory of Unlearned LLMs](https://arxiv.org/abs/2406.13356), 2024, for the
  attack; that whole batches are taken, and the interval, are ours.
"""

import jax
import numpy as np
import optax
from numpy.typing import ArrayLike

from jaxmul import _check
from jaxmul._dataset import Dataset
from jaxmul.binding import Network, losses_of, refuse_untrainable
from jaxmul.metrics._given import network_of_text, numbers, refuse_other_than_tokens
from jaxmul.metrics.intervals import Interval
from jaxmul.metrics.sequences.greedy_continuations import continuations
from jaxmul.metrics.sequences.rouge_scores import rouge_l

_RESAMPLES = 1000


def relearned(
  network: Network,
  little: Dataset,
  asked: Dataset,
  *,
  steps: int = 20,
  learning_rate: float = 1e-3,
  batch_size: int = 1024,
) -> np.ndarray:
  """Returns ROUGE-L of each text after 0, 1, … steps of training on a few others, [steps + 1, n].

  Args:
    network: unlearned, or retrained; it is trained in evaluation mode, and not changed.
    little: a little of the forget set; each step of Adam is on all of it.
    asked: n texts of the rest of it, of which what follows a prompt is scored.
    steps: at least 1.
    learning_rate: of Adam, above 0.
    batch_size: of the continuations.

  Returns:
    float64 in [0, 1]; NaN from where params are not finite on.

  Raises:
    ValueError: a text is in both sets, a number is outside its range, or as `continuations`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxmul import bind, data
    >>> network = bind(lambda w, x: w[x], jnp.zeros((4, 4)))
    >>> text = data.Dataset(np.array([[1, 2], [1, 3]]), np.array([[2, 2], [2, 1]]))
    >>> curve = relearned(network, text.take([0]), text.take([1]), steps=1)
    >>> curve.tolist()
    [[0.0], [0.5]]
  """
  for dataset in (little, asked):
    network = network_of_text(network, dataset, None, "relearned")
  refuse_other_than_tokens(asked, "relearned")
  refuse_untrainable(network, "relearned")
  _check.count(steps, "steps", "relearned")
  _check.above("relearned", 0, learning_rate=learning_rate)
  shared = np.intersect1d(little.ids, asked.ids)
  if len(shared):
    raise ValueError(
      f"relearned got id {shared[0]} among the texts of both sets ({len(shared)} in all): what is "
      "trained on does not come back by itself. Ask for others."
    )
  _check.answers(network, little.example, little.labels, "relearned")
  _check.tokens(network, little.inputs, "relearned")
  batch, state = little.batch(), optax.adam(learning_rate).init(network.params)
  curve = np.full((steps + 1, len(asked)), np.nan)
  for step in range(steps + 1):
    made = continuations(network, asked, batch_size=batch_size)
    curve[step] = rouge_l(made, asked.labels)
    if step == steps:
      break
    network, state = _step(network, state, batch, learning_rate)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(network.params)):
      break
  return curve


def steps_until(curve: ArrayLike, level: float) -> Interval:
  """Returns after how many steps the mean over texts first reaches a level; inf where it does not.

  Args:
    curve: [steps + 1, n], as `relearned` returns it.
    level: in (0, 1], such as half of what the original network has.

  Returns:
    An `Interval` of 95 % by drawing texts again: of other texts, not of other networks. Where the
    level is never reached its end is inf as well: it says that `steps` were too few. One text gives
    no interval.

  Raises:
    ValueError: the curve is none, or the level is outside its range.

  Example:
    >>> steps_until([[0.0, 0.1], [0.3, 0.5], [0.9, 1.0]], 0.4)
    Interval(mean=1.0, low=1.0, high=2.0)
  """
  values = numbers(curve, "steps_until", "curve [steps + 1, n]")
  if values.ndim != 2 or not values.size or np.isnan(values[0]).any():
    raise ValueError(
      f"steps_until needs a curve [steps + 1, n], got {list(values.shape)}"
      f"{' that begins with NaN' if values.ndim == 2 and values.size else ''}. See relearned."
    )
  _check.at_least("steps_until", 0, level=level)
  if not 0 < level <= 1:
    raise ValueError(f"steps_until got level={level}, must be in (0, 1].")
  count = values.shape[1]
  rng = np.random.default_rng(0)
  drawn = rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES) / count
  means = np.c_[values.mean(1), values @ drawn.T]
  reached = means >= level - 1e-12  # a mean of equal scores is rounded
  first = np.where(reached.any(0), reached.argmax(0), np.inf)
  if count == 1:
    return Interval(float(first[0]), float("nan"), float("nan"))
  ordered = np.sort(first[1:])
  low, high = ordered[np.round(np.array([0.025, 0.975]) * (_RESAMPLES - 1)).astype(int)]
  return Interval(float(first[0]), float(low), float(high))


@jax.jit
def _step(network, state, batch, learning_rate):
  inputs, labels = batch

  def risk(params):
    own = network.replace(params=params)
    return losses_of(own, own(inputs), labels).mean()

  updates, state = optax.adam(learning_rate).update(jax.grad(risk)(network.params), state)
  return network.replace(params=optax.apply_updates(network.params, updates)), state
