"""Dataset: ids join everything, and bad input gets one line that names value, limit and cure."""

import contextlib

import jax
import numpy as np
import pytest

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
    ({"inputs": np.zeros((3, 2), np.int32)}, ["int32", "uint8 or float", "astype('uint8')"]),
    ({"inputs": np.zeros((3, 2), bool)}, ["bool", "uint8 or float"]),
    ({"inputs": with_pixel(np.nan)}, ["nan", "(1, 0, 1)", "finite", "Drop or repair"]),
    ({"inputs": with_pixel(-np.inf)}, ["-inf", "(1, 0, 1)", "finite"]),
    ({"inputs": with_pixel(1e300)}, ["inf", "(1, 0, 1)", "finite"]),
    ({"labels": np.array([0.0, 1, 1])}, ["float", "integer", "astype('int32')"]),
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
