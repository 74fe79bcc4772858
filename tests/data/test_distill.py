"""Distribution matching against what is written out by hand, and what a distilled set promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import data
from jaxmul._examples import Batch, Examples, examples_of
from jaxmul.data import Dataset, distill
from jaxmul.data import distribution_matching as matching
from jaxmul.data._random_networks import convolutions, layers

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 3], [20, 30, 2])
VECTORS = Dataset(
  RNG.normal(size=(52, 4)).astype(np.float32) + LABELS[:, None], LABELS, np.arange(52) * 7 - 100
)
IMAGES = Dataset(RNG.integers(20, 200, (24, 4, 5), dtype=np.uint8), np.arange(24) % 2)


def same(key, inputs):
  """Features that are the inputs."""
  return inputs.reshape(len(inputs), -1)


def test_the_loss_of_a_class_by_hand():
  real = RNG.normal(size=(6, 4)).astype(np.float32)
  learned = RNG.normal(size=(3, 4)).astype(np.float32)
  mask, kept = np.arange(6) < 4, np.arange(3) < 2
  batch = Batch(jnp.asarray(real), jnp.zeros(6), jnp.asarray(mask), jnp.arange(6))
  loss = matching.matching_loss(layers, KEY, jnp.asarray(learned), jnp.asarray(kept), batch)

  keys = jax.random.split(KEY, 2)
  shapes = ((4, 256), (256, 256))
  kernels = [
    np.sqrt(2 / shape[0]) * np.float64(jax.random.normal(key, shape))
    for key, shape in zip(keys, shapes, strict=True)
  ]
  total = np.zeros((2, 256))
  for place, (rows, count) in enumerate(((real, 4), (learned, 2))):
    for row in rows[:count]:
      hidden = np.float64(row)
      for kernel in kernels:
        hidden = np.maximum(hidden @ kernel, 0)
      total[place] += hidden / count
  np.testing.assert_allclose(loss, sum((total[0] - total[1]) ** 2), rtol=1e-5)


@pytest.mark.parametrize(("size", "times"), [((9, 8), 2), ((17, 16), 3)])
def test_random_convolutions_by_hand(size, times):
  """Every sum is a loop: convolution with zeros around, normalization, ReLU, means of windows."""
  images = RNG.normal(size=(2, *size, 3)).astype(np.float32)
  features = convolutions(KEY, jnp.asarray(images))
  maps = np.float64(images)
  for key in jax.random.split(KEY, 3)[:times]:  # then 2 × 2 pixels are left
    _, height, width, channels = maps.shape
    kernel = np.float64(jax.random.normal(key, (9 * channels, 32))) * np.sqrt(2 / (9 * channels))
    kernel = kernel.reshape(3, 3, channels, 32)
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((2, height, width, 32))
    for i in range(height):
      for j in range(width):
        y[:, i, j] = np.einsum("bhwi,hwio->bo", padded[:, i : i + 3, j : j + 3], kernel)
    y = (y - y.mean((1, 2), keepdims=True)) / np.sqrt(y.var((1, 2), keepdims=True) + 1e-5)
    y = np.maximum(y, 0)
    tops, lefts = range(0, height - 1, 2), range(0, width - 1, 2)
    y = np.stack(
      [np.stack([y[:, i : i + 2, j : j + 2].mean((1, 2)) for j in lefts], 1) for i in tops], 1
    )
    maps = y
  np.testing.assert_allclose(features, maps.reshape(2, -1), rtol=1e-3, atol=1e-4)
  assert np.abs(features[0] - features[1]).mean() > 0.1
  grey = convolutions(KEY, jnp.asarray(images[..., :1]))
  np.testing.assert_array_equal(convolutions(KEY, jnp.asarray(images[..., 0])), grey)


def test_inputs_begin_as_draws_with_the_mean_and_covariance_of_the_class():
  x = np.array([[0.0, 0.0], [2.0, 1.0], [4.0, 5.0]], np.float32)
  examples = examples_of(Dataset(np.vstack([x, [[99.0, 99.0]]]), np.arange(4)))  # ranks
  own = examples.subset(np.arange(3), 70)  # two blocks, the second of padding alone
  draws = matching._normal_draws(own, 4000, KEY)
  shares = np.stack(
    [jax.random.normal(jax.random.fold_in(KEY, row), (4000,), jnp.float32) for row in range(3)]
  )
  by_hand = x.mean(0) + sum(
    g[:, None] * (row - x.mean(0)) / np.sqrt(3) for g, row in zip(shares, x, strict=True)
  )
  np.testing.assert_allclose(draws, by_hand, atol=1e-4)
  np.testing.assert_allclose(np.mean(draws, 0), x.mean(0), atol=0.15)
  np.testing.assert_allclose(np.cov(draws.T), np.cov(x.T, bias=True), rtol=0.1)


def test_one_step_by_hand():
  """Draws, the loss under one random matrix and Adam's first step, whose size is its rate."""
  points = RNG.integers(0, 2, (52, 4)).astype(np.float32)
  points[20:23] = 9  # not distilled
  ids = np.delete(np.arange(52), [20, 21, 22])
  results, learn = [], matching._learned

  def matrix(key, x):
    return x @ jax.random.normal(key, (4, 3))

  def kept(*given):
    results.append(learn(*given))
    return results[-1]

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(matching, "_learned", kept)
    small = distill(Dataset(points, LABELS), 2, KEY, ids=ids, embed=matrix, steps=1)
  _, draw_key, step_key = jax.random.split(KEY, 3)
  start = np.zeros((3, 2, 4))
  for place, (label, key) in enumerate(zip((0, 1, 3), jax.random.split(draw_key, 3), strict=True)):
    rows = [row for row in ids if LABELS[row] == label]
    mean = points[rows].mean(0)
    start[place] = mean
    for row in rows:
      shares = jax.random.normal(jax.random.fold_in(key, int(np.sum(ids < row))), (2,))
      start[place] += np.outer(shares, points[row] - mean) / np.sqrt(len(rows))
  assert (start < 0).any()
  assert (start > 1).any()
  start = np.clip(start, 0, 1)
  kernel = jax.random.normal(jax.random.split(jax.random.fold_in(step_key, 0))[0], (4, 3))
  loss, after = 0, np.zeros_like(start)
  for place, label in enumerate((0, 1, 3)):
    real = points[[row for row in ids if LABELS[row] == label]].mean(0)
    apart = (start[place].mean(0) - real) @ kernel
    loss += sum(apart**2)
    after[place] = np.clip(start[place] - 0.1 * start.std() * np.sign(kernel @ apart), 0, 1)
  np.testing.assert_allclose(results[0][1], [loss], rtol=1e-4)
  np.testing.assert_allclose(small.inputs, after.reshape(6, 4), atol=1e-5)


