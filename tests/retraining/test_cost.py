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

from experiments.bench import products
from jaxmul import _flops, models, retraining, train
from jaxmul.data import Dataset
from jaxmul.retraining import estimated_cost, executors
from jaxmul.retraining.chunk import arrays_of, outcome, task_of

BATCH = 16


def images(n=64, side=8, channels=3):
  inputs = np.random.default_rng(0).normal(size=(n, side, side, channels)).astype(np.float32)
  return Dataset(inputs, np.arange(n) % 2)


def schedule_of(model, dataset, *, num_models=10, epochs=2, batch_size=BATCH):
  recipe = train.Recipe(model, epochs=epochs, batch_size=batch_size)
  key = jax.random.key(0)
  return retraining.leave_out(recipe, dataset, key, num_models=num_models, fraction=0.5)


def by_hand(layers, schedule):
  """2mnk three times an example of a step, but for the first layer's gradient of its inputs."""
  forward, examples = sum(layers), schedule.subset_size * schedule.recipe.epochs
  return (3 * forward - layers[0]) * examples, forward * len(schedule.dataset)


def test_an_mlp_costs_what_its_products_cost():
  schedule = schedule_of(models.mlp((20, 12), 2), images())
  layers = [2 * 192 * 20, 2 * 20 * 12, 2 * 12 * 2]
  cost = retraining.cost(schedule)
  training, prediction = by_hand(layers, schedule)
  assert (cost.training_flops, cost.prediction_flops) == (10 * training, 10 * prediction)
  assert cost.flops == 10 * (training + prediction)
  assert (cost.models, cost.trained_examples) == (10, 10 * 32 * 2)


# A kernel of 3 meets 2 + 3 + … + 3 + 2 pixels along an axis of 8, and 10 along one of 4.
CNN = [2 * 22**2 * 3 * 4, 2 * 10**2 * 4 * 6, 2 * (2 * 2 * 6) * 10, 2 * 10 * 2]


def test_a_cnn_costs_what_its_convolutions_cost():
  """Without the zeros around images and without the gradient of images, which nobody uses."""
  schedule = schedule_of(models.cnn((4, 6), 10, 2), images())
  cost = retraining.cost(schedule)
  training, prediction = by_hand(CNN, schedule)
  assert (cost.training_flops, cost.prediction_flops) == (10 * training, 10 * prediction)


def test_a_step_of_a_cnn_costs_three_forward_passes_but_for_the_gradient_of_images():
  """Without the zeros around images, as above; here beside the count of `experiments.bench` too."""
  network = models.shapes(models.cnn((4, 6), 10, 2), images(BATCH).inputs)

  def loss(params, inputs):
    return jnp.square(network.replace(params=params)(inputs)).mean()

  gradient = jax.jit(jax.grad(loss)).trace(network.params, images(BATCH).inputs)
  counted = _flops.products(gradient.jaxpr.jaxpr)
  layers = products.cnn((4, 6), 10, 2, size=8)
  assert counted == BATCH * (3 * sum(CNN) - CNN[0]) == BATCH * products.training(layers)


def test_a_rematerialised_model_costs_what_its_blocks_compute_again():
  model = models.VGG(((4,), (6,)), (), 2)
  plain, again = (
    retraining.cost(schedule_of(model.clone(remat=remat), images())) for remat in (False, True)
  )
  assert again.prediction_flops == plain.prediction_flops
  twice = plain.trained_examples * sum(CNN[:2])  # its convolutions are those of the cnn
  assert again.training_flops == plain.training_flops + twice


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


@pytest.mark.parametrize("model", [models.mlp((64, 64), 2), models.cnn((64, 64), 32, 2)])
def test_it_is_what_xla_counts_of_a_step_but_for_work_on_single_numbers(model, monkeypatch):
  """With the convolutions of accelerators, on CPUs' own way to which XLA counts zeros."""
  monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, cpu, default: default(*given))
  batch, labels = images(BATCH).inputs, jnp.arange(BATCH) % 2
  network = models.init(model, jax.random.key(0), batch)

  def step(params):
    outputs = network.replace(params=params)(batch)
    return jnp.mean(-jax.nn.log_softmax(outputs)[jnp.arange(BATCH), labels])

  gradient = jax.jit(jax.grad(step)).trace(network.params)
  ours = _flops.products(gradient.jaxpr.jaxpr)
  # As compiled: only then is what nobody uses gone.
  xla = gradient.lower().compile().cost_analysis()["flops"]
  assert 0.95 * xla < ours < xla


