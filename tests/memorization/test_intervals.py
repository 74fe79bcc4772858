"""Newcombe's method 10: published examples, coverage, and no trials."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom

from jaxmul.memorization import newcombe, wilson


@pytest.mark.parametrize(
  ("counts", "expected"),
  [  # Newcombe 1998, Table II, column of method 10
    ((56, 70, 48, 80), (0.0524, 0.3339)),
    ((9, 10, 3, 10), (0.1705, 0.8090)),
    ((10, 10, 0, 20), (0.6791, 1.0)),
    ((10, 10, 0, 10), (0.6075, 1.0)),
  ],
)
def test_published_examples(counts, expected):
  np.testing.assert_allclose(newcombe(*counts), expected, atol=6e-5)


def test_no_trials_gives_nan():
  assert np.isnan(wilson(0, 0)).all()
  assert np.isnan(newcombe([3, 0], [4, 0], [0, 1], [0, 4])).all()


def test_worst_width_of_280_and_120_models():
  low, high = newcombe(140, 280, 60, 120)
  assert (high - low) / 2 == pytest.approx(0.1053, abs=2e-3)


@pytest.mark.parametrize(("n_in", "n_out"), [(140, 60), (280, 120)])
def test_coverage(n_in, n_out):
  """Exact, on a grid of (p_in, p_out): the probability of each pair of counts, not a simulation."""
  k_in, k_out = np.meshgrid(np.arange(n_in + 1), np.arange(n_out + 1), indexing="ij")
  low, high = newcombe(k_in, n_in, k_out, n_out)
  for p_in, p_out in itertools.product(np.linspace(0, 1, 21), repeat=2):
    chance = np.outer(binom.pmf(k_in[:, 0], n_in, p_in), binom.pmf(k_out[0], n_out, p_out))
    inside = (low <= p_in - p_out + 1e-12) & (p_in - p_out <= high + 1e-12)
    covered = chance[inside].sum()
    assert covered >= 0.93, (p_in, p_out)
    if 0.1 <= p_in <= 0.9 and 0.1 <= p_out <= 0.9:
      assert covered <= 0.97, (p_in, p_out)


def test_a_thousand_simulated_estimates_cover_as_often():
  rng = np.random.default_rng(0)
  k_in, k_out = rng.binomial(140, 0.9, 1000), rng.binomial(60, 0.4, 1000)
  low, high = newcombe(k_in, 140, k_out, 60)
  assert 0.93 <= np.mean((low <= 0.5) & (high >= 0.5)) <= 0.97
