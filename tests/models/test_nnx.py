"""NNX modules as networks: their params alone are trained, and keys make their random numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmul
from jaxmul import checkpoint, data, metrics, models, proxies, train, unlearn
from jaxmul._examples import examples_of
from jaxmul.binding import Network, as_network

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
ALL = np.ones(6, bool)


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


class Count(nnx.Variable):
  """A kind of variable that is not trained."""


class Net(nnx.Module):
  """BatchNorm, dropout, a variable of another kind and a flag of the user's own."""

  def __init__(self, rngs):
    self.hidden = nnx.Linear(4, 5, use_bias=False, rngs=rngs)
    self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
    self.drop = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(5, 3, rngs=rngs)
    self.count = Count(jnp.array(0))
    self.training = False

  def __call__(self, x):
    if self.training:
      self.count[...] = self.count[...] + 1
    return self.head(self.drop(nnx.relu(self.norm(self.hidden(x)))))


class Small(nnx.Module):
  def __init__(self, rngs):
    self.head = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, x):
    return self.head(x)


def small_arrays(bound):
  return bound.params["head"]["kernel"], bound.params["head"]["bias"]


def test_only_params_are_params_and_only_statistics_are_state():
  module = Net(nnx.Rngs(0))
  bound = as_network(module, None, "x")
  assert jax.tree.map(jnp.shape, bound.params) == {
    "head": {"bias": (3,), "kernel": (5, 3)},
    "hidden": {"kernel": (4, 5)},
    "norm": {"bias": (5,), "scale": (5,)},
  }
  assert jax.tree.map(jnp.shape, bound.state) == {
    "batch_stats": {"norm": {"mean": (5,), "var": (5,)}},
    "variables": {"count": ()},
  }
  assert (module.drop.deterministic, module.norm.use_running_average) == (False, False)  # as it was


def test_both_modes_are_the_modules_own():
  module = Net(nnx.Rngs(0))
  bound = jaxmul.bind(lambda m, x: m(x), module)
  module.eval()
  np.testing.assert_allclose(bound(X), module(X), 1e-5, 1e-6)
  hidden = X @ bound.params["hidden"]["kernel"]
  logits, state = bound.train(X, KEY, ALL)
  stats = state["batch_stats"]["norm"]
  np.testing.assert_allclose(stats["mean"], 0.1 * hidden.mean(0), 1e-4, 1e-6)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * hidden.var(0), 1e-4, 1e-6)
  assert state["variables"]["count"] == 1
  module.train()
  module.drop.deterministic = True
  assert np.abs(logits - module(X)).max() > 0.01  # half of it was dropped


def test_one_key_is_one_mask():
  bound = as_network(Net(nnx.Rngs(0)), None, "x")
  call = jax.jit(Network.train)
  first, again, other = (call(bound, X, jax.random.key(seed), ALL)[0] for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 0.01
  raw = bound.train(X, jax.random.PRNGKey(0), ALL)[0]
  np.testing.assert_allclose(raw, first, 1e-5, 1e-6)


def test_an_empty_batch_changes_no_statistic():
  bound = as_network(Net(nnx.Rngs(0)), None, "x")
  logits, state = bound.train(X, KEY, ~ALL)
  assert np.isfinite(logits).all()
  jax.tree.map(np.testing.assert_array_equal, state, bound.state)


def test_equal_modules_are_one_trace():
  traces = []

  @jax.jit
  def call(bound):
    traces.append(bound)
    return bound.train(X, KEY, ALL)[0] + bound(X)

  for seed in (0, 1):
    call(as_network(Net(nnx.Rngs(seed)), None, "x"))
  assert len(traces) == 1
  module = Net(nnx.Rngs(0))
  module.norm.momentum = 0.5
  call(as_network(module, None, "x"))
  assert len(traces) == 2


def test_gradients_are_of_params_alone():
  """GraNd of a module whose statistics count would be too large."""
  module = Net(nnx.Rngs(0))
  module.norm.mean[...] = jnp.arange(5.0)
  got = proxies.grand(module, (X, Y))
  bound = as_network(module, None, "x")

  def norm(x, y):
    def loss(params):
      return -jax.nn.log_softmax(bound.replace(params=params)(x[None]))[0, y]

    return jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(bound.params))))

  np.testing.assert_allclose(got, jax.vmap(norm)(X, Y), 1e-4)
  jitted = jax.jit(lambda module: proxies.grand(module, (X, Y)))(module)
  np.testing.assert_allclose(jitted, got, 1e-4)


def test_statistics_are_found_by_what_looks_for_batch_norm():
  bound = as_network(Net(nnx.Rngs(0)), None, "x")
  changed = metrics.batch_stats_changed(bound, 3.0).state["batch_stats"]["norm"]
  np.testing.assert_array_equal(changed["var"], np.full(5, 3.0))
  np.testing.assert_array_equal(changed["mean"], np.zeros(5))


def test_a_module_without_two_modes_trains_as_it_is_evaluated():
  bound = as_network(Small(nnx.Rngs(0)), None, "x")
  assert (bound.state, bound.train_fn) == (None, None)
  kernel, bias = small_arrays(bound)
  np.testing.assert_allclose(bound(X), X @ kernel + bias, 1e-5, 1e-6)


