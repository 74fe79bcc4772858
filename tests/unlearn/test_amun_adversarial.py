"""AMUN's adversarial examples, against known distances to the boundary."""

import jax
import jax.numpy as jnp
import numpy as np
from by_hand import ETA, R, S, W, bound, first_step, gradient, linear

from jaxmul import bind, unlearn
from jaxmul.data import Dataset, Split


def test_amun_attacks_float32_images_where_float64_is_enabled():
  toy = Dataset(np.concatenate([S[0], R[0]]).astype(np.float32), np.concatenate([S[1], R[1]]))
  with jax.enable_x64(True):
    after = unlearn.run(
      unlearn.amun(steps=2, doublings=1),
      bind(linear, jnp.asarray(W, jnp.float32)),
      toy,
      Split(forget=np.arange(5), retain=np.arange(5, 11)),
      jax.random.key(0),
      epochs=1,
    )
  assert after.params.dtype == jnp.float32


def test_amun_takes_adversarial_examples_with_their_own_labels():
  algorithm = unlearn.amun(ETA, radius=0.05, doublings=7, steps=20, weight_decay=0.0)
  with jax.enable_x64(True):
    images, labels = jnp.asarray(S[0]), jnp.asarray(S[1])
    rows = unlearn.Examples(images, labels, jnp.arange(5), jnp.int32(5))
    state = algorithm.init(bound(), unlearn.Session(rows, rows, 1, 5, jax.random.key(0)))
  attacked, found = (np.asarray(each) for each in state.memory)
  np.testing.assert_array_equal(found, (attacked @ W).argmax(1))
  assert (found != S[1]).all()
  moved = np.linalg.norm(attacked - S[0], axis=1)
  right = (S[0] @ W).argmax(1) == S[1]
  assert (moved[~right] == 0).all()
  # The distance to the boundary is known for a linear classifier; radii double.
  for i in np.flatnonzero(right):
    gaps = [
      (S[0][i] @ (W[:, S[1][i]] - W[:, c])) / np.linalg.norm(W[:, S[1][i]] - W[:, c])
      for c in range(3)
      if c != S[1][i]
    ]
    assert min(gaps) <= moved[i] <= max(4 * min(gaps), 0.05) + 1e-9
  _, after = first_step(algorithm, bound())
  x, y = np.concatenate([attacked, R[0]]), np.concatenate([found, R[1]])
  np.testing.assert_allclose(after.params, W - ETA * gradient(W, x, y), rtol=1e-6)
