"""Linen modules and their training flag: each is told in both modes, or refused in one line."""

import dataclasses
import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import models
from jaxmul.models import _modes

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
ALL = np.ones(5, bool)


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


@pytest.mark.parametrize("name", _modes.COMMON)
def test_each_common_name_is_an_argument_or_a_field(name):
  """A class of each name; its default is the wrong one for evaluation."""
  on = _modes.COMMON[name]

  def take(self, x, **flags):
    still = flags.get(name, getattr(self, name, None)) != on
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=still)(x))

  @functools.wraps(take)
  def called(self, x, **flags):
    return take(self, x, **{name: on} | flags)

  kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
  flag = inspect.Parameter(name, kind, default=on)
  own = [inspect.Parameter(each, kind) for each in ("self", "x")]
  called.__signature__ = inspect.Signature([*own, flag])
  argument = type("Argument", (nn.Module,), {"__call__": nn.compact(called)})()
  fields = {"__annotations__": {name: bool}, name: on, "__call__": nn.compact(take)}
  field = type("Field", (nn.Module,), fields)()
  for module in (argument, field):
    bound = models.init(module, KEY, X)
    np.testing.assert_array_equal(bound(X), bound(X))  # evaluation needs no key
    first, other = (bound.train(X, jax.random.key(seed), ALL)[0] for seed in (0, 1))
    assert np.abs(first - other).max() > 0.01
  assert models.init(field.clone(**{name: not on}), KEY, X).apply_fn == bound.apply_fn


class Other(nn.Module):
  """Names that mean something else here."""

  inference: str = "fast"

  @nn.compact
  def __call__(self, x, eval_mode=("a", "b")):
    assert (self.inference, eval_mode) == ("fast", ("a", "b"))
    return nn.Dense(2)(x)


def test_what_is_neither_true_nor_false_is_no_flag():
  bound = models.init(Other(), KEY, X)
  assert bound.train_fn is None
  assert bound(X).shape == (5, 2)


class Frozen(nn.Module):
  """A flag of its own, as a field, and in any keyword."""

  frozen: bool = True

  @nn.compact
  def __call__(self, x, **options):
    still = options.get("still", self.frozen)
    return nn.Dense(2)(nn.BatchNorm(use_running_average=still)(x))


@pytest.mark.parametrize("flag", [{"frozen": False}, {"still": False}])
def test_a_flag_of_another_name_is_taken(flag):
  bound = models.init(Frozen(), KEY, X, train_flag=flag)
  _, state = bound.train(X, KEY, ALL)
  mean = 0.01 * X.mean(0)
  np.testing.assert_allclose(state["batch_stats"]["BatchNorm_0"]["mean"], mean, 1e-4, 1e-6)
  again = functools.partial(models.init, Frozen(), train_flag=flag)(KEY, X)
  assert (again.apply_fn, again.train_fn) == (bound.apply_fn, bound.train_fn)


class Plain(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2)(x)


class Attention(nn.Module):
  @nn.compact
  def __call__(self, x):
    tokens = x[:, :, None]
    layer = nn.MultiHeadDotProductAttention(1, dropout_rate=0.5, deterministic=True)
    return nn.Dense(2)(layer(tokens, tokens).mean(1))


class OwnStatistics(nn.Module):
  @nn.compact
  def __call__(self, x):
    mean = self.variable("batch_stats", "mean", jnp.zeros, 4)
    return nn.Dense(2)(x - mean.value)


@pytest.mark.parametrize(
  ("module", "layer"),
  [
    (nn.Sequential([nn.Dense(2), nn.BatchNorm(use_running_average=True)]), "BatchNorm"),
    (nn.Sequential([nn.Dense(2), nn.Dropout(0.5, deterministic=True)]), "Dropout"),
    (Attention(), "MultiHeadDotProductAttention"),
    (OwnStatistics(), "batch_stats"),
  ],
)
def test_two_modes_without_a_flag_are_refused(module, layer):
  cures = r"train_flag={'name': value|train_flag={'name': its value in training}.*jaxmul\.bind\("
  with one_line(rf"with {layer}, and no argument or field.*({cures})"):
    models.init(module, KEY, X)


def test_dropout_at_rate_zero_is_no_second_mode():
  module = nn.Sequential([nn.Dense(2), nn.Dropout(0.0, deterministic=True)])
  assert models.init(module, KEY, X).train_fn is None


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("frozen", r"got train_flag='frozen', must be {name: its value in training}"),
    ({"frozen": 0}, r"must be {name: its value in training}"),
    ({"thawed": True}, r"'thawed', no argument and no field of Plain\. It has x\."),
  ],
)
def test_a_wrong_train_flag_is_refused(flag, message):
  with one_line(message):
    models.init(Plain(), KEY, X, train_flag=flag)


class Variables(nn.Module):
  """Uses variables in a way that `how` says."""

  how: str

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(2)(x)
    if self.how == "counts":
      count = self.variable("count", "steps", jnp.zeros, ())
      if train:
        count.value += 1
    if self.how == "constants":
      x = x * self.variable("constants", "scale", jnp.ones, ()).value
    if self.how == "sows away":
      self.sow("intermediates", "x", x)
    if self.how == "sows":
      self.sow("kept", "x", x.mean())
    if self.how == "grows" and train:
      self.variable("late", "x", jnp.zeros, ())
    if self.how == "writes":
      self.variable("count", "steps", jnp.zeros, ()).value += 1
    if self.how == "noise":
      x = x + jax.random.normal(self.make_rng("noise"), x.shape)
    if self.how == "noise in training" and train:
      x = x + jax.random.normal(self.make_rng("noise"), x.shape)
    return x


