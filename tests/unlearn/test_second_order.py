"""One-shot algorithms against explicit matrices, on models small enough to hold them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxmul import bind, losses, models, unlearn
from jaxmul.data import Dataset, Split


def linear(w, x):
  return x @ w


def squares(logits, labels):
  return 0.5 * jnp.sum((logits - jax.nn.one_hot(labels, logits.shape[-1])) ** 2, axis=-1)


def session_of(x, y, forget):
  n = len(y)
  retain = np.setdiff1d(np.arange(n), forget)
  sets = [
    unlearn.Examples(
      x, y, jnp.asarray(np.r_[rows, np.zeros(n - len(rows), int)]), jnp.int32(len(rows))
    )
    for rows in (forget, retain)
  ]
  return unlearn.Session(*sets, 1, 4, jax.random.key(0), np.arange(n)), retain


def apply(algorithm, params, session):
  with jax.enable_x64(True):
    return algorithm.start(params, algorithm.init(params, session))


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


@pytest.fixture(scope="module")
def small():
  rng = np.random.default_rng(4)
  x, y, w = rng.normal(size=(12, 4)), rng.integers(0, 3, 12), rng.normal(size=(4, 3))
  with jax.enable_x64(True):
    session, retain = session_of(jnp.asarray(x), jnp.asarray(y), np.arange(5))
    return bind(linear, jnp.asarray(w)), session, x, y, retain


def squared_gradients(params, x, y, expected):
  """Mean over examples of (p − e)² x², the Fisher diagonal of a linear classifier, in numpy."""
  w = np.asarray(params.params, float)
  z = x @ w
  p = np.exp(z - z.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  if expected:
    each = [p[:, c : c + 1] * (p - np.eye(3)[c]) ** 2 for c in range(3)]
    delta = sum(each)
  else:
    delta = (p - np.eye(3)[y]) ** 2
  return np.einsum("ni,nc->ic", x**2, delta) / len(x)


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


def test_one_shot_in_run_checks_what_comes_out():
  rng = np.random.default_rng(4)
  data = Dataset(rng.normal(size=(12, 4)).astype(np.float32), rng.integers(0, 3, 12))
  params = bind(linear, jnp.asarray(rng.normal(size=(4, 3)), jnp.float32))
  split = Split(forget=np.arange(4), retain=np.arange(4, 12))
  with pytest.raises(unlearn.Diverged, match="one shot") as caught:
    unlearn.run(unlearn.influence(3e38), params, data, split, jax.random.key(0), epochs=1)
  assert caught.value.network.params is params.params
