"""Holdout retraining: what a network forgets when it goes on with data it has never seen.

p = softmax before, q = softmax after fine-tuning on held-out examples only.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmul import _check, _steps, losses, train
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul._examples import examples_of
from jaxmul.binding import (
  ApplyFn,
  Network,
  as_network,
  refuse_lone_rows,
  refuse_own_loss,
  refuse_untrainable,
  warn_without_train_fn,
)
from jaxmul.proxies.outputs import Batch


def heldout_recipe(recipe: train.Recipe) -> train.Recipe:
  """Returns the recipe of the paper's code: constant rate 0.1, at most 30 epochs.

  Example:
    >>> from jaxmul import models, train
    >>> heldout_recipe(train.Recipe(models.mlp(), epochs=5)).epochs
    30
  """
  return dataclasses.replace(recipe, epochs=30, learning_rate=0.1, schedule=train.constant)


def heldout_retrain(
  params: Network, heldout: Dataset, recipe: train.Recipe, key: jax.Array, *, patience: int = 4
) -> Network:
  """Fine-tunes a trained network on held-out examples only.

  Args:
    params: the trained network.
    heldout: examples that it has never seen and that no metric reuses. RUM's code takes the test
      set: never do that.
    recipe: rate, batch size and the largest number of epochs; see `heldout_recipe`.
    key: for the order.
    patience: stop after so many epochs in a row without a lower mean loss.

  Returns:
    The fine-tuned network, for `heldout_divergence`.

  Raises:
    ValueError: `heldout` is empty, a label is not a class of the network, raw variables with
      batch statistics are given, or a step would take statistics of a single example.
    FloatingPointError: params became NaN or inf.

  References:
    Carlini et al., [Distribution Density, Tails, and Outliers](https://arxiv.org/abs/1910.13427).

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, proxies, train
    >>> toy = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=2)
    >>> before = models.init(recipe.model, jax.random.key(0), toy.inputs)
    >>> after = proxies.heldout_retrain(before, toy, recipe, jax.random.key(1))
    >>> bool((proxies.heldout_divergence(before, after, toy.batch()) > 0).all())
    True
  """
  network = as_network(params, None, "heldout_retrain")
  refuse_untrainable(network, "heldout_retrain")
  refuse_no_dataset(heldout, "heldout_retrain")
  if not len(heldout):
    raise ValueError("heldout_retrain got no held-out examples. Pass at least one.")
  _check.at_least("heldout_retrain", 1, patience=patience)
  _check.key(key, "heldout_retrain")
  _check.tokens(network, heldout.inputs, "heldout_retrain")
  _check.answers(network, heldout.example, heldout.labels, "heldout_retrain")
  warn_without_train_fn(network, "heldout_retrain")
  count, microbatch = len(heldout), recipe.microbatch
  refuse_lone_rows(network, count, recipe.batch_size, "heldout_retrain", microbatch=microbatch)
  after = _retrain(recipe, patience, network, examples_of(heldout), key)
  if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params)):
    raise FloatingPointError(
      "heldout_retrain diverged: params are not finite. Lower learning_rate "
      f"({recipe.learning_rate}) of the recipe."
    )
  return after


@functools.partial(jax.jit, static_argnums=(0, 1))
def _retrain(recipe, patience, network, examples, key) -> Network:
  steps = -(-len(examples.rows) // recipe.batch_size)
  job = _steps.Job(recipe=recipe, optimizer=train.optimizer(recipe, steps))

  def go_on(carry):
    _, number, _, since = carry
    return (number < recipe.epochs) & (since < patience)

  def epoch(carry):
    last, number, best, since = carry
    new, history = _steps.epoch_of(job, examples, key, last, number)
    lower = history.loss < best
    return new, number + 1, jnp.minimum(best, history.loss), jnp.where(lower, 0, since + 1)

  first = _steps.first_carry(job, network)
  carry = lax.while_loop(go_on, epoch, (first, 0, jnp.inf, 0))
  return carry[0].network


def heldout_divergence(
  params: Any,
  heldout_params: Any,
  batch: Batch,
  apply_fn: ApplyFn | None = None,
) -> jax.Array:
  """½[KL(p‖q) + KL(q‖p)]: how far the output on an example moved by holdout retraining.

  Args:
    params: the network before: any pytree with `apply_fn`, a `Network`, or a callable pytree.
    heldout_params: the network after, of the same form.
    batch: `(inputs [B, ...], labels int [B, *P])`, inputs float or tokens; of the labels only which
      positions are scored matters.
    apply_fn: `apply_fn(params, inputs) -> logits [B, *P, C]`, evaluation mode.

  Returns:
    Scores [B], float32, at least 0, in nats, from log-probabilities without clamping, of text the
    mean over scored positions; higher means more memorized.

  Raises:
    ValueError: `params` is not callable and no `apply_fn` is given; the batch is not as above; or
      the network is bound with a loss of its own.

  References:
    Carlini et al., [Distribution Density, Tails, and Outliers](https://arxiv.org/abs/1910.13427).

  Example:
    >>> import jax.numpy as jnp
    >>> batch = (jnp.ones((1, 2)), jnp.array([0]))
    >>> heldout_divergence(jnp.eye(2), jnp.eye(2), batch, lambda w, x: x @ w).tolist()
    [0.0]
  """
  inputs, labels = _check.batch(batch, "heldout_divergence")
  networks = [as_network(each, apply_fn, "heldout_divergence") for each in (params, heldout_params)]
  refuse_own_loss(networks[0], "heldout_divergence")
  for network in networks:
    _check.tokens(network, inputs, "heldout_divergence")
    _check.answers(network, inputs, labels, "heldout_divergence")
  before, after = (network(inputs) for network in networks)
  _check.logits(before, "heldout_divergence")
  log_p, log_q = losses.log_probabilities(before), losses.log_probabilities(after)
  # ½ Σ (p − q)(log p − log q): the two divergences in one sum of terms that are never negative.
  terms = (jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)
  halves = 0.5 * jnp.sum(jnp.where(log_p == log_q, 0.0, terms), axis=-1)  # −∞ on both sides: 0
  return losses.mean_over_positions(halves, labels)
