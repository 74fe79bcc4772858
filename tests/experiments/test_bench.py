"""A convolution that is slow inside a scan would be 30 times slower; the bound is far from both."""

import pytest

from experiments.bench import scan_step


@pytest.mark.slow
def test_a_step_inside_scan_costs_about_what_it_costs_from_python():
  assert scan_step.measure(pairs=1, seconds=0.5)["scan_over_python"] < 3
