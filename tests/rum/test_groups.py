"""RUM: who goes into which group, and what each step may keep."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmul import bind, data, memorization, rum, unlearn
from jaxmul.data import Dataset

SCORES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=6, max_size=40)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.integers(1, 5), st.randoms(use_true_random=False))
def test_refine_partitions_by_score_whatever_the_order(scores, num_groups, random):
  ids = np.arange(len(scores)) * 3 + 1
  groups = rum.refine(scores, ids, num_groups=num_groups)
  assert sorted(np.concatenate(groups).tolist()) == ids.tolist()
  assert max(map(len, groups)) - min(map(len, groups)) <= 1
  by_id = dict(zip(ids.tolist(), scores, strict=True))
  for low, high in itertools.pairwise(groups):
    assert max(by_id[i] for i in low.tolist()) <= min(by_id[i] for i in high.tolist())
  order = list(range(len(ids)))
  random.shuffle(order)
  again = rum.refine(np.asarray(scores)[order], ids[order], num_groups=num_groups)
  for a, b in zip(groups, again, strict=True):
    np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=60)
@given(SCORES, st.sampled_from([0.5, "median", "midrange"]), st.randoms(use_true_random=False))
def test_select_is_disjoint_and_does_not_depend_on_order(scores, centre, random):
  ids = np.arange(len(scores)) + 10
  size = len(scores) // 3
  chosen = rum.select(scores, ids, size=size, centre=centre)
  assert [len(set(group.tolist())) for group in chosen] == [size] * 3
  assert len(set(np.concatenate(chosen).tolist())) == 3 * size
  order = list(range(len(ids)))
  random.shuffle(order)
  again = rum.select(np.asarray(scores)[order], ids[order], size=size, centre=centre)
  for a, b in zip(chosen, again, strict=True):
    np.testing.assert_array_equal(a, b)


def test_select_by_hand():
  ids = np.array([50, 40, 30, 20, 10, 60, 70])
  scores = np.array([0.99, 1.0, 0.98, 0.01, 0.0, 0.45, 0.9])
  chosen = rum.select(scores, ids, size=2)
  assert chosen.high.tolist() == [40, 50]
  assert chosen.low.tolist() == [10, 20]
  assert chosen.medium.tolist() == [60, 70]  # |0.45 − ½| and |0.9 − ½| before |0.98 − ½|


def test_equal_scores_go_by_soft_and_never_by_id():
  ids = np.arange(1000, 1090)
  labels = np.repeat(np.arange(9), 10)  # sorted by class, as image folders are
  soft = np.where(labels == 4, -0.2, np.where(labels == 6, 0.7, 0.0))
  chosen = rum.select(np.zeros(90), ids, size=10, soft=soft)
  assert set(labels[chosen.low - 1000]) == {4}
  assert set(labels[chosen.high - 1000]) == {6}
  low, high = rum.refine(np.zeros(90), ids, num_groups=2, soft=-soft)
  assert set(labels[low - 1000]) >= {6}
  assert set(labels[high - 1000]) >= {4}
  noise = 1e-4 * labels  # below what models can tell: no order at all
  for groups in (rum.select(np.zeros(90), ids, size=10, soft=noise), rum.refine(np.zeros(90), ids)):
    for group in groups:
      assert len(set(labels[group - 1000])) >= 5
  assert (
    rum.select(np.zeros(90), ids, size=10).low.tolist()
    != rum.select(np.zeros(90), ids, size=10, ties=1).low.tolist()
  )


TRUTH = Path(__file__).parents[2] / "experiments" / "truths" / "mnist5k_mlp.npz"


@pytest.fixture(scope="module")
def digits():
  """Real digits, sorted by class, with their ground truth, of which most is exactly 0."""
  estimate, dataset = memorization.Estimate.load(TRUTH), data.mnist5k()
  assert np.mean(estimate.memorization == 0) > 0.8
  assert (np.diff(dataset.labels) >= 0).all()
  return estimate, dataset.labels[dataset.rows(estimate.ids)]


def chosen_by(estimate, rows, ids):
  """The groups of a selection and of a refinement, of examples that stand in these rows."""
  scores, soft = estimate.memorization[rows], estimate.soft[rows]
  events = np.round(scores * 9) / 9  # as coarse as the correctness of ten epochs
  return [
    *rum.select(scores, ids, size=80, soft=soft),
    *rum.refine(scores, ids, soft=soft),
    *rum.refine(events, ids),
  ]


def test_the_low_group_has_the_class_mix_of_its_score_level(digits):
  from scipy.stats import chisquare

  estimate, labels = digits
  zero = np.bincount(labels[estimate.memorization == 0], minlength=10)
  every = np.arange(len(labels))
  rng = np.random.default_rng(0)
  selected = rum.select(estimate.memorization, estimate.ids, size=80, soft=estimate.soft)
  for name, groups in {
    "select": selected,
    "refine": rum.refine(estimate.memorization, estimate.ids, soft=estimate.soft, num_groups=9),
    "a discrete proxy": rum.refine(np.ceil(estimate.memorization), estimate.ids, num_groups=9),
    "the forget set": rum.refine(
      np.zeros(240), np.sort(rng.choice(estimate.ids, 240, replace=False))
    ),
  }.items():
    low = np.isin(estimate.ids, groups[0])
    assert (estimate.memorization[low] == 0).all() or name == "the forget set"
    counts = np.bincount(labels[low], minlength=10)
    assert chisquare(counts, zero / zero.sum() * counts.sum()).pvalue > 0.05, (name, counts)
  # What the ids would have chosen is one digit: the test sees it.
  by_id = labels[every[estimate.memorization == 0][:80]]
  assert chisquare(np.bincount(by_id, minlength=10), zero / zero.sum() * 80).pvalue < 1e-30


def test_groups_are_the_same_however_the_data_are_sorted(digits):
  estimate, labels = digits
  plain = chosen_by(estimate, np.arange(len(labels)), estimate.ids)
  rng = np.random.default_rng(0)
  for rows in (
    np.argsort(labels, kind="stable"),
    np.argsort(-labels, kind="stable"),
    rng.permutation(len(labels)),
  ):
    again = chosen_by(estimate, rows, estimate.ids[rows])
    for a, b in zip(plain, again, strict=True):
      np.testing.assert_array_equal(a, b)


def test_class_counts_say_who_is_in_a_group():
  dataset = data.Dataset(np.zeros((4, 1)), np.array([2, 0, 2, 1]), np.array([9, 8, 7, 6]))
  counts = rum.class_counts([np.array([9, 7]), np.array([6])], dataset)
  np.testing.assert_array_equal(counts, [[0, 0, 2], [0, 1, 0]])
  with pytest.raises(ValueError, match="id 5 is not in the data"):
    rum.class_counts([np.array([5])], dataset)


def test_shuffle_depends_on_the_key_only():
  ids = np.arange(30)
  a = rum.shuffle(ids, jax.random.key(0))
  b = rum.shuffle(ids[::-1], jax.random.key(0))
  c = rum.shuffle(ids, jax.random.key(1))
  assert all((x == y).all() for x, y in zip(a, b, strict=True))
  assert any((x != y).any() for x, y in zip(a, c, strict=True))


def witness(log):
  """An unlearner that counts, in its params, how often each class is in the retain batches."""

  def update(forget, retain, state, params, key):
    del key
    seen = jnp.zeros(12).at[retain.labels].add(retain.mask.astype(float))
    gone = jnp.zeros(12).at[forget.labels].max(forget.mask.astype(float))
    return params.replace(params=jnp.stack([seen, gone])), state

  return unlearn.Unlearner(lambda params, session: (), update, identity=("witness", log))


def test_each_step_retains_everything_but_the_groups_so_far():
  """Labels name the examples, so that the batches themselves are the witness."""
  data = Dataset(np.zeros((12, 1), np.float32), np.arange(12), np.arange(12))
  groups = [np.array([0, 1]), np.array([5]), np.array([7, 8])]
  params = bind(lambda w, x: x @ w[:1], jnp.zeros((2, 12)))
  for steps in (1, 2, 3):
    plan = rum.Plan([rum.Step(witness("a"), epochs=1)] * steps)
    after = rum.meta_unlearn(plan, params, data, groups[:steps], jax.random.key(0))
    kept = np.zeros(12)
    for i in range(steps):
      kept[np.setdiff1d(np.arange(12), np.concatenate(groups[: i + 1]))] += 1
    np.testing.assert_array_equal(after.params[0], kept)


def test_none_leaves_a_group_as_it_is_but_out_of_retain():
  data = Dataset(np.zeros((12, 1), np.float32), np.arange(12), np.arange(12))
  params = bind(lambda w, x: x @ w[:1], jnp.zeros((2, 12)))
  groups = [np.array([0, 1]), np.array([5])]
  idle = rum.Plan([rum.Step(None), rum.Step(None)])
  assert rum.meta_unlearn(idle, params, data, groups, jax.random.key(0)) is params
  second = rum.Plan([rum.Step(None), rum.Step(witness("b"), epochs=1)])
  after = rum.meta_unlearn(second, params, data, groups, jax.random.key(0))
  assert np.flatnonzero(after.params[0] == 0).tolist() == [0, 1, 5]


def test_one_group_is_vanilla():
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20))
  params = bind(lambda w, x: x @ w, jnp.zeros((4, 3)))
  forget, key = np.arange(5), jax.random.key(2)
  plan = rum.Plan([rum.Step(unlearn.fine_tune(0.1), 2, 8)])
  refined = rum.meta_unlearn(plan, params, data, [forget], key)
  from jaxmul.data import Split

  split = Split(forget=forget, retain=np.arange(5, 20))
  vanilla = unlearn.run(
    unlearn.fine_tune(0.1), params, data, split, jax.random.fold_in(key, 0), epochs=2, batch_size=8
  )
  np.testing.assert_array_equal(refined.params, vanilla.params)


DATA = Dataset(np.zeros((6, 1), np.float32), np.arange(6))
NOTHING = bind(lambda w, x: x @ w, jnp.zeros((1, 6)))


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: rum.refine([0.1, np.nan], [1, 2]), "scores hold nan"),
    (lambda: rum.refine([0.1], [1, 2]), "join them by id"),
    (lambda: rum.refine([], []), "forget set is empty"),
    (lambda: rum.refine([0.1, 0.2], [1, 1], num_groups=1), "id 1 more than once"),
    (
      lambda: rum.refine([0.1, 0.2], [1, 2], num_groups=3),
      r"num_groups=3, must be an integer in \[1, 2\]",
    ),
    (lambda: rum.refine([0.1, 0.2], [1, 2], num_groups=1.5), "num_groups=1.5, must be an integer"),
    (lambda: rum.refine([0.1, 0.2], [1.5, 2.5]), "refine needs integer ids .*, got float64"),
    (lambda: rum.shuffle([1.5, 2.5], jax.random.key(0)), "shuffle needs integer ids"),
    (lambda: rum.clusters([[1.0]], [1.5], jax.random.key(0)), "clusters needs integer ids"),
    (lambda: rum.select([0.1] * 3, [1, 2, 3], size=1, centre=np.nan), "centre=nan"),
    (lambda: rum.select([0.1, 0.2], [1, 2], size=1), "three groups need 3 of 2"),
    (lambda: rum.select([0.1] * 3, [1, 2, 3], size=1, centre="mean"), "'median' or 'midrange'"),
    (lambda: rum.Plan([]), "at least one step"),
    (
      lambda: rum.meta_unlearn(
        rum.Plan([rum.Step(None)]), NOTHING, DATA, [[0], [1]], jax.random.key(0)
      ),
      "1 steps but there are 2 groups",
    ),
    (
      lambda: rum.meta_unlearn(
        rum.Plan([rum.Step(None)] * 2), NOTHING, DATA, [[0, 1], [1]], jax.random.key(0)
      ),
      "id 1 is in the groups more than once.*rum.refine",
    ),
    (
      lambda: rum.meta_unlearn(
        rum.Plan([rum.Step(None)]), NOTHING, DATA, [range(6)], jax.random.key(0)
      ),
      "is everything",
    ),
    (
      lambda: rum.meta_unlearn([rum.Step(None)], NOTHING, DATA, [[1]], jax.random.key(0)),
      r"got a list, must be a rum.Plan. Wrap the steps: rum.Plan\(steps\)",
    ),
    (
      lambda: rum.run(rum.Plan([rum.Step(None)]), NOTHING, DATA, [], jax.random.key(0)),
      "1 steps but there are 0 groups",
    ),
    (
      lambda: rum.run(
        rum.Plan([rum.Step(None)]), {"w": jnp.zeros((1, 6))}, DATA, [[1]], jax.random.key(0)
      ),
      r"params is a dict with keys \['w'\], not callable",
    ),
    (
      lambda: rum.tune(
        {"a": rum.Step(unlearn.neg_grad())}, NOTHING, DATA, [[1, 2], [2]], DATA, jax.random.key(0)
      ),
      "id 2 is in the groups more than once",
    ),
    (
      lambda: rum.tune(
        {"a": rum.Step(unlearn.neg_grad())}, NOTHING, DATA, [], DATA, jax.random.key(0)
      ),
      "there are no groups",
    ),
    (
      lambda: rum.tune({"a": unlearn.neg_grad()}, NOTHING, DATA, [[1]], DATA, jax.random.key(0)),
      "tune got an Unlearner, must be a rum.Step",
    ),
    (
      lambda: rum.meta_unlearn(rum.Plan([rum.Step(None)]), NOTHING, DATA, [[9]], jax.random.key(0)),
      "id 9 is not in the data",
    ),
  ],
)
def test_bad_input_gets_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
