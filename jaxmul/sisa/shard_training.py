"""Training of one shard: what the store has is read, what is missing is trained and stored."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul import train
from jaxmul._dataset import Dataset
from jaxmul._examples import Examples, examples_of
from jaxmul.binding import Network, refuse_lone_rows
from jaxmul.sisa.ensemble import Shard
from jaxmul.sisa.shards_and_slices import epochs_of
from jaxmul.sisa.slice_checkpoints import Checkpoints, names_of
from jaxmul.sisa.slice_training import Slice, trained_on, untrained


class Work:
  """What the shards of an ensemble are trained with and on."""

  def __init__(
    self, recipe: train.Recipe, dataset: Dataset, key: jax.Array, slices: int, store: Path
  ):
    self.dataset, self.key, self.store, self.slices = dataset, key, store, slices
    self.epochs = epochs_of(recipe.epochs, slices)
    self.recipe = dataclasses.replace(recipe, epochs=sum(self.epochs))
    self.checkpoints = Checkpoints(
      store, jax.eval_shape(functools.partial(untrained, self.recipe), key, dataset.example)
    )

  @functools.cached_property
  def examples(self) -> Examples:
    """All of the data on the device, once something is trained."""
    return examples_of(self.dataset)

  def shard(self, number: int, ids: np.ndarray, slice_of: np.ndarray) -> Shard:
    """Trains what is missing of a shard: ids int64 [n], sorted, and the slice of each."""
    key = jax.random.fold_in(self.key, number)
    parts = [self.dataset.take(ids[slice_of == at]) for at in range(self.slices)]
    files = names_of(self.recipe, key, number, parts)
    done, carry = self.checkpoints.last(files)
    init_key, run_key = jax.random.split(key)
    if carry is None:
      carry = untrained(self.recipe, init_key, self.dataset.example)
    for at in range(done, self.slices):
      rows = self.dataset.rows(ids[slice_of <= at])
      first = sum(self.epochs[:at])
      part = Slice(
        self.examples.subset(rows, len(self.dataset)),
        len(rows),
        range(first, first + self.epochs[at]),
      )
      carry, diverged = trained_on(self.recipe, run_key, carry, part)
      if diverged >= 0:
        nothing = train.History(jnp.zeros(0), jnp.zeros(0))
        raise train.Diverged(
          f"sisa: shard {number} diverged in epoch {diverged + 1} of {self.recipe.epochs}: params "
          f"are not finite. Lower learning_rate ({self.recipe.learning_rate}); .fit holds the "
          "epoch before.",
          train.Fit(carry.network, {}, ids, nothing),
        )
      self.checkpoints.write(files[at], carry)
    return Shard(network=carry.network, ids=ids, slice_of=slice_of, files=files)


def refuse_few(
  network: Network, recipe: train.Recipe, number: int, slice_of: np.ndarray, caller: str
) -> None:
  """Raises ValueError where a shard has no examples, or a step statistics of one of them."""
  if not len(slice_of):
    raise ValueError(f"{caller}: shard {number} would have no examples. Use fewer shards.")
  for count in np.unique(np.cumsum(np.bincount(slice_of))):
    if count:
      cure = "Use fewer shards or slices"
      refuse_lone_rows(network, int(count), recipe.batch_size, caller, cure, recipe.microbatch)
