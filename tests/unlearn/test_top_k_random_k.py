"""Noise on the weights that matter, or on any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, R, S, W, bound, first_step, gradient

from jaxmul import bind, unlearn


@pytest.mark.parametrize("make", [unlearn.top_k, unlearn.random_k])
def test_perturbation_has_the_stated_deviation(make):
  with jax.enable_x64(True):
    far = 2 + jax.random.normal(jax.random.key(0), (5000,), float)
    params = bind(lambda theta, x: x @ theta["w"], {"far": far, "w": jnp.asarray(W)})
    images = jnp.asarray(S[0])
    rows = unlearn.Examples(images, jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    algorithm = make(fraction=1.0, noise=0.5)
    assert algorithm.start is not None
    state = algorithm.init(params, unlearn.Session(rows, rows, 1, 5, jax.random.key(1)))
    noise = np.asarray(algorithm.start(params, state).params["far"] - far)
  deviation = 0.5 * np.sqrt(np.mean(np.asarray(far) ** 2))
  np.testing.assert_allclose(noise.std() / deviation, 1, atol=5 / np.sqrt(2 * 5000))
  assert abs(noise.mean()) < 5 * deviation / np.sqrt(5000)


@pytest.mark.parametrize("make", [unlearn.top_k, unlearn.random_k])
def test_perturbation_touches_exactly_its_share_then_fine_tunes(make):
  begun, after = first_step(make(ETA, fraction=0.25), bound())
  touched = np.asarray(begun.params) != W
  assert touched.sum() == 3
  if make is unlearn.top_k:
    importance = gradient(W, *S) ** 2
    np.testing.assert_array_equal(touched, importance >= np.sort(importance.ravel())[-3])
  theta = np.asarray(begun.params)
  down = gradient(theta, *R) + 5e-4 * theta
  np.testing.assert_allclose(after.params, theta - ETA * down, rtol=1e-12)
