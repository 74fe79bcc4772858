"""Ghost norms are those of dense per-example gradients, or the network is not taken for covered."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import _gradients, losses, models
from jaxmul.binding import Network, bind
from jaxmul.models._ghost import has_ghost_norms, tapped_squares

CLASSES = 3
TOKENS = 4  # fewer than positions: some of an example are equal


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


class Layers(nn.Module):
  """The given layers with tanh between them, then a mean over positions and a dense layer."""

  layers: tuple[nn.Module, ...]

  @nn.compact
  def __call__(self, x, train=False):
    del train  # its BatchNorm is frozen
    for layer in self.layers:
      x = nn.tanh(layer(x))
    return nn.Dense(CLASSES)(x.reshape(len(x), -1, x.shape[-1]).mean(1))


def network(model, shape, n=5):
  """A network in float64 with random weights and statistics, and a batch; of tokens, if it reads
  them, with the next one as labels of gpt."""
  rng = np.random.default_rng(0)
  x, y = jnp.asarray(rng.normal(size=(n, *shape))), jnp.arange(n) % CLASSES
  if isinstance(model, models.GPT) or isinstance(getattr(model, "layers", [0])[0], nn.Embed):
    x = jnp.asarray(rng.integers(0, TOKENS, (n, *shape)))
  if isinstance(model, models.GPT):
    y = jnp.where(jnp.arange(shape[0]) < 2, -1, jnp.roll(x, -1, 1))
  bound = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0), x)

  def fill(path, leaf):
    values = rng.uniform(0.3, 0.9, size=leaf.shape) * rng.choice([-1, 1], size=leaf.shape)
    return jnp.asarray(np.abs(values) if path[-1].key == "var" else values)

  return jax.tree_util.tree_map_with_path(fill, bound), x, y


def dense_norms(bound, x, y):
  """Norms of the dense per-example gradients, one jacobian for all."""

  def nats(theta):
    z = bound.replace(params=theta)(x)
    return jax.nn.logsumexp(z, -1) - z[jnp.arange(len(y)), y]

  jacobian = jax.tree.leaves(jax.jit(jax.jacrev(nats))(bound.params))
  return np.sqrt(sum((np.asarray(leaf).reshape(len(y), -1) ** 2).sum(1) for leaf in jacobian))


def norms(bound, x, y):
  return jax.jit(lambda *args: _gradients.of_examples(*args, norms=True).norms)(bound, x, y)


IMAGE = (6, 5, 2)
COVERED = {
  "dense": ((nn.Dense(4), nn.Dense(5, use_bias=False)), (7,)),
  "dense_over_few_positions": ((nn.Dense(40),), (2, 30)),
  "dense_over_many_positions": ((nn.Dense(3),), (20, 4)),
  "conv": ((models.Conv(4), models.Conv(3, stride=2, use_bias=False)), IMAGE),
  "conv_to_few_pixels": ((models.Conv(40, stride=2), models.Conv(40, stride=2)), IMAGE),
  "conv_1x1": ((models.Conv(4, 1, 2),), IMAGE),
  "linen_conv": ((nn.Conv(4, (3, 2)), nn.Conv(3, (3, 3), 2, padding="VALID")), IMAGE),
  "batch_norm": ((nn.BatchNorm(use_running_average=True), models.Conv(3)), IMAGE),
  "batch_norm_without_bias": ((nn.BatchNorm(use_running_average=True, use_bias=False),), IMAGE),
  "group_norm": ((nn.GroupNorm(2),), IMAGE),
  "layer_norm": ((nn.LayerNorm(), nn.Dense(4), nn.LayerNorm(use_scale=False)), (3, 5)),
  "rms_norm": ((nn.RMSNorm(), nn.Dense(4), nn.RMSNorm(use_scale=False)), (3, 5)),
  "embed": ((nn.Embed(TOKENS, 3), nn.Dense(4)), (7,)),
  "embed_one": ((nn.Embed(TOKENS, 3),), ()),
}


@pytest.mark.parametrize("name", COVERED)
def test_ghost_norms_are_the_norms_of_dense_gradients(name, double):
  layers, shape = COVERED[name]
  bound, x, y = network(Layers(layers), shape)
  assert has_ghost_norms(bound, x)
  want = dense_norms(bound, x, y)
  assert np.ptp(want) > 1e-3
  np.testing.assert_allclose(norms(bound, x, y), want, rtol=1e-11)


def squares(bound, x, y, weights):
  """Σ_b w_b (∂ℓ_b/∂θ)² by taps."""

  def total(zeros):
    z = tapped_squares(bound, x, zeros)
    return jnp.sum(jnp.sqrt(weights) * (jax.nn.logsumexp(z, -1) - z[jnp.arange(len(y)), y]))

  return jax.jit(jax.grad(total))(jax.tree.map(jnp.zeros_like, bound.params))


@pytest.mark.parametrize("name", COVERED)
def test_squares_are_those_of_dense_gradients(name, double):
  layers, shape = COVERED[name]
  bound, x, y = network(Layers(layers), shape)
  weights = jnp.arange(len(y)) / 2

  def weighted(theta):
    z = bound.replace(params=theta)(x)
    return jax.nn.logsumexp(z, -1) - z[jnp.arange(len(y)), y]

  jacobian = jax.jit(jax.jacrev(weighted))(bound.params)
  want = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf**2, 1), jacobian)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-16),
    squares(bound, x, y, weights),
    want,
  )


NETWORKS = {
  "mlp": (models.mlp((6,), CLASSES), (4, 4)),
  "cnn": (models.cnn((2, 3), 4, CLASSES), (8, 8, 3)),
  "resnet18": (models.resnet18(CLASSES, width=2), (8, 8, 3)),
  "resnet_group": (models.ResNet((1, 1), 2, CLASSES, "group"), (8, 8, 3)),
  "bottleneck": (models.ResNet((1, 1), 2, CLASSES, bottleneck=True), (6, 6, 3)),
  "vgg": (models.VGG(((2,), (3, 3)), (4,), CLASSES), (8, 8, 3)),
  "vit": (models.vit(CLASSES, patch=4, width=4, depth=1, heads=2), (8, 8, 3)),
  "gpt": (models.gpt(TOKENS, length=9, width=4, depth=2, heads=2), (7,)),
  "neox": (models.neox(TOKENS, length=9, width=16, depth=2, heads=2), (7,)),
  "llama": (models.llama(TOKENS, length=9, width=8, depth=2, heads=4, kv_heads=2, inner=6), (7,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_our_networks_have_ghost_norms_equal_to_those_of_their_gradients(name):
  model, shape = NETWORKS[name]
  bound, x, y = network(model, shape, 4)
  assert has_ghost_norms(bound, x)
  want = jax.jit(_gradients._materialised_norms)(bound, x, y)
  assert np.ptp(want) > 1e-3
  np.testing.assert_allclose(norms(bound, x, y), want, rtol=1e-5)


class Twice(nn.Module):
  """One layer that is used twice: the norm of the sum is not the sum of the norms."""

  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(x.shape[-1])
    return nn.Dense(CLASSES)(layer(nn.tanh(layer(x))))


class Tied(nn.Module):
  """A layer whose weights are also read beside it."""

  @nn.compact
  def __call__(self, x):
    layer = nn.Dense(x.shape[-1])
    h = nn.tanh(layer(x)) @ layer.variables["params"]["kernel"].T
    return nn.Dense(CLASSES)(h)


class Merged(nn.Module):
  """Positions are folded into the batch axis."""

  @nn.compact
  def __call__(self, x):
    h = nn.tanh(nn.Dense(4)(x.reshape(-1, x.shape[-1])))
    return nn.Dense(CLASSES)(h.reshape(len(x), -1))


class Turned(nn.Module):
  """Positions lead, as many as there are examples."""

  @nn.compact
  def __call__(self, x):
    h = nn.tanh(nn.Dense(4)(x.swapaxes(0, 1)))
    return nn.Dense(CLASSES)(h.mean(0))


class Free(nn.Module):
  """A param that no layer owns."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(CLASSES)(x * self.param("scale", nn.initializers.ones, x.shape[-1:]))


