"""Split, holdout and cut_heldout: disjoint parts, decided by ids and a key alone."""

import contextlib
import time
from typing import Any

import jax
import numpy as np
import pytest

from jaxmul.data import Dataset, Split, cut_heldout, holdout

KEY = jax.random.key(0)


@contextlib.contextmanager
def refused(*parts):
  with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as info:
    yield
  for part in parts:
    assert part in str(info.value)


def toy(n=40):
  ids = np.arange(n) * 3 + 1
  return Dataset(np.zeros((n, 2), np.uint8), np.arange(n) % 4, ids)


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    ({"forget": []}, ["forget set is empty", "at least one id"]),
    ({"retain": []}, ["retain set is empty", "(2 ids) is everything", "Leave some"]),
    ({"retain": [1, 2]}, ["id 1 is in forget and in retain", "disjoint", "np.setdiff1d"]),
    ({"heldout": [4, 2]}, ["id 2 is in retain and in heldout"]),
    ({"test": [0]}, ["id 0 is in forget and in test"]),
    ({"heldout": [5, 6], "test": [6]}, ["id 6 is in heldout and in test"]),
    ({"forget": [0, 1, 1]}, ["Split.forget got id 1 more than once", "np.unique(ids)"]),
    ({"forget": [0.0, 1.0]}, ["forget", "float64", "integer ids"]),
    ({"forget": [True, False]}, ["forget", "bool", "dataset.ids[mask]"]),
    ({"retain": [[2, 3]]}, ["Split.retain", "[1, 2]", "integer ids [2]"]),
  ],
)
def test_bad_parts_are_refused_in_one_line(change, parts):
  with refused(*parts):
    Split(**{"forget": [0, 1], "retain": [2, 3], **change})


def test_a_forget_set_that_is_everything_is_refused():
  dataset = toy()
  with refused("(40 ids) is everything"):
    Split(dataset.ids, np.setdiff1d(dataset.ids, dataset.ids))


@pytest.mark.parametrize("part", ["forget", "retain", "heldout", "test"])
def test_check_finds_ids_that_are_not_in_the_data(part):
  parts: dict[str, Any] = {"forget": [1], "retain": [4], "heldout": [7], "test": [10]}
  Split(**parts).check(toy())
  with refused("id 2 is not in the data"):
    Split(**{**parts, part: [2]}).check(toy())


def test_train_is_forget_and_retain_sorted():
  split = Split(np.array([9, 1]), np.array([5, 3]), test=np.array([2]))
  assert split.train.tolist() == [1, 3, 5, 9]
  assert split.heldout.tolist() == []


def test_holdout_is_disjoint_whole_and_stratified():
  dataset = toy()
  parts = holdout(dataset, KEY, heldout=8, test=12)
  assert [len(part) for part in parts] == [20, 8, 12]
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), dataset.ids)
  for part, count in zip(parts, (5, 2, 3), strict=True):
    assert np.bincount(dataset.take(part).labels).tolist() == [count] * 4


def test_holdout_keeps_proportions_of_uneven_classes():
  dataset = Dataset(np.zeros((100, 2)), (np.arange(100) >= 90).astype(int))
  for part in holdout(dataset, KEY, heldout=20, test=30):
    assert dataset.take(part).labels.mean() == pytest.approx(0.1, abs=0.02)


def test_holdout_of_very_many_kinds_keeps_each():
  # A pass over all examples for each kind would take minutes.
  count = 400_000
  kinds = np.random.default_rng(0).permutation(count) // 4
  dataset = Dataset(np.zeros((count, 1), np.uint8), np.zeros(count, int), strata=kinds)
  start = time.process_time()
  parts = holdout(dataset, KEY, heldout=count // 4, test=count // 4)
  assert time.process_time() - start < 4
  for part, least in zip(parts, (2, 1, 1), strict=True):
    assert (np.bincount(dataset.take(part).strata) == least).all()


def test_holdout_goes_by_key_and_not_by_order():
  dataset = toy()
  parts = holdout(dataset, KEY, heldout=8, test=12)
  reordered = dataset.take(np.random.default_rng(0).permutation(dataset.ids))
  for a, b in zip(parts, holdout(reordered, KEY, heldout=8, test=12), strict=True):
    np.testing.assert_array_equal(a, b)
  other = holdout(dataset, jax.random.key(1), heldout=8, test=12)
  assert not np.array_equal(parts.test, other.test)


@pytest.mark.parametrize(("heldout", "test"), [(20, 20), (41, 0), (-1, 3), (3, -1)])
def test_holdout_that_leaves_nothing_is_refused(heldout, test):
  with refused(f"heldout={heldout}", f"test={test}", "of 40 examples", "Ask for less"):
    holdout(toy(), KEY, heldout=heldout, test=test)


@pytest.mark.parametrize("size", [0, 2, 9, 11])
def test_cut_heldout_is_disjoint_and_whole(size):
  ids = np.arange(size) * 7
  parts = cut_heldout(ids, KEY)
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), ids)
  assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_cut_heldout_goes_by_key_and_not_by_order():
  ids = np.arange(30) * 7
  for a, b in zip(cut_heldout(ids, KEY), cut_heldout(ids[::-1], KEY), strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(cut_heldout(ids, KEY).proxy, cut_heldout(ids, jax.random.key(1)).proxy)


def test_cut_heldout_never_gives_an_example_to_two_parts():
  with refused("cut_heldout", "id 3 more than once", "np.unique"):
    cut_heldout(np.array([3, 4, 3]), KEY)
  with refused("cut_heldout", "float64"):
    cut_heldout(np.array([3.5, 4, 5]), KEY)


def test_holdout_of_text_keeps_strata_in_proportion_and_asks_for_them():
  tokens = np.zeros((40, 3), int)
  labels, strata = np.zeros((40, 3), int), np.arange(40) // 30
  text = Dataset(tokens, labels, strata=strata)
  parts = holdout(text, jax.random.key(0), heldout=8, test=12)
  assert [int(text.take(part).strata.sum()) for part in parts] == [5, 2, 3]
  images = Dataset(np.zeros((40, 1)), strata)
  for part, other in zip(
    parts, holdout(images, jax.random.key(0), heldout=8, test=12), strict=True
  ):
    np.testing.assert_array_equal(part, other)
  with pytest.raises(ValueError, match=r"\Aholdout goes by the class of an example[^\n]*\Z"):
    holdout(Dataset(tokens, labels), jax.random.key(0), heldout=8, test=12)
