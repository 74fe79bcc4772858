"""An order of ids that follows nothing."""

import numpy as np

from jaxmul._ties import scattered


def test_a_place_depends_on_the_id_and_the_key_alone():
  ids = np.array([5, -3, 10**12, 0])
  places = dict(zip(ids.tolist(), scattered(ids), strict=True))
  for some in (ids[::-1], ids[1:3], np.append(ids, 7)):
    for each, place in zip(some.tolist(), scattered(some), strict=True):
      assert places.get(each, place) == place
  assert len(np.unique(scattered(np.arange(-5000, 5000)))) == 10_000


def test_another_key_is_another_order_and_not_one_of_shifted_ids():
  ids = np.arange(20_000)
  ranks = [np.argsort(np.argsort(scattered(ids, key))) for key in (0, 1, 2, -1)]
  for i in range(4):
    assert abs(np.corrcoef(ids, ranks[i])[0, 1]) < 0.03
    for j in range(i):
      for shift in (-2, -1, 0, 1, 2):
        assert abs(np.corrcoef(ranks[i], np.roll(ranks[j], shift))[0, 1]) < 0.03


def test_ids_of_a_class_are_spread_evenly():
  order = np.argsort(scattered(np.arange(5000)))
  labels = np.repeat(np.arange(10), 500)[order]  # sorted by class, as ids often are
  counts = np.stack([np.bincount(part, minlength=10) for part in np.split(labels, 20)])
  # A sum of squares over 20 groups of 250, each about χ² with 9 degrees of freedom.
  assert ((counts - 25) ** 2 / 25).sum() < 250
