"""Output proxies against slow float64 references, their ranges, orientation and edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import proxies
from jaxmul.proxies.outputs import entropies

INF = np.inf
CLASSES = 4


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def identity(w, x):
  """A network whose inputs are its logits."""
  return w * x


def softmax(z):
  e = np.exp(np.float64(z) - np.max(z))
  return e / e.sum()


def nats(p, y):
  return -np.log(p[y]) if p[y] > 0 else INF


def others(z, y):
  return max(z[c] for c in range(len(z)) if c != y)


# (reference(z, p, y), low, high)
REFERENCES = {
  proxies.confidence: (lambda z, p, y: 1 - p[y], 0, 1),
  proxies.max_confidence: (lambda z, p, y: 1 - p.max(), 0, 1 - 1 / CLASSES),
  proxies.entropy: (
    lambda z, p, y: -sum(q * np.log(q) for q in p if q > 0),
    0,
    np.log(CLASSES),
  ),
  proxies.correctness: (lambda z, p, y: float(int(np.argmax(z)) != y), 0, 1),
  proxies.loss: (lambda z, p, y: nats(p, y), 0, INF),
  proxies.margin: (lambda z, p, y: others(z, y) - z[y], -INF, INF),
  proxies.el2n: (lambda z, p, y: np.sqrt(((p - np.eye(len(p))[y]) ** 2).sum()), 0, np.sqrt(2)),
}


def every(function):
  return pytest.mark.parametrize("proxy", REFERENCES, ids=lambda f: f.__name__)(function)


def examples():
  """Logits from flat to saturated, with every label."""
  rng = np.random.default_rng(0)
  z = np.concatenate([scale * rng.normal(size=(8, CLASSES)) for scale in (0.01, 1, 6, 40)])
  z = np.concatenate([z, np.zeros((1, CLASSES))]).astype(np.float32)
  return z, np.arange(len(z)) % CLASSES


@every
def test_a_proxy_equals_its_reference_and_stays_in_range(proxy):
  reference, low, high = REFERENCES[proxy]
  z, y = examples()
  want = [reference(np.float64(row), softmax(row), label) for row, label in zip(z, y, strict=True)]
  for call in (proxy, jax.jit(proxy, static_argnums=2)):
    got = call(1.0, (z, y), identity)
    assert got.dtype == jnp.float32
    assert got.shape == (len(z),)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
    assert (got >= low).all()
    assert (got <= high * (1 + 1e-6)).all()


@every
def test_a_sure_and_right_example_scores_lowest(proxy):
  z = np.array([[9, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], np.float32)
  got = proxy(1.0, (z, np.zeros(3, int)), identity)
  assert got[0] <= got[1] <= got[2]
  assert got[0] < got[2] or proxy in (proxies.max_confidence, proxies.entropy)
  assert got[0] < got[1] or proxy is proxies.correctness


@every
def test_each_example_is_scored_alone(proxy):
  z, y = examples()
  together = proxy(1.0, (z, y), identity)
  backwards = proxy(1.0, (z[::-1].copy(), y[::-1].copy()), identity)[::-1]
  apart = proxy(1.0, (z[3:5], y[3:5]), identity)
  np.testing.assert_allclose(backwards, together, rtol=1e-6)
  np.testing.assert_allclose(apart, together[3:5], rtol=1e-6)


@every
def test_the_three_forms_of_the_call_agree(proxy):
  z, y = examples()
  want = proxy(2.0, (z, y), identity)

  @jax.tree_util.register_pytree_node_class
  class Network:
    def __init__(self, w):
      self.w = w

    def __call__(self, x):
      return self.w * x

    def tree_flatten(self):
      return (self.w,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
      return cls(*leaves)

  for form in (jaxmul.bind(identity, 2.0), Network(2.0)):
    np.testing.assert_array_equal(proxy(form, (z, y)), want)
  with one_line(rf"{proxy.__name__} needs apply_fn.*Pass apply_fn=model\.apply"):
    proxy({"w": 2.0}, (z, y))


@every
def test_models_under_vmap_equal_models_one_at_a_time(proxy):
  z, y = examples()
  scales = jnp.array([0.5, 1.0, 2.0])
  got = jax.vmap(lambda w: proxy(w, (z, y), identity))(scales)
  want = jnp.stack([proxy(w, (z, y), identity) for w in scales])
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_class_of_probability_zero_adds_nothing():
  def constant(w, x):
    del x
    return w

  y = np.array([0, 0, 0])
  z = jnp.array([[0, -INF, -INF], [0, 0, -INF], [3e38, -3e38, -3e38]])
  batch = (np.ones((3, 2), np.float32), y)
  want = {
    proxies.confidence: [0, 0.5, 0],
    proxies.max_confidence: [0, 0.5, 0],
    proxies.entropy: [0, np.log(2), 0],
    proxies.correctness: [0, 0, 0],
    proxies.loss: [0, np.log(2), 0],
    proxies.el2n: [0, np.sqrt(0.5), 0],
  }
  for proxy, values in want.items():
    np.testing.assert_allclose(proxy(z, batch, constant), values, rtol=1e-6, err_msg=str(proxy))
  assert proxies.margin(z, batch, constant).tolist() == [-INF, 0, -INF]
  wrong = (batch[0], np.array([1, 2, 1]))
  assert proxies.loss(z, wrong, constant)[:2].tolist() == [INF, INF]
  assert proxies.confidence(z, wrong, constant).tolist() == [1, 1, 1]
  np.testing.assert_allclose(proxies.el2n(z, wrong, constant), [2**0.5, 1.5**0.5, 2**0.5], 1e-6)


def test_entropies_take_low_precision():
  z = jnp.zeros((1, 3), jnp.bfloat16)
  assert entropies(z).dtype == jnp.float32
  np.testing.assert_allclose(entropies(z), np.log(3), rtol=1e-6)


def test_an_impossible_label_is_nan_where_it_cannot_be_read():
  z, _ = examples()
  labels = np.where(np.arange(len(z)) == 2, CLASSES, 0)
  got = jax.jit(lambda y: proxies.loss(1.0, (z, y), identity))(labels)
  assert np.flatnonzero(np.isnan(got)).tolist() == [2]


@every
def test_dtype_and_shape_of_labels_are_checked_under_jit(proxy):
  z, y = examples()
  score = jax.jit(lambda labels: proxy(1.0, (z, labels), identity))
  with pytest.raises(ValueError, match=f"{proxy.__name__} needs integer labels, got float32"):
    score(y.astype(np.float32))
  with pytest.raises(ValueError, match=rf"{proxy.__name__} needs labels \[B\].*argmax"):
    score(np.eye(CLASSES, dtype=int)[y])


@every
def test_bad_batches_are_refused_before_tracing(proxy):
  z, y = examples()
  name = proxy.__name__
  with one_line(rf"{name} got label 4, outside \[0, 4\)"):
    proxy(1.0, (z, y + 1), identity)
  with one_line(rf"{name} needs labels \[B\].*argmax"):
    proxy(1.0, (z, np.eye(CLASSES)[y]), identity)
  with one_line(rf"{name} needs float inputs, got uint8"):
    proxy(1.0, (z.astype(np.uint8), y), identity)
  with one_line(rf"{name} needs labels of numbers, got <U\d+"):
    proxy(1.0, (z, y.astype(str)), identity)
