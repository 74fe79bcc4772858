"""RUM as an object: restarts with the same bits, effects, the autopilot."""

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, data, models, rum, unlearn
from jaxmul.data import Dataset, Split

KILLED = """
import os, signal, sys
import jax, numpy as np
from jaxmul import checkpoint, models, rum, unlearn
from jaxmul.data import Dataset, Split

store, at, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)
data = Dataset(rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40))
params = models.init(models.mlp((5,), 3), jax.random.key(0), data.inputs[:1])
fresh = models.init(models.mlp((5,), 3), jax.random.key(1), data.inputs[:1])
plan = rum.Plan([
  rum.Step(unlearn.neg_grad_plus(), 2, 8),
  rum.Step(unlearn.msg(fresh), 2, 8),
  rum.Step(unlearn.salun(), 2, 8),
])
saves, save = [], checkpoint.save

def counted(path, bound):
  if len(saves) == at and when == "before":
    os.kill(os.getpid(), signal.SIGKILL)
  save(path, bound)
  saves.append(path)
  if len(saves) == at + 1 and when == "after":
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint.save = counted
groups = [np.arange(4), np.arange(4, 9), np.arange(9, 12)]
after = rum.meta_unlearn(plan, params, data, groups, jax.random.key(2), store=store)
print(len(saves), rum.params_hash(after))
"""


class Activated(nn.Module):
  """Two layers and what is between them."""

  activation: Callable

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(self.activation(nn.Dense(5)(x)))


def restarted(store, at, when):
  code = [sys.executable, "-c", KILLED, str(store), str(at), when]
  return subprocess.run(code, capture_output=True, text=True, timeout=300, check=False)


def test_killed_in_each_step_it_goes_on_with_the_same_bits(tmp_path):
  whole = restarted(tmp_path / "whole", 9, "never")
  assert whole.returncode == 0, whole.stderr
  computed, expected = whole.stdout.split()
  assert computed == "3"
  store = tmp_path / "killed"
  for at, when in [(0, "before"), (0, "after")] * 2 + [(0, "before")]:
    # Each process finds what is stored already, so that "0" is the next step that is not.
    assert restarted(store, at, when).returncode == -signal.SIGKILL
  last = restarted(store, 9, "never")
  assert last.returncode == 0, last.stderr
  assert last.stdout.split() == ["1", expected]


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  toy = Dataset(rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40))
  params = models.init(models.mlp((5,), 3), jax.random.key(0), toy.inputs[:1])
  return params, toy


def same(a, b):
  return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_store_serves_only_what_it_was_made_with(problem, tmp_path):
  """Another key, forget set, setting or array is another step, and is computed."""
  params, toy = problem
  fresh = [models.init(models.mlp((5,), 3), jax.random.key(k), toy.inputs[:1]) for k in (1, 2)]

  def run(initial, group, key, epochs, rate=1e-3):
    plan = rum.Plan([rum.Step(unlearn.msg(initial, rate), epochs, 8)])
    return rum.run(plan, params, toy, [group], jax.random.key(key), store=tmp_path)

  base = (fresh[0], np.arange(5), 0, 1)
  assert run(*base).effects[0].seconds > 0
  assert run(*base).effects[0].seconds == 0
  for changed in (
    (fresh[1], np.arange(5), 0, 1),
    (fresh[0], np.arange(6), 0, 1),
    (fresh[0], np.arange(5), 1, 1),
    (fresh[0], np.arange(5), 0, 2),
    (*base, 1e-2),
  ):
    assert run(*changed).effects[0].seconds > 0


