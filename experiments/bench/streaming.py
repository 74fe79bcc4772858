"""What does `train.fit` cost on a source that is read as it goes, in memory and in time?

Images are of 64 × 64 × 3 uint8. Memory is the peak of a process that trains an `mlp` for one epoch
on 1,300,000 images (16 GB, as many as ImageNet's) over that on 100,000; these images are made from
their ids when they are asked for, so that none lies in memory or on disk. Speed is that of a whole
epoch on 10,000 images in a memory-mapped .npy file over that on the same images in memory: of the
demo's `cnn`, and of a small `mlp` that computes little, so that reading counts.
"""

import tempfile
from pathlib import Path

import jax
import numpy as np

from experiments.bench.pairs import alternate
from experiments.bench.workers import told
from jaxmul import models, train
from jaxmul.data import Dataset, Streamed

GOALS = {
  "peak_ratio": "at most 1.1",
  "cnn_over_memory": "at least 0.9",
  "mlp_over_memory": "at least 0.9",
}
SHAPE, CLASSES, BATCH = (64, 64, 3), 10, 128
PEAK = """
import sys
import jax, numpy as np
from experiments.bench import machine
from jaxmul import models, train
from jaxmul.data import Streamed

class Generated:
  def __init__(self, size):
    self.size = size
  def __len__(self):
    return self.size
  def __getitem__(self, index):
    return np.full((64, 64, 3), index % 251, np.uint8), index % 10

recipe = train.Recipe(models.mlp((8,), 10), epochs=1, batch_size=128, learning_rate=0.01)
train.fit(recipe, Streamed(Generated(int(sys.argv[1])), 10), jax.random.key(0))
print(machine.memory("VmHWM") / 2**20)
"""


class Mapped:
  """Images of a memory-mapped file and their labels."""

  def __init__(self, path: Path, labels: np.ndarray):
    self.images, self.labels = np.load(path, mmap_mode="r"), labels

  def __len__(self) -> int:
    return len(self.labels)

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    return self.images[index], self.labels[index]


def measure(pairs: int, seconds: float) -> dict[str, float]:
  """Returns peaks in MiB and their ratio, speeds over those in memory, and images a second."""
  is_quick = seconds < 10
  small, large = (2_000, 20_000) if is_quick else (100_000, 1_300_000)
  peaks = {"small": told("-c", PEAK, str(small)), "large": told("-c", PEAK, str(large))}
  figures = {f"peak_{name}_mib": peak for name, peak in peaks.items()}
  figures |= {"peak_ratio": peaks["large"] / peaks["small"]}
  count = 1_000 if is_quick else 10_000
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, *SHAPE)).astype(np.uint8)
  dataset = Dataset(images, rng.integers(0, CLASSES, count), num_classes=CLASSES)
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "images.npy")
    np.save(path, images)
    streamed = Streamed(Mapped(path, dataset.labels), CLASSES)
    for name, model in (("cnn", models.cnn()), ("mlp", models.mlp((8,), CLASSES))):
      recipe = train.Recipe(model, epochs=1, batch_size=BATCH, learning_rate=0.01)
      timed = alternate(
        _epoch(recipe, streamed), _epoch(recipe, dataset), pairs=pairs, seconds=seconds
      )
      figures |= {
        f"{name}_over_memory": 1 / timed["ratio"],
        f"{name}_images_per_second": count / timed["ours"],
        f"{name}_memory_images_per_second": count / timed["reference"],
      }
  return figures


def _epoch(recipe: train.Recipe, dataset: Dataset | Streamed):
  def epoch():
    jax.block_until_ready(train.fit(recipe, dataset, jax.random.key(0)).network.params)

  return epoch
