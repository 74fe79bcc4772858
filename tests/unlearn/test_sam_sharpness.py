"""SAM by hand."""

import dataclasses

import numpy as np
import pytest
from by_hand import ETA, R, W, bound, first_step, gradient

from jaxmul import unlearn


def test_sam_takes_the_gradient_at_the_worse_place():
  _, after = first_step(unlearn.sam(unlearn.fine_tune(ETA, weight_decay=0.3), rho=0.3), bound())
  g = gradient(W, *R)
  down = gradient(W + 0.3 * g / np.linalg.norm(g), *R) + 0.3 * W  # decays from where it is
  np.testing.assert_allclose(after.params, W - ETA * down, rtol=1e-12)


def test_sam_refuses_an_algorithm_whose_gradient_it_cannot_take_elsewhere():
  mine = dataclasses.replace(
    unlearn.fine_tune(), update=lambda forget, retain, state, params, k: ()
  )
  with pytest.raises(ValueError, match="Make it with descend"):
    unlearn.sam(mine)