def test_all_that_a_model_runs_is_counted():
  """The program that trains, tallies and keeps outputs, as an executor compiles it."""
  test = images(40)
  recipe = train.Recipe(models.mlp((5,), 2), epochs=2, batch_size=BATCH)
  schedule = retraining.leave_out(recipe, images(), jax.random.key(0), num_models=2, test=test)
  traced = jax.make_jaxpr(outcome, static_argnums=0)(task_of(schedule), arrays_of(schedule), 0)
  assert retraining.cost(schedule).flops == 2 * _flops.products(traced.jaxpr)


def count(function, *arguments, **settings):
  return _flops.products(jax.make_jaxpr(function)(*arguments).jaxpr, **settings)


A = jnp.ones((4, 4))
ONCE = 2 * 4**3


def test_loops_count_as_often_as_they_turn():
  def turned(times):
    return jax.lax.fori_loop(0, times, lambda _, b: A @ b, A)

  assert count(lambda: turned(7)) == 7 * ONCE
  assert np.isnan(count(turned, 7))
  assert count(turned, 7, turns=3) == 3 * ONCE


def one_of_two(a):
  return a @ A, A @ (a @ a)


@jax.custom_vjp
def own_rule(a, b):
  return a @ b


own_rule.defvjp(lambda a, b: (a @ b, (a, b)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))

UNUSED = {
  "here": lambda a: one_of_two(a)[0],
  "jit": lambda a: jax.jit(one_of_two)(a)[0],
  "remat": lambda a: jax.checkpoint(one_of_two)(a)[0],
  "cond": lambda a: jax.lax.cond(a[0, 0] > 0, one_of_two, lambda a: (a, a), a)[0],
  "map": lambda a: jax.lax.map(one_of_two, a[None])[0],
  "scan": lambda a: jax.lax.scan(lambda b, _: one_of_two(b), a, length=1)[0],
  "carry": lambda a: jax.lax.fori_loop(0, 1, lambda _, b: one_of_two(b[0]), (a, a))[0],
  "while": lambda a: jax.lax.while_loop(
    lambda b: b[0, 0] < 0, lambda b: jax.jit(one_of_two)(b)[0], a
  ),
  "rule": lambda a: jax.jit(jax.grad(lambda a, b: own_rule(a, b).sum(), (0, 1)))(a, a)[0],
}


@pytest.mark.parametrize("where", UNUSED)
def test_what_nobody_uses_is_not_counted_wherever_it_stands(where):
  assert count(UNUSED[where], A, turns=1) == ONCE
  assert count(one_of_two, A) == 3 * ONCE


def test_of_branches_the_dearest_counts_and_of_backends_the_cheapest():
  def twice(a):
    return A @ (a @ a)

  def until(a):
    return jax.lax.while_loop(lambda b: b[0, 0] < 0, lambda b: b @ A, a)

  def either(one, other):
    return lambda a: jax.lax.cond(a[0, 0] > 0, one, other, a)

  def backends(cpu, default):
    return lambda a: jax.lax.platform_dependent(a, cpu=cpu, default=default)

  once = jnp.square
  for choice, known in ((either, 2 * ONCE), (backends, 0)):
    assert count(choice(once, twice), A) == count(choice(twice, once), A) == known
    assert np.isnan(count(choice(until, twice), A))
    assert np.isnan(count(choice(twice, until), A))
  each = jax.vmap(backends(twice, lambda a: a @ a))
  assert count(each, A[None]) == ONCE


def test_of_a_linear_solve_only_what_solves_counts():
  """Its factors are no matrix products; the product by which JAX would differentiate is not run."""
  assert count(jnp.linalg.solve, A, A) == 0
  assert count(lambda a: jnp.linalg.solve(a, a) @ a, A) == ONCE


@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradients_of_a_convolution_cost_as_much_as_itself(stride):
  x, kernel = jnp.ones((3, 8, 8, 2)), jnp.ones((2, 2, 2, 5))

  def convolve(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), "VALID" if stride == 2 else "SAME", dimension_numbers=layout
    )
    return y.sum()

  # With a zero after the last pixel a kernel of 2 meets 8 + 7 pixels of 8; with stride 2, 4 pairs.
  forward = 2 * 3 * {1: 8 + 7, 2: 4 + 4}[stride] ** 2 * 2 * 5
  assert count(convolve, x, kernel) == forward
  for argnums in (0, 1):
    assert count(jax.grad(convolve, argnums), x, kernel) == forward
  assert count(jax.grad(convolve, (0, 1)), x, kernel) == 2 * forward


