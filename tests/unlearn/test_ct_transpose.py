"""CT by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from by_hand import (
  DECAY,
  ETA,
  R,
  W,
  first_step,
  gradient,
  session_on,
)

from jaxmul import bind, models, unlearn


def test_ct_transposes_square_kernels_and_undoes_itself():
  model = models.cnn((3, 3), 5, 3)
  x = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype(np.float32)
  params = models.init(model, jax.random.key(0), jnp.asarray(x[:1]))
  begun = unlearn.ct().start(params, unlearn.ct().init(params, session_on(x)))
  for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(begun), strict=True):
    expected = np.swapaxes(old, 0, 1) if np.ndim(old) == 4 else old
    np.testing.assert_array_equal(new, expected)


def test_ct_tunes_on_retain_from_the_transposed_kernels():
  """Images of 2 x 2 and one kernel over all of them: a linear classifier of 4 inputs."""
  with jax.enable_x64(True):
    params = bind(lambda kernel, x: x @ kernel.reshape(4, 3), jnp.asarray(W).reshape(2, 2, 1, 3))
  _, after = first_step(unlearn.ct(ETA, weight_decay=DECAY), params)
  begun = W[[0, 2, 1, 3]]
  expected = begun - ETA * (gradient(begun, *R) + DECAY * begun)
  np.testing.assert_allclose(np.reshape(after.params, (4, 3)), expected, rtol=1e-12)
