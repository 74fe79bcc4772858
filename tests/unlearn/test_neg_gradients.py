"""Gradient ascent, alone and beside descent, by hand."""

import numpy as np
from by_hand import DECAY, ETA, gradient

from jaxmul import unlearn


def test_neg_grad_is_a_pure_step_up_on_forget_without_decay(step):
  new, w, s, _ = step(unlearn.neg_grad(ETA))
  np.testing.assert_allclose(new, w + ETA * gradient(w, *s), rtol=1e-12)


def test_neg_grad_plus_weighs_both(step):
  new, w, s, r = step(unlearn.neg_grad_plus(ETA, alpha=0.7, weight_decay=DECAY))
  down = 0.7 * gradient(w, *r) - 0.3 * gradient(w, *s) + DECAY * w
  np.testing.assert_allclose(new, w - ETA * down, rtol=1e-12)


def test_neg_grad_plus_with_alpha_one_is_fine_tune(step):
  new, *_ = step(unlearn.neg_grad_plus(ETA, alpha=1.0))
  np.testing.assert_array_equal(new, step(unlearn.fine_tune(ETA))[0])
