"""Curvature is tr(H²) of a dense Hessian, whatever the form of the call, transform or devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxmul
from jaxmul import _sharding, models
from jaxmul.proxies import curvature

SIZE, INPUTS, HIDDEN, CLASSES, MODELS = 16, 6, 7, 3, 8


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


def smooth(w, x):
  return jnp.tanh(x.reshape(len(x), -1) @ w["in"]) @ w["out"]


def kinked(w, x):
  return jax.nn.relu(x.reshape(len(x), -1) @ w["in"]) @ w["out"]


def weights(seed=0, dtype=None):
  rng = np.random.default_rng(seed)
  first, last = rng.normal(size=(INPUTS, HIDDEN)), rng.normal(size=(HIDDEN, CLASSES))
  return {"in": jnp.asarray(first, dtype), "out": jnp.asarray(last, dtype)}


def batch(n=SIZE, seed=1, dtype=None):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(n, INPUTS)), dtype), jnp.asarray(rng.integers(0, CLASSES, n))


def nats(apply, w, x, y):
  """The loss of one example, written again."""
  z = apply(w, x[None])[0]
  return jax.nn.logsumexp(z) - z[y]


@functools.partial(jax.jit, static_argnums=0)
def hessians(apply, w, xs, ys):
  """Dense input Hessians [B, d, d]."""
  return jax.vmap(lambda x, y: jax.hessian(lambda x: nats(apply, w, x, y))(x))(xs, ys)


def trace_of_square(apply, w, xs, ys):
  return np.einsum("bij,bji->b", *2 * [hessians(apply, w, xs, ys)])


def orthogonal(d=INPUTS):
  """All of an orthonormal basis times √d: the mean of ‖Hv‖² over them is tr(H²) exactly."""
  basis = np.linalg.qr(np.random.default_rng(2).normal(size=(d, d)))[0]
  return jnp.asarray(np.sqrt(d) * basis)


def stacked():
  return jax.tree.map(lambda *w: jnp.stack(w), *(weights(seed) for seed in range(MODELS)))


def one_by_one(function, w, b):
  return jnp.stack([function(jax.tree.map(lambda leaf, i=i: leaf[i], w), b) for i in range(MODELS)])


def eager(function, w, b):
  return one_by_one(function, w, b)


def jitted(function, w, b):
  return one_by_one(jax.jit(function), w, b)


def vmapped(function, w, b):
  return jax.jit(jax.vmap(function, (0, None)))(w, b)


def data_sharded(function, w, b):
  split = _sharding.shard_batch(b)
  assert len(split[0].sharding.device_set) == 8
  return one_by_one(jax.jit(function), w, split)


def model_sharded(function, w, b):
  across = NamedSharding(_sharding.mesh("model"), PartitionSpec("model"))
  return jax.jit(jax.vmap(function, (0, None)))(jax.device_put(w, across), b)


def mapped_models(function, w, b):
  return jax.jit(_sharding.map_models(function, jax.devices()[:8], 1))(w, b)


def users_shard_map(function, w, b):
  """`jax.shard_map` as a newcomer calls it: replication is tracked, the batch is replicated."""
  model = PartitionSpec("model")
  local = jax.vmap(function, (0, None))
  return jax.jit(
    jax.shard_map(
      local, mesh=_sharding.mesh("model"), in_specs=(model, PartitionSpec()), out_specs=model
    )
  )(w, b)


TRANSFORMS = [
  eager,
  jitted,
  vmapped,
  data_sharded,
  model_sharded,
  mapped_models,
  users_shard_map,
]


@functools.cache
def truth():
  w, (x, y) = stacked(), batch()
  rows = (jax.tree.map(lambda leaf, i=i: leaf[i], w) for i in range(MODELS))
  return np.stack([trace_of_square(smooth, row, x, y) for row in rows])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_curvature_is_the_trace_of_the_squared_hessian(transform, double, eight):
  def scores(w, b):
    return curvature(w, b, smooth, probes=orthogonal())

  got = transform(scores, stacked(), batch())
  np.testing.assert_allclose(got, truth(), rtol=1e-9)
  assert np.ptp(truth(), axis=0).min() > 0.01


def rum(w, b, h=1e-2):
  """RUM's code in a few lines: ‖∇ℓ(x + z) − ∇ℓ(x)‖ along z = h sign(∇ℓ) / ‖sign(∇ℓ)‖."""
  gradient = jax.jit(jax.grad(functools.partial(nats, smooth), 1))
  scores = []
  for x, y in zip(*b, strict=True):
    sign = np.sign(gradient(w, x, y))
    z = h * sign / np.linalg.norm(sign)
    scores.append(np.linalg.norm(gradient(w, x + z, y) - gradient(w, x, y)))
  return np.array(scores)


