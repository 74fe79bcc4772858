"""Dataset: ids join everything, and bad input gets one line that names value, limit and cure."""

import contextlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxmul._examples import examples_of
from jaxmul.data import Dataset, as_inputs

IMAGES = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2)
LABELS = np.array([0, 1, 1])


@contextlib.contextmanager
def refused(*parts, error=ValueError):
  with pytest.raises(error) as info:
    yield
  message = str(info.value)
  assert "\n" not in message
  for part in parts:
    assert part in message


def with_pixel(value):
  images = np.zeros((3, 2, 2))
  images[1, 0, 1] = value
  return images


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    ({"inputs": np.zeros(3)}, ["shape (3,)", "rank 2", "inputs[:, None]"]),
    ({"inputs": np.zeros((3, 2, 2), np.int32)}, ["int32", "uint8 or float", "astype('uint8')"]),
    ({"inputs": np.zeros((3, 2), bool)}, ["bool", "uint8 or float"]),
    ({"inputs": with_pixel(np.nan)}, ["nan", "(1, 0, 1)", "finite", "Drop or repair"]),
    ({"inputs": with_pixel(-np.inf)}, ["-inf", "(1, 0, 1)", "finite"]),
    ({"inputs": with_pixel(1e300)}, ["inf", "(1, 0, 1)", "finite"]),
    ({"labels": np.array([0.0, 1, 1])}, ["float", "integer", "astype('int32')"]),
    ({"labels": np.array(["cat", "dog", "dog"])}, ["labels of numbers", "<U3", "np.unique"]),
    ({"labels": np.array([0, None, 1])}, ["labels of numbers", "object"]),
    ({"labels": np.array(["1", "2", "2"]), "classes": False}, ["labels of numbers", "<U1"]),
    ({"labels": np.eye(3, dtype=int)}, ["(3, 3)", "One-hot", "argmax(-1)"]),
    ({"labels": np.array([0, 1])}, ["3 inputs", "2 labels"]),
    ({"labels": np.array([0, -1, 1])}, ["-1", "[0, 2)", "from 0"]),
    ({"labels": np.array([0, 1, 5]), "num_classes": 5}, ["5", "[0, 5)"]),
    ({"labels": np.array([0, 1, 2**32])}, [str(2**32), "outside"]),
    ({"ids": np.array([7, 5, 7])}, ["id 7", "more than once", "np.unique"]),
    ({"ids": np.array([1.0, 2, 3])}, ["float64", "integer ids [3]"]),
    ({"ids": np.array([1, 2])}, ["[2]", "integer ids [3]"]),
  ],
)
def test_bad_fields_are_refused_in_one_line(change, parts):
  with refused("Dataset", *parts):
    Dataset(**{"inputs": IMAGES, "labels": LABELS, **change})


@pytest.mark.parametrize(
  ("ids", "parts"),
  [
    ([5, 4], ["id 4 is not in the data", "1 of 2", "not positions"]),
    ([5, 5], ["id 5", "more than once"]),
    ([5.5], ["float64", "integer ids"]),
    ([True, False, True], ["bool", "dataset.ids[mask]"]),
  ],
)
def test_bad_ids_are_refused_in_one_line(ids, parts):
  dataset = Dataset(IMAGES, LABELS, np.array([7, 5, 9]))
  with refused(*parts):
    dataset.take(ids)


def test_an_id_is_not_in_an_empty_data_set():
  with refused("id 0 is not in the data"):
    Dataset(IMAGES[:0], LABELS[:0]).take([0])


def test_take_goes_by_id_whatever_the_order():
  dataset = Dataset(IMAGES, LABELS, np.array([7, 5, 9]), num_classes=4)
  shuffled = Dataset(IMAGES[[2, 0, 1]], LABELS[[2, 0, 1]], np.array([9, 7, 5]), num_classes=4)
  for ids in ([9, 7], [5], [7, 5, 9], []):
    taken = dataset.take(ids)
    assert taken.ids.tolist() == ids
    assert taken.num_classes == 4
    np.testing.assert_array_equal(taken.inputs, shuffled.take(ids).inputs)
    np.testing.assert_array_equal(taken.labels, shuffled.take(ids).labels)
  np.testing.assert_array_equal(dataset.take([9]).inputs, IMAGES[2:])


def test_defaults_and_dtypes():
  dataset = Dataset(IMAGES.astype(np.float64), LABELS.astype(np.uint8))
  assert dataset.inputs.dtype == np.float32
  assert dataset.labels.dtype == np.int32
  assert dataset.ids.dtype == np.int64
  assert dataset.ids.tolist() == [0, 1, 2]
  assert dataset.num_classes == 2
  assert Dataset(IMAGES, LABELS).inputs is IMAGES


def test_batch_scales_uint8_and_leaves_floats():
  inputs, labels = Dataset(np.array([[0, 51, 255]], np.uint8), np.array([0])).batch()
  np.testing.assert_allclose(inputs, [[0, 0.2, 1]], rtol=1e-6)
  assert inputs.dtype == np.float32
  assert labels.dtype == np.int32
  floats = np.array([[-3.0, 300.0]], np.float32)
  np.testing.assert_array_equal(jax.jit(as_inputs)(floats), floats)


