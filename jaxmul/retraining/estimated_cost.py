"""What a schedule costs, before anything is trained: operations, hours, a price.

Operations are counted from the traced program of one model, see `_flops`. How fast a machine makes
them is stated, or measured here on some steps.
"""

import dataclasses
import math
import time
from numbers import Real

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmul import _arrays, _article, _check, _flops, models
from jaxmul._dataset import Dataset, as_inputs
from jaxmul._examples import Examples, examples_of
from jaxmul._progress import duration
from jaxmul._steps import Carry, Job, first_carry, step_of
from jaxmul.retraining import executors
from jaxmul.retraining.chunk import BLOCK, as_scheduled, trained
from jaxmul.retraining.leave_out_schedule import Schedule
from jaxmul.train import Recipe, optimizer

_SECONDS = 0.5  # of steps that are timed
_SAMPLE = 0.05  # seconds at least from one look at the clock to the next
_MOST = 20  # steps from one look to the next
_LEAST_SAMPLES = 3  # as fewer have no middle half
_STEPS_OF_DATA = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """What the models of a schedule cost.

  Attributes:
    models: M, how many are trained.
    trained_examples: M · m · epochs, m examples in each model's subset; None of a learner of your
      own, which passes over them as it likes.
    training_flops: operations of all matrix products and convolutions in the training of all
      models, but for what nobody uses and for the zeros around an image. The last step of an epoch
      counts as a whole one, as it is computed. NaN where a learner has products in a `while` loop.
    prediction_flops: the same of what each model is asked afterwards, all n examples and the test
      examples.
    flops_per_second: how many operations the machine makes in a second of training, from the least
      to the most that is expected; None where nothing is known of it.
    measured_steps: steps that this was measured on, 0 where it was stated.
    price_per_hour: of the machine, None where none was given.
  """

  models: int
  trained_examples: int | None
  training_flops: float
  prediction_flops: float
  flops_per_second: tuple[float, float] | None = None
  measured_steps: int = 0
  price_per_hour: float | None = None

  @property
  def flops(self) -> float:
    """Operations in all."""
    return self.training_flops + self.prediction_flops

  @property
  def hours(self) -> tuple[float, float] | None:
    """From the least to the most hours that are expected, None where no speed is known.

    They leave out the start of processes and compilation.
    """
    if self.flops_per_second is None:
      return None
    slow, fast = self.flops_per_second
    return self.flops / fast / 3600, self.flops / slow / 3600

  @property
  def price(self) -> tuple[float, float] | None:
    """From the least to the most that is expected, in the unit of `price_per_hour`, or None."""
    if self.hours is None or self.price_per_hour is None:
      return None
    low, high = self.hours
    return low * self.price_per_hour, high * self.price_per_hour

  @property
  def line(self) -> str:
    """One line, for people."""
    said = f"{self.models} models, {_operations(self.flops)}"
    if self.hours is None or math.isnan(self.flops):
      return said
    low, high = (duration(3600 * hours) for hours in self.hours)
    (least, unit), (_, other) = low.split(), high.split()
    span = f"{least} to {high}" if unit == other else f"{low} to {high}"
    said += f", about {low}" if low == high else f", {span}"
    if self.price is not None:
      cheap, dear = (f"{price:,.2f}" for price in self.price)
      said += f", price {cheap}" if cheap == dear else f", price {cheap} to {dear}"
    if self.measured_steps:
      said += f" on this machine (measured on {self.measured_steps} steps)"
    return said


def cost(
  schedule: Schedule,
  *,
  flops_per_second: float | tuple[float, float] | None = None,
  measure: bool = False,
  price_per_hour: float | None = None,
) -> Cost:
  """Returns what the models of a schedule cost; none of them is trained.

  Args:
    schedule: what has to be trained.
    flops_per_second: what the machine, all its devices together, sustains while it trains these
      networks; or the least and the most that you expect, such as 5 % and 30 % of its peak. Small
      networks use far less of an accelerator than large ones.
    measure: time some steps here instead, with parameters of zero, and take the middle half of the
      times, at least three. That the default executor uses all cores or devices is counted; that
      they slow each other down is not. A compilation and a second or two, more where a step takes
      long.
    price_per_hour: of that machine, in any unit.

  Returns:
    A `Cost`. `line` says it in words.

  Raises:
    ValueError: it is no schedule, both or neither of a speed and `measure` are given where they are
      needed, a number is outside its range, the recipe to be measured is a learner, which has no
      steps, or what a learner returns is no pytree.
    RuntimeError: this process has other versions than the one that made the schedule.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, models, retraining, train
    >>> toy = data.Dataset(np.eye(8, dtype=np.float32), np.arange(8) % 2)
    >>> recipe = train.Recipe(models.mlp((4,), 2), epochs=10, batch_size=2)
    >>> schedule = retraining.leave_out(
    ...   recipe, toy, jax.random.key(0), num_models=100, fraction=0.75)
    >>> cost = retraining.cost(schedule, flops_per_second=(1e3, 2e3), price_per_hour=2)
    >>> cost.trained_examples, cost.training_flops, cost.prediction_flops
    (6000, 1056000, 64000)
    >>> cost.line
    '100 models, 1.1 MFLOP, 9.3 to 18.7 minutes, price 0.31 to 0.62'
  """
  if not isinstance(schedule, Schedule):
    raise ValueError(
      f"cost got {_article.of(schedule)}, must be a Schedule. Make one: "
      "retraining.leave_out(recipe, dataset, key, num_models=...)."
    )
  recipe, speed, steps = schedule.recipe, _speed(flops_per_second), 0
  if measure and speed is not None:
    raise ValueError("cost got flops_per_second and measure=True. Give one of them.")
  if measure and not isinstance(recipe, Recipe):
    raise ValueError(
      "cost got measure=True and a learner of your own, which has no steps. Give flops_per_second."
    )
  if price_per_hour is not None:
    _check.at_least("cost", 0, price_per_hour=price_per_hour)
    if speed is None and not measure:
      raise ValueError(
        f"cost got price_per_hour={price_per_hour} and no speed. Give flops_per_second too, or "
        "measure=True."
      )
  with as_scheduled(schedule):
    training, prediction = _of_a_model(schedule)
    if measure:
      speed, steps = _measured(schedule)
  count, epochs = schedule.num_models, recipe.epochs if isinstance(recipe, Recipe) else None
  return Cost(
    models=count,
    trained_examples=None if epochs is None else count * schedule.subset_size * epochs,
    training_flops=count * training,
    prediction_flops=count * prediction,
    flops_per_second=speed,
    measured_steps=steps,
    price_per_hour=price_per_hour,
  )


