"""Data sets of the Hub's kind, made of real digits; what cannot be had says so within 5 s."""

import socket
import time

import numpy as np
import pytest
from PIL import Image

from jaxmul import data
from jaxmul.data import _probe, sources

hub = pytest.importorskip("datasets", reason="datasets comes with the extra hub")


@pytest.fixture(scope="module")
def digits():
  every = data.digits()
  return every.take(every.ids[:60])


@pytest.fixture(scope="module")
def loaded(digits):
  classes = hub.ClassLabel(names=[f"digit {c}" for c in range(11)])
  features = hub.Features(
    image=hub.Image(),
    digit=classes,
    key=hub.Value("int64"),
    kind=hub.Value("int32"),
    pixels=hub.Array2D((8, 8), "uint8"),
    flat=hub.List(hub.Value("float32")),
  )
  return hub.Dataset.from_dict(
    {
      "image": [Image.fromarray(image) for image in digits.inputs],
      "digit": digits.labels,
      "key": digits.ids * 10**12 + 7,
      "kind": digits.labels % 3,
      "pixels": digits.inputs,
      "flat": digits.inputs.reshape(60, -1) / np.float32(255),
    },
    features=features,
  )


def refusal(call, *parts, kind: type[Exception] = ValueError):
  with pytest.raises(kind) as caught:
    call()
  message = str(caught.value)
  assert "\n" not in message
  for part in parts:
    assert part in message


def test_images_classes_ids_and_strata_are_those_of_the_digits(digits, loaded):
  read = data.from_huggingface(loaded, ids="key", strata="kind")
  assert read.inputs.dtype == np.uint8
  np.testing.assert_array_equal(read.inputs, digits.inputs)
  np.testing.assert_array_equal(read.labels, digits.labels)
  np.testing.assert_array_equal(read.ids, digits.ids * 10**12 + 7)
  np.testing.assert_array_equal(read.strata, digits.labels % 3)
  assert read.num_classes == 11
  assert data.from_huggingface(loaded).ids.tolist() == list(range(60))


def test_arrays_keep_the_dtype_that_they_were_declared_with(digits, loaded):
  read = data.from_huggingface(loaded, inputs="pixels")
  assert read.inputs.dtype == np.uint8
  np.testing.assert_array_equal(read.inputs, digits.inputs)
  read = data.from_huggingface(loaded, inputs="flat")
  assert read.inputs.dtype == np.float32
  np.testing.assert_array_equal(read.inputs, digits.inputs.reshape(60, -1) / np.float32(255))
  # Where no column is of images, the only one of arrays is taken.
  read = data.from_huggingface(loaded.remove_columns("image"))
  np.testing.assert_array_equal(read.inputs, digits.inputs)


def test_text_is_tokens_with_a_label_at_each_position():
  rows = {"input_ids": [[1, 2, 3], [3, 2, 0]], "labels": [[-1, 3, 0], [-1, 0, 1]]}
  read = data.from_huggingface(hub.Dataset.from_dict(rows), inputs="input_ids", label="labels")
  assert read.inputs.dtype == np.int32
  assert read.inputs.tolist() == rows["input_ids"]
  assert read.labels.tolist() == rows["labels"]


@pytest.mark.parametrize("kind", ["disk", "dict", "parquet", "folder"])
def test_folders_are_read_without_the_network(kind, digits, loaded, tmp_path, monkeypatch):
  monkeypatch.setattr(socket, "getaddrinfo", None)  # a look-up would raise
  monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
  path = tmp_path / "digits"
  if kind == "disk":
    loaded.save_to_disk(path)
  elif kind == "dict":
    hub.DatasetDict(train=loaded, test=loaded.select(range(9))).save_to_disk(path)
    assert len(data.from_huggingface(path, "test")) == 9
    refusal(lambda: data.from_huggingface(path, "tests"), "no split 'tests'", "['test', 'train']")
  elif kind == "parquet":
    path.mkdir()
    loaded.to_parquet(path / "train.parquet")
  else:
    for number, (image, label) in enumerate(zip(digits.inputs, digits.labels, strict=True)):
      (path / "train" / str(label)).mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(path / "train" / str(label) / f"{number:02}.png")
  read = data.from_huggingface(path)
  order = np.argsort(digits.labels, kind="stable") if kind == "folder" else np.arange(60)
  np.testing.assert_array_equal(read.inputs, digits.inputs[order])
  np.testing.assert_array_equal(read.labels, digits.labels[order])


