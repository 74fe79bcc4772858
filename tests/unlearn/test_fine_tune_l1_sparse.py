"""Fine-tuning, and its penalty on ‖θ‖₁, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from by_hand import DECAY, ETA, R, W, bound, first_step, gradient

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


def test_l1_sparse_penalty_fades_with_the_epochs():
  algorithm = unlearn.l1_sparse(ETA, alpha=0.03, weight_decay=DECAY)
  _, after = first_step(algorithm, bound(), epochs=4)
  down = gradient(W, *R) + 0.03 * np.sign(W) + DECAY * W
  np.testing.assert_allclose(after.params, W - ETA * down, rtol=1e-6)
  faded = []
  for epoch in range(4):
    with jax.enable_x64(True):
      images, labels = jnp.asarray(R[0]), jnp.asarray(R[1])
      rows = unlearn.Examples(images, labels, jnp.arange(6), jnp.int32(6))
      session = unlearn.Session(rows, rows, 4, 6, jax.random.key(0))
      batch = rows.batch(0, 6, 6)
      state = algorithm.init(bound(), session)
      clock = unlearn.Clock(jnp.int32(epoch), jnp.int32(0), jnp.int32(1))
      updates, _ = algorithm.update(
        batch, batch, algorithm.tick(state, clock), bound(), jax.random.key(0)
      )
    rest = np.asarray(updates.params) / -ETA - gradient(W, *R) - DECAY * W
    faded.append(np.mean(rest * np.sign(W)) / 0.03)
  np.testing.assert_allclose(faded, [1, 0.75, 0.5, 0.25], rtol=1e-6)


def test_l1_sparse_with_alpha_zero_is_fine_tune():
  a = first_step(unlearn.l1_sparse(ETA, alpha=0.0), bound())[1]
  b = first_step(unlearn.fine_tune(ETA), bound())[1]
  np.testing.assert_array_equal(a.params, b.params)
