"""What `experiments.unlearn` gives the algorithms."""

import contextlib
from types import SimpleNamespace

import jax
import numpy as np

from experiments import truth, unlearn


class Stop(Exception):
  pass


def test_influences_come_from_models_that_did_not_select_the_forget_sets(monkeypatch):
  """With the ground truth's key they would be those very models, by whose luck S was chosen."""
  config = unlearn.Config(algorithms=("dmm",))
  keys = []

  def plan(recipe, training, key, **options):
    keys.append(key)
    raise Stop

  monkeypatch.setattr(unlearn.memorization, "plan", plan)
  problem = SimpleNamespace(
    config=config, key=jax.random.key(config.key), recipe=None, training=None, sets={"mixed": []}
  )
  with contextlib.suppress(Stop):
    unlearn.Problem.influence.func(problem)
  selecting = truth.truth_settings(config)["key"]
  assert not np.array_equal(*(jax.random.key_data(key) for key in (keys[0], selecting)))
