"""TFDS without TensorFlow: a prepared set is joined by id; what is not there fails within 5 s."""

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxmul import checkpoint, models, proxies
from jaxmul._ids import find
from jaxmul.data import Dataset, _probe, from_tfds, from_tfds_folder, sources


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
    and a.num_classes == b.num_classes
  )


def by_id(dataset):
  return dataset.take(np.sort(dataset.ids))


def prepare(data_dir, name, parts, own_id="{split}_{id:05d}", shape=(32, 32, 3)):
  """Prepares `name` under data_dir from {split: Dataset}, as the official builders lay it out."""
  import tensorflow_datasets as tfds

  features = {
    "image": tfds.features.Image(shape=shape),
    "label": tfds.features.ClassLabel(num_classes=10),
  }
  if own_id:
    features["id"] = tfds.features.Text()

  def info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("image", "label"),
    )

  def examples(split):
    for row, (image, label, i) in enumerate(
      zip(parts[split].inputs, parts[split].labels, parts[split].ids, strict=True)
    ):
      own = {"id": own_id.format(split=split, id=i)} if own_id else {}
      yield row, {"image": Image.fromarray(image), "label": int(label), **own}

  # Not registered, so that TFDS's own code is what reads it under the official name.
  builder = type(
    name.title().replace("_", ""),
    (tfds.core.GeneratorBasedBuilder,),
    {
      "VERSION": tfds.core.Version("3.0.2"),
      "_info": info,
      "_split_generators": lambda self, manager: {split: examples(split) for split in parts},
      "_generate_examples": lambda self: None,
    },
    skip_registration=True,
  )(data_dir=data_dir, file_format="array_record")
  builder.download_and_prepare()
  return builder.data_path


@pytest.fixture(scope="module")
def few(cifar10_small):
  return cifar10_small.take(cifar10_small.ids[:100])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, cifar10_small, few):
  """A data_dir with cifar10: the small training set, and 100 of its images again as test."""
  root = tmp_path_factory.mktemp("tfds")
  prepare(root, "cifar10", {"train": cifar10_small, "test": few})
  return root


@pytest.fixture
def copy(data_dir, tmp_path):
  """The path of a copy of the prepared folder, to be damaged."""
  return shutil.copytree(data_dir / "cifar10" / "3.0.2", tmp_path / "cifar10" / "3.0.2")


def test_cifar10_by_its_official_name_is_the_arrays(data_dir, cifar10_small):
  data = from_tfds("cifar10", data_dir=data_dir)
  assert len(data) == 4000
  assert same(data, by_id(cifar10_small))


