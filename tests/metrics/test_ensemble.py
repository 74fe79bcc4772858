"""Oracles on the ground truth's engine: the same models as train.fit, resumed, kept by id."""

import tracemalloc

import jax
import numpy as np
import pytest

from jaxmul import memorization, models, retraining, train
from jaxmul.data import Dataset, Split
from jaxmul.metrics import attacks, oracle
from jaxmul.metrics.outputs import log_odds

RECIPE = train.Recipe(models.mlp((8,), 3), epochs=4, batch_size=8, learning_rate=0.1)
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def dataset():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 60)
  images = rng.normal(size=(60, 5)) + 2 * np.eye(5)[labels]
  return Dataset(images, labels, rng.permutation(500)[:60], 3)


@pytest.fixture(scope="module")
def split(dataset):
  return Split(dataset.ids[:6], dataset.ids[6:40], dataset.ids[40:50], dataset.ids[50:])


@pytest.fixture(scope="module")
def found(dataset, split):
  return oracle.ensemble(RECIPE, dataset, split, KEY, num_models=3, executor=retraining.serial)


def test_originals_are_trained_on_all_and_oracles_without_the_forget_set(dataset, split, found):
  schedules = oracle.schedules(RECIPE, dataset, split, KEY, 3)
  for schedule, part, kept in zip(schedules, (split.train, split.retain), found, strict=True):
    for model in range(3):
      own = retraining.train_key(schedule, model)
      wanted = train.fit(RECIPE, dataset, own, ids=part).network
      said = oracle.outputs([wanted], dataset, kept.ids).logits[0]
      np.testing.assert_allclose(kept.logits[model], said, atol=1e-5)


def test_any_original_can_be_trained_again(dataset, split, found):
  again = oracle.original(RECIPE, dataset, split, KEY, 2).network
  said = oracle.outputs([again], dataset, split.forget).logits
  np.testing.assert_allclose(said, found.originals.models([2]).take(split.forget).logits, atol=1e-5)


def test_all_models_differ(found):
  both = np.concatenate([found.originals.logits, found.oracles.logits])
  for k in range(6):
    for l in range(k):
      assert np.abs(both[k] - both[l]).max() > 0.01


def test_it_resumes_grows_and_repairs(tmp_path, dataset, split, found):
  done = []

  def counting(schedule, chunks):
    done.extend(chunks)
    return retraining.serial(schedule, chunks)

  def run(count):
    done.clear()
    options = {"num_models": count, "store": tmp_path, "executor": counting}
    return oracle.ensemble(RECIPE, dataset, split, KEY, **options)

  run(2)
  assert done == [0, 1, 0, 1]
  again = run(3)
  assert done == [2, 2]
  np.testing.assert_array_equal(again.oracles.logits, found.oracles.logits)
  file = next((tmp_path / "oracles").glob("chunk-000001*"))
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)
  with pytest.warns(UserWarning, match="1 damaged"):
    repaired = run(3)
  assert done == [1]
  np.testing.assert_array_equal(repaired.oracles.logits, found.oracles.logits)


def test_another_split_is_refused_by_the_store(tmp_path, dataset, split):
  options = {"num_models": 1, "store": tmp_path, "executor": retraining.serial}
  oracle.ensemble(RECIPE, dataset, split, KEY, **options)
  other = Split(split.forget[1:], split.retain, split.heldout, split.test)
  with pytest.raises(ValueError, match="another schedule"):
    oracle.ensemble(RECIPE, dataset, other, KEY, **options)


def test_divergence_is_an_error(dataset, split):
  wild = train.Recipe(models.mlp((8,), 3), epochs=4, batch_size=8, learning_rate=1e30)
  with pytest.raises(ValueError, match="all 2 originals diverged"):
    oracle.ensemble(wild, dataset, split, KEY, num_models=2, executor=retraining.serial)


def test_outputs_are_joined_by_id_and_survive_a_file(tmp_path, dataset, split, found):
  some = np.random.default_rng(1).permutation(found.oracles.ids)[:7]
  taken = found.oracles.take(some)
  assert taken.ids.tolist() == some.tolist()
  assert taken.labels.tolist() == dataset.take(some).labels.tolist()
  taken.save(tmp_path / "outputs.npz")
  read = oracle.Outputs.load(tmp_path / "outputs.npz")
  np.testing.assert_array_equal(read.logits, taken.logits)
  (tmp_path / "outputs.npz").write_bytes(b"PK\x03\x04 nothing")
  with pytest.raises(ValueError, match=r"damaged or no \.npz"):
    oracle.Outputs.load(tmp_path / "outputs.npz")
  with pytest.raises(ValueError, match="id 9999 has no outputs"):
    taken.take([9999])


def test_outputs_of_a_damaged_file_are_refused_or_whole(tmp_path):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 50, 10)).astype(np.float32)
  whole = oracle.Outputs.of_logits(np.arange(50), np.zeros(50, int), logits)
  path = tmp_path / "outputs.npz"
  whole.save(path)
  content = path.read_bytes()
  refused = 0
  for place in rng.integers(8 * len(content), size=200):
    damaged = bytearray(content)
    damaged[place // 8] ^= 1 << (place % 8)
    path.write_bytes(damaged)
    try:
      np.testing.assert_array_equal(oracle.Outputs.load(path).logits, logits)
    except ValueError:
      refused += 1
  assert refused > 150


def test_outputs_are_made_of_logits_without_many_copies_of_them():
  logits = np.random.default_rng(0).normal(size=(16, 2000, 50)).astype(np.float32)
  tracemalloc.start()
  try:
    whole = oracle.Outputs.of_logits(np.arange(2000), np.zeros(2000, int), logits)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < logits.nbytes  # all models together took eight times as much
  expected = log_odds(logits, np.zeros(2000, int))
  np.testing.assert_array_equal(whole.log_odds, expected)


def test_leave_subset_out_models_become_references(dataset, split):
  training = dataset.take(split.train)
  seen_by_all = dataset.take(np.concatenate([split.train, split.heldout]))
  schedule = retraining.leave_out(
    *(RECIPE, training, KEY), num_models=12, fraction=0.5, test=seen_by_all, target="logits"
  )
  chunks = list(retraining.stream(schedule, executor=retraining.serial))
  kept, seen = oracle.references(schedule, chunks)
  assert kept.logits.shape == (12, 50, 3)
  assert (seen[:, :40].sum(1) == 20).all()
  assert not seen[:, 40:].any()
  count = sum(memorization.merge(schedule, chunks).count_in)
  assert seen.sum() == count
  phi = kept.log_odds[:, :40]
  inside, outside = np.where(seen[:, :40], phi, np.nan), np.where(seen[:, :40], np.nan, phi)
  enough = (seen[:, :40].sum(0) > 1) & (seen[:, :40].sum(0) < 11)
  scores = attacks.lira(phi[:, enough], outside[:, enough], inside[:, enough], fixed_variance=True)
  assert np.isfinite(scores).all()
