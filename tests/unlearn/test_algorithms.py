"""Each algorithm against one hand-worked step in float64, its limits, and errors of public code."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmul import bind, unlearn
from jaxmul._examples import Examples
from jaxmul.data import Dataset, Split

ETA, DECAY = 0.1, 0.01


def linear(w, x):
  return x @ w


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def gradient(w, x, y):
  """∇ of the mean cross-entropy of a linear classifier, in numpy."""
  return x.T @ (softmax(x @ w) - np.eye(w.shape[1])[y]) / len(y)


@pytest.fixture
def step():
  """Steps of an algorithm on a linear classifier in float64: returns (new w, old w, S, R)."""
  rng = np.random.default_rng(0)
  w = rng.normal(size=(4, 3))
  s = rng.normal(size=(5, 4)), rng.integers(0, 3, 5)
  r = rng.normal(size=(6, 4)), rng.integers(0, 3, 6)

  def take(algorithm, key=0, *, meets=("forget", "retain"), epoch=0, epochs=1, steps=1):
    with jax.enable_x64(True):
      params = bind(linear, jnp.asarray(w))
      images = jnp.concatenate([jnp.asarray(s[0]), jnp.asarray(r[0])])
      labels = jnp.concatenate([jnp.asarray(s[1]), jnp.asarray(r[1])])
      sets = (
        Examples(images, labels, jnp.arange(0), 0).subset(np.arange(5), 11),
        Examples(images, labels, jnp.arange(0), 0).subset(np.arange(5, 11), 11),
      )
      batches = [
        each.batch(0, each.count if name in meets else 0, int(each.count))
        for name, each in zip(("forget", "retain"), sets, strict=True)
      ]
      session = unlearn.Session(*sets, epochs, 4, jax.random.key(0), np.arange(11))
      state = algorithm.init(params, session)
      if algorithm.start is not None:
        params = algorithm.start(params, state)
      if algorithm.update is not None:
        zero = jnp.int32(0)
        state = algorithm.tick(state, unlearn.Clock(jnp.int32(epoch), zero, zero + 1))
        for _ in range(steps):
          updates, state = algorithm.update(*batches, state, params, jax.random.key(key))
          params = optax.apply_updates(params, updates)
      if algorithm.finish is not None:
        params = algorithm.finish(params, state)
      return np.asarray(params.params), w, s, r

  return take


def test_fine_tune_is_a_step_down_on_retain(step):
  new, w, _, r = step(unlearn.fine_tune(ETA, weight_decay=DECAY))
  np.testing.assert_allclose(new, w - ETA * (gradient(w, *r) + DECAY * w), rtol=1e-12)


def test_momentum_carries_the_decayed_gradient_into_the_second_step(step):
  new, w, _, r = step(unlearn.fine_tune(ETA, momentum=0.9, weight_decay=DECAY), steps=2)
  first = gradient(w, *r) + DECAY * w
  w = w - ETA * first
  second = 0.9 * first + gradient(w, *r) + DECAY * w
  np.testing.assert_allclose(new, w - ETA * second, rtol=1e-12)


def test_neg_grad_is_a_pure_step_up_on_forget_without_decay(step):
  new, w, s, _ = step(unlearn.neg_grad(ETA))
  np.testing.assert_allclose(new, w + ETA * gradient(w, *s), rtol=1e-12)


def test_neg_grad_plus_weighs_both(step):
  new, w, s, r = step(unlearn.neg_grad_plus(ETA, alpha=0.7, weight_decay=DECAY))
  down = 0.7 * gradient(w, *r) - 0.3 * gradient(w, *s) + DECAY * w
  np.testing.assert_allclose(new, w - ETA * down, rtol=1e-12)


def test_neg_grad_plus_with_alpha_one_is_fine_tune(step):
  new, *_ = step(unlearn.neg_grad_plus(ETA, alpha=1.0))
  np.testing.assert_array_equal(new, step(unlearn.fine_tune(ETA))[0])


@pytest.mark.parametrize("never_true", [False, True])
def test_random_label_is_a_step_on_both_with_drawn_labels(step, never_true):
  new, w, s, r = step(unlearn.random_label(ETA, never_true=never_true, weight_decay=0.0), key=7)
  with jax.enable_x64(True):
    label_key = jax.random.split(jax.random.key(7))[0]
    drawn = unlearn.random_labels(label_key, jnp.asarray(s[1]), 3, never_true)
  x, y = np.concatenate([s[0], r[0]]), np.concatenate([np.asarray(drawn), r[1]])
  np.testing.assert_allclose(new, w - ETA * gradient(w, x, y), rtol=1e-12)


def test_salun_moves_the_most_salient_weights_of_the_whole_forget_set_only(step):
  new, w, s, _ = step(unlearn.salun(ETA, fraction=0.25))
  saliency = np.abs(gradient(w, *s))
  salient = saliency >= np.sort(saliency.ravel())[-3]
  assert salient.sum() == 3
  np.testing.assert_array_equal((new != w), salient)


def test_salun_with_everything_salient_is_random_label(step):
  new, *_ = step(unlearn.salun(ETA, fraction=1.0))
  np.testing.assert_array_equal(new, step(unlearn.random_label(ETA))[0])


def test_salun_with_nothing_salient_moves_nothing_decay_included(step):
  new, w, *_ = step(unlearn.salun(ETA, fraction=0.0, weight_decay=0.5))
  np.testing.assert_array_equal(new, w)


def test_salun_saliency_does_not_step(step):
  """A saliency pass that moves params or the optimizer is a known error of public code."""
  algorithm = unlearn.salun(0.0)
  new, w, *_ = step(algorithm)
  np.testing.assert_array_equal(new, w)


def test_salun_non_salient_weights_stay_over_a_whole_run():
  rng = np.random.default_rng(2)
  data = Dataset(rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40))
  w = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
  split = Split(forget=np.arange(9), retain=np.arange(9, 40))
  params = bind(linear, w)
  after = unlearn.run(
    unlearn.salun(0.1), params, data, split, jax.random.key(0), epochs=4, batch_size=8
  )
  saliency = np.abs(gradient(np.asarray(w), data.inputs[:9], data.labels[:9]))
  salient = saliency > np.median(saliency)
  np.testing.assert_array_equal(np.asarray(after.params != w), salient)


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_relabelled_labels_really_change(num_classes):
  """On every data set: also where labels are large, or there are only two classes."""
  labels = jnp.arange(3000) % num_classes
  drawn = unlearn.random_labels(jax.random.key(0), labels, num_classes, never_true=False)
  changed = float((drawn != labels).mean())
  expected = 1 - 1 / num_classes
  assert abs(changed - expected) < 4 * np.sqrt(expected * (1 - expected) / 3000)
  assert set(np.asarray(drawn)) <= set(range(num_classes))
  other = unlearn.random_labels(jax.random.key(0), labels, num_classes, never_true=True)
  assert (other != labels).all()
  assert int(other.min()) >= 0
  assert int(other.max()) < num_classes


@pytest.mark.parametrize("never_true", [False, True])
def test_labels_are_drawn_anew_in_each_epoch_of_a_run(never_true):
  """Each image has weights of its own, so that a step raises the one of the label it was given."""
  labels = np.arange(12) % 10
  data = Dataset(np.eye(12, dtype=np.float32), labels)
  split = Split(forget=np.arange(8), retain=np.arange(8, 12))
  algorithm = unlearn.random_label(1.0, never_true=never_true, momentum=0.0, weight_decay=0.0)
  params = bind(linear, jnp.zeros((12, 10)))
  w = [np.zeros((12, 10))]
  for epochs in (1, 2):
    after = unlearn.run(
      algorithm, params, data, split, jax.random.key(0), epochs=epochs, batch_size=4
    )
    w.append(np.asarray(after.params))
  first, second = (w[1] - w[0]).argmax(1), (w[2] - w[1]).argmax(1)
  assert (first[:8] != second[:8]).any()
  for given in (first, second):
    np.testing.assert_array_equal(given[8:], labels[8:])
    changed = given[:8] != labels[:8]
    assert changed.all() if never_true else changed.any()


def test_saliency_mask_counts_exactly_under_ties():
  mask = unlearn.saliency_mask({"a": jnp.ones((3, 3)), "b": jnp.zeros(7)}, 0.5)
  assert int(sum(leaf.sum() for leaf in jax.tree.leaves(mask))) == 8
  assert not mask["b"].any()


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: unlearn.neg_grad_plus(alpha=1.5), r"alpha=1.5, must be in \[0, 1\]"),
    (lambda: unlearn.salun(fraction=-1), r"fraction=-1, must be in \[0, 1\]"),
    (lambda: unlearn.saliency_mask(jnp.ones(3), 2.0), r"fraction=2.0, must be in \[0, 1\]"),
    (lambda: unlearn.boundary_shrink(radius=-1), "radius=-1, must be at least 0"),
    (lambda: unlearn.amun(radius=-1), "radius=-1, must be above 0"),
    (lambda: unlearn.amun(steps=0), "steps=0, must be at least 1"),
    (lambda: unlearn.amun(doublings=-1), "doublings=-1, must be at least 0"),
  ],
)
def test_hyperparameters_out_of_range_get_one_line(make, message):
  with pytest.raises(ValueError, match=message) as caught:
    make()
  assert "\n" not in str(caught.value)


# What the papers print; what they tune is our choice and may change.
PUBLISHED = {
  unlearn.fine_tune: {"learning_rate": 0.01},
  unlearn.l1_sparse: {"learning_rate": 0.01},
  unlearn.neg_grad: {"learning_rate": 1e-4},
  unlearn.neg_grad_plus: {"learning_rate": 0.01, "alpha": 0.97},
  unlearn.random_label: {"learning_rate": 0.1, "never_true": False},
  unlearn.salun: {"learning_rate": 0.1, "fraction": 0.5, "never_true": False},
  unlearn.scrub: {"learning_rate": 5e-3, "msteps": 4, "temperature": 4.0}
  | {"gamma": 0.99, "beta": 0.001},  # those of its published code
  unlearn.influence: {"alpha": 1.0},
  unlearn.fisher: {"rum_compat": False},
  unlearn.ssd: {"alpha": 10.0, "dampening": 1.0},
  unlearn.bad_teacher: {"learning_rate": 1e-4},
  unlearn.boundary_shrink: {"learning_rate": 1e-5},
  unlearn.boundary_expand: {"learning_rate": 1e-5},
  unlearn.amun: {"steps": 50},
  unlearn.msg: {"learning_rate": 1e-3, "fraction": 0.3, "rest": 0.1},
  unlearn.layer_attack: {"alpha": 0.5, "temperature": 4.0},
}


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_defaults_are_those_that_are_published(make):
  defaults = {name: each.default for name, each in inspect.signature(make).parameters.items()}
  training = {"momentum": 0.9, "weight_decay": 5e-4}
  published = PUBLISHED[make] | {name: training[name] for name in training if name in defaults}
  assert {name: defaults[name] for name in published} == published
