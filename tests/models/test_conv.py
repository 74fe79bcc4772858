"""The product form of the convolution is XLA's convolution, in value and in every derivative."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxmul import _sharding, models


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


@pytest.fixture(autouse=True, params=["whole", "blocks"])
def blocks(request, monkeypatch):
  """A batch at once, as with several threads of XLA, or a few images at a time, as with one."""
  if request.param == "blocks":
    monkeypatch.setenv("PJRT_NPROC", "1")
    # For 5 × 6 images of 2 channels and a kernel of 3 × 3: two images.
    monkeypatch.setattr(models._conv, "_CACHED_NUMBERS", 2 * 5 * 6 * 9 * 2)
  return request.param == "blocks"


def reference(stride, x, kernel):
  padding, layout = [(k // 2, k // 2) for k in kernel.shape[:2]], ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=layout)


def arrays(size, kernel, stride, *, channels=(2, 3), examples=4):
  """x [B, H, W, I], kernel [kh, kw, I, O], and a cotangent of the output."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(examples, *size, channels[0]))
  w = rng.normal(size=(*kernel, *channels))
  out = ((n + 2 * (k // 2) - k) // stride + 1 for n, k in zip(size, kernel, strict=True))
  y = rng.normal(size=(examples, *out, channels[1]))
  return jnp.asarray(x), jnp.asarray(w), jnp.asarray(y)


def close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-11, 1e-11), a, b)


SHAPES = [
  *itertools.product([(5, 6)], [(1, 1), (2, 2), (3, 3), (5, 5)], [1, 2]),
  ((4, 7), (2, 2), 2),
  ((4, 7), (3, 3), 2),
  ((6, 5), (2, 3), 2),
  ((7, 8), (2, 2), 3),
  ((2, 1), (5, 3), 1),
]


@pytest.mark.parametrize(("size", "kernel", "stride"), SHAPES)
def test_value_and_gradients_equal_xlas(size, kernel, stride):
  x, w, y = arrays(size, kernel, stride)

  @jax.jit
  def both(x, w, y):
    results = []
    for function in (models.conv, reference):
      value, pullback = jax.vjp(lambda x, w, f=function: f(stride, x, w), x, w)
      results.append((value, pullback(y)))
    return results

  ours, xlas = both(x, w, y)
  assert ours[0].shape == y.shape
  close(ours, xlas)


@pytest.mark.parametrize(
  ("examples", "loops"),
  [(4, 2), (12, 2), (2, 0), (9, 0)],  # 9 images: a loop over single ones would be slower
)
def test_one_thread_works_on_a_few_images_at_a_time(blocks, examples, loops):
  x, w, y = arrays((5, 6), (3, 3), 1, examples=examples)
  gradient = str(jax.make_jaxpr(jax.grad(weighted(models.conv, 1, y), (0, 1)))(x, w))
  assert gradient.count(f"length={examples // 2}") == (loops if blocks else 0)


def test_several_threads_work_on_8_megabytes_at_a_time(monkeypatch):
  monkeypatch.setenv("PJRT_NPROC", "2")
  x, w, y = (jnp.zeros(shape) for shape in ((64, 64, 64, 16), (3, 3, 16, 16), (64, 64, 64, 16)))
  gradient = str(jax.make_jaxpr(jax.grad(weighted(models.conv, 1, y), (0, 1)))(x, w))
  assert gradient.count("length=16") == 2  # of 4 images: 2²¹ numbers are those of 5.3
  assert "length=" not in str(jax.make_jaxpr(lambda x: models.conv(1, x, w))(x[:2]))


def test_sums_of_low_precision_are_wide(blocks):
  x, w, y = arrays((5, 6), (3, 3), 1, examples=1024)
  low = [jnp.abs(a).astype(jnp.bfloat16) for a in (x, w, y)]
  exact = [a.astype(jnp.float64) for a in low]
  got, want = (
    jax.jit(lambda x, w, y, f=f: jax.vjp(lambda x, w: f(1, x, w), x, w)[1](y))(*of)
    for f, of in ((models.conv, low), (reference, exact))
  )
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a.astype(jnp.float64), b, rtol=2**-7)
  for stride in (1, 2):
    value = models.conv(stride, *low[:2]).astype(jnp.float64)  # rounded once
    np.testing.assert_allclose(value, reference(stride, *exact[:2]), rtol=1.01 * 2**-8)


def test_a_batch_split_in_a_callers_shard_map(blocks):
  x, w, _ = (a.astype(jnp.float32) for a in arrays((5, 6), (3, 3), 1, examples=32))
  layer = models.Conv(3, use_bias=False)

  def gradient(x, w):
    return jax.grad(lambda x: jnp.tanh(layer.apply({"params": {"kernel": w}}, x)).sum())(x)

  over, data = _sharding.mesh("data", jax.devices()[:8]), jax.sharding.PartitionSpec("data")
  split = jax.shard_map(
    gradient, mesh=over, in_specs=(data, jax.sharding.PartitionSpec()), out_specs=data
  )
  np.testing.assert_allclose(jax.jit(split)(x, w), jax.jit(gradient)(x, w), 1e-5, 1e-5)


