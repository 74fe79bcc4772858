"""What a job works on: which examples are to be deleted."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import rum, setting
from experiments.judge import over_seeds, unseeing
from jaxmul import data, memorization
from jaxmul.metrics import Figure

DIGITS = data.digits()


def truth(**columns):
  n = len(DIGITS)
  names = [field.name for field in dataclasses.fields(memorization.Estimate)][1:-2]
  rng = np.random.default_rng(0)
  given = {name: np.zeros(n) for name in names} | {"memorization": rng.random(n)} | columns
  return memorization.Estimate(ids=np.sort(DIGITS.ids), **given)


def groups(forget, estimate):
  return setting.forget_groups(forget, 20, DIGITS, estimate, jax.random.key(6))


def test_a_class_is_forgotten_whole_with_examples_that_have_no_score():
  scores = np.random.default_rng(0).random(len(DIGITS))
  scores[::3] = np.nan
  found = groups("3", truth(memorization=scores, soft=scores))
  assert set(np.concatenate(found)) == set(DIGITS.ids[DIGITS.labels == 3])


def test_random_examples_are_of_all_classes_and_of_the_key():
  found = np.concatenate(groups("random", truth()))
  assert len(found) == 60
  assert len(set(DIGITS.labels[DIGITS.rows(found)])) == 10
  assert set(found) == set(np.concatenate(groups("random", truth())))


def test_a_published_truth_without_soft_scores_selects(capsys):
  nothing = np.full(len(DIGITS), np.nan)
  estimate = truth(soft=nothing, low=nothing, high=nothing)
  for forget in ("memorization", "random", "3"):
    found = groups(forget, estimate)
    setting.show_groups(found, DIGITS, estimate)
  assert capsys.readouterr().out.count("forget group high") == 3


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ({"forget": "class"}, "--forget class: must be memorization, random or the number"),
    ({"folds": 1}, "--folds 1: must be at least 2"),
    ({"trials": 2}, "--trials 2: at least 3"),
    ({"first_seed": -1}, "--first-seed -1: must be at least 0"),
  ],
)
def test_flags_out_of_range_are_refused(flags, said):
  with pytest.raises(ValueError, match=said):
    rum.Config(out=Path("nowhere"), **flags)


def test_a_class_that_is_not_there_is_refused():
  with pytest.raises(ValueError, match="--forget 12: 0 training examples of this class"):
    groups("12", truth())


def test_figures_that_do_not_tell_originals_from_oracles_are_named():
  sound = {
    "original": {"example gap": 0.4, "ToW by group": 0.1, "ToW": 0.5, "ToW-MIA": 0.5},
    "retrain": {"example gap": 0.05, "ToW by group": 0.9, "ToW": 0.97, "ToW-MIA": 0.97},
  }
  rng = np.random.default_rng(0)

  def seeds(change):
    return [
      {
        name: {f: change(f, value) + 0.01 * rng.normal() for f, value in figures.items()}
        for name, figures in sound.items()
      }
      for _ in range(3)
    ]

  def unseen(change, count=3):
    found = seeds(change)[:count]
    sides = (
      over_seeds(
        [[Figure(name=name, value=value) for name, value in seed[of].items()] for seed in found]
      )
      for of in ("original", "retrain")
    )
    return unseeing(*sides)

  assert unseen(lambda figure, value: value) == []
  assert unseen(lambda figure, value: value, 1) == []
  for broken in sound["original"]:
    for change in (lambda value: 0.5, lambda value: 1 - value):
      found = unseen(lambda f, value, b=broken, c=change: c(value) if f == b else value)
      assert found == [broken]
