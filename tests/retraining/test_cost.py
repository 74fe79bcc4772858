"""What a schedule costs: beside counts by hand, XLA's own, and what was really run."""

import dataclasses
import itertools
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import loky
import numpy as np
import pytest
from toys import two_classes

from jaxmul import _flops, models, retraining, train
from jaxmul.data import Dataset
from jaxmul.retraining import estimated_cost
from jaxmul.retraining.chunk import arrays_of, outcome, task_of

BATCH = 16


def images(n=64, side=8, channels=3):
  inputs = np.random.default_rng(0).normal(size=(n, side, side, channels)).astype(np.float32)
  return Dataset(inputs, np.arange(n) % 2)


def schedule_of(model, dataset, *, num_models=10, epochs=2, batch_size=BATCH):
  recipe = train.Recipe(model, epochs=epochs, batch_size=batch_size)
  key = jax.random.key(0)
  return retraining.leave_out(recipe, dataset, key, num_models=num_models, fraction=0.5)


def by_hand(layers, schedule, of_inputs):
  """2mnk three times an example of a step, but for the first layer's gradient of its inputs."""
  forward, examples = sum(layers), schedule.subset_size * schedule.recipe.epochs
  return (3 * forward - (not of_inputs) * layers[0]) * examples, forward * len(schedule.dataset)


def test_an_mlp_costs_what_its_products_cost():
  schedule = schedule_of(models.mlp((20, 12), 2), images())
  layers = [2 * 192 * 20, 2 * 20 * 12, 2 * 12 * 2]
  cost = retraining.cost(schedule)
  training, prediction = by_hand(layers, schedule, of_inputs=False)
  assert (cost.training_flops, cost.prediction_flops) == (10 * training, 10 * prediction)
  assert cost.flops == 10 * (training + prediction)
  assert (cost.models, cost.trained_examples) == (10, 10 * 32 * 2)


def test_a_cnn_costs_what_its_convolutions_cost():
  schedule = schedule_of(models.cnn((4, 6), 10, 2), images())
  first = 2 * 8 * 8 * 4 * 3 * 3 * 3  # positions, channels out, taps, channels in
  second = 2 * 4 * 4 * 6 * 3 * 3 * 4  # after pooling
  layers = [first, second, 2 * (2 * 2 * 6) * 10, 2 * 10 * 2]
  cost = retraining.cost(schedule)
  # A convolution's rule returns the gradient of the images too; nobody uses it, and it is counted.
  training, prediction = by_hand(layers, schedule, of_inputs=True)
  assert (cost.training_flops, cost.prediction_flops) == (10 * training, 10 * prediction)


def test_an_unfinished_step_counts_as_a_whole_one():
  few, whole = (schedule_of(models.mlp((5,), 2), images(n)) for n in (34, 64))
  assert (few.subset_size, whole.subset_size) == (17, 32)
  assert retraining.cost(few).training_flops == retraining.cost(whole).training_flops


@pytest.mark.parametrize("model", [models.mlp((5,), 2), models.cnn((4,), 5, 2)])
def test_what_is_doubled_costs_twice_as_much(model):
  one = retraining.cost(schedule_of(model, images()))
  of_models = retraining.cost(schedule_of(model, images(), num_models=20))
  of_epochs = retraining.cost(schedule_of(model, images(), epochs=4))
  of_examples = retraining.cost(schedule_of(model, images(128)))
  for two in (of_models, of_epochs, of_examples):
    assert two.training_flops == 2 * one.training_flops
    assert two.trained_examples == 2 * one.trained_examples
  assert of_models.flops == 2 * one.flops
  assert of_examples.flops == 2 * one.flops
  assert of_epochs.prediction_flops == one.prediction_flops


