"""The loop: each example is met as often as it should be, padding is never seen, one trace."""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmul import bind, models, train, unlearn
from jaxmul._examples import Examples
from jaxmul.data import Dataset, Split
from jaxmul.unlearn._passes import Alternate, Sets, walk_over
from jaxmul.unlearn.objective import sgd


def rows_of(ids, n=20):
  images = jnp.arange(n, dtype=jnp.float32)[:, None]
  return Examples(images, jnp.arange(n), jnp.arange(0), 0).subset(np.asarray(ids), n)


def session_of(data):
  images, labels = jnp.asarray(data.inputs), jnp.asarray(data.labels)
  rows = Examples(images, labels, jnp.arange(0), 0).subset(np.arange(len(data)), len(data))
  return unlearn.Session(rows, rows, 1, 8, jax.random.key(0), data.ids)


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  images = rng.normal(size=(50, 6)).astype(np.float32)
  data = Dataset(images, rng.integers(0, 3, 50), np.arange(100, 150))
  params = models.init(models.mlp((5,), 3), jax.random.key(0), images[:1])
  return data, params, Split(forget=np.arange(100, 111), retain=np.arange(111, 150))


def test_shuffled_is_a_permutation_of_the_members_that_differs_by_key():
  rows = rows_of(range(3, 12))
  orders = [np.asarray(rows.shuffled(jax.random.key(i)).rows[:9]) for i in range(2)]
  for order in orders:
    np.testing.assert_array_equal(np.sort(order), np.arange(3, 12))
    assert (order != np.arange(3, 12)).any()
  assert (orders[0] != orders[1]).any()


@pytest.mark.parametrize("forget", [1, 5, 8, 9])
@pytest.mark.parametrize("passes", ["retain", "forget", "union", Alternate(1)])
def test_an_epoch_meets_each_example_of_its_sets_once(passes, forget):
  batch_size, key = 4, jax.random.key(1)
  s, r = rows_of(range(forget)).shuffled(key), rows_of(range(forget, 20)).shuffled(key)
  walk = walk_over(passes, batch_size, (forget, 20 - forget))
  met = {"forget": [], "retain": []}
  for step in range(int(walk.num_steps(s.count, r.count, 0))):
    for name, batch in zip(met, walk.at_step(Sets(s, r), 0, step), strict=True):
      assert len(batch.labels) <= 2 * batch_size + 8
      met[name].extend(np.asarray(batch.labels)[np.asarray(batch.mask)].tolist())
  if passes != "forget":
    assert sorted(met["retain"]) == list(range(forget, 20))
  if passes != "retain":
    assert sorted(met["forget"]) == list(range(forget))
  assert set(met["forget"]) <= set(range(forget))
  assert set(met["retain"]) <= set(range(forget, 20))


@pytest.mark.parametrize("forget", [3, 5, 8, 9])
@pytest.mark.parametrize("passes", ["retain", "forget", "union", Alternate(1)])
def test_even_batches_meet_each_example_once_and_pad_with_the_next(passes, forget):
  """Pads are members of the set that the batch does not hold, as far as there are any."""
  batch_size, key = 4, jax.random.key(1)
  s, r = rows_of(range(forget)).shuffled(key), rows_of(range(forget, 20)).shuffled(key)
  walk = walk_over(passes, batch_size, (forget, 20 - forget), multiple=2, even=True)
  met, least, sums = {"forget": [], "retain": []}, {"forget": 9, "retain": 9}, []
  for step in range(int(walk.num_steps(s.count, r.count, 0))):
    pair = walk.at_step(Sets(s, r), 0, jnp.int32(step))
    sums.append(sum(int(batch.mask.sum()) for batch in pair))
    for (name, rows), batch in zip({"forget": s, "retain": r}.items(), pair, strict=True):
      members = set(np.asarray(rows.rows[: rows.count]).tolist())
      labels, mask = np.asarray(batch.labels), np.asarray(batch.mask)
      assert set(labels.tolist()) <= members
      if len(members) >= len(labels):
        assert len(set(labels.tolist())) == len(labels)
      met[name].extend(labels[mask].tolist())
      if mask.any():
        least[name] = min(least[name], mask.sum())
  if passes != "forget":
    assert sorted(met["retain"]) == list(range(forget, 20))
  if passes != "retain":
    assert sorted(met["forget"]) == list(range(forget))
  if passes == "union":
    assert (min(sums), max(sums)) == (4, 4)  # 20 in 5 steps
  else:
    assert least["retain"] >= 2
    assert least["forget"] >= min(2, forget)


