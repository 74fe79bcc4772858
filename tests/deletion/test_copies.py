"""What repeats the deleted text is named, before anything is done and in the record."""

import types
from typing import Any

import jax
import numpy as np
import pytest

import jaxmul
from jaxmul import data, models, rum, train, unlearn
from jaxmul.data import Dataset, Split
from jaxmul.deletion import rehearsal
from jaxmul.deletion.request import copies_left, grouped

KEY = jax.random.key(0)


def text():
  """Forty texts, the first of them three times, and a fourth one that nearly repeats it."""
  tokens = np.random.default_rng(0).integers(0, 9, (40, 12))
  tokens[30] = tokens[0]
  tokens[30, -1] = (tokens[0, -1] + 1) % 9
  return data.repeated(Dataset(tokens, tokens, num_classes=9), [0], 3)


def forget(dataset, ids):
  model = models.gpt(9, length=12, width=4, depth=1, heads=1)
  recipe = train.Recipe(model, epochs=6, batch_size=8)
  fit = train.fit(recipe, dataset, KEY, ids=np.setdiff1d(dataset.ids, np.arange(10, 20)))
  return jaxmul.forget(
    fit,
    dataset,
    ids,
    recipe,
    KEY,
    heldout=np.arange(10, 16),
    test=np.arange(16, 20),
    plan=rum.Plan([rum.Step(unlearn.neg_grad(0.05), epochs=1, batch_size=4)]),
    evidence="none",
  )


def test_copies_and_near_duplicates_that_stay_are_told(capsys):
  done = forget(text(), [0])
  assert "forget: 3 of the examples that stay repeat what is to be deleted, such as id 30" in (
    capsys.readouterr().err
  )
  assert done.record["not_checked"][0].startswith("3 of the examples that stay repeat")
  done = forget(text(), [0, 30, 40, 41])
  assert "repeat" not in capsys.readouterr().err
  assert not any("repeat" in line for line in done.record["not_checked"])


def test_copies_are_in_one_group_of_a_request():
  rng = np.random.default_rng(0)
  families = np.arange(90) // 2
  dataset = Dataset(rng.normal(size=(90, 3)), np.arange(90) % 2, families=families)
  scores = rng.permutation(np.arange(90) // 45)  # equal for half of them: ties are cut anywhere
  groups = grouped(dataset, scores.astype(float), dataset.ids, None)
  assert [len(ids) for ids in groups.values()] == [30, 30, 30]
  for ids in groups.values():
    np.testing.assert_array_equal(dataset.with_copies(ids), ids)
  few = grouped(dataset, scores[:40].astype(float), dataset.ids[:40], None)
  assert list(few) == ["all"]  # of twenty examples


@pytest.mark.parametrize("families", [None, np.array([0, 0, 1, 2, 2, 3])])
def test_copies_of_images_are_those_of_their_family(families):
  images = Dataset(np.ones((6, 4, 4), np.uint8), np.arange(6) % 2, families=families)
  split = Split(forget=np.array([0, 3]), retain=np.array([1, 2, 4, 5]))
  want = [] if families is None else [1, 4]
  assert copies_left(images, split).tolist() == want


def test_cuts_of_a_rehearsal_are_between_the_scores_that_made_its_groups(monkeypatch):
  ids, families = np.arange(9), np.array([0, 1, 2, 3, 4, 5, 0, 6, 7])
  scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.95, 0.7, 0.8])  # a copy's is another
  training = Dataset(np.eye(9), ids % 2, families=families)

  def said(network, training, some, score):
    del network, training, score
    return scores[some]

  monkeypatch.setattr(rehearsal, "scores_of", said)
  request: Any = types.SimpleNamespace(
    network=None,
    training=training,
    split=Split(forget=ids, retain=np.array([9])),
    groups=grouped(training, scores, ids, 3),
  )
  np.testing.assert_allclose(rehearsal._cuts(request), (0.35, 0.65))