@pytest.mark.parametrize("transform", [jitted, vmapped, mapped_models, users_shard_map])
@pytest.mark.parametrize("method", ["finite_difference", "rum_compat"])
def test_other_methods_are_the_same_under_every_transform(method, transform, double, eight):
  def scores(w, b):
    return curvature(w, b, smooth, method=method)

  want = jax.jit(jax.vmap(scores, (0, None)))(stacked(), batch())
  np.testing.assert_allclose(transform(scores, stacked(), batch()), want, rtol=1e-8)


def test_a_network_with_kinks_has_its_exact_hessian(double):
  w, b = weights(), batch(4)
  got = curvature(w, b, kinked, probes=orthogonal())
  np.testing.assert_allclose(got, trace_of_square(kinked, w, *b), rtol=1e-9)


def test_random_probes_are_within_four_standard_errors(double):
  w, (x, y) = weights(), batch(5)
  num_probes = 400
  key = jax.random.key(11)
  signs = jax.random.rademacher(key, (num_probes, INPUTS), x.dtype)
  squares = np.einsum("bij,kj->bki", hessians(smooth, w, x, y), signs)
  squares = (squares**2).sum(-1)
  error = squares.std(1, ddof=1) / np.sqrt(num_probes)
  want = trace_of_square(smooth, w, x, y)
  for seed in range(3):
    got = curvature(w, (x, y), smooth, key=jax.random.key(seed), num_probes=num_probes)
    assert (np.abs(got - want) < 4 * error).all()
    assert (np.abs(got - want) > 1e-9 * want).all()  # an estimate, not the truth itself


def test_no_key_is_a_fixed_key():
  w, b = weights(), batch(4)
  first, again = curvature(w, b, smooth), curvature(w, b, smooth)
  np.testing.assert_array_equal(first, again)
  other = curvature(w, b, smooth, key=jax.random.key(1))
  assert not np.allclose(first, other, rtol=1e-3)


def test_probes_override_key_and_count_and_one_probe_is_enough(double):
  w, b = weights(), batch(4)
  probes = orthogonal()
  each = [curvature(w, b, smooth, probes=probes[i : i + 1]) for i in range(len(probes))]
  together = curvature(w, b, smooth, probes=probes, key=jax.random.key(9), num_probes=2)
  np.testing.assert_allclose(together, np.mean(each, 0), rtol=1e-12)


def test_finite_differences_converge_to_the_hessian(double):
  w, b, probes = weights(), batch(4), orthogonal()
  exact = curvature(w, b, smooth, probes=probes)
  errors = [
    np.abs(curvature(w, b, smooth, probes=probes, method="finite_difference", h=h) / exact - 1)
    for h in (1e-2, 1e-3, 1e-4)
  ]
  assert (errors[0] > 4 * errors[1]).all()
  assert (errors[1] > 4 * errors[2]).all()
  assert (errors[2] < 1e-3).all()
  default = curvature(w, b, smooth, probes=probes, method="finite_difference")
  np.testing.assert_allclose(np.abs(default / exact - 1), errors[1], rtol=1e-9)


def test_rum_compat_is_rums_code(double):
  w, b = weights(), batch(6)
  np.testing.assert_allclose(
    curvature(w, b, smooth, method="rum_compat"), rum(w, b), rtol=1e-9, atol=1e-15
  )
  np.testing.assert_allclose(
    curvature(w, b, smooth, method="rum_compat", h=0.3), rum(w, b, 0.3), rtol=1e-9, atol=1e-15
  )


def test_rum_compat_sees_examples_whose_loss_rounds_to_zero():
  w, (x, _) = weights(dtype=jnp.float32), batch(6, dtype=jnp.float32)
  sure = {"in": w["in"], "out": 12 * w["out"]}
  y = smooth(sure, x).argmax(-1)
  got = curvature(sure, (x, y), smooth, method="rum_compat")
  with jax.enable_x64(True):
    sure, x = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (sure, x))
    want = rum(sure, (x, y))
    loss = np.array([nats(smooth, sure, *example) for example in zip(x, y, strict=True)])
  assert ((loss < 1e-8) & (want > 1e-15)).sum() >= 1
  # float32 knows p_y − 1 only to 6e-8, but the other classes far below that.
  assert (got[want > 1e-15] > 0).all()
  np.testing.assert_allclose(got, want, rtol=0.1, atol=5e-7)