def test_union_counts_do_not_overflow():
  """step × |R| would, from about 740,000 examples on."""
  rows = Examples(jnp.zeros((1, 1)), jnp.zeros(1, int), jnp.zeros(8, int), jnp.int32(1_200_000))
  few = rows._replace(count=jnp.int32(80_000))
  walk = walk_over("union", 256, (80_000, 1_200_000))
  steps = int(walk.num_steps(few.count, rows.count, 0))
  for step in (0, steps // 2, steps - 1):
    forget, retain = walk.at_step(Sets(few, rows), 0, jnp.int32(step))
    assert int(forget.mask.sum()) in (15, 16)
    assert int(retain.mask.sum()) in (239, 240, 241)


def test_forget_batches_are_cycled_beside_retain():
  s, r = rows_of(range(5)), rows_of(range(5, 20))
  walk = walk_over("retain", 4, (5, 15))
  seen = [int(walk.at_step(Sets(s, r), 0, step)[0].mask.sum()) for step in range(4)]
  assert seen == [4, 1, 4, 1]


def test_alternate_passes_over_forget_first_and_only_in_its_epochs():
  s, r, passes = rows_of(range(5)), rows_of(range(5, 20)), Alternate(2)
  walk = walk_over(passes, 4, (5, 15))
  for epoch, expected in ((0, [4, 1, 0, 0, 0, 0]), (1, [4, 1, 0, 0, 0, 0]), (2, [0, 0, 0, 0])):
    steps = int(walk.num_steps(s.count, r.count, epoch))
    pairs = [walk.at_step(Sets(s, r), epoch, step) for step in range(steps)]
    assert [int(forget.mask.sum()) for forget, _ in pairs] == expected
    assert sum(int(retain.mask.sum()) for _, retain in pairs) == 15
    assert not any(int(a.mask.sum()) * int(b.mask.sum()) for a, b in pairs)


@pytest.mark.rounding
def test_retrain_is_fit_on_retain_bit_for_bit(problem):
  data, _, split = problem
  recipe = train.Recipe(models.mlp((5,), 3), epochs=3, batch_size=8)
  a = unlearn.retrain(recipe, data, split, jax.random.key(3)).network
  b = train.fit(recipe, data.take(split.retain), jax.random.key(3)).network
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(x, y)


class SmallBatchNorm(nn.Module):
  """Convolution, BatchNorm, head: the least that has statistics."""

  @nn.compact
  def __call__(self, x, train=False, mask=None):
    x = models.Conv(4, use_bias=False)(x)
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
    x = nn.relu(norm(x, mask=None if mask is None else mask[:, None, None, None]))
    return nn.Dense(3)(x.mean((1, 2)))


ALGORITHMS = {
  "fine_tune": unlearn.fine_tune(0.05),
  "neg_grad": unlearn.neg_grad(0.01),
  "neg_grad_plus": unlearn.neg_grad_plus(0.05),
  "random_label": unlearn.random_label(0.05),
  "salun": unlearn.salun(0.05),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_result_does_not_depend_on_order_of_ids_or_on_what_padding_holds(problem, name):
  data, params, split = problem
  key = jax.random.key(4)
  first = unlearn.run(ALGORITHMS[name], params, data, split, key, epochs=2, batch_size=7)
  turned = dataclasses.replace(split, forget=split.forget[::-1], retain=split.retain[::-1])
  second = unlearn.run(ALGORITHMS[name], params, data, turned, key, epochs=2, batch_size=7)
  for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(x, y)
  moved = max(
    float(jnp.abs(x - y).max())
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(params), strict=True)
  )
  assert moved > 1e-5


@pytest.mark.parametrize("name", ALGORITHMS)
def test_masked_rows_of_a_batch_change_nothing_even_nan(problem, name):
  """BatchNorm included: what padding rows hold is never seen."""
  algorithm = ALGORITHMS[name]
  rng = np.random.default_rng(1)
  params = models.init(SmallBatchNorm(), jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.float32))
  images = jnp.asarray(rng.normal(size=(12, 8, 8, 3)), jnp.float32)
  labels = jnp.asarray(rng.integers(0, 3, 12))
  mask = jnp.array([True] * 4 + [False] * 2)
  data = Examples(images, labels, jnp.arange(0), 0).subset(np.arange(6), 12)
  session = unlearn.Session(data, data, 1, 6, jax.random.key(2))
  state = algorithm.init(params, session)

  def updated(padding):
    batches = [
      unlearn.Batch(jnp.where(mask[:, None, None, None], part, padding), y, mask, at)
      for part, y, at in (
        (images[:6], labels[:6], jnp.arange(6)),
        (images[6:], labels[6:], jnp.arange(6, 12)),
      )
    ]
    return algorithm.update(*batches, state, params, jax.random.key(3))[0]

  update = jax.jit(updated)
  clean, dirty = update(0.0), update(jnp.nan)
  for x, y in zip(jax.tree.leaves(clean), jax.tree.leaves(dirty), strict=True):
    np.testing.assert_array_equal(x, y)
  assert any(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(clean.state))


