"""Ground truth: right tallies, the same models in any order and process, NaN where undefined."""

import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from toys import RECIPE

from jaxmul import Network, memorization, metrics, retraining, train
from jaxmul._examples import examples_of
from jaxmul.data import sources
from jaxmul.retraining.chunk import arrays_of, outcome, task_of


def nearest(weights, inputs):
  """1-nearest neighbour of the remembered rows, as logits."""
  images, labels = weights
  distance = jnp.sum((inputs[:, None] - images[None]) ** 2, -1)
  return 10.0 * jax.nn.one_hot(labels[jnp.argmin(distance, axis=1)].astype(int), 2)


@pytest.fixture(scope="module")
def toy():
  return toys.two_classes()


def test_tallies_equal_the_models_one_at_a_time(toy):
  schedule = retraining.leave_out(RECIPE, toy, jax.random.key(1), num_models=10, chunk_size=4)
  with pytest.warns(UserWarning, match="never"):
    result = memorization.merge(schedule, [retraining.run_chunk(schedule, k) for k in range(3)])
  correct_in, count_in = np.zeros(24, int), np.zeros(24, int)
  correct_out, count_out = np.zeros(24, int), np.zeros(24, int)
  one = jax.jit(outcome, static_argnums=0)
  for model in range(10):
    member, correct, *_ = one(task_of(schedule), arrays_of(schedule), model)
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


