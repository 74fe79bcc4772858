"""TensorFlow Datasets read without TensorFlow, joined by the examples' own ids.

TFDS stores examples shuffled, so a position says nothing: scores and labels are joined by id. What
is read here is a data set *prepared* as array_record; preparing an official one needs TensorFlow.
"""

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmul._dataset import Dataset
from jaxmul.data import _probe, sources


def from_tfds(
  name: str,
  split: str = "train",
  *,
  data_dir: str | os.PathLike | None = None,
  download: bool = False,
) -> Dataset:
  """Reads a TFDS data set by name, such as `from_tfds("cifar10", "test", data_dir="~/data")`.

  Args:
    name: `name`, `name/config` or `name:version`.
    split: TFDS's split, such as `"train"`, `"train[:10%]"` or `"train+test"`.
    data_dir: holds `name/version/`; TFDS's own default is ~/tensorflow_datasets.
    download: prepare it if it is not there (needs TensorFlow and the network).

  Returns:
    Examples sorted by id. An id is the number that ends the example's own `id` (cifar10's
    `train_16399` is 16399); where these repeat, as in `"train+test"`, the rank of its own id sorted
    as text; where it has none (mnist), its position 0 … n − 1 in this split's files, which holds
    for this prepared copy and this split only. Images and labels are what TFDS calls supervised
    keys, `image` and `label` if it names none.

  Raises:
    FileNotFoundError: it is not prepared and `download` is False.
    ConnectionError: it cannot be downloaded; known within 5 seconds (TFDS alone takes minutes).
    ImportError: TFDS, or for a download TensorFlow, is not installed.
    ValueError: an unknown name or split, not array_record, damaged, images of several sizes, or
      more than `sources.MAX_BYTES`.
  """
  tfds = _import_tfds("from_tfds")
  what = f"from_tfds: {name!r}"
  default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  root = tfds.core.Path(data_dir or default).expanduser()
  manual = (
    f"By hand: where TensorFlow is installed run `tfds build {name} --file_format=array_record`, "
    f"copy its folder to {root}; or pass arrays to jaxmul.data.Dataset(inputs, labels, ids)."
  )
  with sources.reading(what, manual):
    for version in ("*", "*/*"):  # name/version, name/config/version
      for features in (root / re.split("[/:]", name)[0]).glob(f"{version}/features.json"):
        _check_features(features)
    builder = tfds.builder(name, data_dir=root)
    prepared = builder.is_prepared()
  if not prepared:
    if not download:
      raise FileNotFoundError(f"{what} is not prepared in {builder.data_path}. {manual}")
    url = next(iter(builder.url_infos or ()), "https://storage.googleapis.com")
    reason = _probe.unreachable(url)
    if reason:
      raise ConnectionError(f"{what} cannot be downloaded: {url} {reason}. {manual}")
    if importlib.util.find_spec("tensorflow") is None:
      raise ImportError(f"{what}: preparing it needs TensorFlow, which is not installed. {manual}")
    with sources.reading(what, manual):
      builder.download_and_prepare(file_format="array_record")
  with sources.reading(what, manual):
    return _read(builder, split)


def from_tfds_folder(path: str | os.PathLike, split: str = "train") -> Dataset:
  """Reads a prepared TFDS folder, whether or not TFDS knows its name; see `from_tfds`.

  Args:
    path: holds `dataset_info.json`, such as `DATA_DIR/cifar10/3.0.2`.
    split: as for `from_tfds`.

  Raises:
    FileNotFoundError: there is no such folder.
    ImportError: TFDS is not installed.
    ValueError: as for `from_tfds`; or the folder asks to import code from outside TFDS.
  """
  tfds = _import_tfds("from_tfds_folder")
  folder = tfds.core.Path(path).expanduser()
  if not (folder / "dataset_info.json").exists():
    raise FileNotFoundError(
      f"from_tfds_folder: {path} holds no dataset_info.json, so it is not a prepared data set. "
      "Pass the folder of one version, such as DATA_DIR/cifar10/3.0.2."
    )
  cure = "Prepare it again with file_format='array_record', or copy it again."
  with sources.reading(f"from_tfds_folder: {path}", cure):
    for features in folder.glob("features.json"):
      _check_features(features)
    return _read(tfds.builder_from_directory(folder), split)


def _read(builder: Any, split: str) -> Dataset:
  examples = builder.as_data_source(split=split)
  count, features = len(examples), builder.info.features
  keys = builder.info.supervised_keys or ("image", "label")
  if not count:
    raise ValueError(f"split {split!r} is empty")
  if len(keys) != 2 or any(key not in features for key in keys):
    raise ValueError(f"it holds {sorted(features)}, needs an image and a label")
  image_key, label_key = keys
  labels, names = [], []

  def images() -> Iterator[np.ndarray]:
    for example in examples:
      labels.append(example[label_key])
      names.append(example.get("id", b""))
      yield example[image_key]

  inputs = sources.stack(images(), count)
  ids = _ids(names)
  order = np.argsort(ids)
  num_classes = getattr(features[label_key], "num_classes", None) or 0
  return Dataset(inputs[order], np.asarray(labels)[order], ids[order], num_classes)


def _ids(names: Sequence[bytes | str]) -> np.ndarray:
  """Ids int64 [n] from the examples' own ids, as `from_tfds` says.

  Example:
    >>> _ids([b"train_07", b"train_02"]).tolist()
    [7, 2]
    >>> _ids([b"train_0", b"test_0"]).tolist()
    [1, 0]
    >>> _ids([b"", b""]).tolist()
    [0, 1]
  """
  text = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
  if len(set(text)) < len(text):
    return np.arange(len(text))
  digits = (re.search(r"(\d{1,18})$", name) for name in text)
  numbers = [int(number[1]) for number in digits if number]
  if len(set(numbers)) == len(text):
    return np.array(numbers, np.int64)
  return np.unique(text, return_inverse=True)[1]


def _check_features(path: Path) -> None:
  """Raises ValueError where TFDS would import a module that is not its own to read a file."""

  def check(pairs):
    for key, value in pairs:
      if key in ("pythonClassName", "python_class_name", "type") and not str(value).startswith(
        "tensorflow_datasets."
      ):
        raise ValueError(f"{path} asks to import {value!r}, which is not part of TFDS")
    return dict(pairs)

  json.loads(path.read_text(), object_pairs_hook=check)


def _import_tfds(caller: str) -> Any:
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise ImportError(
      f"{caller} needs TFDS, which does not import ({error}). "
      "Run: pip install tensorflow-datasets importlib_resources pillow"
    ) from error
  return tensorflow_datasets