@pytest.mark.parametrize(
  ("x", "kernel", "settings"),
  [
    ((2, 7, 3), (4, 3, 5), {"window_strides": (1,), "padding": ((2, 3),)}),
    ((2, 7, 3), (4, 3, 5), {"window_strides": (3,), "padding": ((0, 5),)}),
    ((2, 7, 3), (4, 3, 5), {"window_strides": (2,), "padding": ((-1, 2),)}),
    ((2, 7, 3), (4, 3, 5), {"window_strides": (2,), "padding": ((2, 1),), "lhs_dilation": (3,)}),
    ((2, 9, 3), (3, 3, 5), {"window_strides": (1,), "padding": "SAME", "rhs_dilation": (3,)}),
    ((2, 7, 6), (4, 2, 9), {"padding": "SAME", "feature_group_count": 3}),
    ((6, 7, 4), (4, 4, 9), {"padding": "SAME", "batch_group_count": 3}),
    ((2, 7, 5, 3), (4, 2, 3, 5), {"window_strides": (2, 1), "padding": ((3, 0), (1, 1))}),
  ],
)
def test_a_convolution_costs_the_pairs_that_are_not_with_zeros(x, kernel, settings):
  """Of ones with ones each such pair adds one: their sum is the number of pairs."""
  settings = {"window_strides": (1,) * (len(x) - 2)} | settings
  space = "HW"[: len(x) - 2]
  layout = (f"N{space}C", f"{space}IO", f"N{space}C")

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **settings)

  ones = jnp.ones(x), jnp.ones(kernel)
  assert count(convolve, *ones) == 2 * convolve(*ones).sum()


def linear_learner(examples, key):
  del key
  batch = examples.whole()
  flat = batch.inputs.reshape(len(batch.inputs), -1)
  return jax.tree_util.Partial(_predict, flat.T @ jax.nn.one_hot(batch.labels, 2))


def _predict(weights, inputs):
  return inputs.reshape(len(inputs), -1) @ weights


def test_a_learner_of_ones_own_is_counted_too(monkeypatch):
  schedule = retraining.leave_out(
    linear_learner, images(), jax.random.key(0), num_models=10, fraction=0.5
  )
  cost = retraining.cost(schedule)
  assert cost.training_flops == 10 * 2 * 32 * 192 * 2
  assert cost.prediction_flops == 10 * 2 * 64 * 192 * 2
  assert cost.trained_examples is None
  monkeypatch.setattr(estimated_cost, "_of_a_model", lambda schedule: pytest.fail("traced"))
  with pytest.raises(ValueError, match=r"learner of your own.*flops_per_second"):
    retraining.cost(schedule, measure=True)


def activated_learner(examples, key):
  weights = linear_learner(examples, key).args[0]
  return jax.tree_util.Partial(_activated, weights, jax.nn.relu)  # as Equinox's modules hold one


def _activated(weights, activation, inputs):
  return activation(_predict(weights, inputs))


def function_learner(examples, key):
  network = linear_learner(examples, key)
  return lambda inputs: network(inputs)


def waiting_learner(examples, key):
  """Who knows how often it goes round?"""
  weights = linear_learner(examples, key).args[0]
  weights = jax.lax.while_loop(lambda w: w.sum() < 0, lambda w: w @ (w.T @ w), weights)
  return jax.tree_util.Partial(_predict, weights)


def cost_of(learner, **speed):
  schedule = retraining.leave_out(learner, images(), jax.random.key(0), num_models=2)
  return retraining.cost(schedule, **speed)


def test_a_learner_returns_a_pytree_that_may_hold_functions():
  assert cost_of(activated_learner).flops == cost_of(linear_learner).flops
  said = r"^cost got a learner that returns a function, must be a callable pytree\. Return [^\n]*$"
  with pytest.raises(ValueError, match=said):
    cost_of(function_learner)


def test_what_nobody_can_count_is_said_in_words():
  cost = cost_of(waiting_learner, flops_per_second=1e9, price_per_hour=2.0)
  assert np.isnan(cost.training_flops)
  assert cost.line == "2 models, an unknown number of FLOP: products in a while loop"


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