def test_the_command_scores_it_by_its_ids(data_dir, few, tmp_path):
  """In a process of its own, as a user runs it; the ids are those of the arrays."""
  recipe = "train.Recipe(models.mlp((8,)), epochs=1, batch_size=500)"
  (tmp_path / "mine.py").write_text(f"from jaxmul import models, train\nrecipe = {recipe}\n")
  network = models.init(models.mlp((8,)), jax.random.key(0), few.batch()[0])
  checkpoint.save(tmp_path / "trained", network)
  variables = {"TFDS_DATA_DIR": str(data_dir)}
  variables |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
  command = "-m jaxmul score --network mine:recipe --data tfds:cifar10 --checkpoint trained --out o"
  done = subprocess.run(
    [sys.executable, *command.split()],
    env=os.environ | variables,
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  with np.load(tmp_path / "o" / "scores.npz") as found:
    rows = find(found["ids"], few.ids)
    expected = proxies.score(proxies.confidence, network, few)
    np.testing.assert_allclose(found["scores"][rows], expected, rtol=1e-5)


def test_tfds_shuffles_so_positions_would_be_wrong(data_dir, few):
  import tensorflow_datasets as tfds

  source: Any = tfds.data_source("cifar10", split="test", data_dir=data_dir, download=False)
  stored = [int(example["id"][-5:]) for example in source]
  assert sorted(stored) == sorted(few.ids)
  assert stored not in (sorted(stored), few.ids.tolist())


def test_folder_is_the_arrays(data_dir, few):
  assert same(from_tfds_folder(data_dir / "cifar10" / "3.0.2", "test"), by_id(few))


def test_names_with_versions_and_slices(data_dir):
  whole = from_tfds("cifar10:3.0.2", "test", data_dir=str(data_dir))
  part = from_tfds("cifar10", "test[:30%]", data_dir=data_dir)
  assert len(part) == 30
  assert same(part, whole.take(part.ids))


def test_two_splits_whose_numbers_meet_are_ranked(data_dir, few):
  data = from_tfds("cifar10", "train[:25%]+test", data_dir=data_dir)
  assert data.ids.tolist() == list(range(1100))
  # "test_00042" sorts before "train_00007".
  np.testing.assert_array_equal(data.inputs[:100], by_id(few).inputs)
  train = by_id(from_tfds("cifar10", "train[:25%]", data_dir=data_dir))
  assert np.isin(train.ids, few.ids).any()
  np.testing.assert_array_equal(data.inputs[100:], train.inputs)


def test_without_own_ids_they_are_positions(tmp_path, few):
  path = prepare(tmp_path, "nameless", {"train": few}, own_id="")
  data = from_tfds("nameless", data_dir=tmp_path)  # TFDS knows no such name: read from files.
  assert data.ids.tolist() == list(range(100))
  assert same(data, from_tfds_folder(path))
  assert {image.tobytes() for image in data.inputs} == {image.tobytes() for image in few.inputs}


def test_images_of_several_sizes_are_refused(tmp_path):
  images = np.empty(2, object)
  images[:] = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
  part = types.SimpleNamespace(inputs=images, labels=[0, 1], ids=[0, 1])
  path = prepare(tmp_path, "uneven", {"train": part}, shape=(None, None, 3))
  with refused("several sizes", str(path)):
    from_tfds_folder(path)


def test_an_unprepared_set_names_the_manual_path(tmp_path):
  start = time.perf_counter()
  with refused(
    "'cifar10' is not prepared",
    str(tmp_path / "cifar10" / "3.0.2"),
    "tfds build cifar10 --file_format=array_record",
    "jaxmul.data.Dataset(inputs, labels, ids)",
    error=FileNotFoundError,
  ):
    from_tfds("cifar10", data_dir=tmp_path)
  assert time.perf_counter() - start < 5


@pytest.mark.parametrize("answers", ["refuses", "is silent"])
def test_offline_download_fails_within_5_seconds(answers, tmp_path, monkeypatch):
  # A proxy that refuses or never answers: no network, whatever the machine has.
  with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    if answers == "is silent":
      server.listen()
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
      monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
    start = time.perf_counter()
    with refused(
      "'cifar10' cannot be downloaded",
      "https://www.cs.toronto.edu",
      "tfds build cifar10 --file_format=array_record",
      str(tmp_path),
      error=ConnectionError,
    ):
      from_tfds("cifar10", data_dir=tmp_path, download=True)
    assert time.perf_counter() - start < 5


def test_a_name_look_up_that_hangs_is_not_waited_for(monkeypatch):
  done = threading.Event()
  monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(20) and [])
  for name in ("http_proxy", "HTTP_PROXY"):
    monkeypatch.delenv(name, raising=False)
  start = time.perf_counter()
  assert "did not answer" in _probe.unreachable("http://cifar.invalid/set.tgz")
  assert time.perf_counter() - start < 5
  done.set()


def test_a_server_that_answers_is_reachable(monkeypatch):
  for name in ("http_proxy", "HTTP_PROXY"):
    monkeypatch.delenv(name, raising=False)
  with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
    monkeypatch.setattr(server.RequestHandlerClass, "log_message", lambda *_: None)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    assert _probe.unreachable(f"http://127.0.0.1:{server.server_port}/set.tgz") == ""
    thread.join()


