"""One unit of work: train a few models without random parts of the data and tally the outcome.

For each training example a chunk keeps sums over its models, split by whether the example was in
the model's subset. Sums add across chunks and machines; means do not.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import losses
from jaxmul._blocks import map_blocks
from jaxmul.data.dataset import as_inputs
from jaxmul.memorization.plan import Plan
from jaxmul.train import Recipe, run


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
  """Tallies of some models over the n examples of a plan.

  Attributes:
    models: int64 [k], which models; a diverged model is not counted.
    diverged: int64 [d], models whose loss became NaN or inf.
    correct_in, count_in: int64 [n], correct predictions and models with the example in the subset.
    correct_out, count_out: int64 [n], the same for models without it.
    p_in, p_out: float64 [n], sums of p_y.
    odds_in, odds_out: float64 [n], sums of φ = log p_y − log Σ_{c≠y} p_c.
  """

  models: np.ndarray
  diverged: np.ndarray
  correct_in: np.ndarray
  count_in: np.ndarray
  correct_out: np.ndarray
  count_out: np.ndarray
  p_in: np.ndarray
  p_out: np.ndarray
  odds_in: np.ndarray
  odds_out: np.ndarray


def run_chunk(plan: Plan, chunk: int) -> Chunk:
  """Trains the models of a chunk and tallies them; deterministic, no side effects.

  Args:
    plan: what to train.
    chunk: which part of it.

  Returns:
    A `Chunk`.

  Raises:
    ValueError: there is no such chunk.

  References:
    Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.
  """
  images, labels = jnp.asarray(plan.dataset.images), jnp.asarray(plan.dataset.labels)
  key = jax.random.wrap_key_data(jnp.asarray(plan.key))
  models = np.asarray(plan.models(chunk))
  outcomes = [
    _jitted_outcome(plan.recipe, plan.subset_size, images, labels, key, model) for model in models
  ]
  return tally(models, *(np.stack(each) for each in zip(*outcomes, strict=True)))


def tally(
  models: np.ndarray,
  member: np.ndarray,
  correct: np.ndarray,
  p: np.ndarray,
  odds: np.ndarray,
  finite: np.ndarray,
) -> Chunk:
  """Returns the sums over models [k] of their outcomes, [k, n] and [k]; see `outcome`."""
  inside, outside = member[finite], ~member[finite]
  correct, p, odds = correct[finite], p[finite].astype(float), odds[finite].astype(float)
  return Chunk(
    models[finite],
    models[~finite],
    correct_in=np.sum(correct & inside, 0),
    count_in=np.sum(inside, 0),
    correct_out=np.sum(correct & outside, 0),
    count_out=np.sum(outside, 0),
    p_in=np.sum(p * inside, 0),
    p_out=np.sum(p * outside, 0),
    odds_in=np.sum(odds * inside, 0),
    odds_out=np.sum(odds * outside, 0),
  )


def outcome(
  recipe: Recipe,
  subset_size: int,
  images: jax.Array,
  labels: jax.Array,
  key: jax.Array,
  model: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
  """Trains one model on its subset: a pure function of the model's number.

  Returns:
    Over all n examples: bool [n] whether it was in the subset, bool [n] whether it is predicted
    right, p_y [n], log-odds φ [n]; and whether training stayed finite, a bool scalar.
  """
  subset_key, train_key = jax.random.split(jax.random.fold_in(key, model))
  count = len(labels)
  rows = jnp.sort(jax.random.permutation(subset_key, count)[:subset_size])
  member = jnp.zeros(count, bool).at[rows].set(True)
  result = run(recipe, (), images, labels, rows, train_key)

  def predict(images, labels):
    logits = result.params(as_inputs(images))
    p = jnp.exp(-losses.cross_entropy(logits, labels))
    return losses.is_correct(logits, labels), p, losses.log_odds(logits, labels)

  correct, p, odds = map_blocks(predict, (images, labels), 512)
  return member, correct, p, odds, jnp.isfinite(result.history.loss[-1])


_jitted_outcome = jax.jit(outcome, static_argnums=(0, 1))