def _speed(given: float | tuple[float, float] | None) -> tuple[float, float] | None:
  """Returns the least and the most of what was given, checked."""
  if given is None:
    return None
  both = given if isinstance(given, tuple | list) else (given, given)
  # True is a number too, and an array of one compares as one.
  if len(both) == 2 and all(isinstance(n, Real) and not isinstance(n, bool) for n in both):
    slow, fast = both
    if 0 < slow <= fast and not _check.is_infinite(fast):
      return float(slow), float(fast)
  raise ValueError(
    f"cost got flops_per_second={_article.line(given)}, must be a finite number above 0, or "
    "(least, most)."
  )


def _operations(flops: float) -> str:
  """Returns operations in words, such as "2.1 TFLOP"."""
  if math.isnan(flops):
    return "an unknown number of FLOP: products in a while loop"
  for unit in ("", "k", "M", "G", "T", "P"):
    if flops < 999.5:
      return f"{flops:.2g} {unit}FLOP" if flops < 10 else f"{flops:.0f} {unit}FLOP"
    flops /= 1000
  return f"{flops:,.0f} EFLOP"


def _of_a_model(schedule: Schedule) -> tuple[float, float]:
  """Returns the operations of one model, in training and in prediction."""
  dataset, size = schedule.dataset, schedule.subset_size
  inputs, labels = jax.tree.map(_shape, (dataset.inputs, dataset.labels))
  statics: list[_arrays.Static] = []

  def train(inputs, labels, key):
    subset = Examples(inputs, labels, jnp.arange(size), jnp.int32(size))
    network = trained(schedule.recipe, subset, key)[0]
    static, arrays = _arrays.split(network)  # it may hold functions
    statics.append(static)
    return arrays

  traced, arrays = jax.make_jaxpr(train, return_shape=True)(inputs, labels, jax.random.key(0))
  structure, others, _ = statics[0]
  if jax.tree_util.treedef_is_leaf(structure):
    raise ValueError(
      f"cost got a learner that returns {_article.of(others[0])}, must be a callable pytree. "
      "Return jax.tree_util.Partial(predict, weights)."
    )

  def predicted(arrays, inputs):
    return _arrays.joined(statics[0], arrays)(as_inputs(inputs))

  def asked(about: Dataset | None) -> float:
    if not about:
      return 0
    block = min(BLOCK, len(about))
    few = jax.tree.map(_shape, _arrays.rows(about.inputs, slice(block)))
    predict = jax.make_jaxpr(predicted)(arrays, few)
    return -(-len(about) // block) * _flops.products(predict.jaxpr)

  return _flops.products(traced.jaxpr), asked(dataset) + asked(schedule.test)


def _shape(array: _arrays.Array) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


def _measured(schedule: Schedule) -> tuple[tuple[float, float], int]:
  """Returns the operations that this machine makes in a second of training, and steps timed.

  Steps run in a loop, as training does, and in one thread where the default executor's workers
  have one.
  """
  recipe = schedule.recipe
  assert isinstance(recipe, Recipe)
  batch = recipe.batch_size
  examples = examples_of(schedule.dataset.take(schedule.dataset.ids[: _STEPS_OF_DATA * batch]))
  job = Job(recipe=recipe, optimizer=optimizer(recipe, -(-schedule.subset_size // batch)))
  shapes = models.shapes(recipe.model, schedule.dataset.example)
  carry = jax.tree.map(_zeros, jax.eval_shape(lambda network: first_carry(job, network), shapes))

  def steps(count: jax.Array, carry: Carry, examples: Examples) -> Carry:
    def step(number, carry):
      places = (jnp.arange(batch) + number * batch) % len(examples.rows)
      return step_of(job, examples, jax.random.key(0), carry, jnp.int32(0), places)[0]

    return lax.fori_loop(0, count, step, carry)

  traced = jax.jit(steps).trace(jnp.int32(1), carry, examples)
  options: dict[str, str | bool] = {}
  if executors.name_of_default() == "processes":
    options["xla_cpu_multi_thread_eigen"] = False
  run = traced.lower().compile(compiler_options=options)

  def timed(count: int) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(jnp.int32(count), carry, examples))
    return (time.perf_counter() - start) / count

  each = int(np.clip(round(_SAMPLE / timed(1)), 1, _MOST))  # the first step is slower than others
  seconds: list[float] = []
  while len(seconds) < _LEAST_SAMPLES or each * sum(seconds) < _SECONDS:
    seconds.append(timed(each))
  slow, fast = np.quantile(seconds, (0.75, 0.25))
  flops = executors.default_workers(schedule) * _flops.products(traced.jaxpr.jaxpr, turns=1)
  return (flops / float(slow), flops / float(fast)), each * len(seconds)


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jnp.broadcast_to(jax.random.key(0), leaf.shape)
  return jnp.zeros(leaf.shape, leaf.dtype)
