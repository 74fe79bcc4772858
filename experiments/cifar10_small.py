"""5,000 images of CIFAR-10 as one file: 4,000 of its training part, 1,000 of its test part.

    python -m experiments.cifar10_small cifar10_small.npz --source cifar-10-batches-bin
    python -m experiments.cifar10_small cifar10.npz --whole --source cifar-10-batches-bin

Anyone gets CIFAR-10 at https://www.cs.toronto.edu/~kriz/cifar.html: fetch the binary version (for C
programs, 162 MB), unpack it, and name its folder. They are class-balanced; ids are CIFAR-10's own
indices, those of the test part after the 50,000 of the training part. `--whole` writes all 60,000.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from experiments import cli, setting
from jaxmul import data, report
from jaxmul._files import read_npz

_IDS = Path(__file__).parent / "truths" / "cifar10_small_ids.npz"
_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What is written, and from what.

  Attributes:
    out: .npz to write.
    source: folder of the binary version; without it JAXMUL_SHARED_DATA names where images are.
    whole: write all 60,000 images.
  """

  out: tyro.conf.Positional[Path]
  source: Path | None = None
  whole: bool = False


def of_binary(folder: Path, *, whole: bool = False) -> data.Dataset:
  """Returns the images of the binary version: a byte of label and 3 × 32 × 32 of pixels each."""
  files = [np.fromfile(folder / name, np.uint8) for name in _FILES]
  if {content.size for content in files} != {10_000 * 3073}:
    raise ValueError(f"{folder}: its files are not 30,730,000 bytes each. Unpack them again.")
  ids = np.arange(60_000) if whole else read_npz(_IDS)["ids"]
  rows = np.concatenate(files).reshape(-1, 3073)[ids]
  images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  return data.Dataset(images, rows[:, 0], ids, num_classes=10)


def main(config: Config) -> None:
  """Writes both parts to an .npz file."""
  folder = config.source
  if folder is None:
    images = setting.cifar10("train", "test", whole=config.whole)
  else:
    images = of_binary(folder, whole=config.whole)
  arrays = {"images": images.inputs, "labels": images.labels, "ids": images.ids}
  report.write_arrays(config.out, arrays)
  print(f"written: {config.out}, {len(images)} images")


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