def test_every_collection_is_carried():
  bound = models.init(Variables("counts"), KEY, X)
  assert bound.train(X, KEY, ALL)[1] == {"count": {"steps": 1.0}}
  assert bound.train(X, KEY, ~ALL)[1] == {"count": {"steps": 0.0}}  # an empty batch is no step
  constant = models.init(Variables("constants"), KEY, X)
  assert constant.train(X, KEY, ALL)[1] == {"constants": {"scale": 1.0}}
  assert models.init(Variables("sows away"), KEY, X).state == {}
  with pytest.warns(UserWarning, match="sows 'kept', which is left out"):
    assert models.init(Variables("sows"), KEY, X).state == {}


def test_streams_of_any_name_follow_the_key():
  bound = models.init(Variables("noise in training"), KEY, X)
  first, again, other = (bound.train(X, jax.random.key(seed), ALL)[0] for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 0.01


@pytest.mark.parametrize(
  ("how", "message"),
  [
    ("grows", r"Variables in training: .*collection \"late\".*jaxmul\.bind\("),
    ("writes", r"Variables in evaluation: .*\"count\" is immutable\. Collections are carried"),
    ("noise", r"Variables in evaluation: .*needs PRNG for \"noise\""),
  ],
)
def test_a_collection_that_cannot_be_carried_is_named(how, message):
  bound = models.init(Variables(how), KEY, X)
  with one_line(message):
    bound(X)
    bound.train(X, KEY, ALL)


def test_a_collection_that_changes_its_shape_is_named():
  bound = jaxmul.bind(
    lambda v, x: x @ v["params"],
    jnp.eye(4),
    {"kept": jnp.zeros(2), "grown": jnp.zeros(2)},
    lambda params, state, x, key, mask: (x @ params, {**state, "grown": jnp.zeros(3)}),
  )
  with one_line(r"changes the structure, shapes or dtypes of 'grown'"):
    bound.train(X, KEY, ALL)


class NoParams(nn.Module):
  def __call__(self, x):
    return x


def test_a_module_without_params_is_refused():
  with one_line("NoParams without a single param"):
    models.init(NoParams(), KEY, X)


def make_dict(key, inputs):
  return {"w": jnp.eye(4)}


def make_linen(key, inputs):
  return Plain()


def make_integers(key, inputs):
  return jaxmul.bind(lambda p, x: x @ p["w"], {"w": jnp.eye(4), "steps": jnp.zeros((), int)})


def make_plain(key, inputs):
  return models.init(Plain(), key, inputs)


@pytest.mark.parametrize(
  ("model", "message"),
  [
    (make_dict, r"make_dict returned a dict, must be a Network.*Return jaxmul\.bind\("),
    (make_linen, r"init\(make_linen\) got a Plain, a module without params"),
    (make_integers, r"init\(make_integers\) trains all params, but \['steps'\] is int"),
    (make_plain(KEY, X), r"got a Network, which has weights already.*\(key, inputs\)"),
  ],
)
def test_a_model_function_that_makes_no_network_is_refused(model, message):
  with one_line(message):
    models.init(model, KEY, X)
  with one_line(r"got train_flag for make_plain, which is no Linen module"):
    models.init(make_plain, KEY, X, train_flag={"train": True})


class OnByDefault(nn.Module):
  @nn.compact
  def __call__(self, x, train=True):
    x = nn.Dense(3, name="hidden")(x)
    return nn.Dense(2, name="head")(nn.Dropout(0.5, deterministic=not train)(x))


def test_features_are_those_of_evaluation():
  bound = models.init(OnByDefault(), KEY, X)
  layer = bound.params["hidden"]
  got = models.features(OnByDefault(), "head")(bound, X)
  np.testing.assert_allclose(got, X @ layer["kernel"] + layer["bias"], 1e-5, 1e-6)


def test_what_takes_a_mask_never_sees_padding():
  class Masked(nn.Module):
    @nn.compact
    def __call__(self, x, mask=None, train=False):
      norm = nn.BatchNorm(use_running_average=not train)
      return nn.Dense(2)(norm(x, mask=None if mask is None else mask[:, None]))

  bound = models.init(Masked(), KEY, X)
  mask = np.array([True, True, True, False, False])

  def risk(params, x):
    return jnp.where(mask[:, None], bound.replace(params=params).train(x, KEY, mask)[0], 0).sum()

  dirty = np.where(mask[:, None], X, np.nan).astype(np.float32)
  clean, spoiled = (jax.grad(risk)(bound.params, x) for x in (X, dirty))
  jax.tree.map(np.testing.assert_array_equal, clean, spoiled)
  _, state = bound.train(dirty, KEY, mask)
  mean = 0.01 * X[:3].mean(0)
  np.testing.assert_allclose(state["batch_stats"]["BatchNorm_0"]["mean"], mean, 1e-4, 1e-6)


@dataclasses.dataclass(frozen=True)
class Scale:
  """A frozen dataclass as model function."""

  by: float

  def __call__(self, key, inputs):
    return jaxmul.bind(jnp.multiply, jnp.float32(self.by))


def test_any_callable_makes_networks():
  assert models.init(Scale(2.0), KEY, X)(X)[0, 0] == 2 * X[0, 0]