@pytest.mark.parametrize(
  ("model", "tolerance"), [(models.mlp((64, 64), 2), 0.1), (models.cnn((16, 16), 32, 2), 0.2)]
)
def test_it_is_what_xla_counts_of_a_step_but_for_work_on_single_numbers(model, tolerance):
  batch, labels = images(BATCH).inputs, jnp.arange(BATCH) % 2
  network = models.init(model, jax.random.key(0), batch)

  def step(params):
    outputs = network.replace(params=params)(batch)
    return jnp.mean(-jax.nn.log_softmax(outputs)[jnp.arange(BATCH), labels])

  gradient = jax.jit(jax.grad(step))
  ours = _flops.products(gradient.trace(network.params).jaxpr.jaxpr)
  # As compiled: only then is what nobody uses gone, and convolutions are one backend's.
  xla = gradient.lower(network.params).compile().cost_analysis()["flops"]
  assert ours == pytest.approx(xla, rel=tolerance)


def test_all_that_a_model_runs_is_counted():
  """The program that trains, tallies and keeps outputs, as an executor compiles it."""
  test = images(40)
  recipe = train.Recipe(models.mlp((5,), 2), epochs=2, batch_size=BATCH)
  schedule = retraining.leave_out(recipe, images(), jax.random.key(0), num_models=2, test=test)
  traced = jax.make_jaxpr(outcome, static_argnums=0)(task_of(schedule), arrays_of(schedule), 0)
  assert retraining.cost(schedule).flops == 2 * _flops.products(traced.jaxpr)


def test_loops_count_as_often_as_they_turn():
  a = jnp.ones((4, 4))

  def turned(times):
    return jax.lax.fori_loop(0, times, lambda _, b: a @ b, a)

  once = 2 * 4**3
  assert _flops.products(jax.make_jaxpr(lambda: turned(7))().jaxpr) == 7 * once
  unknown = jax.make_jaxpr(turned)(7).jaxpr
  assert np.isnan(_flops.products(unknown))
  assert _flops.products(unknown, turns=3) == 3 * once
  assert _flops.products(jax.make_jaxpr(lambda: (a @ a, jnp.ones(1))[1])().jaxpr) == 0


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_of_a_convolution_cost_as_much_as_itself(stride):
  x, kernel = jnp.ones((3, 8, 8, 2)), jnp.ones((2, 2, 2, 5))

  def convolve(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), "VALID" if stride == 2 else "SAME", dimension_numbers=layout
    )
    return y.sum()

  forward = 2 * 3 * (8 // stride) ** 2 * 5 * (2 * 2 * 2)
  assert _flops.products(jax.make_jaxpr(convolve)(x, kernel).jaxpr) == forward
  gradients = jax.make_jaxpr(jax.grad(convolve, argnums=(0, 1)))(x, kernel)
  assert _flops.products(gradients.jaxpr) == pytest.approx(2 * forward, rel=0.3)


def linear_learner(examples, key):
  del key
  batch = examples.whole()
  flat = batch.inputs.reshape(len(batch.inputs), -1)
  return jax.tree_util.Partial(_predict, flat.T @ jax.nn.one_hot(batch.labels, 2))


def _predict(weights, inputs):
  return inputs.reshape(len(inputs), -1) @ weights


def test_a_learner_of_ones_own_is_counted_too():
  schedule = retraining.leave_out(
    linear_learner, images(), jax.random.key(0), num_models=10, fraction=0.5
  )
  cost = retraining.cost(schedule)
  assert cost.training_flops == 10 * 2 * 32 * 192 * 2
  assert cost.prediction_flops == 10 * 2 * 64 * 192 * 2
  assert cost.trained_examples is None
  with pytest.raises(ValueError, match=r"learner of your own.*flops_per_second"):
    retraining.cost(schedule, measure=True)


def test_hours_and_price_follow_from_what_is_stated():
  schedule = schedule_of(models.mlp((5,), 2), images())
  bare = retraining.cost(schedule)
  assert (bare.hours, bare.price, bare.measured_steps) == (None, None, 0)
  rate = bare.flops / 3600  # an hour's
  one = retraining.cost(schedule, flops_per_second=rate, price_per_hour=3.0)
  assert one.hours == pytest.approx((1, 1))
  assert one.price == pytest.approx((3, 3))
  assert one.line.endswith(", about 60.0 minutes, price 3.00")
  span = retraining.cost(schedule, flops_per_second=(rate / 4, rate / 2), price_per_hour=3.0)
  assert span.hours == pytest.approx((2, 4))
  assert span.price == pytest.approx((6, 12))
  assert span.line.endswith(", 2.0 to 4.0 hours, price 6.00 to 12.00")
  assert bare.line == f"10 models, {bare.flops / 1e6:.2g} MFLOP"


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"flops_per_second": 0}, "flops_per_second=0, must be above 0"),
    ({"flops_per_second": (2e9, 1e9)}, "must be above 0. Use a number, or"),
    ({"flops_per_second": float("nan")}, "flops_per_second=nan"),
    ({"flops_per_second": 1e9, "measure": True}, "Give one of them"),
    ({"price_per_hour": 2.0}, "no speed. Give flops_per_second too"),
    ({"price_per_hour": -1.0, "flops_per_second": 1e9}, "price_per_hour=-1.0"),
  ],
)
def test_what_cannot_be_is_refused(given, said):
  with pytest.raises(ValueError, match=said):
    retraining.cost(schedule_of(models.mlp((5,), 2), images()), **given)


