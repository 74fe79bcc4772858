"""Influence equals a loop over models, whole, in blocks, and for chosen examples on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import memorization, models, retraining, train
from jaxmul.data import Dataset
from jaxmul.retraining.chunk import arrays_of, outcome, task_of

RECIPE = train.Recipe(models.mlp((6,), 2), epochs=4, batch_size=8)
MODELS = 24


def data(n, seed):
  rng = np.random.default_rng(seed)
  labels = np.arange(n) % 2
  images = (rng.normal(size=(n, 3)) + 2 * labels[:, None]).astype(np.float32)
  return Dataset(images, labels, np.arange(n) * 3 + seed)


TOY, TEST = data(20, 0), data(11, 1)


@pytest.fixture(scope="module")
def truth():
  """Members [M, n] and logits [M, t, C] of every model, one at a time."""
  options = {"num_models": MODELS, "test": TEST, "target": "logits"}
  schedule = retraining.leave_out(RECIPE, TOY, jax.random.key(2), **options)
  one = jax.jit(outcome, static_argnums=0)
  found = [one(task_of(schedule), arrays_of(schedule), jnp.int32(i)) for i in range(MODELS)]
  return np.stack([each.member for each in found]), np.stack([each.test for each in found])


def difference(member, outputs):
  """E[outputs | in] − E[outputs | out] by a loop, [t, n, ...]."""
  columns = [
    outputs[member[:, i]].mean(0) - outputs[~member[:, i]].mean(0) for i in range(member.shape[1])
  ]
  return np.stack(columns, axis=1)


def test_blocks_equal_a_loop(truth):
  member, logits = truth
  correct = (logits.argmax(-1) == TEST.labels).astype(float)
  schedule = retraining.leave_out(RECIPE, TOY, jax.random.key(2), num_models=MODELS, test=TEST)
  found = memorization.estimate(schedule, executor=retraining.serial)
  assert found.influence is not None
  whole = found.influence.block()
  wanted = difference(member, correct)
  np.testing.assert_allclose(whole.value, wanted, atol=1e-6)
  assert (whole.low <= whole.value).all()
  assert (whole.value <= whole.high).all()
  part = found.influence.block(TEST.ids[[4, 2]], TOY.ids[[7]])
  np.testing.assert_array_equal(part.value, whole.value[[4, 2]][:, [7]])
  pairs = found.influence.strongest(5)
  np.testing.assert_allclose(pairs.value, np.sort(wanted.ravel())[::-1][:5], atol=1e-6)
  at = (np.searchsorted(TEST.ids, pairs.test_ids), np.searchsorted(TOY.ids, pairs.ids))
  np.testing.assert_allclose(wanted[at], pairs.value, atol=1e-6)
  with pytest.raises(ValueError, match="id 999 is not among the 11 test examples"):
    found.influence.block([999])


@pytest.mark.parametrize("count", [-1, 0, 1.5])
def test_how_many_are_the_strongest_is_a_number_of_pairs(count):
  bits = np.packbits(np.eye(2, dtype=bool), axis=1)
  pairs = memorization.Influence(ids=np.arange(2), test_ids=np.arange(2), member=bits, correct=bits)
  with pytest.raises(ValueError, match=r"\AInfluence\.strongest got count=.*, must be an integer"):
    pairs.strongest(count)


def test_the_strongest_of_equal_pairs_follow_no_order():
  """Forty examples in one model of two, and forty tests right under it: all pairs are equal."""
  ids, tests = np.arange(40), np.arange(100, 700)  # more than one block of tests
  member = np.packbits(np.ones((2, 40), int) * [[1], [0]], axis=1)
  correct = np.packbits(np.ones((2, 600), int) * [[1], [0]], axis=1)
  bits = {"member": member, "correct": correct}
  pairs = memorization.Influence(ids=ids, test_ids=tests, **bits).strongest(300)
  assert (pairs.value == 1).all()
  assert len(set(zip(pairs.ids.tolist(), pairs.test_ids.tolist(), strict=True))) == 300
  assert len(set(pairs.ids.tolist())) == 40
  assert len(set(pairs.test_ids.tolist())) > 200
  turned = memorization.Influence(ids=ids[::-1], test_ids=tests[::-1], **bits).strongest(300)
  np.testing.assert_array_equal(turned.ids, pairs.ids)
  np.testing.assert_array_equal(turned.test_ids, pairs.test_ids)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("target", ["correct", "logits"])
def test_chosen_examples_equal_a_loop(truth, tmp_path, target, on_disk, monkeypatch):
  monkeypatch.setattr("jaxmul.memorization.chosen._BLOCK_NUMBERS", 16)  # several blocks
  member, logits = truth
  options = {"num_models": MODELS, "test": TEST, "target": target}
  found = memorization.influence(
    retraining.leave_out(RECIPE, TOY, jax.random.key(2), **options),
    TOY.ids[[5, 1, 13]],
    out=tmp_path / "influence" if on_disk else None,
    executor=retraining.serial,
  )
  outputs = logits if target == "logits" else (logits.argmax(-1) == TEST.labels).astype(float)
  inside = member[:, [5, 1, 13]]
  np.testing.assert_allclose(found.value, difference(inside, outputs), atol=1e-5)
  first = inside[:, 0]
  n_in, n_out = first.sum(), (~first).sum()
  error = np.sqrt(outputs[first].var(0, ddof=1) / n_in + outputs[~first].var(0, ddof=1) / n_out)
  np.testing.assert_allclose(found.stderr[:, 0], error, atol=1e-5)
  if on_disk:
    assert isinstance(found.value, np.memmap)
    assert [each.name for each in tmp_path.iterdir()] == ["influence"]


def test_only_an_earlier_result_is_replaced(tmp_path):
  def run(out, **options):
    schedule = retraining.leave_out(RECIPE, TOY, jax.random.key(0), num_models=4, test=TOY)
    return memorization.influence(
      schedule, TOY.ids[:2], out=out, executor=retraining.serial, **options
    )

  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "precious.txt").write_text("kept")
  with pytest.raises(ValueError, match="not its own"):
    run(tmp_path / "mine")
  with pytest.raises(ValueError, match="which holds store="):
    run(tmp_path / "new", store=tmp_path / "new" / "chunks")
  for _ in range(2):
    with pytest.warns(UserWarning, match="influence is NaN"):
      run(tmp_path / "result")
  assert sorted(each.name for each in tmp_path.iterdir()) == ["mine", "result"]


def test_a_damaged_or_foreign_folder_is_refused(tmp_path):
  out = tmp_path / "result"
  schedule = retraining.leave_out(RECIPE, TOY, jax.random.key(0), num_models=4, test=TOY)
  with pytest.warns(UserWarning, match="influence is NaN"):
    found = memorization.influence(schedule, TOY.ids[:2], out=out, executor=retraining.serial)
  read = memorization.ChosenInfluence.load(out)
  np.testing.assert_array_equal(read.value, found.value)
  np.testing.assert_array_equal(read.test_ids, TOY.ids)
  for file in out.iterdir():
    whole = file.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    for damaged in (b"", whole[: len(whole) // 2], b"PK\x03\x04" + whole, flipped):
      file.write_bytes(damaged)
      with pytest.raises(ValueError, match="not a whole result of influence") as caught:
        memorization.ChosenInfluence.load(out)
      assert "\n" not in str(caught.value)
    file.write_bytes(whole)
  with pytest.raises(ValueError, match="not a whole result of influence"):
    memorization.ChosenInfluence.load(tmp_path)


def test_ids_that_are_not_there_are_refused():
  schedule = retraining.leave_out(RECIPE, TOY, jax.random.key(0), num_models=4, test=TOY)
  with pytest.raises(ValueError, match="no ids"):
    memorization.influence(schedule, [])
  with pytest.raises(ValueError, match="id 1 is not in the data"):
    memorization.influence(schedule, [1])
  some = {"candidates": TOY.ids[:4], "fraction": 0.5, "num_models": 4, "test": TOY}
  for other in (
    retraining.leave_out(RECIPE, TOY, jax.random.key(0), **some),
    retraining.repeat(RECIPE, TOY, jax.random.key(0), num_models=2, test=TOY),
  ):
    says = rf"\Aid {TOY.ids[4]} is in every subset of this schedule, {other.design} [^\n]*\Z"
    with pytest.raises(ValueError, match=says):
      memorization.influence(other, TOY.ids[4:6], executor=never)


def never(schedule, chunks):
  raise AssertionError("it was trained")
