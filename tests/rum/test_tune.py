"""The surrogate, worked by hand: a network is a table of probabilities of the true label."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import _progress, bind, memorization, models, rum, train, unlearn
from jaxmul.data import Dataset, Split

# S is ids 0-3, three of class 0 and one of class 1; R is 4-7; H is 8-11, one of class 0.
LABELS = np.array([0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
ALL = Dataset(np.eye(12, dtype=np.float32), LABELS)
TRAINING, HELDOUT = ALL.take(range(8)), ALL.take(range(8, 12))
SPLIT = Split(forget=np.arange(4), retain=np.arange(4, 8))
RIGHT, WRONG = [0.9] * 4, [0.9, 0.1, 0.1, 0.1]  # R: all right, a quarter right


def table(w, x):
  return x @ w


def network(forget, retain, heldout):
  confidence = np.array([*forget, *retain, *heldout])
  of_0 = np.where(LABELS == 0, confidence, 1 - confidence)
  return bind(table, jnp.log(jnp.stack([of_0, 1 - of_0], axis=1)))


ORIGINAL = network([0.9] * 4, RIGHT, [0.9] * 4)


@pytest.mark.parametrize(
  ("forget", "retain", "heldout", "expected"),
  [
    # S and H agree, class by class; were H not weighted to S's classes, W1 would be ½ · 0.3.
    ([0.6, 0.6, 0.6, 0.9], RIGHT, [0.6, 0.9, 0.9, 0.9], 1.0),
    ([0.8, 0.8, 0.8, 0.9], RIGHT, [0.6, 0.9, 0.9, 0.9], 1 - 3 / 4 * 0.2),
    # S and H agree, but three of four in R are lost, or one of four in H.
    ([0.6, 0.6, 0.6, 0.9], WRONG, [0.6, 0.9, 0.9, 0.9], 1 / 4),
    ([0.4, 0.4, 0.4, 0.9], RIGHT, [0.4, 0.9, 0.9, 0.9], 3 / 4),
    ([0.4, 0.4, 0.4, 0.9], WRONG, [0.4, 0.9, 0.9, 0.9], 3 / 4 * 1 / 4),
  ],
)
def test_surrogate_by_hand(forget, retain, heldout, expected):
  after = network(forget, retain, heldout)
  found = rum.surrogate(after, ORIGINAL, TRAINING, SPLIT, HELDOUT)
  assert found == pytest.approx(expected, abs=1e-5)


def test_surrogate_does_not_reward_a_gain_of_accuracy():
  before = network([0.9] * 4, WRONG, [0.1] * 4)
  after = network([0.9] * 4, RIGHT, [0.9] * 4)
  found = rum.surrogate(after, before, TRAINING, SPLIT, HELDOUT)
  assert found == pytest.approx(1, abs=1e-5)


def test_surrogate_compares_a_class_without_heldout_examples_with_all_of_them():
  split = Split(forget=np.array([0]), retain=np.arange(4, 8))
  after = network([0.7] * 4, RIGHT, [0.9, 0.9, 0.7, 0.8])
  heldout = ALL.take([9, 10, 11])  # of class 1 alone
  found = rum.surrogate(after, ORIGINAL, TRAINING, split, heldout)
  assert found == pytest.approx(1 - (0.2 + 0 + 0.1) / 3, abs=1e-5)


def estimate_of(**columns):
  none = np.zeros(4)
  names = [field.name for field in dataclasses.fields(memorization.Estimate)][1:-2]
  return memorization.Estimate(**({"ids": np.arange(4)} | dict.fromkeys(names, none) | columns))


def test_surrogate_with_an_estimate_by_hand():
  """Networks without them say 0.5, 0.9, 0.1 of the first three; the fourth was never left out."""
  estimate = estimate_of(
    confidence_out=np.array([0.5, 0.9, 0.1, np.nan]), count_out=np.array([4, 1, 3, 0])
  )
  for forget, distance in (
    ([0.5, 0.9, 0.1, 0.3], 0),
    ([0.9] * 4, (0.4**2 + 0.8**2) / 3),
    # The same mean from the wrong examples is no longer as good.
    ([0.5, 0.1, 0.9, 0.3], 2 * 0.8**2 / 3),
  ):
    after = network(forget, WRONG, [0.4, 0.9, 0.9, 0.9])
    found = rum.surrogate(after, ORIGINAL, TRAINING, SPLIT, HELDOUT, estimate)
    assert found == pytest.approx((1 - distance) * 1 / 4 * 3 / 4, abs=1e-5)


def test_an_estimate_of_an_older_file_gives_the_share_of_networks_that_are_right():
  estimate = estimate_of(
    confidence_out=np.full(4, np.nan),
    correct_out=np.array([2, 1, 0, 0]),
    count_out=np.array([4, 1, 4, 2]),
  )
  after = network([0.5, 0.9, 0.1, 0.2], RIGHT, [0.9] * 4)
  found = rum.surrogate(after, ORIGINAL, TRAINING, SPLIT, HELDOUT, estimate)
  assert found == pytest.approx(1 - (0 + 0.1**2 + 0.1**2 + 0.2**2) / 4, abs=1e-5)


def test_noise_of_the_estimate_does_not_change_who_is_best():
  """One network an example: the square of the distance is least at the mean, in expectation."""
  rng = np.random.default_rng(0)
  true, n = rng.random(4000), 4000
  said = (rng.random(n) < true).astype(float)  # the noisiest there is
  candidates = {shift: np.clip(true + shift, 0, 1) for shift in (-0.2, -0.1, 0.0, 0.1, 0.2)}
  best = min(candidates, key=lambda shift: np.mean((candidates[shift] - said) ** 2))
  assert best == 0


def test_where_r_holds_nothing_of_a_class_heldout_examples_of_it_are_no_target():
  """S is all of class 1 in D: target 0, and H counts without the class, in both factors."""
  split = Split(forget=np.array([3, 5, 7]), retain=np.array([0, 1, 2, 4, 6]))
  after = network([0.9, 0.9, 0.9, 0.2], [0.9, 0.1, 0.9, 0.3], [0.9, 0.1, 0.1, 0.1])
  said = estimate_of(
    ids=np.arange(8), confidence_out=np.full(8, 0.9), count_out=np.ones(8), correct_out=np.ones(8)
  )
  by_estimate = rum.surrogate(after, ORIGINAL, TRAINING, split, HELDOUT, said)
  assert by_estimate == pytest.approx(1 - (0.2**2 + 0.1**2 + 0.3**2) / 3, abs=1e-5)
  by_heldout = rum.surrogate(after, ORIGINAL, TRAINING, split, HELDOUT)
  assert by_heldout == pytest.approx(1 - 0.2, abs=1e-5)
  # Of a class that is still there held-out examples count, and 0 for the other.
  both = Split(forget=np.array([0, 3, 5, 7]), retain=np.array([1, 2, 4, 6]))
  mixed = rum.surrogate(after, ORIGINAL, TRAINING, both, HELDOUT)
  assert mixed == pytest.approx(1 - (0.2 + 0.1 + 0.3 + 0) / 4, abs=1e-5)


@pytest.mark.filterwarnings("ignore:rum.tune")
@pytest.mark.parametrize("progress", [True, False])
def test_tune_says_which_trial_is_made(progress, monkeypatch, capsys):
  monkeypatch.setattr(_progress, "LINE_SECONDS", 0.0)  # a log gets a line for each
  steps = {name: rum.Step(unlearn.neg_grad(0.1), epochs=1) for name in ("slow", "fast")}
  groups = [np.array([0, 1]), np.array([2, 3])]
  tuned = rum.tune(steps, ORIGINAL, TRAINING, groups, HELDOUT, jax.random.key(0), progress=progress)
  assert len(tuned.trials) == 6
  said = [
    line.partition(",")[2] for line in capsys.readouterr().err.splitlines() if "tuning" in line
  ]
  assert [line.split(": ")[:2] for line in said] == progress * [
    [f" group {group} of 2", name] for group in (1, 2) for name in ("slow", "fast")
  ]


def test_candidates_are_in_units_of_the_recipes_own_rate():
  recipe = train.Recipe(models.mlp(), batch_size=32, learning_rate=0.02)
  found = rum.candidates(recipe)
  assert found["SalUn"] == rum.Step(unlearn.salun(0.02), 5, 32)
  assert found["SCRUB"].unlearner == unlearn.scrub(0.02)
  assert "ReGUn" not in found
  assert "ReGUn" in rum.candidates(recipe, HELDOUT)
  assert "ReGUn" not in rum.candidates(recipe, HELDOUT.take([9, 10, 11]))  # of class 1 alone
  assert max(step.epochs for step in found.values()) <= recipe.epochs / 2
  short = dataclasses.replace(recipe, epochs=3)
  assert {step.epochs for step in rum.candidates(short).values()} == {1}
  with pytest.raises(ValueError, match=r"candidates got recipe as an int, must be a Recipe"):
    rum.candidates(256)
  with pytest.raises(ValueError, match="no held-out examples"):
    rum.surrogate(ORIGINAL, ORIGINAL, TRAINING, SPLIT, HELDOUT.take([]))


def test_tune_warns_where_s_is_most_of_a_class_that_r_still_holds():
  labels = np.repeat([0, 1], 20)
  both = Dataset(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), labels)
  held = Dataset(both.inputs + 1, labels, np.arange(100, 140))
  params = bind(lambda w, x: x @ w, jnp.zeros((3, 2)))
  tried = {"none of it": rum.Step(unlearn.fine_tune(0.0), 1, 8)}
  one = np.ones(40)
  said = estimate_of(
    ids=np.arange(40), confidence_out=0.5 * one, count_out=one, correct_out=0 * one
  )

  def tune(groups):
    return rum.tune(tried, params, both, groups, held, jax.random.key(0), estimate=said)

  with pytest.warns(UserWarning, match=r"hold 15 of 20 examples of class 1\. .*Retrain once"):
    tune([np.arange(20, 30), np.arange(30, 35)])
  tune([np.arange(8), np.arange(20, 28)])  # less than half of each
  tune([np.arange(20, 40)])  # the whole class: its target is known
  for wrong, cure in (({"heldout": [1]}, "dataset.take"), ({"estimate": [1]}, "cross_fit")):
    given = {"heldout": held, "estimate": said} | wrong
    with pytest.raises(ValueError, match=cure):
      rum.tune(tried, params, both, [np.arange(3)], given.pop("heldout"), None, **given)


def test_strata_on_one_side_only_are_refused():
  """They cannot be told to be of one kind."""
  kinds = {"labels": LABELS[:8], "ids": np.arange(8), "strata": LABELS[:8]}
  with_strata = Dataset(TRAINING.inputs, **kinds)
  with pytest.raises(
    ValueError, match=r"\Asurrogate got strata of the data or of .* alone[^\n]*\Z"
  ):
    rum.surrogate(ORIGINAL, ORIGINAL, with_strata, SPLIT, HELDOUT)
  more = {"labels": HELDOUT.labels, "ids": HELDOUT.ids, "strata": HELDOUT.labels}
  both = rum.surrogate(ORIGINAL, ORIGINAL, with_strata, SPLIT, Dataset(HELDOUT.inputs, **more))
  assert both == rum.surrogate(ORIGINAL, ORIGINAL, TRAINING, SPLIT, HELDOUT)


def error(outputs, labels):
  return jnp.mean((outputs - labels) ** 2, axis=-1)


def test_a_loss_of_ones_own_is_refused_where_accuracies_are_needed():
  numbers = Dataset(TRAINING.inputs, np.zeros((8, 2)), np.arange(8), classes=False)
  held = Dataset(HELDOUT.inputs, np.zeros((4, 2)), np.arange(8, 12), classes=False)
  own, key, groups = (
    ORIGINAL.replace(loss=error),
    jax.random.key(0),
    [np.arange(2), np.arange(2, 4)],
  )
  idle = rum.Plan([rum.Step(None), rum.Step(unlearn.fine_tune(0.1), 1, 4)])
  for call, caller in (
    (lambda: rum.tune({"": idle.steps[1]}, own, numbers, groups, held, key), "tune"),
    (lambda: rum.surrogate(own, own, numbers, SPLIT, held), "surrogate"),
    (lambda: rum.run(idle, own, numbers, groups, key), "rum.run"),
  ):
    says = rf"\A{caller} needs probabilities of classes.*meta_unlearn[^\n]*\Z"
    with pytest.raises(ValueError, match=says):
      call()
  after = rum.meta_unlearn(idle, own, numbers, groups, key)
  assert not np.array_equal(after.params, own.params)