def weighted(function, stride, y):
  """A scalar of x and w with curvature: Σ y · tanh(conv(x, w))."""
  return lambda x, w: jnp.sum(y * jnp.tanh(function(stride, x, w)))


def compare(transform, stride=2, kernel=(3, 3)):
  """Asserts that a transform of a scalar of (x, w) is the same of both convolutions."""
  x, w, y = arrays((5, 6), kernel, stride)
  ours, xlas = (
    jax.jit(transform(weighted(function, stride, y)))(x, w) for function in (models.conv, reference)
  )
  close(ours, xlas)
  assert max(abs(leaf).max() for leaf in jax.tree.leaves(ours)) > 1e-3


def shifts(*values):
  """Tangents: directions of the values' own shapes."""
  return tuple(jnp.roll(value, 1, -2) + 0.5 for value in values)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("argument", [(0,), (1,), (0, 1)], ids=["x", "kernel", "both"])
def test_hessian_vector_products_equal_xlas(argument, stride):
  def product(scalar):
    def of(x, w):
      arguments = (x, w)

      def gradient(*chosen):
        filled = list(arguments)
        for position, value in zip(argument, chosen, strict=True):
          filled[position] = value
        return jax.grad(scalar, argument)(*filled)

      at = tuple(arguments[i] for i in argument)
      return jax.jvp(gradient, at, shifts(*at))[1]

    return of

  compare(product, stride)


def test_reverse_over_reverse_equals_xlas():
  def twice(scalar):
    def squared(x, w):
      return sum(jnp.sum(g**2) for g in jax.grad(scalar, (0, 1))(x, w))

    return jax.grad(squared, (0, 1))

  compare(twice)


def test_per_example_gradients_equal_xlas():
  x, w, _ = arrays((5, 6), (3, 3), 1)
  ours, xlas = (
    jax.jit(
      jax.vmap(
        jax.grad(lambda w, x, f=function: jnp.tanh(f(1, x[None], w)).sum()), in_axes=(None, 0)
      )
    )(w, x)
    for function in (models.conv, reference)
  )
  assert ours.shape == (4, *w.shape)
  close(ours, xlas)


def test_vmap_over_kernels_equals_one_kernel_at_a_time():
  x, w, y = arrays((5, 6), (3, 3), 2)
  kernels = jnp.stack([w, w[::-1], -2 * w])
  many = jax.jit(jax.vmap(jax.grad(weighted(models.conv, 2, y), (0, 1)), (None, 0)))
  want = jax.grad(weighted(reference, 2, y), (0, 1))
  for i, gradients in enumerate(zip(*many(x, kernels), strict=True)):
    close(gradients, want(x, kernels[i]))


def test_gradients_inside_a_scan_equal_those_outside():
  x, w, y = arrays((5, 6), (3, 3), 1)
  step = jax.grad(weighted(models.conv, 1, y), 1)

  def body(w, _):
    return w - 0.1 * step(x, w), None

  got, _ = jax.jit(lambda w: lax.scan(body, w, length=3))(w)
  want = w
  outside = jax.jit(jax.grad(weighted(reference, 1, y), 1))
  for _ in range(3):
    want = want - 0.1 * outside(x, want)
  close(got, want)


def test_low_precision_in_is_low_precision_out():
  x, w, _ = (a.astype(jnp.bfloat16) for a in arrays((5, 6), (3, 3), 1))
  value, pullback = jax.eval_shape(
    lambda x, w: jax.vjp(lambda *xw: models.conv(1, *xw), x, w), x, w
  )
  assert value.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.eval_shape(pullback, value)} == {value.dtype}


def test_layer_adds_its_bias_and_counts_its_stride():
  layer = models.Conv(3, kernel_size=5, stride=2)
  x, _, _ = arrays((5, 6), (5, 5), 2)
  variables = jax.jit(layer.init)(jax.random.key(0), x)
  kernel = variables["params"]["kernel"]
  assert kernel.shape == (5, 5, 2, 3)
  bias = jnp.array([1.0, 2.0, 3.0])
  got = layer.apply({"params": {"kernel": kernel, "bias": bias}}, x)
  close(got, reference(2, x, kernel.astype(x.dtype)) + bias[None, None, None])
  bare = jax.eval_shape(models.Conv(3, use_bias=False).init, jax.random.key(0), x)
  assert set(bare["params"]) == {"kernel"}


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (2, 3), (6, 5)])
def test_max_pool_equals_a_window_reduction(size):
  x, _, _ = arrays(size, (1, 1), 1)
  window = (1, 2, 2, 1)

  def reduction(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")

  @jax.jit
  def both(x):
    return [
      (f(x), jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x))
      for f in (models.max_pool, reduction)
    ]

  close(*both(x))