class Rematerialised(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(CLASSES)(nn.tanh(nn.remat(nn.Dense)(4)(x)))


class Scanned(nn.Module):
  @nn.compact
  def __call__(self, x):
    def body(layer, h, _):
      return nn.tanh(layer(h)), None

    scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
    return nn.Dense(CLASSES)(scan(nn.Dense(x.shape[-1]), x, None)[0])


def dilated():
  return Layers((nn.Conv(3, (3, 3), kernel_dilation=2),))


UNCOVERED = {
  "twice": (Twice(), (4,)),
  "tied": (Tied(), (4,)),
  "merged": (Merged(), (3, 4)),
  "turned": (Turned(), (5, 4)),
  "free": (Free(), (4,)),
  "rematerialised": (Rematerialised(), (4,)),
  "scanned": (Scanned(), (4,)),
  "dilated": (dilated(), IMAGE),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_a_tap_cannot_see_falls_back_to_gradients(name, double):
  model, shape = UNCOVERED[name]
  bound, x, y = network(model, shape)
  assert not has_ghost_norms(bound, x)
  np.testing.assert_allclose(norms(bound, x, y), dense_norms(bound, x, y), rtol=1e-11)


def test_a_tied_head_falls_back_to_gradients():
  model = models.gpt(TOKENS, length=9, width=4, depth=1, heads=2, tied=True)
  bound, x, y = network(model, (7,), 4)
  assert not has_ghost_norms(bound, x)
  untied = models.gpt(TOKENS, length=9, width=4, depth=1, heads=2)
  params = bound.params | {"head": {"kernel": bound.params["tokens"]["embedding"].T}}
  apart = models.shapes(untied, x).replace(params=params)
  np.testing.assert_allclose(apart(x), bound(x), rtol=1e-4, atol=1e-5)

  def mean_loss(theta, x, y):
    return losses.cross_entropy(bound.replace(params=theta)(x[None]), y[None])[0]

  each = jax.vmap(jax.grad(mean_loss), (None, 0, 0))(bound.params, x, y)
  want = np.sqrt(sum((np.asarray(g).reshape(4, -1) ** 2).sum(1) for g in jax.tree.leaves(each)))
  np.testing.assert_allclose(norms(bound, x, y), want, rtol=1e-5)


def test_a_forward_pass_that_is_already_jitted_falls_back():
  bound, x, y = network(models.mlp((6,), CLASSES), (4, 4))
  jitted = bind(jax.jit(bound.apply_fn), bound.params, bound.state)
  assert not has_ghost_norms(jitted, x)
  np.testing.assert_allclose(norms(jitted, x, y), norms(bound, x, y), rtol=1e-5)


def test_any_function_that_calls_linen_has_ghost_norms():
  model = models.mlp((6,), CLASSES)
  bound, x, y = network(model, (4, 4))
  scaled = Network(bound.params, None, lambda w, x: 2 * model.apply({"params": w}, x))
  assert has_ghost_norms(scaled, x)
  want = jax.jit(_gradients._materialised_norms)(scaled, x, y)
  np.testing.assert_allclose(norms(scaled, x, y), want, rtol=1e-5)


def test_a_pure_function_goes_through_blocks_where_its_gradients_are_large(monkeypatch, double):
  rng = np.random.default_rng(0)
  w, x = jnp.asarray(rng.normal(size=(4, CLASSES))), jnp.asarray(rng.normal(size=(7, 4)))
  bound, y = bind(lambda w, x: jnp.tanh(x) @ w, w), jnp.arange(7) % CLASSES
  assert not has_ghost_norms(bound, x)
  want = dense_norms(bound, x, y)
  np.testing.assert_allclose(norms(bound, x, y), want, rtol=1e-11)
  monkeypatch.setattr(_gradients, "_BUDGET", 4 * w.size * 2)
  sizes = {aval.shape for aval in intermediates(bound, x, y)}
  assert (2, 4, CLASSES) in sizes
  assert not {(7, 4, CLASSES), (8, 4, CLASSES)} & sizes
  np.testing.assert_allclose(norms(bound, x, y), want, rtol=1e-11)


def intermediates(bound, x, y):
  """The shape of every value in the program, however deep."""

  def walk(jaxpr):
    for eqn in jaxpr.eqns:
      yield from (var.aval for var in eqn.outvars)
      for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
          yield from walk(inner)

  closed = jax.make_jaxpr(lambda *args: _gradients.of_examples(*args, norms=True).norms)(
    bound, x, y
  )
  return list(walk(closed.jaxpr))


def test_no_gradient_of_an_example_ever_exists():
  bound, x, y = network(models.mlp((30,), CLASSES), (20,), 8)
  largest = max(aval.size for aval in intermediates(bound, x, y))
  assert largest < 8 * 20 * 30
  plain = jax.make_jaxpr(jax.vmap(lambda x, y: jnp.outer(x, jnp.zeros(30)) * y))(x, y)
  assert max(var.aval.size for eqn in plain.eqns for var in eqn.outvars) == 8 * 20 * 30
