"""What is read off a program: each count against one by hand, each fault planted once."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.bench import lowered, peaks, products, programs, readiness
from experiments.bench.programs import Program, spec
from jaxmul import _flops, _sharding
from jaxmul.retraining import chunk

PAGE = Path(__file__).parents[2] / "docs" / "accelerators.md"


def content(function, *arguments):
  return lowered.read(readiness.as_accelerator(Program(function, arguments, 0)).lower())


def flops(function, *arguments):
  return flops_of(Program(function, arguments, 0))


def flops_of(program):
  return _flops.products(readiness.as_accelerator(program).jaxpr.jaxpr)


def convolve(x, kernel, stride=1):
  layout = ("NHWC", "HWIO", "NHWC")
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout
  )


def small_loss(kernels, x):
  """Convolutions 3 → 4 and, at stride 2, 4 → 5 of a 4 × 4 image; the mean; a product 5 → 2."""
  first, second, head = kernels
  x = jax.nn.relu(convolve(x, first))
  x = jax.nn.relu(convolve(x, second, 2))
  return jnp.sum((x.mean((1, 2)) @ head) ** 2)


KERNELS = (spec(3, 3, 3, 4), spec(3, 3, 4, 5), spec(5, 2))
LAYERS = [
  products.Layer(3, 4, 3, size=4),
  products.Layer(4, 5, 3, size=4, stride=2),
  products.Layer(5, 2),
]
# Along an axis of 4 pixels a kernel of 3 meets 2 + 3 + 3 + 2 of them, with stride 2 it is 2 + 3.
FIRST, SECOND, HEAD = 2 * 3 * 4 * 10**2, 2 * 4 * 5 * 5**2, 2 * 5 * 2


def test_flops_of_a_small_network_are_those_by_hand():
  images = spec(1, 4, 4, 3)
  prediction = flops(small_loss, KERNELS, images)
  assert prediction == products.forward(LAYERS) == FIRST + SECOND + HEAD == 3420
  step = flops(jax.grad(small_loss), KERNELS, images)
  assert step == products.training(LAYERS) == 2 * FIRST + 3 * (SECOND + HEAD) == 7860
  assert flops(jax.grad(small_loss), KERNELS, spec(7, 4, 4, 3)) == 7 * 7860


def test_one_more_product_raises_the_flops_by_its_own():
  def more(kernels, x):
    return small_loss(kernels, x) + jnp.sum(kernels[2] @ kernels[2].T)

  assert flops(more, KERNELS, spec(1, 4, 4, 3)) == 3420 + 2 * 5 * 2 * 5


def test_products_of_groups_are_those_of_each():
  one = flops(jax.grad(small_loss), KERNELS, spec(6, 4, 4, 3))
  many = jax.tree.map(lambda kernel: spec(8, *kernel.shape), KERNELS)
  each = jax.vmap(jax.grad(small_loss), (0, None))
  assert flops(each, many, spec(6, 4, 4, 3)) == 8 * one


def test_a_loop_counts_as_often_as_it_runs():
  def power(x):
    return lax.fori_loop(2, 9, lambda _, y: y @ y, x)

  assert flops(power, spec(4, 4)) == 7 * 2 * 4**3
  # The compiler's own figure holds the body once, which is why it is read otherwise here.
  compiled = jax.jit(power).lower(spec(4, 4)).compile()
  assert compiled.cost_analysis()["flops"] < 2 * 2 * 4**3
  assert flops(lambda x: lax.map(power, x), spec(3, 4, 4)) == 3 * 7 * 2 * 4**3

  def as_often(x, count):
    return lax.fori_loop(0, count, lambda _, y: y @ y, x)

  assert math.isnan(flops(as_often, spec(4, 4), spec(dtype=jnp.int32)))

  def chosen(x, yes):
    return lax.cond(yes, power, lambda y: y @ y, x)

  assert flops(chosen, spec(4, 4), spec(dtype=bool)) == 7 * 2 * 4**3


def test_of_a_program_whose_products_repeat_bytes_are_not_known():
  def often(count, body):
    return Program(lambda x: lax.fori_loop(0, count, body, x), (spec(4, 4),), 1)

  def accessed(program):
    return readiness.look_at(program)["bytes_accessed"]

  assert accessed(Program(lambda x: x @ x, (spec(4, 4),), 1)) > 0
  assert accessed(often(1, lambda _, x: x @ x)) > 0
  assert accessed(often(3, lambda _, x: x + 1)) > 0
  assert accessed(often(3, lambda _, x: x @ x)) is None
  assert accessed(often(1, lambda _, x: lax.fori_loop(0, 3, lambda _, y: y @ y, x))) is None
  until = Program(
    lambda x: lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x), (spec(4, 4),), 1
  )
  assert accessed(until) is None


def test_the_largest_value_is_in_bytes():
  assert content(lambda x: (x[:, None] + x[None]).sum(), spec(100)).largest == 4 * 100**2
  wide = content(lambda x: (x[:, None] & x[None]).any(), spec(100, dtype=bool))
  assert wide.largest == 100**2
  twice = content(lambda x: x[:, None] + x[None], spec(100, dtype=np.complex64))
  assert twice.largest == 8 * 100**2


@pytest.mark.parametrize("name", ["training step", "unlearning step", "GraND", "curvature"])
def test_a_program_has_the_flops_that_its_layers_need(name):
  program = programs.all_of(readiness.small())[name]
  assert flops_of(program) == program.flops > 0
  seen = lowered.read(readiness.as_accelerator(program).lower())
  assert (seen.host, seen.collectives) == ((), ())


def test_code_of_accelerators_and_of_cpus_is_not_mixed():
  program = programs.training_step(readiness.small())

  def convolutions(made):
    return made.as_text().count("stablehlo.convolution")

  def as_cpu():
    return jax.jit(lambda *arguments: program.function(*arguments)).lower(*program.arguments)

  # Three of each layer, but for the gradient of the images.
  assert convolutions(as_cpu()) == 0
  assert convolutions(readiness.as_accelerator(program).lower()) == 5
  assert convolutions(as_cpu()) == 0
  made = jax.jit(lambda *arguments: program.function(*arguments)).trace(*program.arguments)
  assert convolutions(made.lower(lowering_platforms=("cuda",))) == 5


def test_the_many_models_have_the_flops_that_they_need(monkeypatch):
  program = programs.many_models(readiness.small())
  seen = lowered.read(readiness.as_accelerator(program).lower())
  assert (flops_of(program), seen.host, seen.collectives) == (program.flops, (), ())

  def together(task, arrays, model):
    return lax.psum(model, "model")

  monkeypatch.setattr(chunk, "outcome", together)
  program = programs.many_models(readiness.small())
  assert lowered.read(readiness.as_accelerator(program).lower()).collectives == ("all_reduce",)


def test_the_layers_of_the_page_are_those_of_the_network():
  sizes = readiness.whole()
  kernels = sorted(
    leaf.shape for leaf in jax.tree.leaves(programs.network_of(sizes).params) if leaf.ndim > 1
  )
  listed = [
    (layer.inputs, layer.outputs)
    if layer is sizes.layers[-1]
    else (layer.taps, layer.taps, layer.inputs, layer.outputs)
    for layer in sizes.layers
  ]
  assert sorted(listed) == kernels
  assert len(kernels) == 21


@pytest.mark.parametrize("plant", ["debug", "pure"])
def test_a_planted_callback_is_named(plant):
  def double(x):
    if plant == "debug":
      jax.debug.callback(print, x)
      return 2 * x
    return jax.pure_callback(lambda y: 2 * np.asarray(y), x, x)

  planted = Program(lambda x: double(x), (spec(3),), 1)
  assert any("callback" in name for name in readiness.look_at(planted)["host"])
  assert readiness.exports(planted, "cuda").startswith("no: ")
  clean = Program(lambda x: 2 * x, (spec(3),), 1)
  assert readiness.look_at(clean)["host"] == ()
  assert [readiness.exports(clean, platform) for platform in readiness.PLATFORMS] == ["yes"] * 3


def test_collectives_are_named_whoever_makes_them():
  devices = jax.devices()
  assert len(devices) > 1
  mapped = functools.partial(_sharding.map_models, devices=devices, width=2)
  arguments = (spec(2 * len(devices), 3), spec(3))
  told = Program(mapped(lambda x, shared: lax.psum(x, "model") + shared), arguments, 1)
  assert readiness.look_at(told)["collectives"] == ["all_reduce"]
  alone = Program(mapped(lambda x, shared: x.sum() + shared), arguments, 1)
  assert readiness.look_at(alone)["collectives"] == []
  # XLA's own, of which StableHLO knows nothing: a sum over what is split.
  split = NamedSharding(_sharding.mesh("model"), PartitionSpec("model"))

  def total(x):
    return jnp.sum(lax.with_sharding_constraint(x, split))

  assert content(total, spec(len(devices))).collectives == ()
  made = Program(total, (spec(len(devices)),), 1)
  assert readiness.look_at(made)["collectives"] == ["all_reduce"]


def test_what_a_loop_carries_is_changed_in_place_or_said_not_to_be():
  stays = Program(lambda x: x + 1, (spec(64),), 1, carries=True)
  assert readiness.look_at(stays)["in_place"] is True
  widened = Program(lambda x: (x + 1).astype(jnp.bfloat16), (spec(64),), 1, carries=True)
  assert readiness.look_at(widened)["in_place"] is False
  assert readiness.look_at(Program(lambda x: x + 1, (spec(64),), 1))["in_place"] is None


def test_predictions_are_40_percent_of_the_peak():
  assert peaks.seconds(1e12, peaks.DEVICES["A100 SXM"]) == pytest.approx(1 / 62.4)
  assert peaks.seconds(1e12, peaks.DEVICES["A100 SXM"], bfloat16=True) == pytest.approx(1 / 124.8)
  assert peaks.seconds_of_bytes(819e9, peaks.DEVICES["TPU v5e"]) == pytest.approx(1)
  seen = {"flops_needed": 62.4e9, "bytes_accessed": None, "arguments": 10e9, "temporary": 10e9}
  found = readiness.predicted(seen)
  assert found["A100 SXM"] == pytest.approx(
    {"float32_ms": 1, "bfloat16_ms": 0.5, "bytes_ms": None, "fits": True}
  )
  assert not found["TPU v5e"]["fits"]


def test_the_page_shows_the_predictions():
  page = PAGE.read_text()
  for name, program in programs.all_of(readiness.whole()).items():
    assert peaks.row(name, program.flops) in page
  for name, device in peaks.DEVICES.items():
    assert all(figure in page for figure in (name, device.source, f"{device.bandwidth:,.0f}"))