def test_a_store_does_not_serve_other_params_data_or_settings_of_a_step(tmp_path):
  computed = []

  def init(params, session):
    computed.append(1)
    return params

  shot = unlearn.Unlearner(init, None, identity=("shot",), start=lambda params, state: state)
  images, labels, ids = np.zeros((6, 2), np.float32), np.arange(6) % 3, np.arange(6)
  other_image, other_label = images.copy(), labels.copy()
  other_image[5, 1], other_label[5] = 1, 0
  weights = jnp.zeros((2, 3))

  def runs(params=weights, data=(images, labels, ids), **settings):
    """How often the algorithm ran."""
    computed.clear()
    plan, bound = rum.Plan([rum.Step(shot, **settings)]), bind(lambda w, x: x @ w, params)
    rum.meta_unlearn(plan, bound, Dataset(*data), [[1]], jax.random.key(0), store=tmp_path)
    return len(computed)

  assert [runs(), runs()] == [1, 0]
  assert runs(data=(images[::-1], labels[::-1], ids[::-1])) == 0  # joined by id: the same data
  for changed in (
    {"params": weights.at[1, 2].set(1)},
    {"data": (other_image, labels, ids)},
    {"data": (images, other_label, ids)},
    {"data": (images, labels, np.array([0, 1, 2, 3, 4, 7]))},
    {"batch_size": 255},
    {"freeze_statistics": True},
  ):
    assert runs(**changed) == 1


def test_a_store_does_not_serve_another_forward_pass_of_the_same_params(tmp_path):
  images = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
  toy = Dataset(images, np.arange(12) % 3)
  plan = rum.Plan([rum.Step(unlearn.neg_grad(0.1), 1, 8)])
  found = []
  for activation in (nn.relu, nn.tanh):
    model = Activated(activation)
    params = models.init(model, jax.random.key(0), toy.inputs[:1])
    found += [
      rum.run(plan, params, toy, [[0, 1]], jax.random.key(1), store=store).network(toy.inputs)
      for store in (tmp_path, None)
    ]
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[2], found[3])
  assert (found[0] != found[2]).any()


def test_what_a_store_cannot_find_again_is_refused_before_the_first_step(problem, tmp_path):
  params, toy = problem
  lambdas = dataclasses.replace(unlearn.neg_grad(), identity=("mine", lambda x: x))
  plan = rum.Plan([rum.Step(unlearn.neg_grad(), 1, 8), rum.Step(lambdas, 1, 8)])
  with pytest.raises(ValueError, match=r"could not be resumed\. Use a module-level function"):
    rum.meta_unlearn(plan, params, toy, [[0], [1]], jax.random.key(0), store=tmp_path)
  assert not list(tmp_path.iterdir())
  rum.meta_unlearn(plan, params, toy, [[0], [1]], jax.random.key(0))


def test_a_damaged_step_is_an_error(problem, tmp_path):
  params, toy = problem
  plan = rum.Plan([rum.Step(unlearn.fine_tune(), 1, 8)])

  def run():
    return rum.meta_unlearn(plan, params, toy, [[1]], jax.random.key(0), store=tmp_path)

  run()
  (step,) = tmp_path.iterdir()
  largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  with pytest.raises(ValueError, match="damaged"):
    run()


def test_effects_are_accuracies_on_each_group_before_and_after_each_step(problem):
  params, toy = problem
  plan = rum.Plan([rum.Step(None), rum.Step(unlearn.neg_grad(0.3), 3, 8)])
  groups = [np.arange(4), np.arange(4, 9)]
  outcome = rum.run(plan, params, toy, groups, jax.random.key(0))
  none, ascent = outcome.effects
  assert (none.algorithm, ascent.algorithm) == ("none", "neg_grad")
  assert none.before == none.after == ascent.before
  assert set(none.before) == {"group 0", "group 1", "retain"}
  kept = toy.take(np.arange(9, 40))
  inputs, labels = kept.batch()
  expected = float((outcome.network(inputs).argmax(-1) == labels).mean())
  assert ascent.after["retain"] == pytest.approx(expected)
  assert same(outcome.network, rum.meta_unlearn(plan, params, toy, groups, jax.random.key(0)))


def test_refine_by_thresholds_and_quantiles():
  scores, ids = [0.1, 0.5, 0.5, 0.9], [4, 3, 2, 1]
  by = rum.refine(scores, ids, thresholds=[0.5, 0.8])
  assert [g.tolist() for g in by] == [[4], [2, 3], [1]]
  by = rum.refine(scores, ids, quantiles=[0.5])
  assert sorted(by[0].tolist() + by[1].tolist()) == [1, 2, 3, 4]
  assert 4 in by[0]
  assert 1 in by[1]


