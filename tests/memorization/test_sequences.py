"""Memorization of sequences: a plain loop over models, all subsets retrained, intervals that hold.

There are as many sequences as positions, so that a mask of examples that meets positions is seen.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import data, memorization, models, retraining, train
from jaxmul.memorization.scores import from_tallies
from jaxmul.memorization.welch_intervals import Sums, welch
from jaxmul.retraining.chunk import Outcome, arrays_of, outcome, tally, task_of

KEY = jax.random.key(3)
N = 6
RECIPE = train.Recipe(
  models.gpt(14, length=N, width=16, depth=1), epochs=12, batch_size=4, learning_rate=0.5
)


def sequences(starts, seed=0):
  """Sequences of T = 6 tokens, half of them noisy; one ends in padding that is not scored."""
  made = data.math_sequences(starts, jax.random.key(seed), noisy=3, length=N + 1, prompt=4).dataset
  labels = made.labels.copy()
  labels[1, 4:] = -1
  return data.Dataset(made.inputs, labels, made.ids * 3 + 2, num_classes=14)


TEXT = sequences(np.array([1, 3, 4, 6, 7, 9]))
TEST = sequences(np.array([2, 5, 8, 3]), 1)


def said(logits, labels):
  """Of one model, by a loop over texts: whether all is right, e^−ℓ, and the share that is right."""
  rows = []
  for z, y in zip(np.asarray(logits, float), labels, strict=True):
    z, y = z[y >= 0], y[y >= 0]
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    right = z.argmax(-1) == y
    rows.append((right.all(), np.exp(log_p[np.arange(len(y)), y].mean()), right.mean()))
  return np.array(rows, float)  # [n, 3]


def less_without(member, values):
  """Mean of values [M, t] under models with each example less that under those without, [t, n]."""
  columns = [values[m].mean(0) - values[~m].mean(0) for m in member.T]
  return np.stack(columns, axis=1)


def interval(inside, outside):
  """Welch's interval of two samples, as SciPy has it."""
  from scipy.stats import ttest_ind

  found = ttest_ind(inside, outside, equal_var=False).confidence_interval(0.95)
  return found.low, found.high


@pytest.fixture(scope="module")
def by_hand():
  """Members [M, n] of a schedule's models, and what each says, [M, n, 3] and of the test [M, t, 3].

  Each model is trained by itself, on its sequences alone.
  """
  schedule = retraining.leave_out(RECIPE, TEXT, KEY, num_models=12, chunk_size=5)
  member, of_text, of_test = [], [], []
  which = jax.jit(outcome, static_argnums=0)
  for model in range(12):
    inside = np.asarray(which(task_of(schedule), arrays_of(schedule), jnp.int32(model)).member)
    key = retraining.train_key(schedule, model)
    network = train.fit(RECIPE, TEXT, key, TEXT.ids[inside]).network
    member.append(inside)
    of_text.append(said(network(TEXT.batch()[0]), TEXT.labels))
    of_test.append(said(network(TEST.batch()[0]), TEST.labels))
  return np.stack(member), np.stack(of_text), np.stack(of_test)


def test_scores_and_their_intervals_equal_a_plain_loop(by_hand, tmp_path):
  member, values, _ = by_hand
  schedule = retraining.leave_out(RECIPE, TEXT, KEY, num_models=12, chunk_size=5)
  found = memorization.estimate(schedule, store=tmp_path / "store", executor=retraining.serial)
  np.testing.assert_array_equal(found.count_in, member.sum(0))
  wanted = [np.diag(less_without(member, values[..., kind])) for kind in range(3)]
  names = ("memorization", "soft", "token_accuracy")
  for name, want in zip(names, wanted, strict=True):
    np.testing.assert_allclose(getattr(found, name), want, atol=1e-5, err_msg=name)
    assert np.abs(want).max() > 0.1, name
  assert len(set(values[..., 2].ravel())) > 3  # some texts are right in part
  for kind, name in ((1, "soft"), (2, "token")):
    pairs = [(values[m, i, kind], values[~m, i, kind]) for i, m in enumerate(member.T)]
    varied = [i for i, (a, b) in enumerate(pairs) if min(a.std(), b.std()) > 1e-4]
    low, high = np.transpose([interval(*pairs[i]) for i in varied])
    np.testing.assert_allclose(getattr(found, f"{name}_low")[varied], low, atol=1e-4)
    np.testing.assert_allclose(getattr(found, f"{name}_high")[varied], high, atol=1e-4)
    assert len(varied) >= 2
  again = memorization.estimate(schedule, store=tmp_path / "store", executor=never)
  found.save(tmp_path / "truth.npz")
  read = memorization.Estimate.load(tmp_path / "truth.npz")
  for other in (again, read):
    np.testing.assert_equal(vars(other) | {"influence": None}, vars(found) | {"influence": None})