@pytest.mark.parametrize("method", ["hvp", "finite_difference", "rum_compat"])
def test_a_flat_loss_has_curvature_zero(method):
  got = curvature(jnp.zeros((INPUTS, CLASSES)), batch(4), lambda w, x: x @ w, method=method)
  assert got.tolist() == [0.0] * 4


METHODS = ("hvp", "finite_difference", "rum_compat")


def test_the_three_forms_of_the_call_give_the_same_numbers():
  import equinox as eqx
  from flax import nnx

  first, last = models.mlp((HIDDEN,), CLASSES), batch(5, dtype=jnp.float32)
  raw = first.init(jax.random.key(0), last[0])
  layers = raw["params"]

  class Batched(eqx.Module):
    network: eqx.nn.MLP

    def __call__(self, x):
      return jax.vmap(self.network)(x)

  network = eqx.nn.MLP(INPUTS, CLASSES, HIDDEN, 1, key=jax.random.key(1))
  network = eqx.tree_at(
    lambda n: [n.layers[0].weight, n.layers[0].bias, n.layers[1].weight, n.layers[1].bias],
    network,
    [
      layers["Dense_0"]["kernel"].T,
      layers["Dense_0"]["bias"],
      layers["Dense_1"]["kernel"].T,
      layers["Dense_1"]["bias"],
    ],
  )
  rngs = nnx.Rngs(0)
  sequential = nnx.Sequential(
    nnx.Linear(INPUTS, HIDDEN, rngs=rngs), nnx.relu, nnx.Linear(HIDDEN, CLASSES, rngs=rngs)
  )
  for index, name in ((0, "Dense_0"), (2, "Dense_1")):
    sequential.layers[index].kernel[...] = layers[name]["kernel"]
    sequential.layers[index].bias[...] = layers[name]["bias"]

  for method in METHODS:
    score = functools.partial(curvature, method=method, num_probes=1)
    want = score(raw, last, first.apply)
    assert (want > 0).any()
    for form in (jaxmul.bind(first.apply, raw), Batched(network), sequential):
      np.testing.assert_allclose(score(form, last), want, rtol=1e-3, atol=1e-6)


NETWORKS = {
  "mlp": (models.mlp((16,), 10), (8, 8)),
  "cnn": (models.cnn((4, 8), 16, 10), (8, 8, 3)),
  "resnet18": (models.resnet18(10, width=8), (8, 8, 3)),
}


@functools.cache
def network(name):
  """A network with random weights and batch statistics that are not 0 and 1, and a batch."""
  model, shape = NETWORKS[name]
  rng = np.random.default_rng(0)
  fill = {
    "kernel": lambda s: rng.normal(size=s) * np.sqrt(2 / np.prod(s[:-1])),
    "bias": lambda s: 0.1 * rng.normal(size=s),
    "scale": lambda s: rng.uniform(0.5, 1.5, size=s),
    "mean": lambda s: 0.1 * rng.normal(size=s),
    "var": lambda s: rng.uniform(0.5, 1.5, size=s),
  }
  x = jnp.asarray(rng.uniform(size=(8, *shape)), jnp.float32)
  shapes = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0), x)
  bound = jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.asarray(fill[path[-1].key](leaf.shape), leaf.dtype), shapes
  )
  return bound, (x, jnp.asarray(rng.integers(0, 10, 8)))


CASES = [
  ("mlp", "hvp"),
  ("mlp", "rum_compat"),
  ("cnn", "hvp"),
  pytest.param("resnet18", "hvp", marks=pytest.mark.slow),
]


@pytest.mark.rounding
@pytest.mark.parametrize(("name", "method"), CASES)
def test_batch_size_order_and_devices_do_not_matter(name, method, eight):
  bound, (x, y) = network(name)
  probes = 1 if name == "resnet18" else 2  # one probe is a smaller program
  score = jax.jit(functools.partial(curvature, num_probes=probes, method=method))
  together = score(bound, (x, y))
  assert np.isfinite(together).all()
  assert np.ptp(together) > 0

  def same(got, rows):
    want = together[jnp.asarray(rows)]
    assert (np.abs(got - want) <= 1e-5 * np.maximum(1, np.abs(want))).all()

  same(score(bound, (x[::-1], y[::-1])), np.arange(8)[::-1])
  if name != "resnet18":  # one more program of 15 s; sharded, it sees batches of one below
    same(score(bound, (x[2:5], y[2:5])), [2, 3, 4])
  split = _sharding.shard_batch((x, y))
  got = score(bound, split)
  assert len(got.sharding.device_set) == 8
  same(got, np.arange(8))