def test_a_download_without_tensorflow_says_so_before_it_starts(tmp_path, monkeypatch):
  monkeypatch.setattr(_probe, "unreachable", lambda url: "")
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with refused("'cifar10'", "needs TensorFlow", "tfds build cifar10", error=ImportError):
    from_tfds("cifar10", data_dir=tmp_path, download=True)
  assert not list(tmp_path.iterdir())


def test_download_leaves_a_prepared_set_alone(data_dir):
  assert len(from_tfds("cifar10", "test", data_dir=data_dir, download=True)) == 100


def test_unknown_names_and_splits_are_refused(data_dir):
  with refused("'cofar10'", "not found", "tfds build"):
    from_tfds("cofar10", data_dir=data_dir)
  with refused("'cifar10:9.0.0'", "9.0.0"):
    from_tfds("cifar10:9.0.0", data_dir=data_dir)
  with refused("Unknown split 'val'", "['train', 'test']"):
    from_tfds("cifar10", "val", data_dir=data_dir)
  with refused("train[zz"):
    from_tfds("cifar10", "train[zz", data_dir=data_dir)


def test_a_folder_that_is_not_prepared_is_refused(data_dir):
  with refused("dataset_info.json", "DATA_DIR/cifar10/3.0.2", error=FileNotFoundError):
    from_tfds_folder(data_dir / "cifar10")


def test_an_absent_tfds_names_the_cure(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
  with refused("pip install tensorflow-datasets", error=ImportError):
    from_tfds("cifar10")


def test_another_format_names_the_cure(copy):
  info = json.loads((copy / "dataset_info.json").read_text())
  info["fileFormat"] = "tfrecord"
  (copy / "dataset_info.json").write_text(json.dumps(info))
  with refused("TFRECORD is not supported", "array_record"):
    from_tfds_folder(copy, "test")
  with refused("TFRECORD is not supported", "--file_format=array_record"):
    from_tfds("cifar10", "test", data_dir=copy.parents[1])


def test_a_set_without_labels_is_refused(copy):
  info = json.loads((copy / "dataset_info.json").read_text())
  info["supervisedKeys"]["tuple"]["items"][1]["featureKey"] = "mood"
  (copy / "dataset_info.json").write_text(json.dumps(info))
  with refused("['id', 'image', 'label']", "needs an image and a label"):
    from_tfds_folder(copy, "test")


def test_a_size_beyond_the_limit_is_refused(data_dir, monkeypatch):
  monkeypatch.setattr(sources, "MAX_BYTES", 100 * 32 * 32 * 3 - 1)
  with refused("the limit is", "jaxmul.data.Dataset"):
    from_tfds("cifar10", "test", data_dir=data_dir)


def test_no_bit_flip_in_the_records_is_silent(copy):
  path = copy / "cifar10-test.array_record-00000-of-00001"
  whole, truth = path.read_bytes(), from_tfds_folder(copy, "test")
  rng = np.random.default_rng(0)
  messages = []
  for at, bit in zip(rng.integers(0, len(whole), 30), rng.integers(0, 8, 30), strict=True):
    flipped = bytearray(whole)
    flipped[at] ^= 1 << bit
    path.write_bytes(flipped)
    try:
      assert same(from_tfds_folder(copy, "test"), truth)  # Such as padding.
    except ValueError as error:
      messages.append(str(error))
  assert len(messages) > 15
  assert all(str(copy) in message and "\n" not in message for message in messages)


def test_a_folder_cannot_make_us_import_code(copy, monkeypatch):
  (copy.parents[1] / "hostile.py").write_text("raise SystemExit('ran')")
  monkeypatch.syspath_prepend(copy.parents[1])
  text = (copy / "features.json").read_text()
  own = "tensorflow_datasets.core.features.text_feature.Text"
  assert own in text
  (copy / "features.json").write_text(text.replace(own, "hostile.Text"))
  for read in (
    lambda: from_tfds_folder(copy, "test"),
    lambda: from_tfds("cifar10:3.0.2", "test", data_dir=copy.parents[1]),
  ):
    with refused("import 'hostile.Text'", "features.json"):
      read()
  assert "hostile" not in sys.modules