def never(schedule, chunks):
  assert not len(chunks)
  return iter(())


def test_influence_of_sequence_on_sequence_equals_a_plain_loop(by_hand):
  member, _, values = by_hand
  options = {"num_models": 12, "test": TEST}
  exact = memorization.estimate(
    retraining.leave_out(RECIPE, TEXT, KEY, **options), executor=retraining.serial
  )
  assert exact.influence is not None
  wanted = less_without(member, values[..., 0])
  np.testing.assert_allclose(exact.influence.block().value, wanted, atol=1e-6)
  assert np.abs(wanted).max() > 0.1
  for target, kind in (("correct", 0), ("confidence", 1)):
    schedule = retraining.leave_out(RECIPE, TEXT, KEY, target=target, **options)
    chosen = memorization.influence(schedule, TEXT.ids[[4, 0]], executor=retraining.serial)
    wanted = less_without(member[:, [4, 0]], values[..., kind])
    np.testing.assert_allclose(chosen.value, wanted, atol=1e-5)
    inside = member[:, 4]
    of_sides = [values[side, :, kind] for side in (inside, ~inside)]
    error = np.sqrt(sum(side.var(0, ddof=1) / len(side) for side in of_sides))
    np.testing.assert_allclose(chosen.stderr[:, 0], error, atol=1e-5)
  assert np.abs(wanted).max() > 0.05


def always_alike(examples, key):
  """A learner whose networks differ in their subsets alone."""
  del key
  return train.run(RECIPE, (), examples, KEY).network


@functools.cache
def every_subset():
  """Members [15, n] of all subsets without two sequences, and what networks of them say."""
  left = list(itertools.combinations(range(N), 2))
  member = np.array([[row not in out for row in range(N)] for out in left])
  networks = [train.fit(RECIPE, TEXT, KEY, TEXT.ids[inside]).network for inside in member]
  values = [said(network(TEXT.batch()[0]), TEXT.labels) for network in networks]
  return member, np.stack(values)


def of_two_left_out(num_models):
  return retraining.leave_out(always_alike, TEXT, KEY, num_models=num_models, fraction=4 / 6)


def test_estimates_equal_all_subsets_retrained():
  member, values = every_subset()
  truth = [np.diag(less_without(member, values[..., kind])) for kind in range(3)]
  found = memorization.estimate(of_two_left_out(150), executor=retraining.serial)
  sides = ((found.memorization, 0), (found.soft, 1), (found.token_accuracy, 2))
  for scores, kind in sides:
    within = [values[m, i, kind].var() / found.count_in[i] for i, m in enumerate(member.T)]
    without = [values[~m, i, kind].var() / found.count_out[i] for i, m in enumerate(member.T)]
    error = np.sqrt(np.add(within, without))
    assert (np.abs(scores - truth[kind]) <= 3.5 * error + 1e-5).all()
    assert np.abs(truth[kind]).max() > 0.1


