"""Newcombe's method 10: published examples, coverage, and no trials."""

import numpy as np
import pytest

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


@pytest.mark.parametrize("p_in", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("p_out", [0.0, 0.1, 0.5])
def test_coverage(p_in, p_out):
  rng = np.random.default_rng(0)
  k_in, k_out = rng.binomial(140, p_in, 4000), rng.binomial(60, p_out, 4000)
  low, high = newcombe(k_in, 140, k_out, 60)
  covered = np.mean((low <= p_in - p_out) & (p_in - p_out <= high))
  assert covered > 0.93
  if 0.1 <= p_in <= 0.9 and 0.1 <= p_out <= 0.9:
    assert covered < 0.97
