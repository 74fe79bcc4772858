"""Accuracy and evaluate against a direct NumPy computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import metrics, models
from jaxmul.data import Dataset, Split


def linear(w, x):
  return x.reshape(len(x), -1) @ w


@pytest.fixture(scope="module")
def dataset():
  rng = np.random.default_rng(0)
  ids = rng.permutation(1000)[:101]
  images = rng.integers(0, 256, (101, 4, 4), dtype=np.uint8)
  return Dataset(images, rng.integers(0, 3, 101), ids)


@pytest.fixture(scope="module")
def params(dataset):
  return models.init(models.mlp((8,), 3), jax.random.key(1), jnp.ones((1, 4, 4)))


@pytest.fixture(scope="module")
def hits(dataset, params):
  logits = np.asarray(params(jnp.asarray(dataset.inputs / np.float32(255))))
  return logits.argmax(-1) == dataset.labels


@pytest.mark.parametrize("batch_size", [1, 7, 101, 1024])
def test_accuracy_is_the_share_of_hits(dataset, params, hits, batch_size):
  assert 0 < hits.mean() < 1
  value = metrics.accuracy(params, dataset, batch_size=batch_size)
  assert type(value) is float
  assert value == hits.sum() / 101


def test_accuracy_takes_all_three_forms_of_params(dataset):
  w = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
  bound = metrics.accuracy(jaxmul.bind(linear, w), dataset)
  assert metrics.accuracy(w, dataset, linear) == bound
  assert metrics.accuracy(jax.tree_util.Partial(linear, w), dataset) == bound


def test_the_first_class_wins_a_tie():
  toy = Dataset(np.ones((4, 1)), np.array([0, 0, 1, 1]))
  assert metrics.accuracy(np.zeros((1, 2)), toy, linear) == 0.5


def test_evaluate_equals_numpy_on_each_part(dataset, params, hits):
  rng = np.random.default_rng(2)
  ids = rng.permutation(dataset.ids)
  parts = {"forget": ids[:5], "retain": ids[5:60], "heldout": ids[60:70], "test": ids[70:]}
  result = metrics.evaluate(params, dataset, Split(**parts))
  of_id = dict(zip(dataset.ids.tolist(), hits.tolist(), strict=True))
  wanted = {name: np.mean([of_id[i] for i in part]) for name, part in parts.items()}
  assert result == wanted
  assert len(set(wanted.values())) == 4
  shuffled = Split(**{name: rng.permutation(part) for name, part in parts.items()})
  assert metrics.evaluate(params, dataset, shuffled, batch_size=13) == wanted


def test_evaluate_leaves_out_empty_parts(dataset, params):
  split = Split(forget=dataset.ids[:3], retain=dataset.ids[3:])
  assert list(metrics.evaluate(params, dataset, split)) == ["forget", "retain"]


def test_evaluate_traces_once(dataset):
  seen = []

  def counted(w, x):
    seen.append(len(x))
    return linear(w, x)

  split = Split(dataset.ids[:5], dataset.ids[5:60], dataset.ids[60:70], dataset.ids[70:])
  for value in (0.0, 1.0):
    params = jaxmul.bind(counted, jnp.full((16, 3), value))
    metrics.evaluate(params, dataset, split, batch_size=16)
  assert seen.count(32) == 1


def test_params_that_diverged_are_refused(dataset):
  w = np.full((16, 3), np.nan, np.float32)
  with pytest.raises(ValueError, match=r"101 of 101 examples.*diverged") as caught:
    metrics.accuracy(w, dataset, linear)
  assert "\n" not in str(caught.value)


def test_evaluate_refuses_ids_that_are_not_there(dataset, params):
  with pytest.raises(ValueError, match="id 5000 is not in the data"):
    metrics.evaluate(params, dataset, Split(np.array([5000]), dataset.ids))


def test_labels_outside_the_classes_are_refused(params):
  with pytest.raises(ValueError, match="label 3"):
    metrics.accuracy(params, Dataset(np.ones((1, 4, 4)), np.array([3])))