def test_updates_are_increments_for_optax(problem):
  data, params, split = problem
  algorithm = unlearn.fine_tune(0.1, momentum=0.0, weight_decay=0.0)
  inputs, labels = data.take(split.retain).batch()
  batch = unlearn.Batch(inputs, labels, jnp.ones(len(labels), bool), jnp.arange(len(labels)))
  updates, _ = algorithm.update(
    batch, batch, algorithm.init(params, session_of(data)), params, jax.random.key(0)
  )
  new = optax.apply_updates(params, updates)
  from jaxmul.losses import cross_entropy

  gradient = jax.grad(lambda p: cross_entropy(params.replace(params=p)(inputs), labels).mean())(
    params.params
  )
  expected = jax.tree.map(lambda p, g: p - 0.1 * g, params.params, gradient)
  chex.assert_trees_all_close(new.params, expected, rtol=1e-7, atol=1e-6)


def test_one_trace_serves_equal_algorithms_and_sets_of_similar_size(problem):
  data, params, _ = problem

  @chex.assert_max_traces(n=1)
  def update(forget, retain, state, params, key):
    del forget, retain, key
    return jax.tree.map(jnp.zeros_like, params), state

  @unlearn.algorithm
  def still():
    return unlearn.Unlearner(lambda params, session: (), update)

  for first in (108, 106, 103):
    split = Split(forget=np.arange(100, first), retain=np.arange(first, 150))
    unlearn.run(still(), params, data, split, jax.random.key(0), epochs=2, batch_size=16)


TRACED = []  # of a module: what a function closes over tells its programs apart


def test_all_rates_of_an_algorithm_share_a_program_and_another_setting_does_not(problem):
  data, params, split = problem
  TRACED.clear()

  @unlearn.algorithm
  def descent(rate, factor=1.0):
    def objective(network, turn, _):
      TRACED.append(factor)
      risk, network = unlearn.batch_risk(network, turn.retain, turn.key)
      return factor * risk, network

    return unlearn.descend(objective, sgd(rate))

  def run(*settings):
    made = descent(*settings)
    key = jax.random.key(0)
    return unlearn.run(made, params, data, split, key, epochs=2, batch_size=16)

  fast = run(0.1)
  first = len(TRACED)
  slow = run(0.01)
  assert len(TRACED) == first > 0
  doubled = run(0.1, 2.0)
  assert set(TRACED[first:]) == {2.0}
  assert descent(0.1) != descent(0.01)
  jax.clear_caches()
  for kept, settings in ((slow, (0.01,)), (doubled, (0.1, 2.0))):
    alone = run(*settings)
    for ours, theirs in zip(jax.tree.leaves(kept), jax.tree.leaves(alone), strict=True):
      np.testing.assert_array_equal(ours, theirs)
  moved = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), slow, fast))
  assert max(moved) > 0


def test_divergence_stops_and_keeps_the_last_good_params(problem):
  data, params, split = problem
  with pytest.raises(unlearn.Diverged) as caught:
    unlearn.run(
      unlearn.neg_grad(1e30), params, data, split, jax.random.key(0), epochs=5, batch_size=4
    )
  assert "\n" not in str(caught.value)
  assert "Lower" in str(caught.value)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.network))


