"""Training of an ensemble, requests for deletion from it, and what a request costs."""

import dataclasses
import itertools
import os

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article, _check, train
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul._paths import local
from jaxmul.binding import refuse_own_loss, warn_without_train_fn
from jaxmul.sisa.ensemble import Ensemble, left_without
from jaxmul.sisa.shard_training import Work, refuse_few
from jaxmul.sisa.shards_and_slices import epochs_of, passes_over, places_of


def fit(
  recipe: train.Recipe,
  dataset: Dataset,
  key: jax.Array,
  *,
  shards: int,
  slices: int = 1,
  store: str | os.PathLike[str],
) -> Ensemble:
  """Trains a network on each shard of the data, slice after slice, with a checkpoint after each.

  Shard s is trained with `jax.random.fold_in(key, s)`. With one slice its network is, bit for bit,
  that of `train.fit` on the ids of the shard, whose initial params must not depend on the inputs.
  An epoch passes over its slice and all slices before it; there are so many epochs for each slice
  that the passes over examples are about as many as without slices. The rate follows the recipe's
  schedule over all of them, and the optimizer and a weighting keep their state from slice to slice
  and in checkpoints. Both are ours: in the authors' code the rate is constant, and a checkpoint
  holds weights alone. Of the paper we read the abstract.

  Args:
    recipe: of each network. Its epochs are those without slices.
    dataset: n examples. Where each goes follows from its id and the key alone; copies of one
      example go together.
    key: of shards, slices and training.
    shards: S, at least 1. Each network sees about n / S examples.
    slices: R, in [1, 2 epochs − 1].
    store: folder for S · R checkpoints, each of the params and what the optimizer carries. The same
      call again reads them and trains what is missing, such as after a kill. One folder is for one
      ensemble.

  Returns:
    An `Ensemble`.

  Raises:
    ValueError: a number is outside its range, a shard would have no examples, the loss is the
      network's own, or as `train.fit`.
    OSError: the store cannot be written.
    train.Diverged: the params of a network became NaN or inf; the exception holds it as of the last
      good epoch.

  References:
    Bourtoule et al., [Machine Unlearning](https://arxiv.org/abs/1912.03817), 2019.

  Example:
    >>> import jax, numpy as np, tempfile
    >>> from jaxmul import models, sisa, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(12, dtype=np.float32), np.arange(12) % 2)
    >>> recipe, store = train.Recipe(models.mlp((8,), 2), epochs=2), tempfile.mkdtemp()
    >>> trained = sisa.fit(recipe, toy, jax.random.key(0), shards=2, slices=2, store=store)
    >>> left = sisa.forget(trained, toy, [3, 7])
    >>> len(trained.ids), len(left.ids), left.network(toy.inputs).shape
    (12, 10, (12, 2))
  """
  _check.key(key, "sisa.fit")
  _check.count(shards, "shards", "sisa.fit")
  _check.count(slices, "slices", "sisa.fit")
  if not isinstance(recipe, train.Recipe):
    raise ValueError(f"sisa.fit got {_article.of(recipe)} as recipe: use train.Recipe(model).")
  if slices > 2 * recipe.epochs - 1:
    raise ValueError(
      f"sisa.fit got slices={slices} for {recipe.epochs} epochs, must be at most "
      f"{2 * recipe.epochs - 1}: each slice needs an epoch. Use fewer slices, or more epochs."
    )
  refuse_no_dataset(dataset, "sisa.fit")
  if not len(dataset):
    raise ValueError("sisa.fit got no training examples. Pass at least one.")
  like = train.check_labels(recipe.model, dataset, "sisa.fit")
  refuse_own_loss(like, "sisa.fit", "Train one network and retrain it: unlearn.retrain")
  warn_without_train_fn(like, "sisa.fit")
  work = Work(recipe, dataset, key, slices, local(store))
  ids = np.sort(dataset.ids)
  shard_of, slice_of = places_of(dataset.take(ids), key, shards, slices)
  parts = [(ids[shard_of == number], slice_of[shard_of == number]) for number in range(shards)]
  for number, part in enumerate(parts):
    refuse_few(like, recipe, number, part[1], "sisa.fit")
  made = tuple(work.shard(number, *part) for number, part in enumerate(parts))
  return Ensemble(shards=made, recipe=recipe, key=key, slices=slices, store=work.store)


def forget(ensemble: Ensemble, dataset: Dataset, ids: ArrayLike) -> Ensemble:
  """Deletes examples: networks that have seen one are trained again from before its slice.

  The result is, bit for bit, that of `fit` on the other examples with the same key, shards and
  slices. Before anything is trained all checkpoints are removed from the store but those of this
  ensemble that have seen none of the examples. After a kill `fit` on the other examples, with the
  same store, does the rest.

  Args:
    ensemble: of `fit`, or of the request before.
    dataset: holds the examples that are left, unchanged; what else it holds is not looked at.
    ids: int [k], what has to go.

  Returns:
    An `Ensemble`; the shards without any of the ids are those of before.

  Raises:
    ValueError: an id is in no shard or given twice, an example that is left is not in the data, or
      a shard would have no examples.
    OSError, train.Diverged: as `fit`.

  References:
    Bourtoule et al., [Machine Unlearning](https://arxiv.org/abs/1912.03817), 2019.
  """
  left = left_without(ensemble, ids, "sisa.forget")
  for number, part in left.items():
    refuse_few(ensemble.shards[number].network, ensemble.recipe, number, part[1], "sisa.forget")
    dataset.rows(part[0])
  work = Work(ensemble.recipe, dataset, ensemble.key, ensemble.slices, ensemble.store)
  before = {number: first for number, (_, _, first) in left.items()}  # none of the ids is in these
  files = (shard.files[: before.get(number)] for number, shard in enumerate(ensemble.shards))
  work.checkpoints.keep_only(set(itertools.chain(*files)))
  made = {number: work.shard(number, own, slices) for number, (own, slices, _) in left.items()}
  shards = tuple(made.get(number, shard) for number, shard in enumerate(ensemble.shards))
  return dataclasses.replace(ensemble, shards=shards)


def cost(ensemble: Ensemble, ids: ArrayLike) -> float:
  """Returns what `forget` would train, as a share of retraining one network on all that is left.

  Args:
    ensemble: of `fit` or `forget`.
    ids: int [k], what would have to go.

  Returns:
    Passes over examples, an example once an epoch, over those of `train.fit` with the same recipe:
    0 if there are no ids, and about 1 if all slices are trained again.

  Raises:
    ValueError: an id is in no shard or given twice, or nothing would be left.

  Example:
    With one shard and one slice everything is trained again:

    >>> import jax, numpy as np, tempfile
    >>> from jaxmul import models, sisa, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(12, dtype=np.float32), np.arange(12) % 2)
    >>> recipe, store = train.Recipe(models.mlp((8,), 2), epochs=2), tempfile.mkdtemp()
    >>> sisa.cost(sisa.fit(recipe, toy, jax.random.key(0), shards=1, store=store), [3, 7])
    1.0
  """
  left = left_without(ensemble, ids, "sisa.cost")
  epochs = epochs_of(ensemble.recipe.epochs, ensemble.slices)
  passes = sum(passes_over(slice_of, epochs, first) for _, slice_of, first in left.values())
  remaining = len(ensemble.ids) - np.size(ids)
  if not remaining:
    raise ValueError(f"sisa.cost: nothing is left without all of {np.size(ids)} ids.")
  return passes / (ensemble.recipe.epochs * remaining)
