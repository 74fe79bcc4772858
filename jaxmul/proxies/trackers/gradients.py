"""Trackers that take gradients of the network as it trains, in evaluation mode.

x is an example as the step saw it, augmented, of tokens their vectors; ℓ its loss, z_y the logit of
its label, of text the mean over scored positions, η the rate.
`every=k` gathers in every k-th epoch only, the last of each k, for about 1/k of the cost.
"""

import functools

import jax
import jax.numpy as jnp

from jaxmul import losses
from jaxmul._gradients import lengths
from jaxmul.binding import refuse_without_embed
from jaxmul.proxies.input_curvature import Method
from jaxmul.proxies.input_curvature import curvature as curvature_now
from jaxmul.proxies.trackers import _sums
from jaxmul.train import Step, Tracker


@functools.cache
def cumulative_gradient(every: int = 1) -> Tracker:
  """CSG, Σ ‖∇_x ℓ‖₂ over epochs: how hard the loss leaned on an example's pixels.

  Args:
    every: k, to gather in every k-th epoch only.

  Returns:
    A Tracker whose score `cumulative_gradient` [n], float32, is at least 0, in nats per input unit.

  References:
    Cumulative sample gradient, [OpenReview jeTiBeW3iZ](https://openreview.net/forum?id=jeTiBeW3iZ).

  Example:
    >>> cumulative_gradient().needs
    ('input_gradients',)
  """
  value = {"cumulative_gradient": lambda step: lengths(step.input_gradients)}
  return _sums.totals(value, ("input_gradients",), every)


@functools.cache
def tracin(every: int = 1) -> Tracker:
  """TracIn-CP self-influence, Σ η ‖∇_θ ℓ‖²: what steps on an example alone do to its own loss.

  The paper sums over checkpoints; here each example counts at its own step of an epoch.

  Args:
    every: k, to gather in every k-th epoch only.

  Returns:
    A Tracker whose score `tracin` [n], float32, is at least 0, in nats.

  References:
    Pruthi et al., [Estimating Training Data Influence](https://arxiv.org/abs/2002.08484), 2020.

  Example:
    >>> tracin(every=5).every
    5
  """
  value = {"tracin": lambda step: step.learning_rate * step.parameter_norms**2}
  return _sums.totals(value, ("parameter_norms",), every)


@functools.cache
def curvature(
  every: int = 1, *, num_probes: int = 1, method: Method = "hvp", h: float | None = None
) -> Tracker:
  """Loss curvature averaged over epochs, as its paper does; see `proxies.curvature`.

  Args:
    every: k, to gather in every k-th epoch only.
    num_probes: of each estimate, the same directions in every epoch; the mean over epochs averages
      over networks, so one goes a long way.
    method, h: as in `proxies.curvature`.

  Returns:
    A Tracker whose score `curvature` [n], float32, is at least 0.

  References:
    Garg et al., [Memorization through the Lens of Curvature](https://arxiv.org/abs/2307.05831).

  Example:
    >>> curvature(every=5).needs
    ('network',)
  """

  def value(step: Step) -> jax.Array:
    batch = (step.inputs, step.labels)
    return curvature_now(step.network, batch, num_probes=num_probes, method=method, h=h)

  return _sums.means({"curvature": value}, ("network",), every)


@functools.cache
def vog(every: int = 1) -> Tracker:
  """VoG: how much ∂z_y/∂x of an example moves over training, within its class.

  The standard deviation over epochs of each entry of ∂z_y/∂x, averaged over entries, then less the
  mean of the example's class and divided by the class's standard deviation (0 where that is 0);
  examples with labels of positions are of one class. The paper takes one checkpoint for all
  examples; here each is taken at its own step of an epoch. It keeps two running moments, twice the
  size of the data as floats.

  Args:
    every: k, to gather in every k-th epoch only.

  Returns:
    A Tracker whose score `vog` [n], float32, is in standard deviations within a class.

  References:
    Agarwal et al., [Estimating Example Difficulty using Variance of
    Gradients](https://arxiv.org/abs/2008.11600), 2022.

  Example:
    >>> vog().needs
    ('input_shape', 'network', 'classes')
  """

  def init(n, input_shape):
    size = (n, *input_shape)
    return {
      "mean": jnp.zeros(size, jnp.float32),
      "square": jnp.zeros(size, jnp.float32),
      "labels": jnp.zeros(n, jnp.int32),
      "count": jnp.zeros((), jnp.int32),
    }

  def update(state, step):
    def logit(x):
      own = losses.at_label(losses.scored_only(step.network(x), step.labels), step.labels)
      return losses.mean_over_positions(own, step.labels).sum()

    refuse_without_embed(step.network, step.inputs, "vog")
    embedded = step.network.embedded(step.inputs)
    gradient = jax.grad(logit)(embedded).astype(state["mean"].dtype)
    classes = step.labels if step.labels.ndim == 1 else jnp.zeros(len(step.labels), jnp.int32)
    count = (step.epoch + 1) // every
    passes = count.astype(gradient.dtype)
    # Welford's update: the two moments of a sum of squares would cancel.
    mean = state["mean"].at[step.rows]
    before = gradient - mean.get(mode="fill", fill_value=0)
    after = before * (1 - 1 / passes)
    return {
      "mean": mean.add(before / passes, mode="drop"),
      "square": state["square"].at[step.rows].add(before * after, mode="drop"),
      "labels": state["labels"].at[step.rows].set(classes, mode="drop"),
      "count": count,
    }

  def score(state):
    deviation = jnp.sqrt(state["square"] / state["count"])
    raw = deviation.reshape(len(deviation), -1).mean(1)
    return {"vog": _within_class(raw, state["labels"])}

  needs = ("input_shape", "network", "classes")
  return Tracker(init, update, score, needs=needs, every=every)


def _within_class(values: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns values [n] less their class's mean, over its standard deviation; 0 where that is 0."""
  n = len(values)
  _, groups = jnp.unique(labels, return_inverse=True, size=n)

  def mean(of):
    sums = jax.ops.segment_sum(of, groups, n)
    return (sums / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(of), groups, n), 1))[groups]

  means = mean(values)
  deviation = jnp.sqrt(mean((values - means) ** 2))
  differ = deviation > 1e-6 * jnp.abs(means)  # equal values may round apart
  return jnp.where(differ, (values - means) / jnp.where(differ, deviation, 1), 0)
