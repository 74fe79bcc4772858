"""Losses against slow float64 references, at the edges of float32 and for labels that are none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import losses

INF = np.inf


def log_softmax(z):
  z = np.asarray(z, np.float64)
  shifted = z - z.max(-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_odds(z, y):
  others = np.delete(np.asarray(z, np.float64), y)
  return z[y] - others.max() - np.log(np.exp(others - others.max()).sum())


REFERENCES = {
  losses.cross_entropy: lambda z, y: -log_softmax(z)[y],
  losses.margins: lambda z, y: z[y] - max(z[c] for c in range(len(z)) if c != y),
  losses.log_odds: log_odds,
  losses.is_correct: lambda z, y: float(int(np.argmax(z)) == y),
}


def logits_and_labels(*scales):
  rng = np.random.default_rng(0)
  z = np.concatenate([scale * rng.normal(size=(20, 5)) for scale in scales])
  return z.astype(np.float32), rng.integers(0, 5, len(z))


@pytest.mark.parametrize("loss", REFERENCES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_losses_equal_a_float64_reference(loss, transform):
  z, y = logits_and_labels(1.0, 30.0, 1e30)
  want = [REFERENCES[loss](np.float64(row), label) for row, label in zip(z, y, strict=True)]
  got = transform(loss)(jnp.asarray(z), jnp.asarray(y))
  np.testing.assert_allclose(np.float64(got), want, rtol=2e-6, atol=1e-6)


def test_log_probabilities_are_at_most_zero_and_sum_to_one():
  log_p = losses.log_probabilities(jnp.asarray(logits_and_labels(30.0)[0]))
  assert (log_p <= 0).all()
  np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1, rtol=1e-6)


def test_impossible_classes_are_no_nan():
  z, y = jnp.array([[0.0, -INF, 0.0], [5.0, -INF, -INF]]), jnp.array([0, 0])
  np.testing.assert_allclose(losses.cross_entropy(z, y), [np.log(2), 0], rtol=1e-6)
  assert losses.margins(z, y).tolist() == [0.0, INF]
  assert losses.cross_entropy(z, jnp.array([1, 1])).tolist() == [INF, INF]


def test_cross_entropy_is_never_minus_zero():
  got = losses.cross_entropy(jnp.array([[100.0, 0.0]]), jnp.array([0]))
  assert not np.signbit(got).any()


@pytest.mark.parametrize("label", [-1, 3, 100])
@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margins, losses.log_odds])
def test_a_label_that_is_no_class_gives_nan(loss, label):
  got = loss(jnp.ones((2, 3)), jnp.array([0, label]))
  assert np.isnan(got).tolist() == [False, True]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int32])
def test_labels_may_be_any_integer(dtype):
  z, y = logits_and_labels(1.0)
  got = losses.cross_entropy(z, jnp.asarray(y, dtype))
  np.testing.assert_array_equal(got, losses.cross_entropy(z, y))


def test_low_precision_is_widened_and_double_is_kept():
  z, y = logits_and_labels(1.0)
  low = jnp.asarray(z, jnp.bfloat16)
  assert losses.cross_entropy(low, y).dtype == jnp.float32
  np.testing.assert_array_equal(
    losses.cross_entropy(low, y), losses.cross_entropy(low.astype(jnp.float32), y)
  )
  with jax.enable_x64(True):
    got = losses.cross_entropy(jnp.asarray(z, jnp.float64), y)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, [-log_softmax(r)[c] for r, c in zip(z, y, strict=True)], 1e-13)


@pytest.mark.parametrize("gap", [0.0, 3.0, 17.0, 30.0, 60.0])
def test_gradient_is_probability_minus_one_hot_even_where_the_loss_rounds_to_zero(gap):
  z = jnp.array([[gap, 0.0, -1.0]])
  gradient = jax.grad(lambda z: losses.cross_entropy(z, jnp.array([0]))[0])(z)[0]
  want = np.exp(log_softmax(z[0]))
  assert (gradient[1:] > 0).all()
  np.testing.assert_allclose(gradient[1:], want[1:], rtol=1e-5)


def test_the_first_of_tied_logits_is_the_prediction():
  z = jnp.zeros((2, 3))
  assert losses.is_correct(z, jnp.array([0, 1])).tolist() == [True, False]


def test_masked_values_touch_neither_the_mean_nor_its_gradient():
  mask = jnp.array([True, False, True])

  def mean(values):
    return losses.masked_mean(values, mask)

  values = jnp.array([1.0, jnp.nan, 3.0])
  assert float(mean(values)) == 2.0
  assert jax.grad(mean)(values).tolist() == [0.5, 0.0, 0.5]
  assert float(losses.masked_mean(values, jnp.zeros(3, bool))) == 0.0