@pytest.mark.parametrize("method", METHODS)
def test_an_impossible_label_under_jit_scores_nan_and_its_neighbours_do_not(method):
  bound, (x, y) = network("mlp")
  score = jax.jit(functools.partial(curvature, method=method, num_probes=1))
  wrong = y.at[2].set(10).at[5].set(-1)
  np.testing.assert_array_equal(np.isnan(score(bound, (x, wrong))), np.isin(np.arange(8), [2, 5]))


def test_convolutional_networks_have_their_exact_hessian(double):
  model = models.cnn((2,), 4, 3)
  x = jax.random.normal(jax.random.key(1), (2, 3, 4, 1), jnp.float64)
  y = jnp.array([0, 2])
  init = jax.jit(functools.partial(models.init, model))(jax.random.key(0), x)
  bound = init.replace(params=jax.tree.map(lambda w: w.astype(jnp.float64), init.params))

  def flat(bound, x):
    return bound(x.reshape(-1, 3, 4, 1))

  probes = orthogonal(12).reshape(12, 3, 4, 1)
  got = jax.jit(curvature)(bound, (x, y), probes=probes)
  want = trace_of_square(flat, bound, x.reshape(2, 12), y)
  assert (want > 1e-6).all()
  np.testing.assert_allclose(got, want, rtol=1e-9)


def test_a_batch_may_be_closed_over_under_jit():
  w, b = weights(), batch(4)
  got = jax.jit(lambda w: curvature(w, b, smooth))(w)
  np.testing.assert_allclose(got, curvature(w, b, smooth), rtol=1e-5)


X, Y = np.ones((2, INPUTS), np.float32), np.array([0, 1])
BAD_BATCHES = {
  "needs batch = .*got ndarray": X,
  "needs batch = .*tuple of length 3": (X, Y, Y),
  r"rank 2 or more, got shape \(6,\).*inputs\[None\]": (X[0], Y[:1]),
  r"float inputs, got uint8.*as_inputs\(inputs\)": (X.astype(np.uint8), Y),
  r"inputs hold nan at \(1, 2\), must be finite": (
    np.where(np.arange(12).reshape(2, 6) == 8, np.nan, X),
    Y,
  ),
  r"inputs hold inf at \(0, 0\), must be finite": (X * np.inf, Y),
  r"labels \[B\] for logits \[B, C\], got shape \(2, 3\).*argmax": (X, np.eye(3)[Y]),
  "integer labels, got float32.*astype": (X, Y.astype(np.float32)),
  "got 2 inputs but 1 labels; they must match": (X, Y[:1]),
  r"got label 3, outside \[0, 3\)": (X, np.array([0, 3])),
  r"got label -1, outside \[0, 3\).*from 0": (X, np.array([-1, 0])),
}


@pytest.mark.parametrize("pattern", BAD_BATCHES)
def test_a_batch_that_is_none_is_refused(pattern):
  with one_line(rf"curvature.*{pattern}"):
    curvature(weights(), BAD_BATCHES[pattern], smooth)


@pytest.mark.parametrize(
  ("options", "pattern"),
  [
    ({"method": "exact"}, "method 'exact': use 'hvp', 'finite_difference' or 'rum_compat'"),
    ({"num_probes": 0}, "num_probes=0, must be at least 1"),
    ({"h": 0.0}, r"h=0\.0, must be above 0"),
    ({"h": -1.0}, r"h=-1\.0, must be above 0"),
    (
      {"probes": np.ones(INPUTS)},
      r"probes \[K, \.\.\.\] of one example's shape \(6,\), got \(6,\)",
    ),
    ({"probes": np.ones((2, 5))}, r"shape \(6,\), got \(2, 5\)"),
    ({"probes": np.ones((2, 2, INPUTS))}, r"shape \(6,\), got \(2, 2, 6\)"),
  ],
)
def test_options_outside_their_range_are_refused(options, pattern):
  with one_line(f"curvature.*{pattern}"):
    curvature(weights(), (X, Y), smooth, **options)


def test_no_probes_are_refused():
  with one_line(r"curvature.*probes.*\(0, 6\)"):
    curvature(weights(), (X, Y), smooth, probes=np.ones((0, INPUTS)))


def test_logits_of_another_shape_are_refused():
  with one_line(r"apply_fn to return logits \[B, C\] of at least 2 classes, got \[2\], one number"):
    curvature(weights(), (X, Y), lambda w, x: x[:, 0])


def test_lists_are_batches_too():
  x, y = batch(4)
  got = curvature(weights(), (x, y.tolist()), smooth)
  np.testing.assert_allclose(got, curvature(weights(), (x, y), smooth), rtol=1e-6)
