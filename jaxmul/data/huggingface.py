"""Data sets of the Hugging Face Hub: from its name, from a folder, or loaded already.

Images are decoded here, by Pillow's own decoders of four formats, and not by `datasets`, which
opens whatever Pillow can, with the help of other programs for some.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxmul import _article
from jaxmul._dataset import Dataset
from jaxmul.data import _probe, sources

if TYPE_CHECKING:
  import datasets


def from_huggingface(
  source: "str | os.PathLike | datasets.Dataset | datasets.DatasetDict",
  split: str = "train",
  *,
  inputs: str | None = None,
  label: str | None = None,
  ids: str | None = None,
  strata: str | None = None,
) -> Dataset:
  """Reads a data set of the Hub, such as `from_huggingface("ylecun/mnist", "test")`.

  Args:
    source: its name; a folder, as `save_to_disk` writes it or of images or Parquet files; or what
      `datasets.load_dataset` returned, for all that only its own options can say.
    split: such as `"train"` or `"test"`; for a name, or a folder of files, also `"train[:10%]"`. A
      `datasets.Dataset` is one split already, and this is not used.
    inputs: column of images, or of arrays of one shape; by default the only one of images, or of
      `Array2D` … `Array5D`.
    label: column of classes; by default the only `ClassLabel`, or else "label".
    ids: column of integers; by default the position 0 … n − 1, which holds for this split only.
    strata: column of integers or classes, for `Dataset.strata`: CIFAR-100's "fine_label", where
      `label` is "coarse_label".

  Returns:
    Examples in the order of the source. Images are uint8 [n, h, w] or [n, h, w, 3].

  Raises:
    FileNotFoundError: there is no such folder.
    ConnectionError: the Hub does not answer; known within 5 seconds (`datasets` alone takes 25).
      With HF_HUB_OFFLINE=1 it is not asked, and what was downloaded before is read.
    ImportError: `datasets` is not installed.
    ValueError: an unknown name, split or column; images of several sizes, or neither grey nor RGB;
      a label that is text or −1; or more than `sources.MAX_BYTES`.
  """
  hub = _import_datasets()
  is_loaded = isinstance(source, hub.Dataset | hub.DatasetDict)
  if not (is_loaded or isinstance(source, str | os.PathLike)):
    raise ValueError(
      f"from_huggingface got {_article.of(source)}, needs a name, a folder or a "
      "datasets.Dataset. Load it without streaming=True."
    )
  what = f"from_huggingface: {'the data set' if is_loaded else repr(str(source))}"
  manual = (
    "By hand: where it can be downloaded run "
    f"`datasets.load_dataset(NAME, split={split!r}).save_to_disk(FOLDER)`, copy FOLDER here and "
    "pass its path; or pass arrays to jaxmul.data.Dataset(inputs, labels, ids)."
  )
  loaded: Any = source if is_loaded else _load(hub, str(source), split, what, manual)
  with sources.reading(what, "Or pass arrays to jaxmul.data.Dataset(inputs, labels, ids)."):
    if isinstance(loaded, hub.DatasetDict):
      if split not in loaded:
        raise ValueError(f"it has no split {split!r}, but {sorted(loaded)}")
      loaded = loaded[split]
    if not len(loaded):
      raise ValueError("it is empty")
    return _read(hub, loaded, inputs, label, ids, strata)


def _load(hub: Any, source: str, split: str, what: str, manual: str) -> Any:
  folder = Path(source).expanduser()
  if folder.is_dir():
    with sources.reading(what, manual):
      if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
        return hub.load_from_disk(str(folder))
      return hub.load_dataset(str(folder), split=split)
  if source.startswith(("/", ".", "~")) or source.count("/") > 1:
    raise FileNotFoundError(f"{what} is no folder. {manual}")
  if not hub.config.HF_HUB_OFFLINE:
    reason = _probe.unreachable(hub.config.HF_ENDPOINT)
    if reason:
      raise ConnectionError(
        f"{what} cannot be downloaded: {hub.config.HF_ENDPOINT} {reason}. {manual}"
      )
  with sources.reading(what, manual):
    return hub.load_dataset(source, split=split)


def _read(
  hub: Any,
  loaded: Any,
  inputs: str | None,
  label: str | None,
  ids: str | None,
  strata: str | None,
) -> Dataset:
  features: Mapping[str, Any] = loaded.features
  arrays = (hub.Array2D, hub.Array3D, hub.Array4D, hub.Array5D)
  images = [name for name, feature in features.items() if isinstance(feature, hub.Image)]
  others = [name for name, feature in features.items() if isinstance(feature, arrays)]
  classes = [name for name, feature in features.items() if isinstance(feature, hub.ClassLabel)]
  inputs = _column(features, "inputs", inputs, images or others)
  label = _column(
    features, "label", label, classes or [name for name in features if name == "label"]
  )
  if getattr(features[label], "dtype", "") in ("string", "large_string"):
    raise ValueError(
      f"column {label!r} is text; make it classes: loaded.class_encode_column({label!r})"
    )

  def integers(word: str, column: str | None) -> Any:
    if column is None:
      return None
    numbers = _numbers(loaded, _column(features, word, column, []))
    if not np.issubdtype(numbers.dtype, np.integer):
      raise ValueError(f"column {column!r} is {numbers.dtype}, must be integers to serve as {word}")
    return numbers

  is_image = isinstance(features[inputs], hub.Image)
  values = _images(hub, loaded, inputs) if is_image else _arrays(loaded, inputs)
  num_classes = getattr(features[label], "num_classes", None) or 0
  labels, own_ids = _numbers(loaded, label), integers("ids", ids)
  return Dataset(values, labels, own_ids, num_classes, strata=integers("strata", strata))


def _column(features: Mapping[str, Any], word: str, given: str | None, fits: list[str]) -> str:
  """Returns the name of a column: what was given, or the only one that fits."""
  if given is not None and given in features:
    return given
  if given is None and len(fits) == 1:
    return fits[0]
  columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
  lack = (
    "it does not say which column holds" if given is None else f"there is no column {given!r} of"
  )
  raise ValueError(f"{lack} {word}: its columns are {columns}; name one, {word}='...'")


def _images(hub: Any, loaded: Any, column: str) -> np.ndarray:
  mode = loaded.features[column].mode or ""  # what the user's own Image(mode=...) asks for
  raw = loaded.cast_column(column, hub.Image(decode=False)).with_format(None)

  def images() -> Iterator[Any]:
    for row in range(len(raw)):
      stored = raw[row][column]
      try:
        content = stored["bytes"] or Path(stored["path"]).read_bytes()
        image = sources.open_image(content, mode)
        image = image.convert(mode) if mode else image
        image.load()
      except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"row {row} of {column!r} is no such image: {error}") from error
      yield image

  return sources.stack(images(), len(raw))


def _arrays(loaded: Any, column: str) -> np.ndarray:
  return _numbers(loaded, column).astype(_dtype(loaded.features[column]), copy=False)


def _numbers(loaded: Any, column: str) -> np.ndarray:
  view = loaded.with_format("numpy", columns=[column])
  sources.check_size(len(view) * np.asarray(view[0][column]).nbytes)
  try:
    numbers = np.asarray(view[:][column])
  except ValueError as error:
    raise ValueError(f"column {column!r} holds rows of several sizes") from error
  if numbers.dtype.hasobject:
    raise ValueError(f"column {column!r} holds rows of several sizes, none, or what is no number")
  return numbers


def _dtype(feature: Any) -> str:
  """The dtype that a column was declared with: NumPy's view of it is wider."""
  while getattr(feature, "dtype", None) is None:
    feature = feature.feature
  return feature.dtype


def _import_datasets() -> Any:
  try:
    import datasets
  except ImportError as error:
    raise ImportError(
      f"from_huggingface needs datasets, which does not import ({error}). "
      "Run: pip install 'jaxmul[hub]'"
    ) from error
  return datasets
