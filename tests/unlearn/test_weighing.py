"""γ L_S + α L_R: each term alone, R kept by KL, batches without R, and all of R."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, bound, divergence_gradient, gradient, squares
from by_hand_text import FORGET, NOW, ORIGINAL, RETAIN, begun, network, risk, texts, value_of
from by_hand_text import gradient as of_text

from jaxmul import losses, unlearn
from jaxmul.data import Dataset, Split
from jaxmul.unlearn import _passes

ANSWERS = Dataset(*texts(3, 4), num_classes=5)
WEIGHED = {
  "npo": unlearn.npo,
  "simnpo": unlearn.simnpo,
  "dpo": lambda **given: unlearn.dpo(ANSWERS, **given),
  "wga": unlearn.wga,
  "ce_u": unlearn.ce_u,
  "undial": unlearn.undial,
}


@pytest.mark.parametrize("name", WEIGHED)
def test_without_gamma_it_trains_on_retain_alone(name):
  with jax.enable_x64(True):
    algorithm = WEIGHED[name](gamma=0, alpha=1.5)
    got, slope = value_of(algorithm, network(ORIGINAL), network(NOW), FORGET, RETAIN)
  value, residual = risk(NOW, RETAIN)
  np.testing.assert_allclose(got, 1.5 * value.mean(), rtol=1e-12)
  np.testing.assert_allclose(slope, 1.5 * of_text(RETAIN, residual), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", WEIGHED)
def test_without_alpha_nothing_of_retain_is_looked_at(name):
  """Not even where it gives NaN."""
  algorithm = WEIGHED[name](alpha=0)
  assert algorithm.passes == "forget"
  assert WEIGHED[name](alpha=1).passes == "retain"
  nowhere = np.full_like(RETAIN[0], 5), RETAIN[1]
  networks = [network(np.vstack([table, np.full(5, np.nan)])) for table in (ORIGINAL, NOW)]
  with jax.enable_x64(True):
    got, slope = value_of(algorithm, *networks, FORGET, nowhere)
  assert np.isfinite(got)
  assert np.isfinite(slope).all()


def test_neg_grad_plus_keeps_retain_by_kl(step):
  """At the original its gradient is 0; elsewhere it is softmax(z) − softmax(z₀)."""
  new, w, s, _ = step(unlearn.neg_grad_plus(ETA, alpha=0.7, weight_decay=0, keep="kl"))
  np.testing.assert_allclose(new, w + ETA * 0.3 * gradient(w, *s), rtol=1e-12)
  algorithm = unlearn.neg_grad_plus(ETA, alpha=1.0, weight_decay=0, momentum=0, keep="kl")
  new, w, _, (x, _) = step(algorithm, steps=2)
  np.testing.assert_allclose(new, w, atol=1e-15)
  algorithm = unlearn.neg_grad_plus(ETA, alpha=0.7, weight_decay=0, momentum=0, keep="kl")
  (first, w, s, _), (second, *_) = step(algorithm), step(algorithm, steps=2)
  down = 0.7 * divergence_gradient(x, x @ w, x @ first) - 0.3 * gradient(first, *s)
  np.testing.assert_allclose(second, first - ETA * down, rtol=1e-10)


def test_only_two_ways_to_keep():
  for make in (unlearn.npo, unlearn.neg_grad_plus):
    with pytest.raises(ValueError, match=r"got keep='KL', must be 'risk' or 'kl'\.\Z"):
      make(keep="KL")


def test_what_needs_no_classes_keeps_a_loss_of_ones_own():
  own = bound().replace(loss=squares)
  for make in (unlearn.neg_grad_plus, *(WEIGHED[name] for name in ("npo", "undial"))):
    with pytest.raises(ValueError, match="needs probabilities of classes") as caught:
      begun(make(keep="kl"), own, FORGET, RETAIN)
    assert "\n" not in str(caught.value)


def is_finite_without_retain(algorithm):
  with jax.enable_x64(True):
    batches, state = begun(algorithm, network(ORIGINAL), FORGET, RETAIN, kept=False)
    updates, _ = algorithm.update(*batches, state, network(NOW), jax.random.key(1))
  return bool(np.isfinite(updates.params).all())


@pytest.mark.parametrize("keep", ["risk", "kl"])
def test_a_batch_without_retain_makes_no_nan(keep, monkeypatch):
  algorithms = [make(alpha=1, keep=keep) for make in (unlearn.npo, unlearn.wga, unlearn.undial)]
  assert all(map(is_finite_without_retain, algorithms))

  def plain_mean(values, mask):
    return jnp.sum(values * mask) / jnp.sum(mask)

  monkeypatch.setattr(losses, "masked_mean", plain_mean)
  assert not any(map(is_finite_without_retain, algorithms))


def unseen(algorithm):
  """Which of seven examples of R can have other labels without a difference after an epoch."""
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 5, (2, 9, 4))
  split, key = Split(forget=np.arange(2), retain=np.arange(2, 9)), jax.random.key(0)
  table = network(ORIGINAL).replace(params=jnp.asarray(ORIGINAL, jnp.float32))

  def after(changed):
    labels = np.where(np.arange(9)[:, None] == changed, (y + 1) % 5, y)
    data = Dataset(x, labels, num_classes=5)
    return np.asarray(
      unlearn.run(algorithm, table, data, split, key, epochs=1, batch_size=2).params
    )

  as_they_are = after(None)
  return [example for example in split.retain if (after(example) == as_they_are).all()]


def test_every_example_of_retain_is_looked_at(monkeypatch):
  algorithm = unlearn.npo(0.01)
  assert unseen(algorithm) == []
  good = _passes.Walk._cycled

  def modulo_forget(self, examples, room, step):
    """An index of R modulo |S|, as where one row of a data set holds both."""
    return good(self, examples._replace(count=jnp.minimum(examples.count, 2)), room, step)

  monkeypatch.setattr(_passes.Walk, "_cycled", modulo_forget)
  assert len(unseen(dataclasses.replace(algorithm, identity=object()))) == 5
