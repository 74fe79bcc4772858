"""The Newton step against explicit matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import apply, linear, session_of, squares
from jax.flatten_util import ravel_pytree

from jaxmul import bind, losses, models, unlearn


def test_influence_is_exact_on_least_squares():
  """From the minimum on S ∪ R it goes to the minimum on R, as retraining does."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
  forget = np.array([3, 7, 11, 20])
  both = np.linalg.lstsq(x, np.eye(3)[y], rcond=None)[0]
  with jax.enable_x64(True):
    session, retain = session_of(jnp.asarray(x), jnp.asarray(y), forget)
    algorithm = unlearn.influence(damping=0.0, tolerance=1e-14, loss=squares)
    after = apply(algorithm, bind(linear, jnp.asarray(both)), session)
  without = np.linalg.lstsq(x[retain], np.eye(3)[y[retain]], rcond=None)[0]
  np.testing.assert_allclose(after.params, without, atol=1e-10)
  assert np.abs(without - both).max() > 1e-3


@pytest.mark.parametrize("network", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_influence_is_the_explicit_damped_solve(network):
  model, shape = {
    "mlp": (models.mlp((5,), 3), (6,)),
    "cnn": (models.cnn((2, 2, 2), 3, 3), (8, 8, 1)),
  }[network]
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(20, *shape)), rng.integers(0, 3, 20)
  forget, damping = np.arange(4), 0.1
  with jax.enable_x64(True):
    x, y = jnp.asarray(x), jnp.asarray(y)
    params = models.init(model, jax.random.key(0), x[:1].astype(jnp.float32))
    params = params.replace(params=jax.tree.map(lambda leaf: leaf.astype(float), params.params))
    session, retain = session_of(x, y, forget)
    after = apply(
      unlearn.influence(0.7, damping=damping, iterations=500, tolerance=1e-12), params, session
    )
    theta, unravel = ravel_pytree(params.params)

    def logits(theta):
      return params.replace(params=unravel(theta))(x)

    jacobian = jax.jacrev(logits)(theta)
    p = np.asarray(jax.nn.softmax(logits(theta)))
    hessian = np.stack([np.diag(q) - np.outer(q, q) for q in p])
    matrix = np.einsum("nci,ncd,ndj->ij", jacobian[retain], hessian[retain], jacobian[retain])
    matrix = matrix / len(retain) + damping * np.eye(len(theta))
    total = jax.grad(lambda t: losses.cross_entropy(logits(t)[forget], y[forget]).sum())(theta)
    expected = theta + 0.7 * np.linalg.solve(matrix, np.asarray(total)) / len(retain)
    got, _ = ravel_pytree(after.params)
  np.testing.assert_allclose(got, expected, atol=1e-7)
  # The error of public "WoodFisher": only the gradient, rescaled.
  step, flat = np.asarray(got - theta), np.asarray(total)
  cosine = step @ flat / np.linalg.norm(step) / np.linalg.norm(flat)
  assert cosine < 0.99


def test_influence_with_alpha_zero_changes_nothing():
  rng = np.random.default_rng(2)
  session, _ = session_of(jnp.asarray(rng.normal(size=(8, 4)), jnp.float32), jnp.arange(8) % 3, [0])
  params = bind(linear, jnp.ones((4, 3)))
  np.testing.assert_array_equal(apply(unlearn.influence(0.0), params, session).params, 1.0)