def check_what_is_kept(problem, algorithm):
  """An algorithm that diverges in its third epoch leaves what a run of two leaves, bit for bit."""
  data, params, split = problem
  with pytest.raises(unlearn.Diverged, match="epoch 3 of 4") as caught:
    unlearn.run(algorithm, params, data, split, jax.random.key(0), epochs=4, batch_size=8)
  before = unlearn.run(algorithm, params, data, split, jax.random.key(0), epochs=2, batch_size=8)
  kept = jax.tree.leaves(caught.value.network)
  for x, y in zip(kept, jax.tree.leaves(before), strict=True):
    np.testing.assert_array_equal(x, y)


def test_divergence_keeps_the_epoch_before_bit_for_bit(problem):
  good = unlearn.fine_tune(0.05)

  def update(forget, retain, state, params, key):
    assert good.update is not None
    updates, state = good.update(forget, retain, state, params, key)
    broken = jnp.where(state.clock.epoch == 2, jnp.nan, 1.0)
    return jax.tree.map(lambda leaf: broken * leaf, updates), state

  check_what_is_kept(problem, dataclasses.replace(good, update=update))


def test_what_finish_makes_of_the_state_is_the_last_good_too(problem):
  """A mean of the params so far, as some algorithms return, must not hold those that diverged."""

  def update(forget, retain, state, params, key):
    broken = jnp.where(state[1] >= 2, jnp.nan, 0.1)
    updates = jax.tree.map(lambda leaf: broken * jnp.ones_like(leaf), params)
    mean = jax.tree.map(lambda mean, leaf: (mean + leaf + broken) / 2, state[0], params.params)
    return updates, (mean, state[1])

  algorithm = unlearn.Unlearner(
    lambda params, session: (params.params, jnp.int32(0)),
    update,
    tick=lambda state, clock: (state[0], clock.epoch),
    finish=lambda params, state: params.replace(params=state[0]),
  )
  check_what_is_kept(problem, algorithm)


def centred(params, state, inputs, key, mask):
  """BatchNorm without a variance: its statistics do not depend on the params."""
  del key
  mean = jnp.sum(jnp.where(mask[:, None], inputs, 0), 0) / mask.sum()
  moved = 0.9 * state["batch_stats"] + 0.1 * mean
  return (inputs - mean) @ params, {"batch_stats": moved}


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False, mask=None):
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
    return nn.Dense(3)(norm(x, mask=None if mask is None else mask[:, None]))


def test_sharpness_of_an_empty_batch_is_none(problem):
  """In the steps of SCRUB over S there is no batch of R: `sam` is SCRUB there, and never NaN."""
  data, _, split = problem
  params = models.init(Normed(), jax.random.key(0), data.inputs[:1])
  session = session_of(data)
  inputs, labels = data.batch()
  some = unlearn.Batch(inputs, labels, jnp.arange(50) < 40, jnp.arange(50))
  none = some._replace(mask=jnp.zeros(50, bool))
  # At the original itself the divergence from it has no gradient.
  moved = jax.tree.map(lambda leaf: leaf + 0.1, params.params)
  plain, sharp = unlearn.scrub(0.1), unlearn.sam(unlearn.scrub(0.1), rho=1.0)
  state, params = plain.init(params, session), params.replace(params=moved)
  first, second = (
    jax.jit(each.update)(some, none, state, params, jax.random.key(0))[0] for each in (plain, sharp)
  )
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 0, 1e-6), first, second)
  assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(first.params)) > 1e-4
  first, second = (
    jax.jit(each.update)(none, some, state, params, jax.random.key(0))[0] for each in (plain, sharp)
  )
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 0, 1e-6), first.state, second.state)
  assert np.abs(first.params["Dense_0"]["kernel"] - second.params["Dense_0"]["kernel"]).max() > 1e-4
  given = (params, data, split, jax.random.key(0))
  after = unlearn.run(unlearn.sam(unlearn.scrub(msteps=1)), *given, epochs=2, batch_size=8)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


def test_one_row_is_no_statistic(problem):
  data, _, _ = problem
  params = models.init(Normed(), jax.random.key(0), data.inputs[:1])
  lone = Split(forget=np.array([100]), retain=np.arange(101, 150))
  given = (params, data, lone, jax.random.key(0))
  for algorithm in (unlearn.neg_grad(), unlearn.scrub()):
    with pytest.raises(ValueError, match=r"batch of 1 example.*freeze_statistics=True") as caught:
      unlearn.run(algorithm, *given, epochs=1, batch_size=8)
    assert "\n" not in str(caught.value)
    assert unlearn.run(algorithm, *given, epochs=1, batch_size=8, freeze_statistics=True)
  assert unlearn.run(unlearn.fine_tune(), *given, epochs=1, batch_size=8)  # 49 are enough