def test_of_a_large_class_all_examples_are_met_in_any_order():
  """More than a batch, sorted by what they hold."""
  ramp = Dataset(np.arange(400, dtype=np.float32)[:, None] / 100, np.zeros(400, int))
  small = distill(ramp, 4, KEY, embed=same)
  np.testing.assert_allclose(small.inputs.mean(), ramp.inputs.mean(), atol=0.05)


def test_what_is_learned_goes_with_the_scale_of_the_data():
  small = distill(VECTORS, 3, KEY, steps=4)
  large = distill(Dataset(1000 * VECTORS.inputs, LABELS, VECTORS.ids), 3, KEY, steps=4)
  np.testing.assert_allclose(large.inputs, 1000 * small.inputs, rtol=1e-3, atol=1)


def test_of_a_single_example_bytes_come_back_as_they_were():
  every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
  one = Dataset(every, [0], num_classes=5)
  small = distill(one, 1, KEY, embed=lambda key, x: jnp.zeros((len(x), 1)), steps=1)
  np.testing.assert_array_equal(small.inputs, every)
  assert small.num_classes == 5


def test_where_features_are_the_inputs_the_mean_of_each_class_is_met():
  small = distill(VECTORS, 3, KEY, embed=same, steps=300)
  for label in (0, 1, 3):
    mean = VECTORS.inputs[label == LABELS].mean(0)
    np.testing.assert_allclose(small.inputs[small.labels == label].mean(0), mean, atol=0.02)


def test_the_loss_on_images_falls_and_they_stay_bytes_within_the_range_of_the_data(monkeypatch):
  results, learn = [], matching._learned

  def kept(*given):
    results.append(learn(*given))
    return results[-1]

  monkeypatch.setattr(matching, "_learned", kept)
  small = distill(IMAGES, 3, KEY, embed=layers, steps=60)
  losses = results[0][1]
  assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2
  assert small.inputs.shape == (6, 4, 5)
  assert small.inputs.dtype == np.uint8
  assert np.abs(small.inputs - 255 * results[0][0].reshape(6, 4, 5)).max() < 0.501
  low, high = IMAGES.inputs.min(), IMAGES.inputs.max()
  assert small.inputs.min() >= low
  assert small.inputs.max() <= high
  apart = np.abs(small.inputs[:, None].astype(int) - IMAGES.inputs).max((2, 3))
  assert apart.min() > 10, "an example is copied"


def test_each_step_has_a_network_of_its_own():
  sets = Examples(jnp.ones((9, 2)), jnp.arange(9), jnp.arange(9)[None], jnp.full(1, 9))
  given = (sets, np.ones((1, 2), bool), np.array([0.0, 1.0], np.float32))
  learned, losses = matching._learned(
    lambda key, x: jax.random.normal(key, (len(x), 2)), 3, *given, KEY
  )
  assert len(np.unique(losses)) == 3
  assert learned.shape == (1, 2, 2)


def test_a_class_with_fewer_examples_gets_as_many_as_it_has():
  small = distill(VECTORS, 3, KEY, ids=np.delete(VECTORS.ids, np.arange(21, 50)), steps=4)
  assert small.labels.tolist() == [0] * 3 + [1] + [3] * 2
  assert small.inputs.dtype == np.float32


