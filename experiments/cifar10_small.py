"""5,000 real CIFAR-10 images that come with the workplace and not with the project, as one file.

    python -m experiments.cifar10_small cifar10_small.npz

4,000 images of CIFAR-10's training part and 1,000 of its test part, class-balanced. Ids are
CIFAR-10's own indices, those of the test part after the 50,000 of the training part.
"""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np

from experiments import cli
from jaxmul import report
from jaxmul.data import Dataset

TRAINING = 50_000


def load(*parts: str) -> Dataset:
  """Returns the images of the parts "train" and "test", uint8 [n, 32, 32, 3].

  Raises:
    FileNotFoundError: neither JAXMUL_SHARED_DATA nor ../shared/data holds them.
  """
  root = Path(__file__).parents[2] / "shared" / "data"
  root = Path(os.environ.get("JAXMUL_SHARED_DATA", root))
  if not (root / "load.py").is_file():
    raise FileNotFoundError(
      f"there are no real images in {root}. Set JAXMUL_SHARED_DATA to the folder of load.py."
    )
  spec = importlib.util.spec_from_file_location("shared_data_load", root / "load.py")
  assert spec is not None
  assert spec.loader is not None
  reader = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(reader)
  folder = root / "cifar10_small"
  images, labels, classes = zip(
    *(reader.load_images(str(folder), part) for part in parts), strict=True
  )
  ids = [np.load(folder / f"{part}_index.npy") + TRAINING * (part == "test") for part in parts]
  arrays = (np.concatenate(each) for each in (images, labels, ids))
  return Dataset(*arrays, num_classes=len(classes[0]))


def main(path: Path) -> None:
  """Writes both parts to an .npz file."""
  images = load("train", "test")
  arrays = {"images": images.inputs, "labels": images.labels, "ids": images.ids}
  report.write_arrays(path, arrays)
  print(f"written: {path}, {len(images)} images")


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit("error: name the file to write: python -m experiments.cifar10_small cifar10_small.npz")
  cli.run(lambda: main(Path(sys.argv[1])))