SPEED = r"flops_per_second=%s, must be a finite number above 0, or \(least, most\)\.$"


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"flops_per_second": 0}, SPEED % "0"),
    ({"flops_per_second": (2, 1)}, SPEED % r"\(2, 1\)"),
    ({"flops_per_second": (1,)}, SPEED % r"\(1,\)"),
    ({"flops_per_second": (1, 2, 3)}, SPEED % r"\(1, 2, 3\)"),
    ({"flops_per_second": (1, None)}, SPEED % r"\(1, None\)"),
    ({"flops_per_second": "a"}, SPEED % "'a'"),
    ({"flops_per_second": float("inf")}, SPEED % "inf"),
    ({"flops_per_second": (1, float("inf"))}, SPEED % r"\(1, inf\)"),
    ({"flops_per_second": float("nan")}, SPEED % "nan"),
    ({"flops_per_second": 10**400}, SPEED % "10+"),
    ({"flops_per_second": np.ones((2, 2))}, SPEED % r"array\(\[\[1., 1.\], \[1., 1.\]\]\)"),
    ({"flops_per_second": np.ones(2)}, SPEED % r"array\(.*\)"),
    ({"flops_per_second": jnp.ones(())}, SPEED % r"Array\(.*\)"),
    ({"flops_per_second": (np.ones(2), np.ones(2))}, SPEED % r"\(array.*\)"),
    ({"flops_per_second": True}, SPEED % "True"),
    ({"flops_per_second": (True, 2.0)}, SPEED % r"\(True, 2.0\)"),
    ({"flops_per_second": 1e9, "measure": True}, "Give one of them"),
    ({"price_per_hour": 2.0}, "no speed. Give flops_per_second too"),
    ({"price_per_hour": -1.0, "flops_per_second": 1e9}, "price_per_hour=-1.0"),
    ({"price_per_hour": float("inf"), "flops_per_second": 1e9}, "=inf, must be finite"),
    ({"price_per_hour": 10**400, "flops_per_second": 1e9}, "price_per_hour=10+, must be finite"),
  ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_traced(given, said, monkeypatch):
  monkeypatch.setattr(estimated_cost, "_of_a_model", lambda schedule: pytest.fail("traced"))
  with pytest.raises(ValueError, match=said) as error:
    retraining.cost(schedule_of(models.mlp((5,), 2), images()), **given)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [np.float32(1e9), np.int64(10**9), [1e9, 1e9]])
def test_numbers_of_numpy_and_lists_are_speeds_too(number):
  schedule = schedule_of(models.mlp((5,), 2), images())
  assert retraining.cost(schedule, flops_per_second=number).flops_per_second == (1e9, 1e9)


@pytest.mark.parametrize("given", [train.Recipe(models.mlp((5,), 2)), images(), None])
def test_only_a_schedule_has_a_cost(given):
  name = type(given).__name__
  said = rf"^cost got a {name}, must be a Schedule. Make one: retraining.leave_out\(recipe, .*\)\.$"
  with pytest.raises(ValueError, match=said):
    retraining.cost(given)


@pytest.mark.parametrize(("tick", "steps"), [(0.1, 5), (0.4, 3), (60.0, 3)])
def test_the_measured_speed_is_that_of_the_clock(tick, steps, monkeypatch):
  """A clock by which as much time passes whatever lies between two looks at it.

  Steps are timed for half a second, and at least three are.
  """
  looks = itertools.count()
  clock = types.SimpleNamespace(perf_counter=lambda: next(looks) * tick)
  monkeypatch.setattr(estimated_cost, "time", clock)
  monkeypatch.setattr(loky, "cpu_count", lambda: 3)
  schedule = schedule_of(models.mlp((20,), 2), images(), num_models=9)
  cost = retraining.cost(schedule, measure=True)
  step = BATCH * (3 * 2 * 20 * 2 + 2 * 2 * 192 * 20)
  workers = 2  # chunks of 8 models
  assert cost.flops_per_second == pytest.approx((workers * step / tick,) * 2)
  assert cost.measured_steps == steps
  assert cost.line.endswith(f" on this machine (measured on {steps} steps)")


@pytest.mark.parametrize(
  ("name", "options"),
  [("processes", {"xla_cpu_multi_thread_eigen": False}), ("serial", {}), ("devices", {})],
)
def test_steps_are_timed_with_the_threads_of_the_default_executor(name, options, monkeypatch):
  given, compile = [], jax.stages.Lowered.compile

  def seen(lowered, compiler_options=None, **others):
    given.append(compiler_options)
    return compile(lowered, compiler_options=compiler_options, **others)

  monkeypatch.setattr(jax.stages.Lowered, "compile", seen)
  monkeypatch.setattr(executors, "name_of_default", lambda: name)
  retraining.cost(schedule_of(models.mlp((5,), 2), images()), measure=True)
  assert given == [options]


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
