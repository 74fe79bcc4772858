"""Ground truth: right tallies, the same models in any order and process, NaN where undefined."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import Bound, memorization, models, train
from jaxmul.data import Dataset
from jaxmul.memorization.chunk import outcome


def nearest(weights, inputs):
  """1-nearest neighbour of the remembered rows, as logits."""
  images, labels = weights
  distance = jnp.sum((inputs[:, None] - images[None]) ** 2, -1)
  return 10.0 * jax.nn.one_hot(labels[jnp.argmin(distance, axis=1)].astype(int), 2)


@pytest.fixture(scope="module")
def toy():
  rng = np.random.default_rng(0)
  labels = np.arange(24) % 2
  images = (rng.normal(size=(24, 3)) + 2 * labels[:, None]).astype(np.float32)
  return Dataset(images, labels, np.arange(24) * 2 + 5)


RECIPE = train.Recipe(models.mlp((6,), 2), epochs=6, batch_size=8)


def test_tallies_equal_the_models_one_at_a_time(toy):
  plan = memorization.plan(RECIPE, toy, jax.random.key(1), num_models=10, chunk_size=4)
  with pytest.warns(UserWarning, match="never"):
    result = memorization.merge(plan, [memorization.run_chunk(plan, k) for k in range(3)])
  correct_in, count_in = np.zeros(24, int), np.zeros(24, int)
  correct_out, count_out = np.zeros(24, int), np.zeros(24, int)
  for model in range(10):
    member, correct, *_ = jax.jit(outcome, static_argnums=(0, 1))(
      RECIPE, 17, jnp.asarray(toy.images), jnp.asarray(toy.labels), jax.random.key(1), model
    )
    assert int(member.sum()) == 17
    count_in += np.asarray(member)
    count_out += ~np.asarray(member)
    correct_in += np.asarray(member & correct)
    correct_out += np.asarray(~member & correct)
  for name, expected in (
    ("correct_in", correct_in),
    ("count_in", count_in),
    ("correct_out", correct_out),
    ("count_out", count_out),
  ):
    np.testing.assert_array_equal(getattr(result, name), expected)
  undefined = (count_in == 0) | (count_out == 0)
  assert undefined.any()
  np.testing.assert_array_equal(np.isnan(result.memorization), undefined)
  np.testing.assert_array_equal(np.isnan(result.low), undefined)
  known = ~undefined
  assert (result.low[known] <= result.memorization[known]).all()
  assert (result.high[known] >= result.memorization[known]).all()


def test_same_models_whatever_the_order_of_the_data_the_chunks_and_the_process(toy):
  plan = memorization.plan(RECIPE, toy, jax.random.key(1), num_models=12, chunk_size=4)
  turned = toy.take(toy.ids[::-1])
  again = memorization.plan(RECIPE, turned, jax.random.key(1), num_models=12, chunk_size=4)
  assert again.hash == plan.hash
  here = dict(memorization.serial(plan, [2, 0, 1]))
  assert len(jax.devices()) == 8
  for executor in (memorization.processes(2), memorization.devices(), memorization.devices(2)):
    there = dict(executor(again, range(3)))
    for k in range(3):
      for field in dataclasses.fields(memorization.Chunk):
        a, b = getattr(here[k], field.name), getattr(there[k], field.name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=field.name)


def test_a_plan_of_something_else_has_another_hash(toy):
  def hash_of(recipe=RECIPE, data=toy, key=1, **options):
    given = {"num_models": 12} | options
    return memorization.plan(recipe, data, jax.random.key(key), **given).hash

  changed = Dataset(toy.images + np.float32(1e-6), toy.labels, toy.ids)
  others = [
    hash_of(dataclasses.replace(RECIPE, learning_rate=0.2)),
    hash_of(dataclasses.replace(RECIPE, schedule=train.constant)),
    hash_of(dataclasses.replace(RECIPE, model=models.mlp((7,), 2))),
    hash_of(data=changed),
    hash_of(key=2),
    hash_of(fraction=0.5),
    hash_of(chunk_size=5),
  ]
  assert len({hash_of(), *others}) == 8
  assert hash_of() == hash_of(num_models=99)


def test_estimate_agrees_with_exhaustive_subsets_of_a_nearest_neighbour(monkeypatch):
  """1-NN needs no training: leave-subset-out by brute force is the truth."""
  from jaxmul.memorization import chunk as module

  rng = np.random.default_rng(0)
  labels = np.arange(24) % 2  # two classes that overlap
  toy = Dataset((rng.normal(size=(24, 3)) + labels[:, None]).astype(np.float32), labels)

  def remember(recipe, trackers, images, labels, rows, key):
    params = Bound((images[rows], labels[rows].astype(float)), None, nearest)
    return train.Run(params, {}, train.History(jnp.zeros(1), jnp.zeros(1)))

  monkeypatch.setattr(module, "run", remember)
  recipe = dataclasses.replace(RECIPE, epochs=7)  # a trace of its own, with the stand-in
  found = memorization.estimate(
    recipe, toy, jax.random.key(3), num_models=600, executor=memorization.serial
  )
  rng = np.random.default_rng(1)
  hits, seen = np.zeros((2, 24)), np.zeros((2, 24))
  squared = ((toy.images[:, None] - toy.images[None]) ** 2).sum(-1)
  for _ in range(6000):
    rows = rng.permutation(24)[:17]
    correct = toy.labels[rows][squared[:, rows].argmin(1)] == toy.labels
    inside = np.isin(np.arange(24), rows).astype(int)
    hits[inside, np.arange(24)] += correct
    seen[inside, np.arange(24)] += 1
  p = hits / seen
  truth = p[1] - p[0]
  error = np.sqrt(p[0] * (1 - p[0]) * (1 / seen[0] + 1 / found.count_out) + 1e-4)
  assert (np.abs(found.memorization - truth) < 4 * error).all()
  assert np.mean((found.low <= truth) & (truth <= found.high)) > 0.8
  assert (truth > 0.2).any()


def test_diverged_models_are_left_out_and_counted(toy):
  recipe = dataclasses.replace(RECIPE, learning_rate=1e30)
  plan = memorization.plan(recipe, toy, jax.random.key(1), num_models=2)
  chunk = memorization.run_chunk(plan, 0)
  assert len(chunk.diverged) == 2
  assert not chunk.count_in.any()


def test_save_and_load(toy, tmp_path):
  numbers = np.linspace(0, 1, 5)
  names = [field.name for field in dataclasses.fields(memorization.Estimate)]
  saved = memorization.Estimate(**dict.fromkeys(names, numbers))
  path = tmp_path / "deep" / "truth.npz"
  saved.save(path)
  for name in names:
    np.testing.assert_array_equal(getattr(memorization.Estimate.load(path), name), numbers)
  whole = path.read_bytes()
  rng, refused = np.random.default_rng(0), 0
  for _ in range(100):
    damaged = bytearray(whole)
    damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      read = memorization.Estimate.load(path)
    except ValueError as error:
      message = str(error)
      refused += "\n" not in message and str(path) in message
    else:  # a bit that no reader looks at, such as a time stamp
      for name in names:
        np.testing.assert_array_equal(getattr(read, name), numbers)
  assert refused > 50


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_models": 1}, "num_models=1, must be at least 2"),
    ({"fraction": 1.0}, r"fraction=1.0, must be in \(0, 1\)"),
    ({"fraction": 0.001}, "some in and some out"),
    ({"chunk_size": 0}, "chunk_size=0, must be at least 1"),
    ({"recipe": dataclasses.replace(RECIPE, augment=lambda k, x: x)}, "module-level function"),
    ({"key": jax.random.key(0, impl="rbg")}, "threefry"),
  ],
)
def test_bad_input_gets_one_line(toy, options, message):
  given = {"recipe": RECIPE, "key": jax.random.key(0), "num_models": 4} | options
  with pytest.raises(ValueError, match=message) as caught:
    memorization.plan(dataset=toy, **given)
  assert "\n" not in str(caught.value)


def test_no_such_chunk(toy):
  plan = memorization.plan(RECIPE, toy, jax.random.key(0), num_models=4)
  with pytest.raises(ValueError, match="chunk 1 is not in this plan"):
    memorization.run_chunk(plan, 1)
