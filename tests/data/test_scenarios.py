"""Forget sets by class, by sub-class and at random are ids that a split takes."""

import jax
import numpy as np
import pytest

from jaxmul import data

DIGITS = data.digits()
KEY = jax.random.key(3)


def odd():
  """Digits as even or odd, with the digit itself as the stratum, and ids of no order."""
  ids = 10**12 + np.random.default_rng(0).permutation(len(DIGITS))
  return data.Dataset(DIGITS.inputs, DIGITS.labels % 2, ids, strata=DIGITS.labels)


def refusal(call, *parts):
  with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
    call()
  for part in parts:
    assert part in str(caught.value)


def test_a_class_is_all_of_it_and_nothing_else():
  dataset = odd()
  forget = data.forget_class(dataset, 1)
  assert (np.diff(forget) > 0).all()
  assert set(dataset.take(forget).labels) == {1}
  assert len(forget) == (dataset.labels == 1).sum()
  split = data.Split(forget, np.setdiff1d(dataset.ids, forget))
  split.check(dataset)


def test_a_subclass_is_part_of_a_class():
  dataset = odd()
  forget = data.forget_subclass(dataset, 7)
  assert (np.diff(forget) > 0).all()
  assert set(dataset.take(forget).strata) == {7}
  assert len(forget) == (DIGITS.labels == 7).sum() < (dataset.labels == 1).sum()


def test_random_ids_follow_the_key_and_not_the_order_of_the_data():
  dataset = odd()
  forget = data.forget_random(dataset, 90, KEY)
  assert forget.shape == np.unique(forget).shape == (90,)
  assert (np.diff(forget) > 0).all()
  dataset.rows(forget)
  shuffled = dataset.take(np.random.default_rng(1).permutation(dataset.ids))
  np.testing.assert_array_equal(data.forget_random(shuffled, 90, KEY), forget)
  other = data.forget_random(dataset, 90, jax.random.key(4))
  assert len(np.intersect1d(forget, other)) < 30
  # Hardly any class is spared by 900 of 1,797.
  half = dataset.take(data.forget_random(dataset, 900, KEY))
  shares = np.bincount(half.strata) / np.bincount(dataset.strata)
  assert (abs(shares - 0.5) < 0.15).all()


def test_what_cannot_be_forgotten_gets_one_line():
  dataset = odd()
  refusal(lambda: data.forget_class(dataset, 2), "label 2: no example is of it", "[0, 1]")
  ones = dataset.take(data.forget_class(dataset, 1))
  refusal(lambda: data.forget_class(ones, 1), "label 1: every example is of it")
  refusal(lambda: data.forget_subclass(dataset, 10), "stratum 10: no example is of it")
  refusal(lambda: data.forget_subclass(DIGITS, 1), "needs strata")
  text = data.Dataset(np.zeros((2, 3), np.int32), np.zeros((2, 3), int))
  refusal(lambda: data.forget_class(text, 0), "goes by the class", "Use forget_subclass")
  refusal(lambda: data.forget_random(dataset, 1797, KEY), "size=1797 of 1797", "Ask for less")
  refusal(lambda: data.forget_random(dataset, 0, KEY), "size=0, must be an integer of at least 1")
