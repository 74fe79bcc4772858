"""Attacks on distilled sets, by hand and on sets of which the answer is known."""

import numpy as np
import pytest

from jaxmul.data import Dataset
from jaxmul.metrics import attacks

RNG = np.random.default_rng(0)
EXAMPLES = Dataset(RNG.integers(0, 256, (30, 3, 2), dtype=np.uint8), np.arange(30) % 3)
SMALL = Dataset(RNG.integers(0, 256, (7, 3, 2), dtype=np.uint8), [0, 1, 2, 0, 1, 2, 2])


def test_distances_by_hand():
  nearest, mean = np.zeros((2, 30))
  for i, (image, label) in enumerate(zip(EXAMPLES.inputs / 255, EXAMPLES.labels, strict=True)):
    own = SMALL.inputs[SMALL.labels == label] / 255
    nearest[i] = -min(np.linalg.norm(image - other) for other in own)
    mean[i] = -np.linalg.norm(image - sum(own) / len(own))
  np.testing.assert_allclose(attacks.nearest_distilled(EXAMPLES, SMALL), nearest)
  np.testing.assert_allclose(attacks.mean_of_distilled(EXAMPLES, SMALL), mean)


def test_blocks_give_the_same(monkeypatch):
  whole = attacks.nearest_distilled(EXAMPLES, SMALL)
  monkeypatch.setattr("jaxmul.metrics.attacks.distilled_sets._BLOCK_NUMBERS", 18)
  np.testing.assert_allclose(attacks.nearest_distilled(EXAMPLES, SMALL), whole, rtol=1e-12)


def test_what_is_copied_is_found_and_what_was_never_seen_is_not():
  members, others = EXAMPLES.take(np.arange(15)), EXAMPLES.take(np.arange(15, 30))
  found = attacks.nearest_distilled(members, members), attacks.nearest_distilled(others, members)
  assert np.allclose(found[0], 0, atol=1e-6)
  assert attacks.rates(*found, resamples=0).auc.mean == 1


def test_the_mean_of_what_one_is_among_is_found():
  """Gaussian vectors: with d of them in n examples the AUC is about Φ(√(d / 2n))."""
  vectors = RNG.normal(size=(60, 200)).astype(np.float32)
  half = [Dataset(vectors[rows], np.zeros(30, int)) for rows in (slice(30), slice(30, 60))]
  scores = [attacks.mean_of_distilled(half[0], one) for one in half]
  assert attacks.rates(*scores, paired=True, resamples=0).auc.mean > 0.6
  assert (scores[0] > scores[1]).mean() > 0.9


@pytest.mark.parametrize("attack", [attacks.nearest_distilled, attacks.mean_of_distilled])
def test_what_is_refused(attack):
  with pytest.raises(ValueError, match=r"uint8 \[3, 2\] and distilled ones float32 \[3, 2\]"):
    attack(EXAMPLES, Dataset(SMALL.inputs / 255, SMALL.labels))
  with pytest.raises(ValueError, match="no distilled example is of class 2"):
    attack(EXAMPLES, SMALL.take([0, 1, 3]))
  with pytest.raises(ValueError, match="one array, with one class"):
    attack(Dataset({"a": np.ones((2, 3))}, [0, 1]), SMALL)


def test_what_is_copied_is_at_distance_0():
  """‖x‖² − 2 x·s + ‖s‖² is not: of 3,072 numbers rounding leaves distances of 1e-6."""
  images = Dataset(np.random.default_rng(0).random((20, 3072)), np.zeros(20, int), num_classes=2)
  assert (attacks.nearest_distilled(images, images.take(images.ids[:5]))[:5] == 0).all()
