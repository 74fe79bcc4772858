"""Datamodel matching by hand, joined by id."""

import numpy as np
import pytest
from by_hand import ETA, one_update, run

from jaxmul import unlearn


def test_dmm_descends_to_logits_predicted_without_forget_joined_by_id(parts):
  w, moved, s, r = parts
  rng = np.random.default_rng(6)
  targets, sources = rng.permutation(11), rng.permutation(7)
  beta = rng.normal(size=(11, 7, 3))
  new = one_update(unlearn.dmm(beta, targets, sources, ETA), w, s, r, at=moved)
  x = np.concatenate([s[0], r[0]])
  predicted = x @ w
  for i, target in enumerate(targets):
    for j, source in enumerate(sources):
      if source < 5:
        predicted[target] -= beta[i, j]
  down = 2 * x.T @ (x @ moved - predicted) / len(x)
  np.testing.assert_allclose(new, moved - ETA * down, rtol=1e-12)


def test_dmm_names_the_id_whose_influence_is_missing(problem):
  algorithm = unlearn.dmm(np.zeros((40, 8, 3)), np.arange(40), np.arange(8))
  with pytest.raises(ValueError, match="id 8 is not among the sources") as caught:
    run(problem, algorithm, 1)
  assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match=r"must be \[3, 1, C\]"):
    unlearn.dmm(np.zeros((3, 2, 3)), np.arange(3), np.arange(1))
  with pytest.raises(ValueError, match=r"influences on 1 logits for a network of 3 classes"):
    run(problem, unlearn.dmm(np.zeros((40, 10, 1)), np.arange(40), np.arange(10)), 1)
