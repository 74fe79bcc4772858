"""SalUn by hand, and masks under ties."""

import jax
import jax.numpy as jnp
import numpy as np
from by_hand import (
  ETA,
  gradient,
  linear,
)

from jaxmul import bind, unlearn
from jaxmul.data import Dataset, Split


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
