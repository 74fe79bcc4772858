"""GraNd and input gradients are the norms that the chain rule, written out in numpy, gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import _blocks, models, proxies
from jaxmul.proxies import grand, input_gradient

SIZE, INPUTS, HIDDEN, CLASSES = 7, 5, 6, 3


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


def tanh(w, x):
  return jnp.tanh(x @ w["in"]) @ w["out"]


def problem():
  rng = np.random.default_rng(0)
  w = {"in": rng.normal(size=(INPUTS, HIDDEN)), "out": rng.normal(size=(HIDDEN, CLASSES))}
  return w, (rng.normal(size=(SIZE, INPUTS)), rng.integers(0, CLASSES, SIZE))


def by_hand(w, batch):
  """(‖∇_θ ℓ‖, ‖∇_x ℓ‖) [B] of z = tanh(x W) V: error p − onehot(y), pulled back layer by layer."""
  found = []
  for x, y in zip(*batch, strict=True):
    h = np.tanh(x @ w["in"])
    z = h @ w["out"]
    error = np.exp(z) / np.exp(z).sum() - np.eye(CLASSES)[y]
    back = (w["out"] @ error) * (1 - h**2)
    weights = np.r_[np.outer(h, error).ravel(), np.outer(x, back).ravel()]
    found.append((np.linalg.norm(weights), np.linalg.norm(w["in"] @ back)))
  return np.array(found).T


def test_both_equal_the_chain_rule_by_hand(double):
  w, batch = problem()
  for proxy, want in zip((grand, input_gradient), by_hand(w, batch), strict=True):
    np.testing.assert_allclose(proxy(w, batch, tanh), want, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(proxy, static_argnums=2)(w, batch, tanh), want, rtol=1e-12)


def test_only_params_count_not_the_statistics_of_a_network():
  x, y = np.ones((2, 4, 4, 3), np.float32), np.array([0, 1])
  model = models.ResNet((1,), 2, CLASSES)
  variables = jax.jit(model.init)(jax.random.key(0), x)
  with one_line("grand takes parameter gradients, but params holds 'batch_stats'.*state="):
    grand(variables, (x, y), model.apply)
  apart = jaxmul.bind(model.apply, variables["params"], {"batch_stats": variables["batch_stats"]})
  moved = jax.tree.map(lambda w: w + 0.5, variables["batch_stats"])
  other = apart.replace(state={"batch_stats": moved})
  score = jax.jit(grand)
  assert not np.allclose(score(apart, (x, y)), score(other, (x, y)))
  want = jax.jit(input_gradient)(apart, (x, y))
  got = jax.jit(input_gradient, static_argnums=2)(variables, (x, y), model.apply)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_callable_trees_may_hold_more_than_weights():
  import equinox as eqx

  class Batched(eqx.Module):
    network: eqx.nn.MLP
    steps: jax.Array

    def __call__(self, x):
      return jax.vmap(self.network)(x)

  _, (x, y) = problem()
  x = x.astype(np.float32)
  network = Batched(eqx.nn.MLP(INPUTS, CLASSES, HIDDEN, 1, key=jax.random.key(1)), jnp.int32(3))
  first, last = network.network.layers
  w = [first.weight, first.bias, last.weight, last.bias]

  def apply(w, x):
    return jax.nn.relu(x @ w[0].T + w[1]) @ w[2].T + w[3]

  np.testing.assert_allclose(grand(network, (x, y)), grand(w, (x, y), apply), rtol=1e-5)


@pytest.mark.parametrize("proxy", [grand, input_gradient])
def test_an_impossible_label_is_nan_where_it_cannot_be_read(proxy):
  w, (x, y) = problem()
  labels = np.where(np.arange(SIZE) == 2, CLASSES, y)
  with one_line(rf"{proxy.__name__} got label 3, outside \[0, 3\)"):
    proxy(w, (x, labels), tanh)
  got = jax.jit(lambda labels: proxy(w, (x, labels), tanh))(labels)
  assert np.flatnonzero(np.isnan(got)).tolist() == [2]
  bound = models.init(models.mlp((4,), CLASSES), jax.random.key(0), x.astype(np.float32))
  got = jax.jit(lambda labels: proxy(bound, (x, labels)))(labels)
  assert np.flatnonzero(np.isnan(got)).tolist() == [2]


@pytest.mark.parametrize("proxy", [grand, input_gradient])
def test_bad_batches_are_refused(proxy):
  w, (x, y) = problem()
  with one_line(rf"{proxy.__name__} needs float inputs, got uint8"):
    proxy(w, (x.astype(np.uint8), y), tanh)
  with one_line(rf"{proxy.__name__} needs apply_fn.*Pass apply_fn=model\.apply"):
    proxy(w, (x, y))


@pytest.mark.parametrize(
  "proxy",
  [
    proxies.grand,
    proxies.input_gradient,
    proxies.curvature,
    functools.partial(proxies.curvature, method="finite_difference"),
    functools.partial(proxies.curvature, method="rum_compat"),
  ],
)
@pytest.mark.parametrize("what", ["images", "sequences"])
def test_small_blocks_give_the_same_scores(proxy, what, monkeypatch):
  """One CPU device takes 16 images or 1,024 tokens at a time; here there are eight devices."""
  rng = np.random.default_rng(0)
  if what == "images":
    model, batch = models.cnn((3,), 5, 3), (rng.normal(size=(37, 6, 6, 1)).astype(np.float32),)
    batch += (rng.integers(0, 3, 37),)
  else:
    model, batch = models.gpt(9, length=50, width=8, depth=1), (rng.integers(0, 9, (37, 50)),) * 2
  params = models.init(model, jax.random.key(0), batch[0][:1])
  whole = jax.jit(proxy)(params, batch)
  monkeypatch.setattr(_blocks, "_is_one_cpu", lambda: True)
  loops = jax.make_jaxpr(lambda batch: proxy(params, batch))(batch)
  assert "length=3" in str(loops)  # blocks of 16: of 50 tokens, 20 would fit
  # Elsewhere the step of a finite difference makes rounding larger.
  np.testing.assert_allclose(jax.jit(lambda b: proxy(params, b))(batch), whole, rtol=2e-3)
