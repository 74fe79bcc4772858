"""Boundaries, layers, resets, perturbations and sharpness: one step each by hand in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, models, unlearn
from jaxmul.data import Dataset, Split

ETA, DECAY = 0.1, 0.01


def linear(w, x):
  return x @ w


def affine(theta, x):
  return x @ theta["head"]["kernel"] + theta["head"]["bias"]


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def gradient(w, x, y):
  """∇ of the mean cross-entropy of a linear classifier, in numpy."""
  return x.T @ (softmax(x @ w) - np.eye(w.shape[1])[y]) / len(y)


RNG = np.random.default_rng(0)
W, FRESH = RNG.normal(size=(2, 4, 3))
S = RNG.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
R = RNG.normal(size=(6, 4)), RNG.integers(0, 3, 6)


def first_step(algorithm, params, *, epochs=1, key=0):
  """Returns params where the descent begins and after its first step, on all of S and R."""
  with jax.enable_x64(True):
    images, labels = (
      jnp.concatenate([jnp.asarray(a), jnp.asarray(b)]) for a, b in ((S[0], R[0]), (S[1], R[1]))
    )
    sets = [
      unlearn.Examples(
        images, labels, jnp.asarray(np.r_[rows, np.zeros(11 - len(rows), int)]), count
      )
      for rows, count in ((np.arange(5), jnp.int32(5)), (np.arange(5, 11), jnp.int32(6)))
    ]
    session = unlearn.Session(*sets, epochs, 4, jax.random.key(key), np.arange(11))
    batches = [each.batch(0, each.count, int(each.count)) for each in sets]
    state = algorithm.init(params, session)
    begun = params if algorithm.start is None else algorithm.start(params, state)
    zero = jnp.int32(0)
    state = algorithm.tick(state, unlearn.Clock(zero, zero, zero + 1))
    updates, state = algorithm.update(*batches, state, begun, jax.random.key(1))
    after = jax.tree.map(jnp.add, begun, updates)
    if algorithm.finish is not None:
      after = algorithm.finish(after, state)
    return begun, after


def bound(w=W):
  with jax.enable_x64(True):
    return bind(linear, jnp.asarray(w))


def test_l1_sparse_penalty_fades_with_the_epochs():
  algorithm = unlearn.l1_sparse(ETA, alpha=0.03, weight_decay=DECAY)
  _, after = first_step(algorithm, bound(), epochs=4)
  down = gradient(W, *R) + 0.03 * np.sign(W) + DECAY * W
  np.testing.assert_allclose(after.params, W - ETA * down, rtol=1e-6)
  faded = []
  for epoch in range(4):
    with jax.enable_x64(True):
      images, labels = jnp.asarray(R[0]), jnp.asarray(R[1])
      rows = unlearn.Examples(images, labels, jnp.arange(6), jnp.int32(6))
      session = unlearn.Session(rows, rows, 4, 6, jax.random.key(0))
      batch = rows.batch(0, 6, 6)
      state = algorithm.init(bound(), session)
      clock = unlearn.Clock(jnp.int32(epoch), jnp.int32(0), jnp.int32(1))
      updates, _ = algorithm.update(
        batch, batch, algorithm.tick(state, clock), bound(), jax.random.key(0)
      )
    rest = np.asarray(updates.params) / -ETA - gradient(W, *R) - DECAY * W
    faded.append(np.mean(rest * np.sign(W)) / 0.03)
  np.testing.assert_allclose(faded, [1, 0.75, 0.5, 0.25], rtol=1e-6)


def test_l1_sparse_with_alpha_zero_is_fine_tune():
  a = first_step(unlearn.l1_sparse(ETA, alpha=0.0), bound())[1]
  b = first_step(unlearn.fine_tune(ETA), bound())[1]
  np.testing.assert_array_equal(a.params, b.params)


def test_boundary_shrink_relabels_to_the_likeliest_wrong_class_nearby():
  x, y = S
  g = (softmax(x @ W) - np.eye(3)[y]) @ W.T
  z = (x + 0.3 * np.sign(g)) @ W
  z[np.arange(5), y] = -np.inf
  nearest = z.argmax(1)
  assert (nearest != y).all()
  _, after = first_step(unlearn.boundary_shrink(ETA, radius=0.3), bound())
  np.testing.assert_allclose(after.params, W + -ETA * gradient(W, x, nearest), rtol=1e-6)


def test_boundary_expand_gives_forget_a_class_that_is_dropped_again():
  wide = RNG.normal(size=(4, 4))
  with jax.enable_x64(True):
    algorithm = unlearn.boundary_expand(bind(linear, jnp.asarray(wide)), ETA)
  begun, after = first_step(algorithm, bound())
  widened = np.concatenate([W, wide[:, 3:]], 1)
  np.testing.assert_array_equal(begun.params, widened)
  expected = widened - ETA * gradient(widened, S[0], np.full(5, 3))
  np.testing.assert_allclose(after.params, expected[:, :3], rtol=1e-12)
  assert after.apply_fn is linear


def test_boundary_expand_refuses_a_network_that_is_not_one_class_wider():
  with pytest.raises(ValueError, match="one class more") as caught:
    first_step(unlearn.boundary_expand(bound(), ETA), bound())
  assert "\n" not in str(caught.value)


def test_amun_attacks_float32_images_where_float64_is_enabled():
  toy = Dataset(np.concatenate([S[0], R[0]]).astype(np.float32), np.concatenate([S[1], R[1]]))
  with jax.enable_x64(True):
    after = unlearn.run(
      unlearn.amun(steps=2, doublings=1),
      bind(linear, jnp.asarray(W, jnp.float32)),
      toy,
      Split(forget=np.arange(5), retain=np.arange(5, 11)),
      jax.random.key(0),
      epochs=1,
    )
  assert after.params.dtype == jnp.float32


def test_amun_takes_adversarial_examples_with_their_own_labels():
  algorithm = unlearn.amun(ETA, radius=0.05, doublings=7, steps=20, weight_decay=0.0)
  with jax.enable_x64(True):
    images, labels = jnp.asarray(S[0]), jnp.asarray(S[1])
    rows = unlearn.Examples(images, labels, jnp.arange(5), jnp.int32(5))
    state = algorithm.init(bound(), unlearn.Session(rows, rows, 1, 5, jax.random.key(0)))
  attacked, found = (np.asarray(each) for each in state.memory)
  np.testing.assert_array_equal(found, (attacked @ W).argmax(1))
  assert (found != S[1]).all()
  moved = np.linalg.norm(attacked - S[0], axis=1)
  right = (S[0] @ W).argmax(1) == S[1]
  assert (moved[~right] == 0).all()
  # The distance to the boundary is known for a linear classifier; radii double.
  for i in np.flatnonzero(right):
    gaps = [
      (S[0][i] @ (W[:, S[1][i]] - W[:, c])) / np.linalg.norm(W[:, S[1][i]] - W[:, c])
      for c in range(3)
      if c != S[1][i]
    ]
    assert min(gaps) <= moved[i] <= max(4 * min(gaps), 0.05) + 1e-9
  _, after = first_step(algorithm, bound())
  x, y = np.concatenate([attacked, R[0]]), np.concatenate([found, R[1]])
  np.testing.assert_allclose(after.params, W - ETA * gradient(W, x, y), rtol=1e-6)


def deep():
  """Two layers, so that there is a last one."""

  def apply_fn(theta, x):
    return jnp.tanh(x @ theta["first"]["kernel"]) @ theta["head"]["kernel"] + theta["head"]["bias"]

  with jax.enable_x64(True):
    rng = np.random.default_rng(7)
    theta = {
      "first": {"kernel": jnp.asarray(rng.normal(size=(4, 4)))},
      "head": {"kernel": jnp.asarray(W), "bias": jnp.zeros(3)},
    }
    return bind(apply_fn, theta)


def hidden(params, x):
  return jnp.tanh(x @ params.params["first"]["kernel"])


def test_cf_k_moves_the_last_layer_alone_as_fine_tune_does():
  params = deep()
  _, after = first_step(unlearn.cf_k(("first", "head"), 1, ETA), params)
  _, full = first_step(unlearn.fine_tune(ETA), params)
  np.testing.assert_array_equal(after.params["first"]["kernel"], params.params["first"]["kernel"])
  np.testing.assert_array_equal(after.params["head"]["kernel"], full.params["head"]["kernel"])
  _, every = first_step(unlearn.cf_k(("first", "head"), 2, ETA), params)
  for x, y in zip(jax.tree.leaves(every), jax.tree.leaves(full), strict=True):
    np.testing.assert_array_equal(x, y)


def test_eu_k_begins_the_last_layer_from_fresh_weights():
  params = deep()
  with jax.enable_x64(True):
    fresh = params.replace(params=jax.tree.map(lambda leaf: leaf + 1, params.params))
    begun, after = first_step(unlearn.eu_k(("first", "head"), fresh, 1, ETA), params)
  np.testing.assert_array_equal(begun.params["head"]["kernel"], fresh.params["head"]["kernel"])
  np.testing.assert_array_equal(begun.params["first"]["kernel"], params.params["first"]["kernel"])
  np.testing.assert_array_equal(after.params["first"]["kernel"], params.params["first"]["kernel"])
  phi = np.tanh(R[0] @ np.asarray(params.params["first"]["kernel"]))
  down = gradient(W + 1, phi, R[1]) + 5e-4 * (W + 1)  # equal biases do not matter
  np.testing.assert_allclose(after.params["head"]["kernel"], W + 1 - ETA * down, rtol=1e-12)


def test_eu_k_begins_the_statistics_of_its_layers_afresh():
  def network(value):
    names = ("norm_0", "norm_1", "head")
    theta = {name: {"scale": jnp.full(3, value)} for name in names}
    return bind(linear, theta, {"batch_stats": {n: {"mean": theta[n]["scale"]} for n in names[:2]}})

  algorithm = unlearn.eu_k(("norm_0", "norm_1", "head"), network(7.0), 2)
  assert algorithm.start is not None
  begun = algorithm.start(network(1.0), algorithm.init(network(1.0), _session(R[0])))
  found = {name: float(leaf["scale"][0]) for name, leaf in begun.params.items()}
  assert found == {"norm_0": 1, "norm_1": 7, "head": 7}
  found = {name: float(leaf["mean"][0]) for name, leaf in begun.state["batch_stats"].items()}
  assert found == {"norm_0": 1, "norm_1": 7}


@pytest.mark.parametrize(
  "make",
  [lambda fresh: unlearn.eu_k(("first", "head"), fresh), unlearn.msg, unlearn.localized_reset],
)
def test_fresh_params_of_another_network_are_refused(make):
  params = deep()
  other = params.replace(params=params.params | {"first": {"kernel": jnp.zeros((4, 9))}})
  more = params.replace(state={"batch_stats": {"mean": jnp.zeros(4)}})
  for fresh, message in (
    (other, r"its first/kernel is \(4, 9\), not \(4, 4\)\. Pass models"),
    (more, r"its batch_stats/mean is \(4,\), not missing"),
  ):
    with pytest.raises(ValueError, match=message) as caught:
      first_step(make(fresh), params)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_not_there_is_named():
  with pytest.raises(
    ValueError, match=r"no layer 'tail'\. It has bias, first, head, kernel"
  ) as caught:
    first_step(unlearn.cf_k(("first", "tail"), 1), deep())
  assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("make", [unlearn.top_k, unlearn.random_k])
def test_perturbation_has_the_stated_deviation(make):
  with jax.enable_x64(True):
    far = 2 + jax.random.normal(jax.random.key(0), (5000,), float)
    params = bind(lambda theta, x: x @ theta["w"], {"far": far, "w": jnp.asarray(W)})
    images = jnp.asarray(S[0])
    rows = unlearn.Examples(images, jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    algorithm = make(fraction=1.0, noise=0.5)
    assert algorithm.start is not None
    state = algorithm.init(params, unlearn.Session(rows, rows, 1, 5, jax.random.key(1)))
    noise = np.asarray(algorithm.start(params, state).params["far"] - far)
  deviation = 0.5 * np.sqrt(np.mean(np.asarray(far) ** 2))
  np.testing.assert_allclose(noise.std() / deviation, 1, atol=5 / np.sqrt(2 * 5000))
  assert abs(noise.mean()) < 5 * deviation / np.sqrt(5000)


@pytest.mark.parametrize("make", [unlearn.top_k, unlearn.random_k])
def test_perturbation_touches_exactly_its_share_then_fine_tunes(make):
  begun, after = first_step(make(ETA, fraction=0.25), bound())
  touched = np.asarray(begun.params) != W
  assert touched.sum() == 3
  if make is unlearn.top_k:
    importance = gradient(W, *S) ** 2
    np.testing.assert_array_equal(touched, importance >= np.sort(importance.ravel())[-3])
  theta = np.asarray(begun.params)
  down = gradient(theta, *R) + 5e-4 * theta
  np.testing.assert_allclose(after.params, theta - ETA * down, rtol=1e-12)


@pytest.mark.parametrize(
  "algorithm",
  [
    unlearn.top_k(ETA, noise=0.0),
    unlearn.random_k(ETA, noise=0.0),
    unlearn.top_k(ETA, fraction=0.0),
    unlearn.localized_reset(bind(linear, FRESH), ETA, fraction=0.0),
    unlearn.sam(unlearn.fine_tune(ETA), rho=0.0),
    unlearn.msg(bind(linear, FRESH), ETA, fraction=0.0, rest=1.0),
  ],
)
def test_with_nothing_damaged_it_is_fine_tune(algorithm):
  _, after = first_step(algorithm, bound(), epochs=1)
  _, tuned = first_step(unlearn.fine_tune(ETA), bound())
  np.testing.assert_allclose(after.params, tuned.params, rtol=1e-12)


def test_a_reset_of_everything_starts_from_the_fresh_weights():
  begun, _ = first_step(unlearn.msg(bound(FRESH), ETA, fraction=1.0), bound())
  np.testing.assert_array_equal(begun.params, FRESH)


def test_ct_transposes_square_kernels_and_undoes_itself():
  model = models.cnn((3, 3), 5, 3)
  x = np.random.default_rng(0).normal(size=(12, 8, 8, 1)).astype(np.float32)
  params = models.init(model, jax.random.key(0), jnp.asarray(x[:1]))
  begun = unlearn.ct().start(params, unlearn.ct().init(params, _session(x)))
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


def _session(x):
  rows = unlearn.Examples(jnp.asarray(x), jnp.zeros(len(x), int), jnp.arange(len(x)), jnp.int32(4))
  return unlearn.Session(rows, rows, 1, 4, jax.random.key(0))


def test_sam_takes_the_gradient_at_the_worse_place():
  _, after = first_step(unlearn.sam(unlearn.fine_tune(ETA, weight_decay=0.3), rho=0.3), bound())
  g = gradient(W, *R)
  down = gradient(W + 0.3 * g / np.linalg.norm(g), *R) + 0.3 * W  # decays from where it is
  np.testing.assert_allclose(after.params, W - ETA * down, rtol=1e-12)


def test_sam_refuses_an_algorithm_whose_gradient_it_cannot_take_elsewhere():
  mine = dataclasses.replace(
    unlearn.fine_tune(), update=lambda forget, retain, state, params, k: ()
  )
  with pytest.raises(ValueError, match="Make it with descend"):
    unlearn.sam(mine)


def test_layer_attack_moves_only_the_head_and_only_for_what_is_still_right():
  params = deep()
  algorithm = unlearn.layer_attack(hidden, "head", ETA, alpha=0.0, step=0.05)
  begun, after = first_step(algorithm, params)
  phi = np.tanh(S[0] @ np.asarray(params.params["first"]["kernel"]))
  right = (phi @ W).argmax(1) == S[1]
  assert 0 < right.sum() < 5
  with jax.enable_x64(True):
    rows = unlearn.Examples(jnp.asarray(S[0]), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    session = unlearn.Session(rows, rows, 1, 5, jax.random.key(0))
    attacked = algorithm.init(params, session).memory
  labels = np.asarray(attacked.labels)
  assert (labels[right] != S[1][right]).all()
  np.testing.assert_array_equal(np.asarray(attacked.teacher).argmax(1), labels)
  delta = np.where(right[:, None], softmax(phi @ W) - np.eye(3)[labels], 0)
  np.testing.assert_allclose(after.params["head"]["kernel"], W - ETA * phi.T @ delta / 5, rtol=1e-5)
  np.testing.assert_array_equal(after.params["first"]["kernel"], begun.params["first"]["kernel"])


def test_layer_attack_uses_the_teacher_at_the_adversarial_features():
  params = deep()
  _, hard = first_step(unlearn.layer_attack(hidden, "head", ETA, alpha=0.0), params)
  _, soft = first_step(unlearn.layer_attack(hidden, "head", ETA, alpha=1.0), params)
  algorithm = unlearn.layer_attack(hidden, "head", ETA, alpha=1.0)
  with jax.enable_x64(True):
    rows = unlearn.Examples(jnp.asarray(S[0]), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    session = unlearn.Session(rows, rows, 1, 5, jax.random.key(0))
    teacher = np.asarray(algorithm.init(params, session).memory.teacher)
  phi = np.tanh(S[0] @ np.asarray(params.params["first"]["kernel"]))
  right = (phi @ W).argmax(1) == S[1]
  delta = np.where(right[:, None], 4 * (softmax(phi @ W / 4) - softmax(teacher / 4)), 0)
  np.testing.assert_allclose(soft.params["head"]["kernel"], W - ETA * phi.T @ delta / 5, rtol=1e-4)
  assert (hard.params["head"]["kernel"] != soft.params["head"]["kernel"]).any()


@pytest.mark.parametrize(("step", "steps"), [(0.05, 100), (1e-3, 1)])
def test_layer_attack_stops_one_step_past_the_boundary_and_never_names_the_true_class(step, steps):
  params = deep()
  algorithm = unlearn.layer_attack(hidden, "head", ETA, step=step, steps=steps)
  with jax.enable_x64(True):
    rows = unlearn.Examples(jnp.asarray(S[0]), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    session = unlearn.Session(rows, rows, 1, 5, jax.random.key(0))
    attacked = algorithm.init(params, session).memory
  phi = np.tanh(S[0] @ np.asarray(params.params["first"]["kernel"]))
  length = step * np.linalg.norm(phi, axis=1).mean()
  for _ in range(steps):
    up = (softmax(phi @ W) - np.eye(3)[S[1]]) @ W.T
    inside = (phi @ W).argmax(1) == S[1]
    phi = phi + inside[:, None] * length * up / np.linalg.norm(up, axis=1, keepdims=True)
  np.testing.assert_allclose(attacked.teacher, phi @ W, rtol=1e-6)
  wrong = np.where(np.eye(3)[S[1]] == 1, -np.inf, phi @ W)
  np.testing.assert_array_equal(attacked.labels, wrong.argmax(1))
  assert ((phi @ W).argmax(1) == S[1]).any() == (steps == 1)


def test_features_are_what_the_head_is_given():
  model = models.mlp((6, 5), 3)
  x = jnp.asarray(RNG.normal(size=(4, 7)), jnp.float32)
  params = models.init(model, jax.random.key(0), x)
  phi = models.features(model, "Dense_2")(params, x)
  head = params.params["Dense_2"]
  np.testing.assert_allclose(phi @ head["kernel"] + head["bias"], params(x), rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match=r"no layer 'Dense_9'\. It has Dense_0, Dense_1, Dense_2"):
    models.features(model, "Dense_9")(params, x)


def test_devices_that_do_not_divide_a_batch_are_refused():
  data = Dataset(np.concatenate([S[0], R[0]]).astype(np.float32), np.concatenate([S[1], R[1]]))
  split = Split(forget=np.arange(5), retain=np.arange(5, 11))
  params = bind(linear, jnp.asarray(W, jnp.float32))
  with pytest.raises(ValueError, match=r"batch_size=7 for 8 devices.*Use 8") as caught:
    unlearn.run(
      unlearn.fine_tune(),
      params,
      data,
      split,
      jax.random.key(0),
      epochs=1,
      batch_size=7,
      devices=jax.devices(),
    )
  assert "\n" not in str(caught.value)
