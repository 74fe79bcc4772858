"""MSG, CT, their rates, which come from one paper, and localized reset, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import DECAY, ETA, FRESH, R, S, W, bound, first_step, gradient, session_on

from jaxmul import bind, models, unlearn


def part_of(retain, key, size):
  """Rows of R that a session's key draws."""
  rows = unlearn.Examples(
    jnp.zeros((11, 1)), jnp.zeros(11, int), jnp.r_[retain, jnp.zeros(5, int)], 6
  )
  return np.asarray(rows.shuffled(jax.random.key(key)).rows)[:size]


@pytest.mark.parametrize("key", range(3))
def test_msg_resets_the_smallest_gradients_and_slows_those_of_the_rest(key):
  algorithm = unlearn.msg(bound(FRESH), ETA, fraction=0.25, weight_decay=0.3)
  begun, after = first_step(algorithm, bound(), epochs=1, key=key)
  part = part_of(np.arange(6), key, 5)  # of R as many as S has
  assert len(set(part)) == 5
  difference = np.abs(gradient(W, R[0][part], R[1][part]) - gradient(W, *S))
  reset = difference <= np.sort(difference.ravel())[2]
  assert reset.sum() == 3
  expected = np.where(reset, FRESH, W)
  np.testing.assert_array_equal(begun.params, expected)
  down = np.where(reset, 1, 0.1) * gradient(expected, *R)
  down += 0.3 * expected  # not slowed
  np.testing.assert_allclose(after.params, expected - ETA * down, rtol=1e-6)  # top rate


def test_msg_takes_all_of_retain_where_it_is_smaller_than_forget():
  """S is R here and R has two examples of it: a part as large as S would repeat some."""
  with jax.enable_x64(True):
    images, labels = jnp.asarray(R[0]), jnp.asarray(R[1])
    sets = [
      unlearn.Examples(images, labels, jnp.asarray(rows), jnp.int32(count))
      for rows, count in (([2, 3, 4, 5, 0, 0], 4), ([0, 1, 1, 1, 1, 1], 2))
    ]
    algorithm = unlearn.msg(bound(FRESH), fraction=0.25)
    chosen = algorithm.init(bound(), unlearn.Session(*sets, 1, 4, jax.random.key(0))).memory
  difference = gradient(W, R[0][:2], R[1][:2]) - gradient(W, R[0][2:], R[1][2:])
  smallest = np.sort(np.abs(difference).ravel())[2]
  np.testing.assert_array_equal(chosen.mask, np.abs(difference) <= smallest)


