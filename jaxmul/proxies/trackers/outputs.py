"""Trackers that cost nothing: they read the training step's own forward pass.

z are the logits of an example in an epoch, p = softmax(z), y its label, ℓ = −log p_y, or the loss
of a network that has its own. Of text each is the mean over an example's scored positions, and an
example is right where all of them are.
"""

import functools

import jax.numpy as jnp

from jaxmul import losses
from jaxmul.proxies.outputs import entropies, max_confidences
from jaxmul.proxies.trackers._sums import means, totals
from jaxmul.train import Tracker


@functools.cache
def learning_events() -> Tracker:
  """Four means over epochs of what the network said of an example while it learned.

  Returns:
    A Tracker whose scores [n], float32, are `confidence` 1 − mean p_y, `max_confidence`
    1 − mean max_c p_c, `correctness` 1 − mean 1[argmax = y] (these in [0, 1]) and `entropy`, the
    mean of −Σ p log p (in [0, log C] nats, with 0·log 0 = 0).

  References:
    Jiang et al., [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021;
    as proxies for unlearning, [2410.16516](https://arxiv.org/abs/2410.16516).

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, proxies, train
    >>> toy = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=2)
    >>> events = {"events": proxies.trackers.learning_events()}
    >>> sorted(train.fit(recipe, toy, jax.random.key(0), trackers=events).scores)
    ['confidence', 'correctness', 'entropy', 'max_confidence']
  """
  return means(
    {
      "confidence": lambda step: -jnp.expm1(-step.losses),
      "max_confidence": lambda step: max_confidences(step.logits, step.labels),
      "correctness": lambda step: 1.0 - losses.is_correct(step.logits, step.labels),
      "entropy": lambda step: losses.mean_over_positions(entropies(step.logits), step.labels),
    },
    ("classes",),
  )


@functools.cache
def cumulative_loss() -> Tracker:
  """CSL, Σ ℓ over epochs: what an example cost while it was learned.

  Returns:
    A Tracker whose score `cumulative_loss` [n], float32, is at least 0, in nats.

  References:
    Ravikumar et al., [Towards Memorization Estimation: Fast, Formal and
    Free](https://openreview.net/forum?id=KZlQEoEtiu), 2025.

  Example:
    >>> cumulative_loss().needs
    ()
  """
  return totals({"cumulative_loss": lambda step: step.losses})


@functools.cache
def area_under_margin() -> Tracker:
  """−mean over epochs of the margin z_y − max_{c≠y} z_c.

  Returns:
    A Tracker whose score `area_under_margin` [n], float32, is in logits; the paper's AUM negated.

  References:
    Pleiss et al., [Area Under the Margin](https://arxiv.org/abs/2001.10528), 2020.

  Example:
    >>> area_under_margin().needs
    ('classes',)
  """
  values = {"area_under_margin": lambda step: -losses.margins(step.logits, step.labels)}
  return means(values, ("classes",))


@functools.cache
def forgetting_events() -> Tracker:
  """How often an example that was right in one epoch is wrong in the next.

  Returns:
    A Tracker whose score `forgetting_events` [n], float32, is a count in [0, E/2]; E epochs for an
    example that was never right (the paper's ∞), above every count.

  References:
    Toneva et al., [Example Forgetting](https://arxiv.org/abs/1812.05159), 2019.

  Example:
    >>> forgetting_events().needs
    ('classes',)
  """

  def init(n):
    never, count = jnp.zeros(n, bool), jnp.zeros(n, jnp.int32)
    return {"last": never, "ever": never, "count": count, "epochs": jnp.zeros((), jnp.int32)}

  def update(state, step):
    right = losses.is_correct(step.logits, step.labels)
    rows = state["last"].at[step.rows]
    forgotten = rows.get(mode="fill", fill_value=False) & ~right
    return {
      "last": rows.set(right, mode="drop"),
      "ever": state["ever"].at[step.rows].max(right, mode="drop"),
      "count": state["count"].at[step.rows].add(forgotten, mode="drop"),
      "epochs": step.epoch + 1,
    }

  def score(state):
    counts = jnp.where(state["ever"], state["count"], state["epochs"])
    return {"forgetting_events": counts.astype(jnp.float32)}

  return Tracker(init, update, score, needs=("classes",))


@functools.cache
def late_learning() -> Tracker:
  """The first epoch from which an example stays right, from 0; E where it ends wrong.

  Returns:
    A Tracker whose score `late_learning` [n], float32, is a whole number in [0, E].

  References:
    The learning-epoch proxies of Jiang et al.,
    [Characterizing Structural Regularities](https://arxiv.org/abs/2002.03206), 2021.

  Example:
    >>> late_learning().needs
    ('classes',)
  """

  def init(n):
    return jnp.zeros(n, jnp.float32)

  def update(first, step):
    wrong = ~losses.is_correct(step.logits, step.labels)
    next_epoch = jnp.where(wrong, step.epoch + 1, 0).astype(first.dtype)
    return first.at[step.rows].max(next_epoch, mode="drop")

  return Tracker(init, update, lambda first: {"late_learning": first}, needs=("classes",))


@functools.cache
def loss_iqr(q: float = 0.75) -> Tracker:
  """LT-IQR, Q_q − Q_{1−q} of an example's losses over epochs: a loss that fell a long way.

  It keeps all losses: n × E floats.

  Args:
    q: upper quantile in (0.5, 1]; the paper's range is between quartiles. Between two epochs'
      losses quantiles are interpolated.

  Returns:
    A Tracker whose score `loss_iqr` [n], float32, is at least 0, in nats.

  Raises:
    ValueError: q is outside its range.

  References:
    Pollock et al., [Free Record-Level Privacy Risk Evaluation](https://arxiv.org/abs/2411.05743).

  Example:
    >>> loss_iqr().needs
    ('epochs',)
  """
  if not 0.5 < q <= 1:
    raise ValueError(f"loss_iqr got q={q}, must be in (0.5, 1].")

  def init(n, epochs):
    return jnp.zeros((n, epochs), jnp.float32)

  def update(trace, step):
    return trace.at[step.rows, step.epoch].set(step.losses.astype(trace.dtype), mode="drop")

  def score(trace):
    high, low = jnp.quantile(trace, jnp.array([q, 1 - q], trace.dtype), axis=1)
    return {"loss_iqr": high - low}

  return Tracker(init, update, score, needs=("epochs",))
