"""Fine-tuning, by hand."""

import numpy as np
from by_hand import (
  DECAY,
  ETA,
  gradient,
)

from jaxmul import unlearn


def test_fine_tune_is_a_step_down_on_retain(step):
  new, w, _, r = step(unlearn.fine_tune(ETA, weight_decay=DECAY))
  np.testing.assert_allclose(new, w - ETA * (gradient(w, *r) + DECAY * w), rtol=1e-12)


def test_momentum_carries_the_decayed_gradient_into_the_second_step(step):
  new, w, _, r = step(unlearn.fine_tune(ETA, momentum=0.9, weight_decay=DECAY), steps=2)
  first = gradient(w, *r) + DECAY * w
  w = w - ETA * first
  second = 0.9 * first + gradient(w, *r) + DECAY * w
  np.testing.assert_allclose(new, w - ETA * second, rtol=1e-12)