def test_msg_slows_kernels_of_convolutions_and_nothing_else():
  """Images of 2 x 2 under one kernel, with a bias, beside a dense layer."""

  def apply_fn(theta, x):
    return x @ theta["kernel"].reshape(4, 3) + x[:, :2] @ theta["dense"] + theta["bias"]

  with jax.enable_x64(True):
    theta = {"kernel": jnp.asarray(W).reshape(2, 2, 1, 3), "dense": jnp.ones((2, 3))}
    params = bind(apply_fn, theta | {"bias": jnp.zeros(3)})
  algorithm = unlearn.msg(params, ETA, fraction=0.0, weight_decay=0.0)
  _, after = first_step(algorithm, params)
  _, tuned = first_step(unlearn.fine_tune(ETA, weight_decay=0.0), params)
  for name, share in (("kernel", 0.1), ("dense", 1.0), ("bias", 1.0)):
    moved, full = (np.subtract(each.params[name], params.params[name]) for each in (after, tuned))
    np.testing.assert_allclose(moved, share * full, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
  ("make", "epochs", "expected"),
  [
    (unlearn.msg, 5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
    (unlearn.msg, 4, [1 / 2, 1, 2 / 3, 1 / 3]),
    (unlearn.msg, 2, [1, 1 / 2]),
    (unlearn.msg, 1, [1]),
    (unlearn.ct, 3, [1, 0.75, 0.25]),
    (unlearn.ct, 1, [1]),
  ],
)
def test_rates_of_msg_and_ct_follow_the_cited_code(make, epochs, expected):
  """Of an epoch's two steps the rate is the same."""
  settings = {"momentum": 0.0, "weight_decay": 0.0}
  if make is unlearn.msg:
    settings |= {"initial": bound(FRESH), "fraction": 0.0, "rest": 1.0}
  algorithm = make(learning_rate=1.0, **settings)
  with jax.enable_x64(True):
    params = bind(lambda w, x: x @ w.reshape(4, 3), jnp.asarray(W).reshape(2, 2, 1, 3))
    params = bound() if make is unlearn.msg else params
    rows = unlearn.Examples(jnp.asarray(R[0]), jnp.asarray(R[1]), jnp.arange(6), jnp.int32(6))
    state = algorithm.init(params, unlearn.Session(rows, rows, epochs, 6, jax.random.key(0)))
    batch, rates = rows.batch(0, 6, 6), []
    for epoch in range(epochs):
      for step in range(2):
        clock = unlearn.Clock(*map(jnp.int32, (epoch, step, 2)))
        now = algorithm.tick(state, clock)
        moved, _ = algorithm.update(batch, batch, now, params, jax.random.key(0))
        rates.append(float(-moved.params.ravel()[0] / gradient(W, *R)[0, 0]))
  np.testing.assert_allclose(rates, np.repeat(expected, 2), atol=1e-6)


def test_msg_and_ct_default_to_the_published_rates():
  assert unlearn.ct() == unlearn.ct(1e-3)
  assert unlearn.msg(bound(FRESH)) == unlearn.msg(bound(FRESH), 1e-3, fraction=0.3, rest=0.1)


def test_a_reset_of_everything_starts_from_the_fresh_weights():
  begun, _ = first_step(unlearn.msg(bound(FRESH), ETA, fraction=1.0), bound())
  np.testing.assert_array_equal(begun.params, FRESH)


def test_ct_transposes_square_kernels_and_keeps_all_other_leaves():
  model = models.cnn((3, 3), 5, 3)
  x = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype(np.float32)
  params = models.init(model, jax.random.key(0), jnp.asarray(x[:1]))
  begun = unlearn.ct().start(params, unlearn.ct().init(params, session_on(x)))
  for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(begun), strict=True):
    expected = np.swapaxes(old, 0, 1) if np.ndim(old) == 4 else old
    np.testing.assert_array_equal(new, expected)


def test_ct_tunes_on_retain_from_the_transposed_kernels():
  """Images of 2 x 2 and one kernel over all of them: a linear classifier of 4 inputs."""
  with jax.enable_x64(True):
    params = bind(lambda kernel, x: x @ kernel.reshape(4, 3), jnp.asarray(W).reshape(2, 2, 1, 3))
  _, after = first_step(unlearn.ct(ETA, weight_decay=DECAY), params)
  begun = W[[0, 2, 1, 3]]
  expected = begun - ETA * (gradient(begun, *R) + DECAY * begun)
  np.testing.assert_allclose(np.reshape(after.params, (4, 3)), expected, rtol=1e-12)


def test_localized_reset_resets_the_channels_that_matter_most():
  algorithm = unlearn.localized_reset(bound(FRESH), ETA, fraction=1 / 3)
  begun, after = first_step(algorithm, bound())
  channel = np.abs(W * gradient(W, *S)).mean(0).argmax()
  expected = W.copy()
  expected[:, channel] = FRESH[:, channel]
  np.testing.assert_array_equal(begun.params, expected)
  down = gradient(expected, *R) + 5e-4 * expected
  np.testing.assert_allclose(after.params, expected - ETA * down, rtol=1e-12)


def test_localized_reset_ranks_channels_of_all_kernels_by_their_mean():
  """Kernels of 4 and 2 inputs: by their sums another channel would come first."""
  with jax.enable_x64(True):
    theta = {"all": jnp.asarray(W), "two": 1.5 * jnp.asarray(W[:2])}
    params = bind(lambda theta, x: x @ theta["all"] + x[:, :2] @ theta["two"], theta)
    fresh = params.replace(params=jax.tree.map(jnp.zeros_like, theta))
  begun, _ = first_step(unlearn.localized_reset(fresh, ETA, fraction=1 / 6), params)
  joined = W.copy()
  joined[:2] += 1.5 * W[:2]
  g = gradient(joined, *S)
  products = {"all": np.abs(W * g), "two": np.abs(1.5 * W[:2] * g[:2])}
  means = np.concatenate([products[name].mean(0) for name in ("all", "two")])
  assert means.argmax() != np.concatenate([each.sum(0) for each in products.values()]).argmax()
  reset = np.concatenate([(np.asarray(begun.params[name]) == 0).all(0) for name in ("all", "two")])
  np.testing.assert_array_equal(reset, np.arange(6) == means.argmax())