def test_training_in_evaluation_mode_is_said_once(problem):
  data, _, split = problem
  state = {"mean": jnp.zeros(6)}
  params = bind(lambda v, x: (x - v["mean"]) @ v["params"], jnp.zeros((6, 3)), state)
  given = (params, data, split, jax.random.key(0))
  says = r"unlearn\.run: the network has \['mean'\].*train_fn=, or say freeze_statistics=True\."
  with pytest.warns(UserWarning, match=says) as caught:
    unlearn.run(unlearn.fine_tune(), *given, epochs=1, batch_size=8)
  assert len(caught) == 1
  assert "\n" not in str(caught[0].message)
  unlearn.run(unlearn.fine_tune(), *given, epochs=1, batch_size=8, freeze_statistics=True)
  unlearn.run(unlearn.fisher(), *given, epochs=1)  # makes no steps


@pytest.mark.parametrize("algorithm", [unlearn.fine_tune(), unlearn.random_label()])
def test_what_mixes_examples_sees_other_real_ones_where_nothing_counts(problem, algorithm):
  """39 of R in batches of 16 are 3 of 13, in room for 16; with 2 or 3 of S, which stand in 8."""
  data, _, split = problem

  def train_fn(params, state, inputs, key, mask):
    del state, key
    return (inputs - inputs.mean(0)) @ params, {"inputs": inputs, "mask": mask}

  rows = 16 if algorithm.passes == "retain" else 8 + 16
  seen = {"inputs": jnp.zeros((rows, 6)), "mask": jnp.zeros(rows, bool)}
  params = bind(lambda v, x: x @ v["params"], jnp.zeros((6, 3)), seen, train_fn)
  given = (params, data, split, jax.random.key(0))
  state = unlearn.run(algorithm, *given, epochs=1, batch_size=16).state
  inputs = state["inputs"]  # increments and sums of floats: within rounding
  distance = np.abs(np.asarray(inputs)[:, None] - data.inputs).max(-1)
  assert distance.min(1).max() < 1e-5
  assert set(distance.argmin(1)[-16:]) <= set(range(11, 50))
  assert len(set(distance.argmin(1))) == rows
  assert state["mask"].sum() == (13 if algorithm.passes == "retain" else 2 + 10)


def test_state_of_any_dtype_is_carried(problem):
  """A first-time flag, as Equinox's BatchNorm has, and a counter."""
  data, _, split = problem

  def train_fn(params, state, inputs, key, mask):
    del key, mask
    return inputs @ params, {"first": jnp.zeros((), bool), "steps": state["steps"] + 1}

  state = {"first": jnp.ones((), bool), "steps": jnp.uint32(3)}
  params = bind(lambda v, x: x @ v["params"], jnp.zeros((6, 3)), state, train_fn)
  given = (params, data, split, jax.random.key(0))
  after = unlearn.run(unlearn.fine_tune(), *given, epochs=2, batch_size=8)
  assert (bool(after.state["first"]), int(after.state["steps"])) == (False, 3 + 2 * 5)
  assert after.state["steps"].dtype == jnp.uint32


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize(
  "algorithm", [unlearn.fine_tune(), unlearn.neg_grad_plus(), unlearn.scrub(msteps=1)]
)
def test_statistics_follow_a_pass_over_retain_alone_or_stay_frozen(problem, algorithm, freeze):
  data, _, split = problem
  state = {"batch_stats": jnp.full(6, 0.5)}
  params = bind(
    lambda v, x: (x - v["batch_stats"]) @ v["params"], jnp.zeros((6, 3)), state, centred
  )
  after = unlearn.run(
    *(algorithm, params, data, split, jax.random.key(0)),
    epochs=1,
    batch_size=40,
    freeze_statistics=freeze,
  )
  mean = data.take(split.retain).inputs.mean(0)
  expected = state["batch_stats"] if freeze else 0.9 * 0.5 + 0.1 * mean
  np.testing.assert_allclose(after.state["batch_stats"], expected, rtol=0 if freeze else 1e-5)
  assert after.train_fn is centred


