"""The inverse of an empirical Fisher information, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import S, W, apply, bound, session_of, softmax

from jaxmul import unlearn
from jaxmul.unlearn.obs_fisher_blocks import _inverse_diagonals

X, Y = S


def session():
  return session_of(jnp.asarray(X), jnp.asarray(Y), np.arange(len(Y) - 1))[0]


def gradients():
  """Of each example of S, [4, 12], flat by rows of the kernel."""
  error = softmax(X @ W) - np.eye(3)[Y]
  return np.einsum("ni,nc->nic", X, error).reshape(len(X), -1)[: len(Y) - 1]


def inverse_diagonal(block, damping):
  g = gradients()
  whole = g.T @ g / len(g)
  found = []
  for start in range(0, W.size, block):
    part = whole[start : start + block, start : start + block]
    found.append(np.diag(np.linalg.inv(part + damping * np.eye(len(part)))))
  return np.concatenate(found).reshape(W.shape)


@pytest.mark.parametrize(("block", "damping"), [(5, 1e-2), (5, 1e-7), (50, 1e-3), (1, 1e-7)])
def test_it_is_the_diagonal_of_the_dense_inverse_whatever_the_batches(block, damping):
  """Blocks that do not divide the kernel, one larger than it, and fewer examples than weights."""
  with jax.enable_x64(True):
    for size in (1, 3, 8):
      given = (bound(), session().forget, size, None, (block, damping))
      (got,) = _inverse_diagonals(*given)
      np.testing.assert_allclose(got, inverse_diagonal(block, damping), rtol=1e-7)


def test_float32_still_sees_the_damping():
  """F holds 1e-7 beside numbers near 1 as nothing."""
  single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), bound())
  x, y = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.int32)
  forget = session_of(x, y, np.arange(len(Y) - 1))[0].forget
  (got,) = _inverse_diagonals(single, forget, 8, None, (5, 1e-7))
  np.testing.assert_allclose(got, inverse_diagonal(5, 1e-7), rtol=0.01)


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_the_weights_that_cannot_be_made_up_for_become_0(fraction):
  saliency = W**2 / (2 * inverse_diagonal(5, 1e-3))
  lost = saliency >= np.sort(saliency.ravel())[::-1][round(fraction * W.size) - 1]
  after = apply(unlearn.obs(fraction, block=5, damping=1e-3), bound(), session()).params
  np.testing.assert_array_equal(after, np.where(lost, 0, W))