def test_the_measured_speed_is_that_of_the_clock(monkeypatch):
  """A clock that says a tenth of a second for whatever lies between two looks at it."""
  ticks = itertools.count()
  clock = types.SimpleNamespace(perf_counter=lambda: next(ticks) / 10)
  monkeypatch.setattr(estimated_cost, "time", clock)
  schedule = schedule_of(models.mlp((20,), 2), images(), num_models=9)
  cost = retraining.cost(schedule, measure=True)
  step = BATCH * (3 * 2 * 20 * 2 + 2 * 2 * 192 * 20)
  workers = min(loky.cpu_count(), 2)  # chunks of 8 models
  assert cost.flops_per_second == pytest.approx((10 * workers * step,) * 2)
  assert cost.measured_steps == 5  # half a second
  assert cost.line.endswith(" on this machine (measured on 5 steps)")


def test_measuring_changes_no_number():
  schedule = schedule_of(models.mlp((8,), 2), images(), num_models=2, epochs=1)
  before = retraining.run_chunk(schedule, 0)
  jax.clear_caches()
  retraining.cost(schedule, measure=True)
  after = retraining.run_chunk(schedule, 0)
  assert all(
    np.array_equal(a, b, equal_nan=True) for a, b in zip(*map(leaves, (before, after)), strict=True)
  )


def leaves(chunk):
  return [np.asarray(value) for value in dataclasses.asdict(chunk).values()]


class Normed(nn.Module):
  """Statistics of the batch, and dropout."""

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(4)(x.reshape(len(x), -1))
    x = nn.BatchNorm(use_running_average=not train)(x)
    return nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))


def test_networks_with_batch_statistics_and_texts_can_be_measured():
  normed = schedule_of(Normed(), images(), num_models=2)
  assert retraining.cost(normed, measure=True).measured_steps >= 1
  tokens = np.arange(64 * 8).reshape(64, 8) % 7
  texts = Dataset(tokens.astype(np.int32), np.roll(tokens, -1, 1).astype(np.int32))
  model = models.gpt(7, length=8, depth=1, heads=1, width=8)
  assert retraining.cost(schedule_of(model, texts), measure=True).measured_steps >= 1


def test_the_same_data_in_another_order_costs_the_same():
  points = two_classes(64)
  order = np.random.default_rng(0).permutation(64)
  model = models.mlp((5,), 2)
  costs = [
    retraining.cost(schedule_of(model, data)) for data in (points, points.take(points.ids[order]))
  ]
  assert costs[0] == costs[1]


def test_the_page_says_what_comes_out(capsys):
  text = (Path(__file__).parents[2] / "docs" / "ground-truth.md").read_text()
  section = text.split("## What it costs")[1]
  code = section.split("```python\n")[1].split("```")[0]
  names = {}
  exec(code, names)
  cost = names["cost"]
  assert code.split("print(cost.line)  # ")[1].strip() == capsys.readouterr().out.strip()
  assert f"# {cost.models}, {cost.trained_examples}:" in code
  said = f"# {cost.training_flops:.1e}, {cost.prediction_flops:.1e}:".replace("e+", "e")
  assert said in code
