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

  def leave_out(recipe, training, key, **options):
    keys.append(key)
    raise Stop

  monkeypatch.setattr(unlearn.retraining, "leave_out", leave_out)
  problem = SimpleNamespace(
    config=config, key=jax.random.key(config.key), recipe=None, training=None, sets={"mixed": []}
  )
  with contextlib.suppress(Stop):
    unlearn.Problem.influence.func(problem)
  selecting = truth.truth_settings(config)["key"]
  assert not np.array_equal(*(jax.random.key_data(key) for key in (keys[0], selecting)))


def test_a_row_is_marked_where_it_is_worse_by_more_than_the_seeds_differ():
  def rows(gaps, tows):
    return [{"example gap": g, "ToW by group": t} for g, t in zip(gaps, tows, strict=True)]

  original = rows([0.10, 0.20, 0.30], [0.9, 0.8, 0.7])
  further = rows([0.21, 0.30, 0.41], [0.9, 0.81, 0.69])
  assert unlearn.worse_than(original, further) == ["example gap"]
  assert unlearn.worse_than(original, rows([0.05, 0.1, 0.2], [0.7, 0.61, 0.5])) == ["ToW by group"]
  assert unlearn.worse_than(original, rows([0.11, 0.19, 0.31], [0.9, 0.8, 0.7])) == []
  assert unlearn.worse_than(original[:1], rows([0.9], [0.1])) == []
