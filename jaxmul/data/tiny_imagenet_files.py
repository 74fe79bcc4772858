"""Tiny-ImageNet from the folder of its official archive; TFDS has none."""

import os
import re
from pathlib import Path
from typing import Literal

import numpy as np

from jaxmul._dataset import Dataset
from jaxmul._paths import local
from jaxmul.data import sources

_EACH = 500  # training images a class
_FIRST_VAL = 100_000
_AGAIN = "Unpack tiny-imagenet-200.zip again."


def tiny_imagenet(
  path: str | os.PathLike, part: Literal["train", "val", "train+val"] = "train"
) -> Dataset:
  """Reads `tiny-imagenet-200`, as its archive unpacks: 100,000 training and 10,000 val images.

  Args:
    path: holds wnids.txt, train/WNID/images/WNID_k.JPEG, val/images/val_k.JPEG and
      val/val_annotations.txt.
    part: "train", "val" (labelled, so it serves as a test set) or "train+val"; the archive's test/
      has no labels.

  Returns:
    Images uint8 [n, 64, 64, 3], grey ones with three equal channels. Class c is the c-th name of
    wnids.txt sorted as text, as torchvision numbers folders. Ids are 500 c + k in train/ and
    100,000 + k in val/, sorted.

  Raises:
    FileNotFoundError: a folder or file of the layout is missing.
    ValueError: a damaged image or list, a file name that is not the archive's, classes of several
      sizes (half of the archive was unpacked), or more than `sources.MAX_BYTES`.

  References:
    Le & Yang, [Tiny ImageNet](http://vision.stanford.edu/teaching/cs231n/reports/2015/pdfs/yle_project.pdf),
    2015.

  Example:
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> (root / "wnids.txt").write_text("n01443537")
    9
    >>> images = root / "train" / "n01443537" / "images"
    >>> images.mkdir(parents=True)
    >>> Image.new("RGB", (64, 64)).save(images / "n01443537_7.JPEG")
    >>> tiny_imagenet(root).ids.tolist()
    [7]
  """
  if part not in ("train", "val", "train+val"):
    raise ValueError(f"tiny_imagenet got part {part!r}: use 'train', 'val' or 'train+val'.")
  root = local(path)
  wnids = sorted(_text(root / "wnids.txt").split())
  if not wnids:
    raise ValueError(f"tiny_imagenet: {root / 'wnids.txt'} lists no classes. {_AGAIN}")
  files: list[tuple[int, int, Path]] = []  # (id, class, file)
  if "train" in part:
    files += _train(root, wnids)
  if "val" in part:
    files += _val(root, wnids)
  files.sort()
  ids, labels, paths = zip(*files, strict=True)
  images = sources.read_images(paths, "tiny_imagenet", _AGAIN, mode="RGB")
  return Dataset(images, np.array(labels), np.array(ids), num_classes=len(wnids))


def _train(root: Path, wnids: list[str]) -> list[tuple[int, int, Path]]:
  images, first = [], 0
  for label, wnid in enumerate(wnids):
    folder = root / "train" / wnid / "images"
    if not folder.is_dir():
      raise FileNotFoundError(f"tiny_imagenet: there is no {folder}. {_AGAIN}")
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    numbers = [_number(file.name, wnid, _EACH) for file in files]
    first = first or len(files)
    if len(files) != first or not files:
      raise ValueError(
        f"tiny_imagenet: {folder} holds {len(files)} images, that of {wnids[0]} {first}. {_AGAIN}"
      )
    images += [(_EACH * label + k, label, file) for k, file in zip(numbers, files, strict=True)]
  return images


def _val(root: Path, wnids: list[str]) -> list[tuple[int, int, Path]]:
  classes = {wnid: label for label, wnid in enumerate(wnids)}
  images = []
  for line in _text(root / "val" / "val_annotations.txt").splitlines():
    name, wnid, *_ = [*line.split("\t"), ""]
    number, file = _number(name, "val", _FIRST_VAL), root / "val" / "images" / name
    if wnid not in classes:
      raise ValueError(
        f"tiny_imagenet: val_annotations.txt gives {name!r} the class {wnid!r}, which wnids.txt "
        f"does not list. {_AGAIN}"
      )
    if not file.is_file():
      raise FileNotFoundError(f"tiny_imagenet: there is no {file}. {_AGAIN}")
    images.append((_FIRST_VAL + number, classes[wnid], file))
  return images


def _number(name: str, stem: str, limit: int) -> int:
  """Returns k of `stem_k.JPEG`."""
  match = re.fullmatch(rf"{re.escape(stem)}_(\d{{1,6}})\.JPEG", name)
  if match is None or int(match[1]) >= limit:
    raise ValueError(
      f"tiny_imagenet: {name!r} is not named {stem}_k.JPEG, k in [0, {limit}). Move it elsewhere."
    )
  return int(match[1])


def _text(file: Path) -> str:
  if not file.is_file():
    raise FileNotFoundError(f"tiny_imagenet: there is no {file}. {_AGAIN}")
  with sources.reading(f"tiny_imagenet: {file}", _AGAIN):
    return file.read_text("ascii")