def test_one_device_that_is_given_is_the_one_used(problem):
  data, params, split = problem
  device = jax.devices()[3]
  for algorithm in (unlearn.fine_tune(), unlearn.fisher()):
    after = unlearn.run(
      *(algorithm, params, data, split, jax.random.key(0)),
      epochs=1,
      batch_size=8,
      devices=[device],
    )
    assert {leaf.device for leaf in jax.tree.leaves(after)} == {device}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"epochs": 1.5}, "epochs=1.5, must be an integer of at least 1"),
    ({"devices": []}, r"devices=\[\], must be at least one. Use jax.devices\(\)"),
    ({"epochs": 0}, "epochs=0, must be an integer of at least 1"),
    ({"batch_size": 0}, "batch_size=0, must be an integer of at least 1"),
    ({"split": Split(forget=np.array([7]), retain=np.array([100]))}, "id 7 is not in the data"),
    ({"unlearner": unlearn.fine_tune}, r"Call it: fine_tune\(\.\.\.\)"),
    ({"network": models.mlp((4,), 3)}, r"got a MLP, a module without params.*models\.init"),
    ({"network": {"w": 1.0}}, r"dict with keys \['w'\], not callable.*jaxmul\.bind"),
  ],
)
def test_bad_input_gets_one_line(problem, change, message):
  data, params, split = problem
  given = {"unlearner": unlearn.fine_tune(), "network": params, "dataset": data, "split": split}
  given |= {"epochs": 1, "batch_size": 4, "key": jax.random.key(0)} | change
  with pytest.raises(ValueError, match=message) as caught:
    unlearn.run(**given)
  assert "\n" not in str(caught.value)


def test_passes_that_do_not_exist_are_refused():
  with pytest.raises(ValueError, match="passes='Retain', must be 'retain'") as caught:
    unlearn.Unlearner(lambda params, session: (), None, passes="Retain")  # pyright: ignore
  assert "\n" not in str(caught.value)


def test_raw_variables_with_batch_stats_are_refused(problem):
  data, _, split = problem
  raw = {"params": {}, "batch_stats": {}}
  with pytest.raises(ValueError, match=r"state=\{'batch_stats'"):
    unlearn.run(
      unlearn.fine_tune(),
      bind(lambda p, x: x, raw),
      data,
      split,
      jax.random.key(0),
      epochs=1,
    )


def test_devices_that_do_not_divide_a_batch_are_refused(problem):
  data, params, split = problem
  with pytest.raises(ValueError, match=r"batch_size=7 for 8 devices.*Use 8") as caught:
    unlearn.run(
      unlearn.fine_tune(),
      params,
      data,
      split,
      jax.random.key(0),
      epochs=1,
      batch_size=7,
      devices=jax.devices(),
    )
  assert "\n" not in str(caught.value)


def test_a_run_ends_after_the_epoch_that_is_good_enough(problem):
  data, network, split = problem
  key, algorithm = jax.random.key(3), unlearn.neg_grad(0.05)
  seen = []

  def is_enough(now):
    seen.append(now.params)
    return len(seen) == 2

  stopped = unlearn.run(algorithm, network, data, split, key, epochs=5, stop=is_enough)
  assert len(seen) == 2
  jax.tree.map(np.testing.assert_array_equal, stopped.params, seen[-1])
  two = unlearn.run(algorithm, network, data, split, key, epochs=2)
  jax.tree.map(np.testing.assert_array_equal, stopped.params, two.params)
  never = unlearn.run(algorithm, network, data, split, key, epochs=3, stop=lambda now: False)
  three = unlearn.run(algorithm, network, data, split, key, epochs=3)
  jax.tree.map(np.testing.assert_array_equal, never.params, three.params)
  with pytest.raises(ValueError, match=r"\Aunlearn.run got stop=3, must be a function"):
    unlearn.run(algorithm, network, data, split, key, epochs=2, stop=3)


def test_what_is_asked_is_the_network_that_would_be_returned(problem):
  """After `finish`: of task_vector it is not the one that was tuned."""
  data, network, split = problem
  asked = []
  done = unlearn.run(
    *(unlearn.task_vector(0.01), network, data, split, jax.random.key(3)),
    epochs=2,
    stop=lambda now: asked.append(now),
  )
  jax.tree.map(np.testing.assert_array_equal, done.params, asked[-1].params)
  assert len(asked) == 2
