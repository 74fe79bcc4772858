"""The networks of all shards, with what each was trained on."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import train
from jaxmul._arrays import Inputs
from jaxmul._ids import rows_of
from jaxmul.binding import Network
from jaxmul.sisa.aggregation import mean_of, votes_of


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Shard:
  """What one network was trained on.

  Attributes:
    network: the trained network.
    ids: int64 [n], sorted.
    slice_of: int64 [n], the slice that each is in, from 0.
    files: names of its checkpoints in the store, one for each slice.
  """

  network: Network
  ids: np.ndarray
  slice_of: np.ndarray
  files: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Ensemble:
  """The networks of all shards, and what is needed to delete examples from them.

  Attributes:
    shards: of each its network, ids and checkpoints.
    recipe: as it was given.
    key: as it was given.
    slices: R.
    store: folder of the checkpoints.
  """

  shards: tuple[Shard, ...]
  recipe: train.Recipe
  key: jax.Array
  slices: int
  store: Path

  @property
  def ids(self) -> np.ndarray:
    """What all shards were trained on, int64 [n], sorted."""
    return np.sort(np.concatenate([shard.ids for shard in self.shards]))

  @functools.cached_property
  def network(self) -> Network:
    """All networks as one, whose logits [B, *P, C] are the log of their mean probabilities."""
    return mean_of([shard.network for shard in self.shards])

  def vote(self, inputs: Inputs) -> jax.Array:
    """Returns the class int32 [B, *P] that most networks name; ties go to the mean probability."""
    return votes_of([shard.network for shard in self.shards], inputs)


def left_without(
  ensemble: Ensemble, ids: ArrayLike, caller: str
) -> dict[int, tuple[np.ndarray, np.ndarray, int]]:
  """Returns, of each shard that holds one of the ids, what is left and the first slice to train.

  That is its other ids, the slice of each, and the slice of the first that goes.
  """
  lack, cure = "is in no shard", "Ask for those of Ensemble.ids."
  held = np.concatenate([shard.ids for shard in ensemble.shards])
  goes = np.zeros(len(held), bool)
  goes[rows_of(held, ids, caller, lack, cure)] = True
  ends = np.cumsum([len(shard.ids) for shard in ensemble.shards])[:-1]
  return {
    number: (shard.ids[~own], shard.slice_of[~own], int(shard.slice_of[own].min()))
    for number, (shard, own) in enumerate(zip(ensemble.shards, np.split(goes, ends), strict=True))
    if own.any()
  }