def test_colours_are_as_the_feature_says(loaded):
  asked = loaded.cast_column("image", hub.Image(mode="RGB"))
  assert data.from_huggingface(asked).inputs.shape == (60, 8, 8, 3)
  pictures = [Image.new("L", (8, 8)), Image.new("RGBA", (8, 8))]
  features = hub.Features(image=hub.Image(), label=hub.ClassLabel(num_classes=2))
  mixed = hub.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features)
  refusal(
    lambda: data.from_huggingface(mixed),
    "row 1 of 'image'",
    "mode is RGBA, must be L (grey) or RGB",
  )
  rgb = mixed.cast_column("image", hub.Image(mode="RGB"))
  assert data.from_huggingface(rgb).inputs.shape == (2, 8, 8, 3)


def test_what_is_no_image_of_the_four_formats_is_not_opened():
  postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"
  features = hub.Features(image=hub.Image(), label=hub.ClassLabel(num_classes=2))
  rows = {"image": [{"bytes": postscript, "path": None}] * 2, "label": [0, 1]}
  odd = hub.Dataset.from_dict(rows, features=features)
  refusal(lambda: data.from_huggingface(odd), "row 0 of 'image'", "it is no PNG, JPEG, WebP or BMP")


def test_what_does_not_fit_gets_one_line(loaded, monkeypatch):
  sizes = hub.Dataset.from_dict({"x": [[1.0], [1.0, 2.0]], "label": [0, 1]})
  words = hub.Dataset.from_dict({"x": [[1.0], [2.0]], "label": ["a", "b"]})
  read = data.from_huggingface
  refusal(lambda: read(loaded, label="dgit"), "no column 'dgit' of label", "digit (ClassLabel)")
  refusal(lambda: read(loaded.remove_columns("digit")), "which column holds label", "label='...'")
  refusal(lambda: read(loaded.select([])), "it is empty")
  refusal(lambda: read(loaded.to_iterable_dataset()), "without streaming=True")
  refusal(lambda: read(sizes, inputs="x"), "column 'x' holds rows of several sizes")
  refusal(lambda: read(words, inputs="x"), "class_encode_column('label')")
  refusal(
    lambda: read(words, inputs="x", label="x", ids="label"),
    "'label' is <U1, must be integers to serve as ids",
  )
  refusal(lambda: read("./nowhere"), "is no folder", "save_to_disk", kind=FileNotFoundError)
  monkeypatch.setattr(sources, "MAX_BYTES", 8 * 8 * 60 - 1)
  refusal(lambda: read(loaded), "the limit is")


def test_a_hub_that_does_not_answer_is_known_within_5_seconds(monkeypatch):
  with socket.socket() as server:  # takes the connection, and never says a word
    server.bind(("127.0.0.1", 0))
    server.listen()
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(hub.config, "HF_ENDPOINT", url)
    start = time.perf_counter()
    refusal(
      lambda: data.from_huggingface("ylecun/mnist"),
      "'ylecun/mnist' cannot be downloaded",
      "save_to_disk(FOLDER)",
      kind=ConnectionError,
    )
    assert time.perf_counter() - start < 5


def test_offline_nothing_is_asked(monkeypatch):
  monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(_probe, "unreachable", lambda url: pytest.fail("it was asked"))
  refusal(lambda: data.from_huggingface("ylecun/mnist"), "cannot be read", "save_to_disk(FOLDER)")
