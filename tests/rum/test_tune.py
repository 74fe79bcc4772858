"""The surrogate, worked by hand: a network is a table of probabilities of the true label."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, memorization, rum
from jaxmul.data import Dataset, Split

# S is ids 0-3, three of class 0 and one of class 1; R is 4-7; H is 8-11, one of class 0.
LABELS = np.array([0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
ALL = Dataset(np.eye(12, dtype=np.float32), LABELS)
TRAINING, HELDOUT = ALL.take(range(8)), ALL.take(range(8, 12))
SPLIT = Split(forget=np.arange(4), retain=np.arange(4, 8))
RIGHT, WRONG = [0.9] * 4, [0.9, 0.1, 0.1, 0.1]  # R: all right, a quarter right


def table(w, x):
  return x @ w


def network(forget, retain, heldout):
  confidence = np.array([*forget, *retain, *heldout])
  of_0 = np.where(LABELS == 0, confidence, 1 - confidence)
  return bind(table, jnp.log(jnp.stack([of_0, 1 - of_0], axis=1)))


ORIGINAL = network([0.9] * 4, RIGHT, [0.9] * 4)


@pytest.mark.parametrize(
  ("forget", "retain", "heldout", "expected"),
  [
    # S and H agree, class by class; were H not weighted to S's classes, W1 would be ½ · 0.3.
    ([0.6, 0.6, 0.6, 0.9], RIGHT, [0.6, 0.9, 0.9, 0.9], 1.0),
    ([0.8, 0.8, 0.8, 0.9], RIGHT, [0.6, 0.9, 0.9, 0.9], 1 - 3 / 4 * 0.2),
    # S and H agree, but three of four in R are lost, or one of four in H.
    ([0.6, 0.6, 0.6, 0.9], WRONG, [0.6, 0.9, 0.9, 0.9], 1 / 4),
    ([0.4, 0.4, 0.4, 0.9], RIGHT, [0.4, 0.9, 0.9, 0.9], 3 / 4),
    ([0.4, 0.4, 0.4, 0.9], WRONG, [0.4, 0.9, 0.9, 0.9], 3 / 4 * 1 / 4),
  ],
)
def test_surrogate_by_hand(forget, retain, heldout, expected):
  after = network(forget, retain, heldout)
  found = rum.surrogate(after, ORIGINAL, TRAINING, SPLIT, HELDOUT)
  assert found == pytest.approx(expected, abs=1e-5)


def test_surrogate_does_not_reward_a_gain_of_accuracy():
  before = network([0.9] * 4, WRONG, [0.1] * 4)
  after = network([0.9] * 4, RIGHT, [0.9] * 4)
  found = rum.surrogate(after, before, TRAINING, SPLIT, HELDOUT)
  assert found == pytest.approx(1, abs=1e-5)


def test_surrogate_compares_a_class_without_heldout_examples_with_all_of_them():
  split = Split(forget=np.array([0]), retain=np.arange(4, 8))
  after = network([0.7] * 4, RIGHT, [0.9, 0.9, 0.7, 0.8])
  heldout = ALL.take([9, 10, 11])  # of class 1 alone
  found = rum.surrogate(after, ORIGINAL, TRAINING, split, heldout)
  assert found == pytest.approx(1 - (0.2 + 0 + 0.1) / 3, abs=1e-5)


def test_surrogate_with_ground_truth_by_hand():
  """Half of S right is what models without it do: 2 of 4, 1 of 1, 0 of 3; one was never out."""
  none = np.zeros(4)
  estimate = memorization.Estimate(
    np.arange(4),
    none,
    none,
    none,
    none,
    none,
    correct_out=np.array([2, 1, 0, 0]),
    count_out=np.array([4, 1, 3, 0]),
    soft=none,
    log_odds=none,
  )
  for forget, distance in (
    ([0.9, 0.9, 0.1, 0.1], 0),
    ([0.9] * 4, 0.5),
    ([0.9, 0.1, 0.1, 0.1], 0.25),
  ):
    after = network(forget, WRONG, [0.4, 0.9, 0.9, 0.9])
    found = rum.surrogate(after, ORIGINAL, TRAINING, SPLIT, HELDOUT, estimate)
    assert found == pytest.approx((1 - distance) * 1 / 4 * 3 / 4)