class Flagged(nnx.Module):
  """Told by its call, as Linen is, and given keys and a mask there."""

  def __init__(self, rngs):
    self.drop, self.head = nnx.Dropout(0.5), nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, x, train=True, *, rngs=None, mask=None):
    if mask is not None:
      x = x - jnp.where(mask[:, None], x, 0).sum(0) / mask.sum()
    return self.head(self.drop(x, deterministic=not train, rngs=rngs))


def test_flags_keys_and_masks_of_the_call_are_given():
  bound = as_network(Flagged(nnx.Rngs(0)), None, "x")
  kernel, bias = small_arrays(bound)
  np.testing.assert_allclose(bound(X), X @ kernel + bias, 1e-5, 1e-6)
  mask = ALL & (np.arange(6) < 4)
  dirty = np.where(mask[:, None], X, np.nan)
  first, again, other = (bound.train(dirty, jax.random.key(s), mask)[0][:4] for s in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.isfinite(first).all()
  assert np.abs(first - other).max() > 0.01


class Stack(nnx.Module):
  """Layers made by one `vmap`, whose keys are an array, in a list."""

  def __init__(self, rngs):
    @nnx.split_rngs(splits=2)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def layers(rngs):
      return nnx.Dropout(0.5, rngs=rngs)

    listed = getattr(nnx, "List", list)  # flax 0.11 takes plain lists
    self.drops, self.parts = layers(rngs), listed(nnx.Linear(4, 4, rngs=rngs) for _ in range(2))

  def __call__(self, x):
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def apply(layer, x):
      return layer(x)

    for part in self.parts:
      x = part(x)
    return apply(self.drops, x)


def test_lists_and_layers_of_many_keys(tmp_path):
  bound = as_network(Stack(nnx.Rngs(0)), None, "x")
  many = np.tile(X, (50, 1))
  dropped = bound.train(many, KEY, np.ones(300, bool))[0] == 0
  assert 0.7 < dropped.mean() < 0.8  # 3/4 by two layers with keys of their own
  checkpoint.save(tmp_path / "stack", bound)
  back = checkpoint.load(tmp_path / "stack", as_network(Stack(nnx.Rngs(1)), None, "x"))
  np.testing.assert_array_equal(back(X), bound(X))


def fresh(key, inputs):
  return Net(nnx.Rngs(key))


@functools.cache
def trained():
  toy = data.Dataset(np.tile(X, (3, 1)), np.tile(Y, 3))
  recipe = train.Recipe(fresh, epochs=3, batch_size=8)
  return toy, recipe, train.fit(recipe, toy, KEY).network


def test_a_recipe_takes_a_function_that_makes_modules():
  toy, recipe, params = trained()
  assert params.state["variables"]["count"] == 3 * 3  # ⌈18 / 8⌉ steps an epoch
  rows = jnp.stack([jnp.arange(12), jnp.arange(12) + 6])
  keys = jax.random.split(KEY, 2)
  examples = examples_of(toy)

  def one(rows, key):
    return train.run(recipe, (), examples._replace(rows=rows), key).network

  got, want = jax.jit(jax.vmap(one))(rows, keys), jax.jit(one)(rows[1], keys[1])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, 1e-4, 1e-5), got, want)


def test_the_way_back_to_a_module():
  toy, _, params = trained()
  module = Net(nnx.Rngs(5))
  nnx.update(module, params.params, *params.state.values())
  module.eval()
  np.testing.assert_allclose(module(X), params(X), 1e-5, 1e-6)
  split = data.Split(forget=np.arange(4), retain=np.arange(4, 18))
  run = functools.partial(unlearn.run, epochs=1, batch_size=8)
  after = run(unlearn.fine_tune(), module, toy, split, KEY)  # a module is a network itself
  want = run(unlearn.fine_tune(), params, toy, split, KEY)
  jax.tree.map(np.testing.assert_array_equal, after, want)


class Empty(nnx.Module):
  def __call__(self, x):
    return x


class Unhashable(Small):
  def __init__(self, rngs):
    super().__init__(rngs)
    self.shape = np.dtype, {"a": 1}.keys()


class Grows(Small):
  def __call__(self, x, train=False):
    self.late = Count(jnp.zeros(()))
    return super().__call__(x)


def test_what_cannot_be_split_is_refused():
  with one_line("x got an Empty, an nnx.Module without nnx.Param"):
    as_network(Empty(), None, "x")
  with one_line(r"x got an Unhashable, an nnx.Module with an attribute that cannot be hashed"):
    as_network(Unhashable(nnx.Rngs(0)), None, "x")
  with one_line(r"models.init got a Small, which has weights already.*\(key, inputs\)"):
    models.init(Small(nnx.Rngs(0)), KEY, X)
  with one_line(r"bind got a Net, an nnx.Module, with state or train_fn.*Drop them"):
    jaxmul.bind(lambda m, x: m(x), Net(nnx.Rngs(0)), {"batch_stats": 1})
  grown = as_network(Grows(nnx.Rngs(0)), None, "x")
  assert grown(X).shape == (6, 3)
  with one_line(r"changes the structure, shapes or dtypes of 'variables'"):
    grown.train(X, KEY, ALL)
