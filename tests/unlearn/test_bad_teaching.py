"""The bad teacher by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, divergence_gradient, linear, one_update, run

from jaxmul import bind, unlearn


def test_bad_teacher_imitates_the_random_network_on_forget_and_the_original_on_retain(parts):
  w, moved, s, r = parts
  with jax.enable_x64(True):
    initial = bind(linear, jnp.asarray(parts[1][::-1].copy()))
    algorithm = unlearn.bad_teacher(initial, ETA)
    new = one_update(algorithm, w, s, r, at=moved)
  x = np.concatenate([s[0], r[0]])
  teacher = np.concatenate([s[0] @ np.asarray(initial.params), r[0] @ w])
  g = divergence_gradient(x, teacher, x @ moved)
  np.testing.assert_allclose(new, moved - ETA * g / (np.abs(g) + 1e-6), rtol=1e-9)  # Adam, step 1


def test_bad_teacher_refuses_a_teacher_of_other_classes(problem):
  other = bind(lambda w, x: x @ w, np.zeros((problem[0].inputs.shape[1], 2), np.float32))
  with pytest.raises(ValueError, match=r"of 2 classes, must have the 3") as caught:
    run(problem, unlearn.bad_teacher(other), 1)
  assert "\n" not in str(caught.value)
