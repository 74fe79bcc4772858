"""Relabelling of S, and that of the most salient weights, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, gradient, linear

from jaxmul import bind, unlearn
from jaxmul.data import Dataset, Split


@pytest.mark.parametrize("never_true", [False, True])
def test_random_label_is_a_step_on_both_with_drawn_labels(step, never_true):
  new, w, s, r = step(unlearn.random_label(ETA, never_true=never_true, weight_decay=0.0), key=7)
  with jax.enable_x64(True):
    label_key = jax.random.split(jax.random.key(7))[0]
    drawn = unlearn.random_labels(label_key, jnp.asarray(s[1]), 3, never_true)
  x, y = np.concatenate([s[0], r[0]]), np.concatenate([np.asarray(drawn), r[1]])
  np.testing.assert_allclose(new, w - ETA * gradient(w, x, y), rtol=1e-12)


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


def test_saliency_mask_counts_exactly_under_ties():
  mask = unlearn.saliency_mask({"a": jnp.ones((3, 3)), "b": jnp.zeros(7)}, 0.5)
  assert int(sum(leaf.sum() for leaf in jax.tree.leaves(mask))) == 8
  assert not mask["b"].any()
