"""Ground truth by a loss of the network's own: e^−ℓ, with the example less without it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ttest_ind

from jaxmul import bind, memorization, retraining, train
from jaxmul.data import Dataset
from jaxmul.retraining.chunk import arrays_of, outcome, task_of

N, WIDTH, TASKS, MODELS = 10, 3, 2, 12
KEY = jax.random.key(5)


def squared(outputs, labels):
  """Half the squared error, the mean over what is predicted."""
  return 0.5 * jnp.mean((outputs - labels) ** 2, axis=-1)


def several(outputs, labels):
  """Binary cross-entropy of several labels: the mean over them."""
  signs = 1 - 2 * labels.astype(outputs.dtype)
  return jnp.mean(jax.nn.softplus(signs * outputs), axis=-1)


def by_hand(loss, outputs, labels):
  """The same in NumPy."""
  if loss is squared:
    return 0.5 * ((outputs - labels) ** 2).mean(-1)
  p = 1 / (1 + np.exp(-outputs))
  return -np.log(np.where(labels == 1, p, 1 - p)).mean(-1)


def linear(w, x):
  return x @ w


def start_squared(key, inputs):
  return bind(linear, jax.random.normal(key, (inputs.shape[1], TASKS)), loss=squared)


def start_several(key, inputs):
  return bind(linear, jax.random.normal(key, (inputs.shape[1], TASKS)), loss=several)


def least_squares(examples, key):
  """A learner in closed form, whose network has the squared error for its loss."""
  del key
  inputs, labels, *_ = examples.whole()
  gram = inputs.T @ inputs + 0.1 * jnp.eye(inputs.shape[1])
  return bind(linear, jnp.linalg.solve(gram, inputs.T @ labels), loss=squared)


def recipe(start):
  return train.Recipe(start, epochs=3, batch_size=4, learning_rate=0.3)


CASES = {
  "regression": (squared, recipe(start_squared)),
  "several labels": (several, recipe(start_several)),
  "learner": (squared, least_squares),
}


def toy(loss):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(N, WIDTH)).astype(np.float32)
  labels = rng.normal(size=(N, TASKS)) if loss is squared else rng.integers(0, 2, (N, TASKS))
  return Dataset(inputs, labels, np.arange(N) * 3 + 2, classes=False)


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def one_by_one(learner, schedule):
  """Members [M, n] and outputs [M, n, TASKS] of each model, trained by itself."""
  data, members, said = schedule.dataset, [], []
  for model in range(schedule.num_models):
    member = np.asarray(outcome(task_of(schedule), arrays_of(schedule), jnp.int32(model)).member)
    if learner is least_squares:
      x, y = data.inputs[member].astype(float), data.labels[member]
      w = np.linalg.solve(x.T @ x + 0.1 * np.eye(WIDTH), x.T @ y)
    else:
      key = retraining.train_key(schedule, model)
      w = np.asarray(train.fit(learner, data, key, data.ids[member]).network.params)
    members.append(member)
    said.append(data.inputs @ w)
  return np.stack(members), np.stack(said)


@pytest.mark.parametrize("name", CASES)
def test_soft_memorization_equals_a_plain_loop(name, tmp_path):
  loss, learner = CASES[name]
  given = toy(loss)
  schedule = retraining.leave_out(learner, given, KEY, num_models=MODELS, chunk_size=5)
  found = memorization.estimate(schedule, store=tmp_path, executor=retraining.serial)
  member, said = one_by_one(learner, schedule)
  p = np.exp(-by_hand(loss, said, given.labels))
  p_in = (p * member).sum(0) / member.sum(0)
  p_out = (p * ~member).sum(0) / (~member).sum(0)
  np.testing.assert_allclose(found.soft, p_in - p_out, atol=1e-5)
  np.testing.assert_allclose(found.confidence_out, p_out, atol=1e-5)
  np.testing.assert_array_equal(found.count_in, member.sum(0))
  assert (found.soft > 0.01).any()
  first = member[:, 0]
  low, high = ttest_ind(p[first, 0], p[~first, 0], equal_var=False).confidence_interval()
  np.testing.assert_allclose((found.soft_low[0], found.soft_high[0]), (low, high), atol=1e-4)
  undefined = ("memorization", "low", "high", "log_odds", "correct_in", "correct_out")
  for column in (*undefined, "token_accuracy", "token_low"):
    assert np.isnan(getattr(found, column)).all(), column
  again = memorization.estimate(schedule, store=tmp_path, executor=retraining.serial)
  assert again.digest == found.digest  # what is read from the store is what was computed
  found.save(tmp_path / "truth.npz")
  assert memorization.Estimate.load(tmp_path / "truth.npz").digest == found.digest
  here, there = (dict(run(schedule, [0]))[0] for run in (retraining.serial, retraining.devices()))
  np.testing.assert_allclose(here.p_in, there.p_in, rtol=1e-5)
  assert np.isnan(there.correct_in).all()


def test_cross_fitting_and_influence_on_outputs():
  given = toy(squared)
  crossed = retraining.cross_fit(least_squares, given, KEY, folds=5)
  found = memorization.estimate(crossed, executor=retraining.serial)
  _, said = one_by_one(least_squares, crossed)
  chunks = dict(retraining.serial(crossed, range(5)))
  out = np.stack([chunks[number].count_out for number in range(5)]) == 1
  p = np.exp(-by_hand(squared, said, given.labels))
  np.testing.assert_allclose(found.confidence_out, p[out.argmax(0), np.arange(N)], atol=1e-5)

  schedule = retraining.leave_out(
    least_squares, given, KEY, num_models=MODELS, test=given, target="logits"
  )
  chosen = memorization.influence(schedule, given.ids[:2], executor=retraining.serial)
  member, said = one_by_one(least_squares, schedule)
  for column in range(2):
    inside = member[:, column]
    wanted = said[inside].mean(0) - said[~inside].mean(0)
    np.testing.assert_allclose(chosen.value[:, column], wanted, atol=1e-5)
  schedule = dataclasses.replace(schedule, target="confidence")
  chosen = memorization.influence(schedule, given.ids[:1], executor=retraining.serial)
  p = np.exp(-by_hand(squared, said, given.labels))
  wanted = p[member[:, 0]].mean(0) - p[~member[:, 0]].mean(0)
  np.testing.assert_allclose(chosen.value[:, 0], wanted, atol=1e-5)


@pytest.mark.parametrize("target", ["correct", "log_odds"])
def test_what_needs_classes_of_test_examples_is_refused_before_training(target):
  given = toy(squared)
  options = {"num_models": MODELS, "test": given, "target": target}
  with one_line(f"leave_out with target='{target}' needs probabilities of classes.*squared"):
    retraining.leave_out(CASES["regression"][1], given, KEY, **options)
  schedule = retraining.leave_out(never_run, given, KEY, **options)  # of a learner it is unknown
  said = f"a learner with target='{target}' needs probabilities of classes.*target='logits'"
  with pytest.raises(ValueError, match=said):
    memorization.estimate(schedule, executor=retraining.serial)


def never_run(examples, key):
  network = least_squares(examples, key)
  jax.debug.callback(_fail)
  return network


def _fail():
  raise AssertionError("it was trained")


@pytest.mark.parametrize("learner", [CASES["several labels"][1], never_run])
def test_what_goes_by_intervals_is_refused_before_training(learner):
  given = toy(several if learner is not never_run else squared)
  schedule = retraining.leave_out(learner, given, KEY, num_models=16)
  with one_line("active goes by intervals, which networks with a loss of their own do not have"):
    memorization.active(schedule, rounds=2, share=0.3, executor=retraining.serial)
  with one_line(r"estimate with until_width=0\.2 goes by intervals"):
    memorization.estimate(schedule, until_width=0.2, executor=retraining.serial)


def test_a_model_whose_own_loss_is_nan_counts_as_diverged():
  given = toy(squared)
  wild = train.Recipe(start_squared, epochs=3, batch_size=4, learning_rate=1e30)
  chunk = retraining.run_chunk(retraining.leave_out(wild, given, KEY, num_models=2), 0)
  assert len(chunk.diverged) == 2