def test_clusters_find_separate_blobs_whatever_the_order():
  rng = np.random.default_rng(0)
  blobs = np.repeat(np.array([[0.0, 0], [9, 0], [0, 9]]), [5, 3, 4], axis=0)
  features, ids = blobs + 0.1 * rng.normal(size=(12, 2)), np.arange(12)
  found = rum.clusters(features, ids, jax.random.key(3))
  assert [g.tolist() for g in found] == [[0, 1, 2, 3, 4], [8, 9, 10, 11], [5, 6, 7]]
  turned = rum.clusters(features[::-1], ids[::-1], jax.random.key(3))
  assert all((a == b).all() for a, b in zip(found, turned, strict=True))


def test_clusters_do_not_depend_on_what_ids_stand_for():
  rng = np.random.default_rng(0)
  features, ids = rng.normal(size=(60, 2)), np.arange(60)
  one = rum.clusters(features, ids, jax.random.key(3))
  other = rum.clusters(features, ids[::-1], jax.random.key(3))
  for a, b in zip(one, other, strict=True):
    assert set(59 - b) == set(a)


def test_clusters_of_blobs_side_by_side_do_not_depend_on_where_they_start():
  """From any two points Lloyd's steps end at 5.5: centres 10 and 11, say, at first cut at 10.5."""
  features = np.array([0.0, 1, 2, 3, 4, 7, 8, 9, 10, 11])[:, None]
  for seed in range(8):
    found = rum.clusters(features, np.arange(10), jax.random.key(seed), num_groups=2)
    assert [g.tolist() for g in found] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_entanglement_by_hand():
  forget, retain = np.array([[2.0, 0], [4, 0]]), np.array([[0.0, 1], [0, -1], [0, 0]])
  # μ_S = (3, 0), μ_R = 0, μ = (1.5, 0): within 1 + 2/3, between 2.25.
  assert rum.entanglement(forget, retain) == pytest.approx((1 + 2 / 3) / 2.25)
  assert rum.entanglement(forget + 9, retain) < rum.entanglement(forget, retain)
  np.testing.assert_allclose(rum.entanglement_scores(forget, retain), [-2, -4])


def test_tune_finds_the_candidate_that_makes_forget_look_held_out():
  """One candidate does what retraining would, one wrecks the network, one diverges."""
  digits = data.digits()
  order = np.random.default_rng(0).permutation(len(digits))
  toy, heldout = digits.take(order[:100]), digits.take(order[300:500])
  forget, retain = toy.ids[:40], toy.ids[40:]
  from jaxmul import train

  recipe = train.Recipe(models.mlp((64,)), epochs=60, batch_size=32, weight_decay=0.0)
  params = train.fit(recipe, toy, jax.random.key(0)).network
  oracle = train.fit(recipe, toy, jax.random.key(1), retain).network
  tried = {
    "oracle": rum.Step(
      unlearn.Unlearner(lambda p, s: oracle, None, identity=("oracle",), start=lambda p, s: s),
      1,
    ),
    "wreck": rum.Step(unlearn.neg_grad(1.0), 5, 16),
    "diverge": rum.Step(unlearn.neg_grad(1e38), 2, 16),
  }
  with (
    pytest.warns(UserWarning, match=r"no estimate.*memorized groups are left.*cross_fit"),
    pytest.warns(UserWarning, match="hold 6 of 9 examples of class 5"),
  ):
    tuned = rum.tune(tried, params, toy, [forget], heldout, jax.random.key(2))
  found = {trial.name: trial.surrogate for trial in tuned.trials}
  assert set(found) == {"none", "oracle", "wreck", "diverge"}
  assert found["oracle"] > max(found["none"], found["wreck"], found["diverge"])
  assert found["diverge"] == 0
  assert tuned.plan.steps[0] is tried["oracle"]
  again = rum.meta_unlearn(tuned.plan, params, toy, [forget], jax.random.key(2))
  assert same(again, tuned.network)


