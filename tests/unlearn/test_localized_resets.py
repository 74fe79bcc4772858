"""Localized reset by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from by_hand import ETA, FRESH, R, S, W, bound, first_step, gradient

from jaxmul import bind, unlearn


def test_localized_reset_resets_the_channels_that_matter_most():
  algorithm = unlearn.localized_reset(bound(FRESH), ETA, fraction=1 / 3)
  begun, after = first_step(algorithm, bound())
  channel = np.abs(W * gradient(W, *S)).mean(0).argmax()
  expected = W.copy()
  expected[:, channel] = FRESH[:, channel]
  np.testing.assert_array_equal(begun.params, expected)
  down = gradient(expected, *R) + 5e-4 * expected
  np.testing.assert_allclose(after.params, expected - ETA * down, rtol=1e-12)


def test_localized_reset_ranks_channels_of_all_kernels_by_their_mean():
  """Kernels of 4 and 2 inputs: by their sums another channel would come first."""
  with jax.enable_x64(True):
    theta = {"all": jnp.asarray(W), "two": 1.5 * jnp.asarray(W[:2])}
    params = bind(lambda theta, x: x @ theta["all"] + x[:, :2] @ theta["two"], theta)
    fresh = params.replace(params=jax.tree.map(jnp.zeros_like, theta))
  begun, _ = first_step(unlearn.localized_reset(fresh, ETA, fraction=1 / 6), params)
  joined = W.copy()
  joined[:2] += 1.5 * W[:2]
  g = gradient(joined, *S)
  products = {"all": np.abs(W * g), "two": np.abs(1.5 * W[:2] * g[:2])}
  means = np.concatenate([products[name].mean(0) for name in ("all", "two")])
  assert means.argmax() != np.concatenate([each.sum(0) for each in products.values()]).argmax()
  reset = np.concatenate([(np.asarray(begun.params[name]) == 0).all(0) for name in ("all", "two")])
  np.testing.assert_array_equal(reset, np.arange(6) == means.argmax())