@pytest.mark.parametrize("num_models", [40, 150])
def test_intervals_cover_what_all_subsets_give(num_models):
  """Models are drawn from all that there are, again and again, and tallied as if just trained."""
  member, values = every_subset()
  schedule, rng, covered = of_two_left_out(num_models), np.random.default_rng(0), []
  truth = [np.diag(less_without(member, values[..., kind])) for kind in range(3)]
  for _ in range(400):
    drawn = rng.integers(0, len(member), num_models)
    correct, p, accuracy = np.moveaxis(values[drawn], -1, 0)
    many = Outcome(
      member=member[drawn],
      correct=correct == 1,
      p=p,
      odds=p,
      accuracy=accuracy,
      test=np.zeros((num_models, 1), bool),
      finite=np.ones(num_models, bool),
    )
    found = from_tallies(schedule, tally(schedule, np.arange(num_models), many))
    covered.append(
      [
        (found.soft_low <= truth[1] + 1e-12) & (truth[1] <= found.soft_high + 1e-12),
        (found.token_low <= truth[2] + 1e-12) & (truth[2] <= found.token_high + 1e-12),
      ]
    )
  share = np.mean(covered, axis=(0, 2))
  assert (share >= 0.92).all()
  assert share[0] <= 0.98


NUMBERS = {  # of models with the example, and without it
  "sure of it, unsure without": lambda rng, size: (rng.beta(20, 1, size), rng.beta(2, 2, size)),
  "all or nothing": lambda rng, size: (rng.beta(0.5, 0.5, size), rng.beta(0.5, 0.5, size)),
  "rarely known": lambda rng, size: (rng.uniform(0.9, 1, size), rng.beta(0.3, 3, size)),
}
MEANS = (20 / 21 - 1 / 2, 0.0, 0.95 - 0.3 / 3.3)


@pytest.mark.parametrize(
  ("n_in", "n_out", "least"), [(28, 12, 0.865), (140, 60, 0.925), (280, 120, 0.933)]
)
def test_welch_covers_bounded_numbers_as_often_as_the_page_says(n_in, n_out, least):
  for (name, draw), truth in zip(NUMBERS.items(), MEANS, strict=True):
    pairs = draw(np.random.default_rng(0), (20_000, n_in))
    sides = [side[:, :n] for side, n in zip(pairs, (n_in, n_out), strict=True)]
    low, high = welch(*(Sums(np.array(x.shape[1]), x.sum(1), (x**2).sum(1)) for x in sides))
    covered = np.mean((low <= truth) & (truth <= high))
    assert least <= covered <= 0.965, (name, covered)


def test_what_has_no_interval_is_nan_and_what_never_differs_has_one_of_no_width():
  def sums(*numbers):
    x = np.array(numbers, float)
    return Sums(np.array(len(x)), x.sum(), (x**2).sum())

  some = sums(0.2, 0.4)
  for few in (sums(), sums(0.5)):
    assert np.isnan(welch(some, few)).all()
    assert np.isnan(welch(few, some)).all()
  assert welch(sums(1, 1, 1), sums(0.5, 0.5)) == (0.5, 0.5)
  tiny = welch(sums(0, 2e-100), sums(0, 1e-100, 3e-100))
  np.testing.assert_allclose(np.array(tiny) * 1e100, interval([0, 2], [0, 1, 3]), rtol=1e-6)
  rest = Sums(np.array(0), np.array(1e-17), np.array(1e-17))  # what rounding leaves of nothing
  assert np.isnan(welch(some, rest)).all()


def test_with_one_label_an_example_there_is_no_accuracy_of_tokens():
  rng = np.random.default_rng(0)
  images = data.Dataset(rng.normal(size=(8, 3)).astype(np.float32), np.arange(8) % 2)
  recipe = train.Recipe(models.mlp((4,), 2), epochs=2, batch_size=4)
  schedule = retraining.leave_out(recipe, images, KEY, num_models=24)
  found = memorization.estimate(schedule, executor=retraining.serial)
  for name in ("token_accuracy", "token_low", "token_high"):
    assert np.isnan(getattr(found, name)).all()
  assert (found.soft_low < found.soft).all()
  assert (found.soft < found.soft_high).all()
