"""The programs that an accelerator would run, as functions of shapes: nothing is computed here.

What the library loops over is cut out as one turn: a training step of `train.fit`, and one of an
unlearning epoch. The others are whole: a proxy of a batch, and the training of many models.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.bench import products
from jaxmul import _sharding, _steps, models, proxies, train, unlearn
from jaxmul._examples import Examples
from jaxmul.binding import Network
from jaxmul.retraining import chunk
from jaxmul.retraining.chunk import Arrays, Task
from jaxmul.unlearn import Session
from jaxmul.unlearn.unlearner import apply_increments

PROBES = 10


class Sizes(NamedTuple):
  """What is trained on what.

  Attributes:
    module: the network, with 10 classes.
    layers: its products, see `products`.
    batch: B.
    examples: n of the data set from which many models leave out 30 %.
    epochs: of each of the many models.
    width: models that a device trains at once.
    image: H = W of its images of 3 channels.
  """

  module: nn.Module
  layers: Sequence[products.Layer]
  batch: int
  examples: int
  epochs: int
  width: int
  image: int = 32


class Program(NamedTuple):
  """A pure function of arrays and keys' data, and what it should cost.

  Attributes:
    function: `(*arguments) -> result`.
    arguments: shapes.
    flops: what its products need, on one device, from the shapes of the layers.
    carries: whether the first argument comes back changed, as what a loop carries does.
  """

  function: Callable[..., Any]
  arguments: tuple[Any, ...]
  flops: int
  carries: bool = False


def spec(*shape: int, dtype: Any = jnp.float32) -> Any:
  """Returns the shape of an array."""
  return jax.ShapeDtypeStruct(shape, dtype)


KEY = spec(2, dtype=jnp.uint32)


def all_of(sizes: Sizes) -> dict[str, Program]:
  """Returns {name: Program}, the many models for all local devices."""
  return {
    "training step": training_step(sizes),
    "unlearning step": unlearning_step(sizes),
    "GraND": proxy(sizes, proxies.grand, products.ghost_norms(sizes.layers)),
    "curvature": proxy(
      sizes,
      functools.partial(proxies.curvature, num_probes=PROBES),
      products.curvature(sizes.layers, PROBES),
    ),
    "many models": many_models(sizes),
  }


def network_of(sizes: Sizes) -> Network:
  """Returns the shapes of a network."""
  init = functools.partial(models.init, sizes.module)
  return jax.eval_shape(init, jax.random.key(0), spec(1, sizes.image, sizes.image, 3))


def examples_of(sizes: Sizes, count: int) -> Examples:
  """Returns the shapes of so many images of uint8 and their labels."""
  return Examples(
    inputs=spec(count, sizes.image, sizes.image, 3, dtype=jnp.uint8),
    labels=spec(count, dtype=jnp.int32),
    rows=spec(count, dtype=jnp.int32),
    count=spec(dtype=jnp.int32),
  )


def training_step(sizes: Sizes) -> Program:
  """One step of `train.fit`, whose scan carries network and optimizer."""
  recipe = train.Recipe(sizes.module, epochs=1, batch_size=sizes.batch)
  job = _steps.Job(recipe=recipe, optimizer=train.optimizer(recipe, 1))
  carry = jax.eval_shape(functools.partial(_steps.first_carry, job), network_of(sizes))

  def step(carry, examples, key, places):
    key = jax.random.wrap_key_data(key)
    return _steps.step_of(job, examples, key, carry, jnp.int32(0), places)

  places = spec(sizes.batch, dtype=jnp.int32)
  needed = sizes.batch * products.training(sizes.layers)
  arguments = (carry, examples_of(sizes, sizes.batch), KEY, places)
  return Program(step, arguments, needed, carries=True)


def unlearning_step(sizes: Sizes) -> Program:
  """One step of NegGrad+, on a whole batch of S and one of R."""
  algorithm = unlearn.neg_grad_plus()
  update = algorithm.update
  assert update is not None
  network, examples = network_of(sizes), examples_of(sizes, sizes.batch)

  def begin(network, examples, key):
    session = Session(examples, examples, epochs=1, batch_size=sizes.batch, key=key)
    return algorithm.init(network, session)

  state = jax.eval_shape(begin, network, examples, jax.random.key(0))

  def step(carry, forget, retain, key):
    network, state = carry
    key = jax.random.wrap_key_data(key)
    updates, state = update(forget.whole(), retain.whole(), state, network, key)
    return apply_increments(network, updates), state

  needed = 2 * sizes.batch * products.training(sizes.layers)
  return Program(step, ((network, state), examples, examples, KEY), needed, carries=True)


def proxy(sizes: Sizes, function: Callable[..., jax.Array], flops: int) -> Program:
  """A point proxy of one batch."""
  batch = (spec(sizes.batch, sizes.image, sizes.image, 3), spec(sizes.batch, dtype=jnp.int32))
  return Program(function, (network_of(sizes), batch), sizes.batch * flops)


def many_models(sizes: Sizes) -> Program:
  """What `retraining.devices(width)` compiles: `width` models on each local device."""
  count, devices = sizes.examples, jax.local_devices()
  subset = round(0.7 * count)
  task = Task(
    recipe=train.Recipe(sizes.module, epochs=sizes.epochs, batch_size=sizes.batch),
    subset_size=subset,
    kept=(subset,),
    target="correct",
    folds=0,
    settings=(),
  )
  arrays = Arrays(
    examples=examples_of(sizes, count),
    always=spec(0, dtype=jnp.int32),
    candidates=[spec(count, 1, dtype=jnp.int32)],
    test=examples_of(sizes, 0),
    key=KEY,
  )

  def one(model, arrays):
    return chunk.outcome(task, arrays, model)

  mapped = _sharding.map_models(one, devices, sizes.width)
  numbers = spec(sizes.width * len(devices), dtype=jnp.int32)
  needed = products.whole_model(sizes.layers, subset, sizes.epochs, count)
  return Program(mapped, (numbers, arrays), sizes.width * needed)
