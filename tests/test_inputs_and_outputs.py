"""Networks that take a dict of arrays, or return a tuple, a dict or an object.

Each is the plain network in other clothes, so every number must be the plain one's: from `bind`
over training, proxies, unlearning and retraining to `forget` and a checkpoint. Bit for bit where
logits are picked; XLA rounds otherwise where it puts an image together.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmul
from jaxmul import (
  _identity,
  checkpoint,
  data,
  metrics,
  models,
  proxies,
  retraining,
  rum,
  train,
  unlearn,
)

KEY = jax.random.key(0)
DIGITS = data.digits().take(np.arange(160))
# The halves of each image under names of their own: pixels, and floats.
HALVES = dataclasses.replace(
  DIGITS,
  inputs={
    "top": DIGITS.inputs[:, :4],
    "rest": {"bottom": DIGITS.inputs[:, 4:].astype(np.float32) / np.float32(255)},
  },
)


def whole(inputs):
  if isinstance(inputs, dict):
    inputs = jnp.concatenate([inputs["top"], inputs["rest"]["bottom"]], axis=1)
  return inputs


class Plain(nn.Module):
  """BatchNorm and dropout, so that a state and both modes are on the way."""

  @nn.compact
  def __call__(self, inputs, train=False):
    x = whole(inputs)
    x = nn.Dense(12)(x.reshape(len(x), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
    return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x))


class Masked(Plain):
  """The same that takes the mask, and sees zeros where a row is padding."""

  @nn.compact
  def __call__(self, inputs, train=False, mask=None):
    x = whole(inputs)
    x = nn.Dense(12)(x.reshape(len(x), -1))
    x = nn.GroupNorm(3)(x)
    return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(nn.relu(x)))


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.hidden, self.head = nnx.Linear(64, 12, rngs=rngs), nnx.Linear(12, 10, rngs=rngs)
    self.norm = nnx.BatchNorm(12, momentum=0.9, rngs=rngs)

  def __call__(self, inputs):
    x = whole(inputs)
    return self.head(nnx.relu(self.norm(self.hidden(x.reshape(len(x), -1)))))


def nnx_model(key, inputs):
  return Nnx(nnx.Rngs(key))


@dataclasses.dataclass
class Output:
  """What JAX knows as no pytree."""

  logits: jax.Array
  hidden: jax.Array


@dataclasses.dataclass(frozen=True)
class Dressed:
  """`Plain` whose two passes return something around the logits."""

  dress: str

  def __call__(self, key, inputs):
    network = models.init(Plain(), key, inputs)
    wrap, pick = DRESSES[self.dress]

    def evaluation(variables, x):
      return wrap(network.apply_fn(variables, x), x)

    def training(params, state, x, key, mask):
      assert network.train_fn is not None
      logits, state = network.train_fn(params, state, x, key, mask)
      return wrap(logits, x), state

    given = (evaluation, network.params, network.state, training)
    return jaxmul.bind(*given, outputs=pick)


def first(out):
  return out[0]


def named(out):
  return out["logits"]


def attribute(out):
  return out.logits


DRESSES = {
  "tuple": (lambda logits, x: (logits, x), first),
  "dict": (lambda logits, x: {"hidden": x, "logits": logits}, named),
  "object": (Output, attribute),
}


class TwoHeads(Plain):
  """A Linen module with a second head, for `models.init(..., outputs=)`."""

  @nn.compact
  def __call__(self, inputs, train=False):
    x = whole(inputs)
    x = nn.Dense(12)(x.reshape(len(x), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
    return {"logits": nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x)), "features": x}


two_heads = functools.partial(models.init, TwoHeads(), outputs=named)


def numbers(model, dataset, folder):
  """Everything on the way from a recipe to `forget`, by name."""
  recipe, ids = train.Recipe(model, epochs=4, batch_size=32), np.arange(120)
  trackers = {"loss": proxies.trackers.cumulative_loss(), "tracin": proxies.trackers.tracin()}
  fitted = train.fit(recipe, dataset, KEY, ids, trackers)
  network, inputs = fitted.network, dataset.batch()[0]
  made = {"history": fitted.history, **fitted.scores}
  for name in ("confidence", "grand"):
    made[name] = proxies.score(getattr(proxies, name), network, dataset)
  split = data.Split(forget=ids[:9], retain=ids[9:])
  unlearners = {1: unlearn.ssd(), 4: unlearn.scrub(0.01)}
  for devices, unlearner in unlearners.items():
    given = (unlearner, network, dataset, split, KEY)
    after = unlearn.run(*given, epochs=1, batch_size=32, devices=jax.devices()[:devices])
    made[unlearner.name] = jax.device_get(after(inputs))
  test = dataset.take([130, 131])
  schedule = retraining.leave_out(recipe, dataset, KEY, num_models=2, chunk_size=2, test=test)
  made["chunk"] = [vars(part) for part in retraining.stream(schedule, executor=retraining.serial)]
  done = jaxmul.forget(
    *(network, dataset, ids[:9], recipe, KEY),
    heldout=np.arange(120, 140),
    test=np.arange(140, 160),
    plan=rum.Plan([rum.Step(unlearn.neg_grad_plus(0.01), 1, 32)]),
    evidence="none",
    store=folder,
    progress=False,
  )
  made["forgotten"] = done.network(inputs)
  made["loaded"] = checkpoint.load(folder / "network", models.shapes(model, dataset.example))(
    inputs
  )
  return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  return functools.cache(lambda model: numbers(model, DIGITS, tmp_path_factory.mktemp("plain")))


SLOW = pytest.mark.slow  # they take the same way through jaxmul as one of the others


@pytest.mark.parametrize(
  ("model", "dataset", "same"),
  [
    pytest.param(Masked(), HALVES, Masked(), id="a dict in, masked"),
    pytest.param(nnx_model, HALVES, nnx_model, id="a dict in, nnx", marks=SLOW),
    pytest.param(Dressed("dict"), HALVES, Plain(), id="a dict in, a dict out"),
    pytest.param(Dressed("object"), DIGITS, Plain(), id="an object out", marks=SLOW),
    pytest.param(Dressed("tuple"), DIGITS, Plain(), id="a tuple out", marks=SLOW),
    pytest.param(two_heads, DIGITS, Plain(), id="a dict out of a module", marks=SLOW),
  ],
)
def test_other_clothes_change_no_number_from_bind_to_forget(model, dataset, same, plain, tmp_path):
  rtol, atol = (0, 0) if dataset is DIGITS else (1e-3, 1e-4)
  got, want = numbers(model, dataset, tmp_path), plain(same)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), got, want)


def in_one_line(call, *words):
  with pytest.raises(ValueError, match=r"must|got|gradients|hold") as caught:
    call()
  message = str(caught.value)
  assert "\n" not in message
  assert all(word in message for word in words), message


BATCH = DIGITS.batch()


@pytest.mark.parametrize(
  ("wrap", "cure"),
  [
    (
      lambda z: (z, z),
      "a tuple of 2, must be an array of logits [B, *P, C]. Pick them with outputs=lambda out: ",
    ),
    (lambda z: {"logits": z}, "out['logits']"),
    (lambda z: Output(z, z), "returns an Output, must be an array of logits"),
    (lambda z: z[:, 0], "stack([0 * z, z], -1)"),
    (lambda z: z[:, :1], "stack([0 * z, z], -1)"),
  ],
  ids=["tuple", "dict", "object", "one number", "one column"],
)
def test_other_outputs_are_refused_with_the_cure(wrap, cure):
  def model(key, inputs):
    weights = jax.random.normal(key, (64, 10))
    return jaxmul.bind(lambda w, x: wrap(x.reshape(len(x), -1) @ w), weights)

  network = model(KEY, None)
  split = data.Split(forget=np.array([1, 2]), retain=np.arange(3, 99))
  for call in (
    lambda: train.fit(train.Recipe(model, epochs=1), DIGITS, KEY),
    lambda: proxies.max_confidence(network, BATCH),
    lambda: proxies.score(proxies.curvature, network, DIGITS),
    lambda: unlearn.run(unlearn.fine_tune(0.1), network, DIGITS, split, KEY, epochs=1),
    lambda: metrics.accuracy(network, DIGITS),
  ):
    in_one_line(call, cure)


def test_outputs_of_training_alone_are_refused_too():
  def model(key, inputs):
    def apply_fn(w, x):
      return x.reshape(len(x), -1) @ w

    def train_fn(w, state, x, key, mask):
      return (apply_fn(w, x), 0), state

    return jaxmul.bind(apply_fn, jax.random.normal(key, (64, 10)), None, train_fn)

  recipe = train.Recipe(model, epochs=1)
  in_one_line(lambda: train.fit(recipe, DIGITS, KEY), "training returns a tuple of 2")


def test_gradients_of_a_dict_are_taken_where_embed_makes_one_array():
  def embed(params, inputs):
    return whole(inputs).reshape(len(inputs["top"]), -1)

  def apply_fn(params, inputs):
    hidden = embed(params, inputs) if isinstance(inputs, dict) else inputs
    return jnp.tanh(hidden @ params["in"]) @ params["out"]

  keys = jax.random.split(KEY)
  params = {"in": jax.random.normal(keys[0], (64, 8)), "out": jax.random.normal(keys[1], (8, 10))}
  network = jaxmul.bind(apply_fn, params, embed=embed)
  flat = (BATCH[0].reshape(len(DIGITS), -1), BATCH[1])
  for proxy in (proxies.curvature, proxies.input_gradient):
    want = proxy(jaxmul.bind(apply_fn, params), flat)
    np.testing.assert_allclose(proxies.score(proxy, network, HALVES), want, 1e-4)
    without = jaxmul.bind(apply_fn, params)
    in_one_line(lambda p=proxy, n=without: p(n, HALVES.batch()), "a dict of arrays", "embed=")
  halves = jaxmul.bind(apply_fn, params, embed=lambda params, inputs: inputs)
  in_one_line(
    lambda: proxies.curvature(halves, HALVES.batch()), "embed returned a dict", "one array"
  )


def test_a_data_set_of_a_dict_is_joined_and_hashed_as_one_of_an_array():
  taken = HALVES.take([7, 3])
  np.testing.assert_array_equal(taken.inputs["top"], DIGITS.inputs[[7, 3], :4])
  assert taken.inputs["rest"]["bottom"].dtype == np.float32
  assert _identity.digest(taken) == _identity.digest(HALVES.take([3, 7]))
  other = dataclasses.replace(taken, inputs=taken.inputs | {"top": taken.inputs["top"] + 1})
  assert _identity.digest(taken) != _identity.digest(other)
  counts = np.array([3, 1])
  assert (
    data.Dataset({"count": counts, "image": DIGITS.inputs[:2]}, counts % 3).inputs["count"].ndim
    == 1
  )
  for inputs, words in (
    ({"a": np.zeros((3, 2)), "b": np.zeros((2, 2))}, "one row an example, got of [2, 3] rows"),
    ({}, "got no array"),
    ({"a": np.zeros((2, 2)), "b": np.array([[np.nan], [0]])}, "inputs['b'] hold nan at (0, 0)"),
    ({"a": np.zeros((2, 2), bool)}, "inputs['a'], or tokens int32 [n, T], got bool"),
    ({"a": np.float32(1)}, "inputs['a'] [n, ...] of rank 1"),
  ):
    in_one_line(lambda given=inputs: data.Dataset(given, counts % 3), words)
