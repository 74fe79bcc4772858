"""Where a method forgets: by group and by example."""

import numpy as np
import pytest

from jaxmul import metrics
from jaxmul.metrics import example_gap, tow_by_group


def test_errors_of_opposite_sign_cancel_in_tow_and_not_by_group():
  """Worked by hand: 0.9 and 0.3 have the mean of 0.6 and 0.6."""
  unlearned, retrained = ((0.9, 0.3), 0.98, 0.9), ((0.6, 0.6), 1.0, 0.95)
  whole = [(float(np.mean(groups)), *rest) for groups, *rest in (unlearned, retrained)]
  assert metrics.tow(*whole) == pytest.approx(0.98 * 0.95)
  assert tow_by_group(unlearned, retrained) == pytest.approx(0.7 * 0.7 * 0.98 * 0.95)


def test_one_group_is_tow_and_order_does_not_matter():
  a, b = ([0.2, 0.5, 0.9], 0.9, 0.8), ([0.4, 0.5, 0.7], 0.8, 0.8)
  turned = [(each[0][::-1], *each[1:]) for each in (a, b)]
  assert tow_by_group(a, b) == pytest.approx(tow_by_group(*turned))
  assert tow_by_group(([0.2], 0.9, 0.8), ([0.4], 0.8, 0.8)) == metrics.tow(
    (0.2, 0.9, 0.8), (0.4, 0.8, 0.8)
  )


@pytest.mark.parametrize("change", range(5))
def test_tow_by_group_is_one_only_where_all_agree(change):
  same = [0.2, 0.5, 0.9, 0.8, 0.7]
  other = list(same)
  other[change] += 0.1
  found = [(tuple(each[:3]), each[3], each[4]) for each in (same, other)]
  assert tow_by_group(found[0], found[0]) == 1
  assert tow_by_group(found[1], found[0]) == pytest.approx(0.9)


def test_the_gap_is_to_the_mean_of_oracles():
  oracles = np.array([[0.2, 0.8, 1.0], [0.4, 0.6, 1.0]])
  assert example_gap([0.3, 0.7, 1.0], oracles) == pytest.approx(0)
  assert example_gap([1.0, 0.7, 0.7], oracles) == pytest.approx((0.7 + 0 + 0.3) / 3)
  # The mean of p_y alone would see nothing here.
  assert example_gap([0.6, 0.4, 1.0], oracles) == pytest.approx(0.2)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda: tow_by_group(([], 1, 1), ([], 1, 1)), r"accuracies \[0\].*Leave out"),
    (lambda: tow_by_group(([0.1], 1, 1), ([0.1, 0.2], 1, 1)), r"\[1\] and \[2\]"),
    (lambda: tow_by_group(([0.1, 50], 1, 1), ([0.1, 0.2], 1, 1)), r"50.*must be in \[0, 1\]"),
    (lambda: example_gap([0.5], [[0.5]]), r"\[1, 1\] of retrained models.*at least 2"),
    (lambda: example_gap([0.5], [[0.5, 0.5], [0.5, 0.5]]), r"\[1\].*\[2, 2\]"),
    (lambda: example_gap([1.5], [[0.5], [0.5]]), r"unlearned\[0\] is 1.5, must be"),
    (lambda: example_gap([0.5], [[0.5], [np.nan]]), r"retrained\[1, 0\] is nan, must be"),
  ],
)
def test_what_cannot_be_compared_is_refused(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)
