"""ToW in closed form, and what it refuses."""

import math

import numpy as np
import pytest

from jaxmul import metrics

BOTH = pytest.mark.parametrize("tow", [metrics.tow, metrics.tow_mia])


@BOTH
def test_a_case_by_hand(tow):
  # (1 − 0.5)(1 − 0.25)(1 − 0.125)
  assert tow((1.0, 0.75, 0.5), (0.5, 1.0, 0.625)) == 0.5 * 0.75 * 0.875


@BOTH
def test_it_is_one_iff_all_three_agree(tow):
  rng = np.random.default_rng(0)
  for _ in range(200):
    a = rng.integers(0, 11, 3) / 10
    b = np.where(rng.random(3) < 0.6, a, rng.integers(0, 11, 3) / 10)
    assert (tow(a, b) == 1) == bool((a == b).all())


@BOTH
def test_it_is_symmetric_and_in_0_1_and_falls_with_any_gap(tow):
  rng = np.random.default_rng(1)
  for _ in range(200):
    a, b = rng.random(3), rng.random(3)
    value = tow(a, b)
    assert 0 <= value <= 1
    assert value == tow(b, a)
    part = rng.integers(3)
    closer = a.copy()
    closer[part] = (a[part] + b[part]) / 2
    assert tow(closer, b) > value


@BOTH
def test_it_is_zero_at_the_largest_gap(tow):
  assert tow((1, 1, 1), (0, 1, 1)) == 0


@BOTH
@pytest.mark.parametrize("bad", [math.nan, -0.01, 1.01, 95.0, math.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_values_outside_0_1_are_refused_by_name(tow, bad, part):
  good, wrong = (0.5, 0.5, 0.5), [0.5, 0.5, 0.5]
  wrong[part] = bad
  forget = "forget accuracy" if tow is metrics.tow else "forget attack rate"
  name = (forget, "retain accuracy", "test accuracy")[part]
  for side, args in (("unlearned", (wrong, good)), ("retrained", (good, wrong))):
    with pytest.raises(ValueError, match=f"{side} has {name}") as caught:
      tow(*args)
    assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.parametrize(
  "wrong", [(0.5, 0.5), (), 0.5, "abc", None, {"forget": 1.0, "retain": 1.0, "test": 1.0}]
)
def test_anything_but_three_numbers_is_refused(tow, wrong):
  with pytest.raises(ValueError, match="must be 3 numbers") as caught:
    tow((0.5, 0.5, 0.5), wrong)
  assert "\n" not in str(caught.value)
