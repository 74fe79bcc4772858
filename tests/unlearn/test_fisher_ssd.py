"""Noise by the Fisher information, and SSD, against explicit matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import apply, session_of, squared_gradients

from jaxmul import bind, unlearn


def noise_of(algorithm, params, session, draws=300):
  """What an algorithm adds to params, under so many keys: leaves [draws, ...]."""
  drawn = [
    apply(algorithm, params, session._replace(key=jax.random.key(i))).params for i in range(draws)
  ]
  stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *drawn)
  return jax.tree.map(lambda noisy, w: noisy - np.asarray(w), stacked, params.params)


def has_deviation(noise, deviation):
  """Within five standard errors of 300 draws."""
  np.testing.assert_allclose(noise.std(0) / deviation, 1, atol=5 / np.sqrt(2 * 300))
  assert np.abs(noise.mean(0) / deviation).max() < 5 / np.sqrt(300)


def test_fisher_noise_has_the_stated_deviation(small):
  params, session, x, y, retain = small
  f = squared_gradients(params, x[retain], y[retain], expected=True)
  deviation = np.sqrt(1e-2) * (f + 1e-8) ** -0.25
  has_deviation(noise_of(unlearn.fisher(1e-2), params, session), deviation)


@pytest.mark.parametrize(("classes", "factor"), [(10, 10), (3, 1)])
def test_fisher_as_public_code_has_it(classes, factor):
  """Labels of the data; variance α/F, at most 1e-6; the bias of a ten-class head ten times that."""
  rng = np.random.default_rng(9)
  x, y = rng.normal(size=(12, 4)), np.arange(12) % classes
  w, b = 2 * rng.normal(size=(4, classes)), rng.normal(size=classes)
  with jax.enable_x64(True):
    session, retain = session_of(jnp.asarray(x), jnp.asarray(y), np.arange(2))
    theta = {"kernel": jnp.asarray(w), "bias": jnp.asarray(b)}
    params = bind(lambda theta, x: x @ theta["kernel"] + theta["bias"], theta)
  z = x[retain] @ w + b
  p = np.exp(z - z.max(1, keepdims=True))
  delta = p / p.sum(1, keepdims=True) - np.eye(classes)[y[retain]]
  f = {
    "kernel": np.einsum("ni,nc->ic", x[retain] ** 2, delta**2) / len(retain),
    "bias": (delta**2).mean(0),
  }
  alpha = 1e-6 * np.median(f["kernel"])
  noise = noise_of(unlearn.fisher(alpha, rum_compat=True), params, session)
  for name, scale in (("kernel", 1), ("bias", factor)):
    deviation = np.minimum(np.sqrt(alpha / f[name]), 1e-3)
    assert (deviation < 1e-3).any()
    has_deviation(noise[name], scale * deviation)
  assert (np.sqrt(alpha / f["kernel"]) > 1e-3).any()


@pytest.mark.parametrize(
  ("shape", "tenfold"),
  [((4, 10), False), ((10, 4), True), ((3, 10, 2, 2), True), ((3, 3, 10, 10), False), ((), False)],
)
def test_ten_is_a_width_of_pytorchs_layout(shape, tenfold):
  """Ours are [I, O] and [kh, kw, I, O], theirs [O, I] and [O, I, kh, kw]."""
  with jax.enable_x64(True):
    theta = {"free": jnp.ones(shape), "w": jnp.eye(3)}
    params = bind(lambda theta, x: x @ theta["w"], theta)
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3))), jnp.arange(6) % 3
    session, _ = session_of(x, y, np.arange(2))
  noise = noise_of(unlearn.fisher(1e-6, rum_compat=True), params, session, draws=30)["free"]
  size = noise.std() / (1e-2 if tenfold else 1e-3)  # nothing depends on it: the bound
  assert 0.6 < size < 1.4


def test_fisher_noise_of_equal_leaves_is_not_equal(small):
  params, session, *_ = small
  theta = {"a": params.params, "b": params.params}
  twice = bind(lambda theta, x: x @ (theta["a"] + theta["b"]), theta)
  after = apply(unlearn.fisher(1e-2), twice, session)
  assert (after.params["a"] != after.params["b"]).all()


def test_fisher_with_alpha_zero_changes_nothing(small):
  params, session, *_ = small
  np.testing.assert_array_equal(apply(unlearn.fisher(0.0), params, session).params, params.params)


@pytest.mark.parametrize(("alpha", "dampening"), [(1.2, 1.0), (1.0, 0.3), (1.0, 1.5)])
def test_ssd_dampens_what_matters_more_to_forget(small, alpha, dampening):
  params, session, x, y, _ = small
  f_s = squared_gradients(params, x[:5], y[:5], expected=False)
  f_d = squared_gradients(params, x, y, expected=False)
  w = np.asarray(params.params)
  factor = dampening * f_d / f_s
  assert dampening <= alpha or (factor[f_s > alpha * f_d] > 1).any()  # a weight that would grow
  expected = np.where(f_s > alpha * f_d, w * np.minimum(factor, 1), w)
  got = apply(unlearn.ssd(alpha, dampening), params, session).params
  np.testing.assert_allclose(got, expected, rtol=1e-12)
  assert 0 < (expected != w).sum() < w.size


def test_ssd_with_a_high_threshold_changes_nothing(small):
  params, session, *_ = small
  np.testing.assert_array_equal(apply(unlearn.ssd(1e6), params, session).params, params.params)
