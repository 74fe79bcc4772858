"""The data, the ground truth and one forget set: low, medium and high memorization together."""

import functools

import jax
import numpy as np

from experiments import cache, setting
from experiments.judge import Judge
from experiments.truth import TruthFlags, ground_truth
from jaxmul import data, metrics, unlearn
from jaxmul.binding import Network

NAME = "mixed"  # of the forget set, in tables
_ORACLES = 8  # whose mean p_y the example gap is measured from


class MixedSet:
  """What all training seeds of a script share that forgets one mixed set."""

  def __init__(self, config: TruthFlags, group_size: int):
    self.out, self.key = config.out, jax.random.key(config.key)
    self.dataset, self.parts = setting.cut(config)
    self.training = self.dataset.take(self.parts.train)
    self.heldout = data.cut_heldout(self.parts.heldout, jax.random.fold_in(self.key, 2))
    self.recipe = setting.recipe_of(config, self.dataset.num_classes)
    self.truth = ground_truth(config, self.recipe, self.training)[0]
    size = setting.group_size_of(group_size, self.training)
    self.groups = setting.forget_groups("memorization", size, self.training, self.truth, self.key)
    setting.show_groups(self.groups, self.training, self.truth)
    forget = np.sort(np.concatenate(self.groups))
    self.split = setting.split_of(forget, self.training, self.heldout, self.parts.test)

  @functools.cached_property
  def oracles(self) -> metrics.oracle.Outputs:
    """Of other seeds than those that are judged; kept in a store."""
    key = jax.random.fold_in(self.key, 3)
    return cache.oracles(self.out, self.recipe, self.dataset, self.split, key, _ORACLES)

  def retrained(self, key: jax.Array) -> Network:
    """A network that never saw the forget set."""
    return unlearn.retrain(self.recipe, self.training, self.split, key).network

  def judge(self, oracle_key: jax.Array, key: jax.Array) -> Judge:
    """Compares with the oracles, and with one more that is retrained by a key."""
    return Judge(
      dataset=self.dataset,
      split=self.split,
      attack_ids=self.heldout.attack,
      groups=self.groups._asdict(),
      oracles=self.oracles,
      oracle=self.retrained(oracle_key),
      key=key,
    )