TOKENS = np.array([[4, 0, 1], [4, 2, 3], [4, 5, 5]])
NEXT = np.array([[-1, 1, 0], [-1, 3, 2], [-1, -1, 6]])


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integers_are_tokens_and_labels_may_be_of_positions(dtype):
  text = Dataset(TOKENS.astype(dtype), NEXT.astype(dtype), np.array([7, 5, 9]))
  assert text.inputs.dtype == text.labels.dtype == np.int32
  assert text.num_classes == 7
  assert Dataset(TOKENS, np.where(NEXT < 0, -1, 0)).num_classes == 6  # of tokens and labels
  assert Dataset(TOKENS, np.array([0, 1, 1])).num_classes == 2
  tokens, labels = text.take([9, 7]).batch()
  assert tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens, TOKENS[[2, 0]])
  np.testing.assert_array_equal(labels, NEXT[[2, 0]])
  assert text.example.dtype == np.int32
  assert Dataset(TOKENS.astype(np.uint8), LABELS).example.max() < 0.1  # pixels


@pytest.mark.parametrize(
  ("change", "parts"),
  [
    ({"inputs": TOKENS - 1}, ["token -1", "outside [0, 2³¹)"]),
    ({"inputs": TOKENS + 2**31}, ["token 2147483653", "outside [0, 2³¹)"]),
    ({"inputs": TOKENS.astype(np.int16)}, ["int16", "tokens int32 [n, T]"]),
    ({"inputs": TOKENS[:, :, None]}, ["int64 [3, 3, 1]", "tokens int32 [n, T]"]),
    ({"labels": NEXT - 1}, ["label -2", "−1 is not scored"]),
    ({"labels": NEXT, "num_classes": 6}, ["label 6", "[0, 6)"]),
    ({"labels": np.where(TOKENS == 5, -1, NEXT - 7)}, ["label -8"]),
    ({"labels": np.array([[0, 0], [-1, -1], [0, 0]])}, ["without a scored position", "row 1"]),
    ({"labels": NEXT / 2}, ["integer labels, got float64"]),
    ({"strata": np.zeros(2, int)}, ["strata int [3]", "[2]"]),
    ({"strata": np.zeros(3)}, ["strata int [3]", "float64"]),
    ({"strata": np.array([0, -1, 0])}, ["strata -1", "at least 0"]),
  ],
)
def test_bad_text_is_refused_in_one_line(change, parts):
  with refused("Dataset", *parts):
    Dataset(**{"inputs": TOKENS, "labels": NEXT, **change})


def test_strata_go_with_their_ids_and_stand_for_classes():
  text = Dataset(TOKENS, NEXT, np.array([7, 5, 9]), strata=np.array([2, 0, 1], np.uint8))
  assert text.strata.dtype == np.int64
  assert text.take([9, 7]).strata.tolist() == [1, 2]
  assert text.kinds("x").tolist() == [2, 0, 1]
  images = Dataset(IMAGES, LABELS)
  assert images.kinds("x").tolist() == LABELS.tolist()
  assert Dataset(IMAGES, LABELS, strata=[1, 1, 0]).kinds("x").tolist() == [1, 1, 0]
  with refused("x goes by the class", "int32 [3, 3]", "strata=..."):
    Dataset(TOKENS, NEXT).kinds("x")


def test_numbers_to_predict_keep_their_values():
  numbers = np.array([[0.5, 1e9], [2, 3], [-1, -1]])
  given = Dataset(IMAGES, numbers, classes=False)
  assert given.labels.dtype == np.float32
  assert given.num_classes == 0
  np.testing.assert_allclose(given.take([2, 0]).labels, numbers[[2, 0]])
  assert not given.take([2]).classes
  several = Dataset(IMAGES, np.eye(3, dtype=bool), classes=False)
  assert several.labels.tolist() == np.eye(3).tolist()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells of the peak")
def test_examples_are_one_copy_of_the_data():
  def memory(name):
    return 1024 * int(Path("/proc/self/status").read_text().partition(name)[2].split()[0])

  images = np.ones((1000, 2**16), np.uint8)
  dataset = Dataset(images, np.zeros(1000, int))
  jax.block_until_ready(examples_of(dataset.take([0])))
  Path("/proc/self/clear_refs").write_text("5")
  before = memory("VmRSS:")
  examples = jax.block_until_ready(examples_of(dataset))
  assert 0.8 < (memory("VmHWM:") - before) / images.nbytes < 1.5
  del examples


def test_examples_do_not_change_with_the_caller_s_array():
  room = np.zeros(64 * 64 + 64, np.uint8)
  images = room[-room.ctypes.data % 64 :][: 64 * 64].reshape(64, 64)  # JAX could share it as it is
  dataset = Dataset(images, np.zeros(64, int))
  assert np.shares_memory(dataset.inputs, images)
  examples = examples_of(dataset)
  images[:] = 7
  assert not np.asarray(examples.inputs).any()
