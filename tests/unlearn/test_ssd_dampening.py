"""SSD against explicit matrices."""

import numpy as np
import pytest
from by_hand import (
  apply,
  squared_gradients,
)

from jaxmul import unlearn


@pytest.mark.parametrize(("alpha", "dampening"), [(1.2, 1.0), (1.0, 0.3), (1.0, 1.5)])
def test_ssd_dampens_what_matters_more_to_forget(small, alpha, dampening):
  params, session, x, y, _ = small
  f_s = squared_gradients(params, x[:5], y[:5], expected=False)
  f_d = squared_gradients(params, x, y, expected=False)
  w = np.asarray(params.params)
  factor = dampening * f_d / f_s
  assert dampening <= alpha or (factor[f_s > alpha * f_d] > 1).any()  # a weight that would grow
  expected = np.where(f_s > alpha * f_d, w * np.minimum(factor, 1), w)
  got = apply(unlearn.ssd(alpha, dampening), params, session).params
  np.testing.assert_allclose(got, expected, rtol=1e-12)
  assert 0 < (expected != w).sum() < w.size


def test_ssd_with_a_high_threshold_changes_nothing(small):
  params, session, *_ = small
  np.testing.assert_array_equal(apply(unlearn.ssd(1e6), params, session).params, params.params)
