"""The spectral penalty: its gradient is that of the largest singular value, by SVD and by loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmul import models, train
from jaxmul.data import Dataset

RNG = np.random.default_rng(0)
MLP = models.mlp((8,), 3)
TOY = Dataset(RNG.normal(size=(12, 6)).astype(np.float32), RNG.integers(0, 3, 12), num_classes=3)


def with_penalty(rate, penalty=0.01):
  return optax.chain(train.add_spectral_norm(penalty), optax.sgd(rate))


def settled(params, steps=200, penalty=0.5):
  """What is added once the power iteration has found the largest singular value."""
  added = train.add_spectral_norm(penalty)
  zeros = jax.tree.map(jnp.zeros_like, params)

  def step(_, state):
    return added.update(zeros, state, params)[1]

  return added.update(zeros, jax.lax.fori_loop(0, steps, step, added.init(params)), params)[0]


def by_svd(kernel, penalty=0.5):
  matrix = np.float64(kernel).reshape(-1, kernel.shape[-1])
  u, _, vt = np.linalg.svd(matrix)
  return (penalty / 2 * np.outer(u[:, 0], vt[0])).reshape(kernel.shape)


def test_it_is_the_gradient_of_half_lambda_times_the_largest_singular_values():
  params = {
    "dense": {"kernel": RNG.normal(size=(5, 4)).astype("f"), "bias": np.ones(4, "f")},
    "conv": {"kernel": RNG.normal(size=(3, 3, 2, 4)).astype("f")},
    "tokens": {"embedding": RNG.normal(size=(7, 4)).astype("f")},
  }
  got = settled(params)
  for layer in ("dense", "conv"):
    want = by_svd(params[layer]["kernel"])
    np.testing.assert_allclose(got[layer]["kernel"], want, atol=2e-4)
  assert not got["dense"]["bias"].any()
  assert not got["tokens"]["embedding"].any()
  # And by differences of the penalty itself.
  kernel, move = np.float64(params["dense"]["kernel"]), RNG.normal(size=(5, 4))
  penalties = [0.25 * np.linalg.norm(kernel + h * move, 2) for h in (1e-4, -1e-4)]
  slope = (penalties[0] - penalties[1]) / 2e-4
  np.testing.assert_allclose(np.sum(np.asarray(got["dense"]["kernel"]) * move), slope, 1e-3)


def test_one_power_iteration_a_step_as_by_hand():
  added = train.add_spectral_norm(0.3)
  kernels = RNG.normal(size=(3, 5, 4)).astype(np.float32)  # of three steps
  state = added.init({"w": kernels[0]})
  right = np.float64(state.right[0])
  np.testing.assert_allclose(np.linalg.norm(right), 1, 1e-6)
  for kernel in kernels:
    gradient = RNG.normal(size=(5, 4)).astype(np.float32)
    updates, state = jax.jit(added.update)({"w": gradient}, state, {"w": kernel})
    left = kernel @ right
    left /= np.linalg.norm(left)
    right = kernel.T @ left
    right /= np.linalg.norm(right)
    want = gradient + 0.15 * np.outer(left, right)
    np.testing.assert_allclose(updates["w"], want, atol=1e-5)
    np.testing.assert_allclose(state.right[0], right, atol=1e-5)


def test_a_kernel_of_zeros_has_no_gradient_and_is_followed_once_it_moves():
  added = train.add_spectral_norm(0.5)
  zeros = {"kernel": jnp.zeros((3, 2))}
  updates, state = added.update(zeros, added.init(zeros), zeros)
  assert not updates["kernel"].any()
  assert np.linalg.norm(state.right[0]) > 0.99
  moved = {"kernel": 1e-25 * jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])}
  updates, _ = added.update(zeros, state, moved)
  np.testing.assert_allclose(updates["kernel"], [[0.25, 0], [0, 0], [0, 0]], atol=1e-6)


def test_adapters_have_kernels_of_other_names():
  params = {"Dense_0": {"down": jnp.eye(3, 2), "up": jnp.zeros((2, 3))}}
  assert len(train.add_spectral_norm().init(params).right) == 2


def test_lambda_zero_changes_nothing():
  added, params = train.add_spectral_norm(0.0), {"kernel": RNG.normal(size=(5, 4)).astype("f")}
  updates, _ = added.update(params, added.init(params), params)
  np.testing.assert_array_equal(updates["kernel"], params["kernel"])


def test_much_of_it_in_a_recipe_shrinks_the_norms():
  runs = []
  for penalty in (0.0, 4.0):
    own = functools.partial(with_penalty, penalty=penalty)
    recipe = train.Recipe(MLP, epochs=4, batch_size=4, optimizer=own)
    params = train.fit(recipe, TOY, jax.random.key(0)).network.params
    runs.append([np.asarray(layer["kernel"]) for layer in params.values()])
  for plain, much in zip(*runs, strict=True):
    assert np.linalg.norm(much, 2) < 0.9 * np.linalg.norm(plain, 2)


@pytest.mark.parametrize(
  ("call", "named"),
  [
    (lambda: train.add_spectral_norm(-1), "penalty=-1"),
    (lambda: train.add_spectral_norm().init({"bias": jnp.zeros(3)}), "has none"),
    (lambda: train.add_spectral_norm().update({}, train.SpectralNormState(())), "needs params"),
  ],
)
def test_mistakes_are_one_line(call, named):
  with pytest.raises(ValueError, match=rf"\A[^\n]*{named}[^\n]*\Z"):
    call()