def test_tune_needs_networks_without_what_is_harder_than_heldout_data():
  """Wrong labels are memorized: no network without them gets them right, held-out data mislead."""
  from jaxmul import memorization, retraining, train

  digits = data.digits()
  order = np.random.default_rng(0).permutation(len(digits))
  toy, heldout = digits.take(order[:100]), digits.take(order[300:500])
  forget, retain = toy.ids[:20], toy.ids[20:]
  labels = np.where(np.arange(100) < 20, (toy.labels + 1) % 10, toy.labels)
  toy = Dataset(toy.inputs, labels, toy.ids, 10)
  recipe = train.Recipe(models.mlp((64,)), epochs=60, batch_size=32, weight_decay=0.0)
  params = train.fit(recipe, toy, jax.random.key(0)).network
  oracle = train.fit(recipe, toy, jax.random.key(1), retain).network
  schedule = retraining.cross_fit(recipe, toy, jax.random.key(2), folds=4)
  estimate = memorization.estimate(schedule, executor=retraining.serial)
  split = Split(forget=forget, retain=retain)

  def surrogates(*given):
    return [rum.surrogate(p, params, toy, split, heldout, *given) for p in (params, oracle)]

  untouched, retrained = surrogates(estimate)
  assert retrained > 0.8 > 0.5 > untouched
  untouched, retrained = surrogates()
  assert retrained < untouched  # what the page warns of
  unseen = dataclasses.replace(estimate, count_out=estimate.count_out * 0)
  with pytest.raises(ValueError, match="no model that left out any of the 20 forget ids"):
    surrogates(unseen)


@pytest.mark.parametrize("with_estimate", [False, True])
@pytest.mark.parametrize("left", [0, 1])
def test_a_class_that_is_not_retained_is_to_be_unknown(with_estimate, left):
  """A network that never saw a class is not right on it; held-out examples of it would be."""
  from jaxmul import memorization, retraining, train

  digits = data.digits()
  order = np.random.default_rng(0).permutation(len(digits))
  toy, heldout = digits.take(order[:300]), digits.take(order[300:600])
  threes = toy.ids[toy.labels == 3]
  forget = threes[left:]
  split = Split(forget=forget, retain=np.setdiff1d(toy.ids, forget))
  recipe = train.Recipe(models.mlp((64,)), epochs=40, batch_size=32, weight_decay=0.0)
  params = train.fit(recipe, toy, jax.random.key(0)).network
  oracle = train.fit(recipe, toy, jax.random.key(1), split.retain).network
  schedule = retraining.cross_fit(recipe, toy, jax.random.key(2), folds=3)
  estimate = memorization.estimate(schedule, executor=retraining.serial, progress=False)
  given = (estimate,) if with_estimate else ()
  untouched, retrained = (
    rum.surrogate(p, params, toy, split, heldout, *given) for p in (params, oracle)
  )
  assert untouched < 0.2
  assert retrained > 0.8


def test_tune_keeps_to_its_budget(problem):
  params, toy = problem
  heldout = Dataset(toy.inputs[:6] + 1, toy.labels[:6], np.arange(100, 106), 3)
  tried = {f"{k}": rum.Step(unlearn.fine_tune(10.0**-k), 1, 8) for k in range(1, 6)}
  groups = [np.arange(3), np.arange(3, 6)]
  with pytest.warns(UserWarning, match="no estimate"):
    tuned = rum.tune(tried, params, toy, groups, heldout, jax.random.key(0), budget=5)
  assert [(t.group, t.name) for t in tuned.trials] == [
    (group, name) for group in (0, 1) for name in ("none", "1", "2")
  ]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: rum.refine([1, 2], [1, 2], thresholds=[5.0]), "group 1 of 2 is empty"),
    (lambda: rum.refine([1, 2], [1, 2], thresholds=[2, 1]), "must increase"),
    (lambda: rum.refine([1, 2], [1, 2], quantiles=[1.5]), r"increase within \(0, 1\)"),
    (lambda: rum.refine([1, 2], [1, 2], quantiles=[0.5], thresholds=[1]), "give one of them"),
    (
      lambda: rum.clusters([[1.0], [1.0]], [1, 2], jax.random.key(0)),
      r"must be an integer in \[1, 1\]",
    ),
    (lambda: rum.entanglement([[1.0]], [[1.0, 2.0]]), "features"),
    (lambda: rum.tune({}, None, None, [[1]], None, None), "0 candidates"),
  ],
)
def test_bad_input_gets_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


def test_heldout_examples_of_the_data_are_refused(problem):
  params, toy = problem
  tried = {"a": rum.Step(unlearn.fine_tune(), 1, 8)}
  with pytest.raises(ValueError, match="id 0 is held out and in the data"):
    rum.tune(tried, params, toy, [[1]], toy, jax.random.key(0))