def test_the_order_of_examples_and_what_is_not_distilled_do_not_matter():
  ids = VECTORS.ids[::2]
  small = distill(VECTORS, 3, KEY, ids=ids, steps=4)
  order = RNG.permutation(52)
  moved = Dataset(VECTORS.inputs[order], LABELS[order], VECTORS.ids[order])
  other = distill(moved, 3, KEY, ids=RNG.permutation(ids), steps=4)
  np.testing.assert_array_equal(small.inputs, other.inputs)
  np.testing.assert_array_equal(small.ids, other.ids)
  changed = VECTORS.inputs.copy()
  changed[1::2] += 5
  rest = distill(Dataset(changed, LABELS, VECTORS.ids), 3, KEY, ids=ids, steps=4)
  np.testing.assert_array_equal(small.inputs, rest.inputs)
  others = distill(VECTORS, 3, KEY, ids=VECTORS.ids[1::2], steps=4)
  assert not np.array_equal(small.inputs, others.inputs)


def test_ids_clash_with_none():
  small = distill(VECTORS, 3, KEY, ids=VECTORS.ids[::2], steps=4)
  other = distill(VECTORS, 3, jax.random.key(1), ids=VECTORS.ids[::2], steps=4)
  assert not np.isin(small.ids, np.concatenate([VECTORS.ids, other.ids])).any()
  first = matching._fresh(VECTORS.ids, 5, KEY)
  again = matching._fresh(first[:2], 5, KEY)
  assert len(np.unique(again)) == 5
  assert not np.isin(first[:2], again).any()


def test_another_part_of_similar_size_traces_nothing():
  traced = []

  def embed(key, inputs):
    traced.append(1)
    return same(key, inputs)

  distill(VECTORS, 2, KEY, embed=embed, steps=3)
  count = len(traced)
  distill(
    VECTORS, 2, jax.random.key(1), ids=np.delete(VECTORS.ids, [20, 21, 22]), embed=embed, steps=3
  )
  assert count
  assert len(traced) == count


def test_memory_does_not_grow_with_the_examples_but_by_their_rows():
  """As floats the data would take 32 megabytes."""
  shapes = (((40_000, 200), np.uint8), ((40_000,), np.int32), ((2, 20_000), np.int32))
  sets = Examples(*(jax.ShapeDtypeStruct(*one) for one in (*shapes, ((2,), np.int32))))
  kept, bounds = (jax.ShapeDtypeStruct(*one) for one in (((2, 5), bool), ((2,), np.float32)))
  compiled = matching._learned.lower(same, 3, sets, kept, bounds, KEY).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 4e6


def test_the_same_where_float64_is_enabled():
  small = distill(VECTORS, 3, KEY, steps=4)
  with jax.enable_x64(True):
    wide = distill(VECTORS, 3, KEY, steps=4)
  np.testing.assert_allclose(wide.inputs, small.inputs, atol=1e-4)
  np.testing.assert_array_equal(wide.ids, small.ids)


@pytest.mark.parametrize(
  ("change", "cure"),
  [
    ({"per_class": 0}, "per_class=0, must be an integer of at least 1"),
    ({"steps": 2.0}, "steps=2.0, must be an integer"),
    ({"ids": [6]}, "id 6 is not in the data"),
    ({"ids": np.zeros(0, int)}, "Pass at least one id"),
    ({"dataset": Dataset(np.ones((2, 3), int), np.ones((2, 3), int))}, "Embed them first"),
    ({"dataset": Dataset({"a": np.ones((2, 3))}, [0, 1])}, "got a dict"),
    ({"dataset": Dataset(np.ones((2, 3)), [0.5, 1.5], classes=False)}, "one class an example"),
  ],
)
def test_what_is_refused(change, cure):
  given = {"dataset": VECTORS, "per_class": 1, "key": KEY} | change
  with pytest.raises(ValueError, match=cure) as caught:
    distill(**given)
  assert "\n" not in str(caught.value)


def test_data_sets_are_joined_and_other_kinds_refused():
  strata = np.arange(24)
  marked = Dataset(IMAGES.inputs, IMAGES.labels, IMAGES.ids, strata=strata)
  more = Dataset(IMAGES.inputs[:2], [4, 0], [90, 91], strata=np.array([7, 8]))
  both = data.concatenate([marked, more])
  assert both.num_classes == 5
  np.testing.assert_array_equal(both.take([91, 3]).inputs, IMAGES.inputs[[1, 3]])
  assert both.take([91, 3]).strata.tolist() == [8, 3]
  assert data.concatenate([IMAGES, more]).strata is None
  tables = [
    Dataset({"a": np.full((2, 1), float(i)), "b": np.ones((2, 3))}, [0, 1], [i, i + 9])
    for i in (0, 1)
  ]
  assert data.concatenate(tables).inputs["a"].ravel().tolist() == [0, 0, 1, 1]
  floats = Dataset(np.ones((1, 4, 5)), [0], [70])
  with pytest.raises(ValueError, match=r"uint8 .* and inputs float32 .*, must be of one kind"):
    data.concatenate([IMAGES, floats])
  with pytest.raises(ValueError, match="id 0 more than once"):
    data.concatenate([IMAGES, IMAGES])
  with pytest.raises(ValueError, match="Pass at least one"):
    data.concatenate([])