@pytest.mark.parametrize("folds", [2, 3, 5])  # 24 examples: 5 does not divide them
def test_cross_fitting_leaves_each_example_out_once(toy, folds):
  key = jax.random.key(4)
  schedule = retraining.cross_fit(RECIPE, toy, key, folds=folds, repeats=2)
  chunks = [retraining.run_chunk(schedule, k) for k in range(2 * folds)]
  out = np.stack([chunk.count_out for chunk in chunks])
  assert (out.sum(1) == -(-24 // folds)).all()
  for each in (out[:folds].sum(0), out[folds:].sum(0)):
    assert each.min() == 1
    assert (each - 1).sum() == -(-24 // folds) * folds - 24
  assert folds == 2 or not np.array_equal(out[:folds], out[folds:])  # other folds in a repeat
  # What is said of an example is said by the model that is trained without it.
  for number in (1, folds):
    ids = toy.ids[out[number] == 0]
    fit = train.fit(RECIPE, toy, retraining.train_key(schedule, number), ids)
    left = out[number] == 1
    said = metrics.attacks.label_confidence(fit.network, toy)
    np.testing.assert_allclose(chunks[number].p_out[left], said[left], atol=1e-5)
  whole = memorization.estimate(schedule, executor=retraining.serial, progress=False)
  wanted = sum(chunk.p_out for chunk in chunks) / out.sum(0)
  np.testing.assert_allclose(whole.confidence_out, wanted)
  np.testing.assert_allclose(
    whole.soft, sum(c.p_in for c in chunks) / (2 * folds - out.sum(0)) - wanted
  )


def test_cross_fits_are_the_same_on_any_executor_and_have_a_name_of_their_own(toy, tmp_path):
  schedule = retraining.cross_fit(RECIPE, toy, jax.random.key(4), folds=3)
  other = dataclasses.replace(schedule, folds=0)
  assert schedule.hash != other.hash
  here = dict(retraining.serial(schedule, range(3)))
  there = dict(retraining.devices()(schedule, range(3)))
  for k in range(3):
    np.testing.assert_array_equal(here[k].count_out, there[k].count_out)
    np.testing.assert_allclose(here[k].p_out, there[k].p_out, atol=1e-5)
  found = memorization.estimate(
    schedule, store=tmp_path, executor=retraining.serial, progress=False
  )
  found.save(tmp_path / "cross_fit.npz")
  read = memorization.Estimate.load(tmp_path / "cross_fit.npz")
  assert read.digest == found.digest
  for options, message in (({"folds": 1}, r"folds=1.*\[2, 24\]"), ({"repeats": 0}, "repeats=0")):
    with pytest.raises(ValueError, match=message):
      retraining.cross_fit(RECIPE, toy, jax.random.key(4), **options)


def test_the_digest_of_a_file_of_an_older_version_is_what_it_was():
  old = Path(__file__).parents[2] / "experiments" / "truths" / "mnist5k_mlp.npz"
  digest = memorization.Estimate.load(old).digest
  assert digest == "efb5637a0cb1e70546498c5da39c22b6a5257e97dfcce108a75f5896729aaee2"


def test_a_file_of_an_older_version_lacks_what_came_later():
  old = Path(__file__).parents[2] / "experiments" / "truths" / "cifar10_small_cnn.npz"
  read = memorization.Estimate.load(old)
  for column in ("confidence_out", "soft_low", "soft_high", "token_accuracy"):
    assert np.isnan(getattr(read, column)).all()
  assert np.isfinite(read.soft).all()


def nearest_neighbour(examples, key):
  """A learner that needs no training: remembers its rows."""
  del key
  batch = examples.whole()
  return Network((batch.inputs, batch.labels.astype(float)), None, nearest)


def ridge(examples, key):
  """Closed-form least squares on ±1, its two logits the score and its negative."""
  del key
  inputs, labels, *_ = examples.whole()
  x = jnp.concatenate([inputs, jnp.ones((len(inputs), 1))], 1)
  w = jnp.linalg.solve(x.T @ x + 0.1 * jnp.eye(x.shape[1]), x.T @ (2.0 * labels - 1))
  return Network(w, None, ridge_logits)


def ridge_logits(w, inputs):
  score = inputs @ w[:-1] + w[-1]
  return jnp.stack([-score, score], 1)


@pytest.mark.parametrize("learner", [nearest_neighbour, ridge])
@pytest.mark.parametrize("left_out", [1, 3])
def test_estimate_equals_every_subset_of_a_dozen_examples(learner, left_out):
  """`left_out` = 1 is leave-one-out itself: all 12 subsets; 3 is all 220."""
  toy = toys.two_classes(12, apart=1.0)
  hits, seen = np.zeros((2, 12)), np.zeros((2, 12))
  inputs, _ = toy.batch()
  for out in itertools.combinations(range(12), left_out):
    rows = np.setdiff1d(np.arange(12), out)
    logits = learner(examples_of(toy).subset(jnp.asarray(rows)), None)(inputs)
    correct = np.argmax(logits, 1) == toy.labels
    inside = np.isin(np.arange(12), rows).astype(int)
    hits[inside, np.arange(12)] += correct
    seen[inside, np.arange(12)] += 1
  p = hits / seen
  truth = p[1] - p[0]
  schedule = retraining.leave_out(
    *(learner, toy, jax.random.key(3)), num_models=400, fraction=1 - left_out / 12
  )
  found = memorization.estimate(schedule, executor=retraining.serial)
  error = np.sqrt(p[1] * (1 - p[1]) / found.count_in + p[0] * (1 - p[0]) / found.count_out)
  assert (np.abs(found.memorization - truth) <= 3 * error + 1e-12).all()
  assert (truth > 0.2).any()

  # Unbiased: over many estimates from ten models each, where they are defined, errors average out.
  schedule = retraining.leave_out(
    *(learner, toy, jax.random.key(4)),
    num_models=1000,
    fraction=1 - left_out / 12,
    chunk_size=10,
  )
  with np.errstate(invalid="ignore"):
    scores = [
      chunk.correct_in / chunk.count_in - chunk.correct_out / chunk.count_out
      for _, chunk in retraining.serial(schedule, range(schedule.num_chunks))
    ]
  errors = np.nanmean(scores - truth, axis=1)  # [100], independent of each other
  assert abs(errors.mean()) <= 3 * errors.std(ddof=1) / 10


def test_estimate_agrees_with_many_subsets_of_a_nearest_neighbour():
  """1-NN needs no training: leave-subset-out by brute force is the truth."""
  toy = toys.two_classes(apart=1.0)
  schedule = retraining.leave_out(nearest_neighbour, toy, jax.random.key(3), num_models=600)
  found = memorization.estimate(schedule, executor=retraining.serial)
  rng = np.random.default_rng(1)
  hits, seen = np.zeros((2, 24)), np.zeros((2, 24))
  squared = ((toy.inputs[:, None] - toy.inputs[None]) ** 2).sum(-1)
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


def saved():
  """An `Estimate` of 40 examples with influence, from numbers."""
  rng = np.random.default_rng(0)
  names = [field.name for field in dataclasses.fields(memorization.Estimate)][:-2]
  numbers = {name: rng.normal(size=40) for name in names} | {"ids": np.arange(40)}
  bits = rng.integers(0, 256, (9, 5), dtype=np.uint8)
  influence = memorization.Influence(
    ids=np.arange(40), test_ids=np.arange(40), member=bits, correct=bits
  )
  return memorization.Estimate(**numbers, influence=influence, design="nine models")


def test_save_and_load(tmp_path):
  truth, path = saved(), tmp_path / "deep" / "truth.npz"
  truth.save(path)
  read = memorization.Estimate.load(path)
  assert read.digest == truth.digest
  assert read.design == truth.design
  assert truth.influence is not None
  assert read.influence is not None
  np.testing.assert_array_equal(read.influence.block().value, truth.influence.block().value)
  with np.load(path) as plain:  # any program reads it
    np.testing.assert_array_equal(plain["memorization"], truth.memorization)


def test_take_gives_the_scores_of_some_examples_by_id():
  some = saved().take([7, 31, 2])
  assert some.ids.tolist() == [2, 7, 31]
  assert some.influence is None
  for name in ("memorization", "low", "count_out", "log_odds"):
    np.testing.assert_array_equal(getattr(some, name), getattr(saved(), name)[[2, 7, 31]])
  with pytest.raises(ValueError, match=r"\Aid 40 has no score \(1 of 2 ids are missing\)[^\n]*\Z"):
    saved().take([3, 40])
  with pytest.raises(ValueError, match="got id 3 more than once"):
    saved().take([3, 3])


def test_every_damaged_copy_is_refused(tmp_path):
  path = tmp_path / "truth.npz"
  saved().save(path)
  for copy in toys.damaged_copies(path.read_bytes()):
    path.write_bytes(copy)
    with pytest.raises(ValueError, match=r"\A[^\n]*damaged[^\n]*\Z"):
      memorization.Estimate.load(path)


def test_published_scores_are_read_by_name(tmp_path):
  path = tmp_path / "published.npz"
  np.savez(path, tr_mem=np.array([0.5, 0.1, 0.9]), tr_idx=np.array([9, 2, 4]))
  load = memorization.Estimate.load
  read = load(path, {"memorization": "tr_mem", "ids": "tr_idx"})
  assert read.ids.tolist() == [2, 4, 9]
  assert read.memorization.tolist() == [0.1, 0.9, 0.5]
  assert np.isnan(read.low).all()
  assert not read.count_in.any()
  assert load(path, {"memorization": "tr_mem"}, ids=[5, 6, 7]).memorization.tolist() == [
    *(0.5, 0.1, 0.9)
  ]
  for names, ids, message in (
    ({"memorization": "mem"}, [1, 2, 3], "no key 'mem'"),
    ({"memorization": "tr_mem"}, None, "the ids once"),
    ({"memorization": "tr_mem"}, [1, 2], "as many as the scores"),
    ({"memorization": "tr_mem"}, [1, 1, 2], "id 1 more than once"),
    ({"mem": "tr_mem"}, [1, 2, 3], "no 'mem' to fill"),
    (None, None, "SHA-256"),
  ):
    with pytest.raises(ValueError, match=message) as caught:
      load(path, names, ids)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_opened(tmp_path):
  path = tmp_path / "evil.npz"
  np.savez(path, tr_mem=np.array([print], dtype=object))
  with pytest.raises(ValueError, match="damaged or no"):
    memorization.Estimate.load(path, {"memorization": "tr_mem"}, ids=[1])


@pytest.mark.filterwarnings("ignore:.*never in")
def test_it_stops_where_the_intervals_are_narrow(monkeypatch):
  toy = toys.two_classes(apart=1.0)
  monkeypatch.setattr("jaxmul.memorization.scores._MIN_EXAMPLES", 1)

  def width(models, **options):
    schedule = retraining.leave_out(nearest_neighbour, toy, jax.random.key(3), num_models=models)
    return memorization.estimate(schedule, executor=retraining.serial, **options)

  narrow = width(400, until_width=0.8)
  models = int((narrow.count_in + narrow.count_out)[0])
  assert narrow.median_width <= 0.8
  assert 8 < models < 400
  assert models % 8 == 0
  assert not width(models - 8).median_width <= 0.8
  assert f"{models} models" in narrow.design


def test_a_learner_sees_uint8_images_as_its_params_do():
  digits = sources.digits()
  some = digits.take(digits.ids[:60])
  assert some.inputs.dtype == np.uint8
  schedule = retraining.leave_out(remember_all, some, jax.random.key(0), num_models=24)
  found = memorization.estimate(schedule, executor=retraining.serial)
  np.testing.assert_array_equal(found.correct_in, found.count_in)  # 1-NN knows what it has seen


def remember_all(examples, key):
  del key
  inputs, labels, *_ = examples.whole()
  params = (inputs.reshape(len(inputs), -1), labels.astype(float))
  return Network(params, None, nearest_of_ten)


def nearest_of_ten(weights, inputs):
  images, labels = weights
  inputs = inputs.reshape(len(inputs), -1)
  distance = jnp.sum((inputs[:, None] - images[None]) ** 2, -1)
  return 10.0 * jax.nn.one_hot(labels[jnp.argmin(distance, axis=1)].astype(int), 10)


def test_a_chunk_counts_once(toy):
  schedule = retraining.leave_out(RECIPE, toy, jax.random.key(1), num_models=4)
  chunk = retraining.run_chunk(schedule, 0)
  with pytest.raises(ValueError, match="merge got 4 models twice"):
    memorization.merge(schedule, [chunk, chunk])
  with pytest.raises(ValueError, match="no chunks"):
    memorization.merge(schedule, [])


@pytest.mark.parametrize("models", [8, 40])
def test_of_copies_that_are_always_together_more_models_are_not_asked_for(toy, models):
  """Three copies of one, and nothing else has two more: no subset of a fixed size lacks them."""
  families = np.maximum(np.arange(24) - 2, 0)
  copied = dataclasses.replace(toy, families=families)
  schedule = retraining.leave_out(RECIPE, copied, jax.random.key(1), num_models=models)
  with pytest.warns(UserWarning, match=r"never out .* More models do not help 3 of them") as caught:
    result = memorization.estimate(schedule, executor=retraining.serial)
  assert [each.filename for each in caught] == [__file__]
  assert np.isnan(result.memorization[:3]).all()
  with pytest.warns(UserWarning, match="never out") as caught:
    memorization.merge(schedule, retraining.stream(schedule, executor=retraining.serial))
  assert [each.filename for each in caught] == [__file__]


def test_only_candidates_are_left_out(toy):
  chosen = toy.ids[[3, 5, 7, 20]]
  schedule = retraining.leave_out(
    RECIPE, toy, jax.random.key(0), num_models=16, fraction=0.5, candidates=chosen
  )
  found = memorization.estimate(schedule, executor=retraining.serial)
  picked = np.isin(found.ids, chosen)
  assert (found.count_in + found.count_out == 16).all()
  assert not found.count_out[~picked].any()
  assert found.count_out[picked].sum() == 16 * 2
  np.testing.assert_array_equal(np.isnan(found.memorization), ~picked)
  assert "without 2 of 4 candidates of 24" in found.design
  with pytest.raises(ValueError, match="id 1 is not in the data"):
    retraining.leave_out(RECIPE, toy, jax.random.key(0), num_models=4, candidates=[1])


def test_active_spends_models_on_wide_intervals(toy, tmp_path):
  def spent(**options):
    schedule = retraining.leave_out(RECIPE, toy, jax.random.key(0), num_models=64)
    return memorization.active(
      schedule, rounds=2, share=0.25, executor=retraining.serial, **options
    )

  found = spent(store=tmp_path)
  models = found.count_in + found.count_out
  assert models.sum() == 32 * 24 + 2 * 16 * 6
  assert set(models) <= {32, 48, 64}
  schedule = retraining.leave_out(RECIPE, toy, jax.random.key(0), num_models=32)
  plain = memorization.estimate(schedule, executor=retraining.serial)
  order = np.argsort(-(plain.high - plain.low), kind="stable")
  assert (models[order[:6]] > 32).all()
  assert spent(store=tmp_path).digest == found.digest
  with pytest.raises(ValueError, match="num_models=4, rounds=4"):
    memorization.active(retraining.leave_out(RECIPE, toy, jax.random.key(0), num_models=4))


def test_a_schedule_of_another_kind_is_refused_in_one_line(toy):
  key = jax.random.key(0)
  crossed = retraining.cross_fit(RECIPE, toy, key, folds=3)
  random = retraining.leave_out(RECIPE, toy, key, num_models=16)
  some = retraining.leave_out(RECIPE, toy, key, num_models=16, candidates=toy.ids[:4], fraction=0.5)
  tested = retraining.leave_out(RECIPE, toy, key, num_models=16, test=toy)
  repeated = retraining.repeat(RECIPE, toy, key, num_models=2, test=toy)
  for ask, message in (
    (lambda: memorization.estimate(repeated), "leaves nothing out: 2 models on all of 24"),
    (lambda: memorization.estimate(crossed, until_width=0.5), "until_width=0.5 and .* 3 folds"),
    *(
      (lambda each=each: memorization.active(each), "active chooses single examples itself")
      for each in (crossed, some, tested)
    ),
    (lambda: memorization.influence(random, toy.ids[:2]), "keeps no outputs: 16 models"),
  ):
    with pytest.raises(ValueError, match=message) as caught:
      ask()
    assert "\n" not in str(caught.value)
