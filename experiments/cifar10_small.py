"""5,000 real CIFAR-10 images that come with the workplace and not with the project, as one file.

    python -m experiments.cifar10_small cifar10_small.npz

4,000 images of CIFAR-10's training part and 1,000 of its test part, class-balanced. Ids are
CIFAR-10's own indices, those of the test part after the 50,000 of the training part.
"""

import sys
from pathlib import Path

from experiments import cli
from experiments.setting import cifar10_small
from jaxmul import report


def main(path: Path) -> None:
  """Writes both parts to an .npz file."""
  images = cifar10_small("train", "test")
  arrays = {"images": images.inputs, "labels": images.labels, "ids": images.ids}
  report.write_arrays(path, arrays)
  print(f"written: {path}, {len(images)} images")


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit("error: name the file to write: python -m experiments.cifar10_small cifar10_small.npz")
  cli.run(lambda: main(Path(sys.argv[1])))
