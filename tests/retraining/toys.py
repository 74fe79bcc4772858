"""What tests of retraining and of memorization share: a toy, its recipe, and damage to files."""

from collections.abc import Iterator

import numpy as np

from jaxmul import models, train
from jaxmul.data import Dataset

RECIPE = train.Recipe(models.mlp((6,), 2), epochs=6, batch_size=8)


def two_classes(n: int = 24, apart: float = 2.0) -> Dataset:
  """n points of two classes in turn, whose ids are not their rows; the nearer, the harder."""
  rng, labels = np.random.default_rng(0), np.arange(n) % 2
  inputs = (rng.normal(size=(n, 3)) + apart * labels[:, None]).astype(np.float32)
  return Dataset(inputs, labels, np.arange(n) * 2 + 5)


def damaged_copies(whole: bytes) -> Iterator[bytes]:
  """Yields a file's content cut off in four places, and with each of 200 bits flipped."""
  for share in (0, 0.25, 0.5, 0.99):
    yield whole[: int(share * len(whole))]
  for bit in np.random.default_rng(0).choice(8 * len(whole), 200, replace=False):
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << (bit % 8)
    yield bytes(damaged)
