"""Tiny-ImageNet's folder: ids that its file names give, and refused where it is not whole."""

import numpy as np
import pytest
from PIL import Image

from jaxmul.data import tiny_imagenet

WNIDS = ("n02", "n10", "n01")  # wnids.txt is not sorted


@pytest.fixture
def folder(tmp_path):
  """Three images a class and five to validate with, each of one colour that says which it is."""
  (tmp_path / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
  for label, wnid in enumerate(sorted(WNIDS)):
    images = tmp_path / "train" / wnid / "images"
    images.mkdir(parents=True)
    for k in (0, 2, 10):
      picture(images / f"{wnid}_{k}.JPEG", 50 * label + k)
  images = tmp_path / "val" / "images"
  images.mkdir(parents=True)
  lines = []
  for k in range(5):
    picture(images / f"val_{k}.JPEG", 200 + k, mode="L" if k == 3 else "RGB")
    lines.append(f"val_{k}.JPEG\t{WNIDS[k % 3]}\t0\t0\t62\t62\n")
  (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines[::-1]))
  return tmp_path


def picture(path, value, mode="RGB", size=(64, 64)):
  Image.new(mode, size, value if mode == "L" else (value, value, value)).save(path, "JPEG")


def colours(found):
  assert found.inputs.dtype == np.uint8
  assert found.inputs.shape[1:] == (64, 64, 3)
  assert np.ptp(found.inputs, axis=(1, 2, 3)).max() <= 2  # JPEG
  return np.rint(found.inputs.mean((1, 2, 3))).astype(int)


def test_training_images_have_the_ids_and_classes_of_their_names(folder):
  found = tiny_imagenet(folder)
  assert found.ids.tolist() == [0, 2, 10, 500, 502, 510, 1000, 1002, 1010]
  assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
  np.testing.assert_allclose(colours(found), 50 * found.labels + found.ids % 500, atol=1)
  assert found.num_classes == 3


def test_val_images_get_the_class_that_the_list_gives_them(folder):
  found = tiny_imagenet(folder, "val")
  assert found.ids.tolist() == [100_000, 100_001, 100_002, 100_003, 100_004]
  # n02, n10, n01 are classes 1, 2 and 0 of the sorted names.
  assert found.labels.tolist() == [1, 2, 0, 1, 2]
  np.testing.assert_allclose(colours(found), 200 + np.arange(5), atol=1)


def test_both_parts_together_share_no_id(folder):
  both = tiny_imagenet(str(folder), "train+val")
  assert len(both) == 14
  np.testing.assert_array_equal(both.take([502]).inputs, tiny_imagenet(folder).take([502]).inputs)


def damage(folder, what):
  train, val = folder / "train" / "n10" / "images", folder / "val"
  if what == "no list":
    (folder / "wnids.txt").unlink()
  elif what == "empty list":
    (folder / "wnids.txt").write_text("\n")
  elif what == "no class":
    (folder / "wnids.txt").write_text("n10 n99")
  elif what == "half unpacked":
    (train / "n10_2.JPEG").unlink()
  elif what == "other name":
    (train / "n10_2.JPEG").rename(train / "n10_500.JPEG")
  elif what == "damaged":
    (train / "n10_2.JPEG").write_bytes(b"\xff\xd8 no image")
  elif what == "other size":
    picture(train / "n10_2.JPEG", 0, size=(32, 64))
  elif what == "val missing":
    (val / "images" / "val_2.JPEG").unlink()
  elif what == "val of no class":
    (val / "val_annotations.txt").write_text("val_0.JPEG\tn77\n")
  elif what == "val elsewhere":
    (val / "val_annotations.txt").write_text("../../val_0.JPEG\tn10\n")
  elif what == "val not text":
    (val / "val_annotations.txt").write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
  ("what", "error", "said"),
  [
    ("no list", FileNotFoundError, "there is no .*wnids.txt"),
    ("empty list", ValueError, "lists no classes"),
    ("no class", FileNotFoundError, "there is no .*n99"),
    ("half unpacked", ValueError, "n10.images holds 2 images, that of n01 3"),
    ("other name", ValueError, r"'n10_500.JPEG' is not named n10_k.JPEG, k in \[0, 500\)"),
    ("damaged", ValueError, "n10_2.JPEG cannot be read"),
    ("other size", ValueError, r"it is \(64, 32, 3\), but .* is \(64, 64, 3\)"),
    ("val missing", FileNotFoundError, "there is no .*val_2.JPEG"),
    ("val of no class", ValueError, "'val_0.JPEG' the class 'n77', which wnids.txt does not list"),
    ("val elsewhere", ValueError, "'../../val_0.JPEG' is not named val_k.JPEG"),
    ("val not text", ValueError, "val_annotations.txt cannot be read"),
  ],
)
def test_what_is_not_whole_gets_one_line(folder, what, error, said):
  damage(folder, what)
  with pytest.raises(error, match=rf"\A[^\n]*{said}[^\n]*\. [A-Z][^\n]*\.\Z"):
    tiny_imagenet(folder, "train+val")


def test_an_unknown_part_is_refused(folder):
  with pytest.raises(ValueError, match=r"got part 'test': use 'train', 'val' or 'train\+val'"):
    tiny_imagenet(folder, "test")  # pyright: ignore[reportArgumentType]
