"""With float64 enabled everything runs, a network keeps its dtype, and the numbers are the same.

Data sets hold uint8 or float32 always; params are float32 as usual, or float64.
"""

import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import bind, models, proxies, testing, train, unlearn
from jaxmul._examples import examples_of
from jaxmul.data import Dataset, Split
from jaxmul.proxies import trackers

NETWORKS = {
  "mlp": (lambda c: models.mlp((4,), c), (5,), ("Dense_0", "Dense_1")),
  "cnn": (lambda c: models.cnn((2,), 3, c), (4, 4, 1), ("Conv_0", "Dense_0", "Dense_1")),
}
N = 12
SPLIT = Split(forget=np.arange(3), retain=np.arange(3, N))
ON_OUTPUTS = ("confidence", "max_confidence", "entropy", "correctness", "loss", "margin", "el2n")
POINT = {name: getattr(proxies, name) for name in (*ON_OUTPUTS, "grand", "input_gradient")} | {
  method: functools.partial(proxies.curvature, method=method)
  for method in ("hvp", "finite_difference", "rum_compat")
}


@functools.cache
def toy(network):
  rng = np.random.default_rng(0)
  images = rng.normal(size=(N, *NETWORKS[network][1])).astype(np.float32)
  return Dataset(images, np.arange(N) % 3)


def cast(params, dtype):
  return params.replace(params=jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params.params))


@functools.cache
def fresh(network, key=0, classes=3, dtype="float32"):
  make, _, _ = NETWORKS[network]
  return cast(models.init(make(classes), jax.random.key(key), toy(network).inputs[:1]), dtype)


@functools.cache
def algorithms(network, dtype):
  """All of them; what they are given has the dtype of the params, or of the other."""
  make, _, layers = NETWORKS[network]
  other, wide = fresh(network, 1, dtype=dtype), fresh(network, 2, 4, dtype)
  rng = np.random.default_rng(1)
  made = {
    "fine_tune": unlearn.fine_tune(),
    "l1_sparse": unlearn.l1_sparse(),
    "neg_grad": unlearn.neg_grad(),
    "neg_grad_plus": unlearn.neg_grad_plus(),
    "npo": unlearn.npo(),
    "simnpo": unlearn.simnpo(),
    "dpo": unlearn.dpo(toy(network)),
    "wga": unlearn.wga(keep="kl"),
    "ce_u": unlearn.ce_u(alpha=1.0),
    "undial": unlearn.undial(),
    "rmu": unlearn.rmu(models.features(make(3), layers[-1])),
    "task_vector": unlearn.task_vector(),
    "random_label": unlearn.random_label(),
    "salun": unlearn.salun(),
    "scrub": unlearn.scrub(),
    "influence": unlearn.influence(iterations=3),
    "fisher": unlearn.fisher(),
    "fisher, rum_compat": unlearn.fisher(rum_compat=True),
    "ssd": unlearn.ssd(1.0),
    "bad_teacher": unlearn.bad_teacher(other),
    "boundary_shrink": unlearn.boundary_shrink(),
    "boundary_expand": unlearn.boundary_expand(wide),
    "cf_k": unlearn.cf_k(layers),
    "eu_k": unlearn.eu_k(layers, other),
    "msg": unlearn.msg(other),
    "ct": unlearn.ct(),
    "amun": unlearn.amun(doublings=1, steps=2),
    "dmm": unlearn.dmm(rng.normal(size=(N, 3, 3)), SPLIT.train, SPLIT.forget),
    "localized_reset": unlearn.localized_reset(other),
    "regun": unlearn.regun(toy(network)),
    "sam": unlearn.sam(unlearn.neg_grad_plus()),
    "low_rank": unlearn.low_rank(unlearn.neg_grad_plus(), layers[-1:], 2),
    "eul": unlearn.eul(),
    "top_k": unlearn.top_k(),
    "random_k": unlearn.random_k(),
    "layer_attack": unlearn.layer_attack(models.features(make(3), layers[-1]), layers[-1], steps=3),
    "subnet": unlearn.subnet(),
    "balanced_subnet": unlearn.balanced_subnet(),
    "greedy": unlearn.greedy(),
    "durable": unlearn.durable(),
    "durable_agg": unlearn.durable_agg(),
    "obs": unlearn.obs(),
    "zero_out_neurons": unlearn.zero_out_neurons(0.25, layers=layers[-1:]),
    "activation_neurons": unlearn.activation_neurons(0.25, layers=layers[-1:]),
    "kfac_edit": unlearn.kfac_edit(0.9),
    "integrated_gradient_neurons": unlearn.integrated_gradient_neurons(0.25, layers=layers[-1:]),
    "slimming_neurons": unlearn.slimming_neurons(fraction=0.25, layers=layers[-1:]),
    "hard_concrete_neurons": unlearn.hard_concrete_neurons(fraction=0.25, layers=layers[-1:]),
  }
  return {name: each for name, each in made.items() if name != "ct" or network == "cnn"}


NAMES = tuple(algorithms("cnn", "float32"))


def first_step(algorithm, params, data):
  """What a run does, once and over all rows: state and network before the step, and after."""
  images, labels = jnp.asarray(data.inputs), jnp.asarray(data.labels)

  def rows(ids):
    at = jnp.zeros(N, jnp.int32).at[: len(ids)].set(jnp.asarray(ids, jnp.int32))
    return unlearn.Examples(images, labels, at, jnp.int32(len(ids)))

  sets = rows(SPLIT.forget), rows(SPLIT.retain)
  state = algorithm.init(params, unlearn.Session(*sets, 1, N, jax.random.key(0), data.ids))
  begun = params if algorithm.start is None else algorithm.start(params, state)
  if algorithm.update is None:
    return (begun, ()), (begun, ()), begun
  zero = jnp.int32(0)
  if algorithm.tick is not None:
    state = algorithm.tick(state, unlearn.Clock(zero, zero, zero + 1))
  batches = [each.batch(zero, each.count, 16) for each in sets]
  updates, new = algorithm.update(*batches, state, begun, jax.random.key(1))
  after = jax.tree.map(lambda w, moved: (w + moved).astype(w.dtype), begun, updates)
  ended = after if algorithm.finish is None else algorithm.finish(after, new)
  return (begun, state), (begun.replace(params=updates.params), new), ended


def spec(count):
  return jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)


def dtypes(tree):
  return [str(leaf.dtype) for leaf in jax.tree.leaves(tree)]


def is_float(tree, dtype):
  return all(leaf.dtype == dtype for leaf in jax.tree.leaves(tree))


OF_CONVOLUTIONS = ("ct",)


@pytest.mark.parametrize(
  ("name", "network", "dtype"),
  [
    *((name, "cnn", "float32") for name in NAMES),
    *((name, "mlp", "float64") for name in NAMES if name not in OF_CONVOLUTIONS),
  ],
)
def test_updates_keep_the_dtype_of_the_params_and_of_their_state(name, network, dtype):
  """Traced alone, and nothing computed: a loop over steps refuses what changes its dtype."""
  with jax.enable_x64(True):
    params, given = fresh(network, dtype=dtype), algorithms(network, dtype)
    step = functools.partial(first_step, given[name], data=toy(network))
    before, after, ended = jax.eval_shape(step, params)
    assert dtypes(before) == dtypes(after)
    assert is_float((before[0].params, after[0].params, ended.params), dtype)


@pytest.mark.parametrize("make", [unlearn.eu_k, unlearn.msg, unlearn.localized_reset])
def test_fresh_params_of_another_dtype_take_that_of_the_network(make):
  with jax.enable_x64(True):
    other = fresh("mlp", 1, dtype="float64")
    algorithm = make(("Dense_1",), other) if make is unlearn.eu_k else make(other, fraction=1.0)
    _, _, ended = first_step(algorithm, fresh("mlp"), toy("mlp"))
    assert is_float(ended.params, "float32")
    kernel = ended.params["Dense_1"]["kernel"]
  # It did start from the fresh values: one step at the default rate moves little.
  np.testing.assert_allclose(kernel, other.params["Dense_1"]["kernel"], atol=0.02)


def test_boundary_expand_widens_by_weights_of_another_dtype():
  with jax.enable_x64(True):
    algorithm = unlearn.boundary_expand(fresh("mlp", 1, 4, "float64"))
    (begun, _), *_ = first_step(algorithm, fresh("mlp"), toy("mlp"))
    assert is_float(begun.params, "float32")


def test_influence_solves_for_params_of_two_dtypes():
  """Without float64 too: a network may keep some params in bfloat16."""
  rng = np.random.default_rng(0)
  theta = {"a": rng.normal(size=(5, 3)), "b": rng.normal(size=3)}
  theta = {"a": jnp.asarray(theta["a"], "float32"), "b": jnp.asarray(theta["b"], jnp.bfloat16)}
  params = bind(lambda theta, x: x @ theta["a"] + theta["b"].astype(x.dtype), theta)
  algorithm = unlearn.influence(damping=0.1)
  _, _, mixed = first_step(algorithm, params, toy("mlp"))
  assert {name: str(leaf.dtype) for name, leaf in mixed.params.items()} == {
    "a": "float32",
    "b": "bfloat16",
  }
  _, _, whole = first_step(algorithm, cast(params, "float32"), toy("mlp"))
  np.testing.assert_allclose(mixed.params["a"], whole.params["a"], atol=1e-3)


# Other numbers in float64: drawn in the dtype of the params; or, of gates that one step of Adam has
# moved by the rate each, ranked by rounding.
NOISY = ("fisher", "fisher, rum_compat", "top_k", "random_k", "slimming_neurons")
QUICK = ("msg",)


@pytest.mark.parametrize(
  "name",
  [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES],
)
def test_updates_are_the_same_numbers(name):
  network = "cnn" if name in ("ct", "influence") else "mlp"

  def moved(dtype):
    params, algorithm = fresh(network, dtype=dtype), algorithms(network, dtype)[name]
    whole = unlearn.run(
      algorithm, params, toy(network), SPLIT, jax.random.key(0), epochs=1, batch_size=16
    )
    assert is_float(whole.params, dtype)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(whole.params)]

  plain = moved("float32")
  with jax.enable_x64(True):
    found = [moved("float32")] + [moved("float64")] * (name not in NOISY)
  for leaves in found:
    for a, b in zip(leaves, plain, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_trackers_run_in_float32_with_the_same_numbers():
  recipe = train.Recipe(NETWORKS["mlp"][0](3), epochs=2, batch_size=8, learning_rate=0.05)
  every = {name: getattr(trackers, name)() for name in trackers.__all__}

  def scores():
    return train.fit(recipe, toy("mlp"), jax.random.key(0), trackers=every).scores

  plain = scores()
  with jax.enable_x64(True):
    wide = scores()
  assert len(plain) == len(trackers.__all__) + 3  # four learning events
  assert {str(each.dtype) for each in (*plain.values(), *wide.values())} == {"float32"}
  for name in plain:
    np.testing.assert_allclose(wide[name], plain[name], 1e-3, 1e-4, err_msg=name)


@pytest.mark.parametrize("name", trackers.__all__)
def test_trackers_run_on_convolutions(name):
  data, tracker = toy("cnn"), getattr(trackers, name)()
  recipe = train.Recipe(NETWORKS["cnn"][0](3), epochs=2, batch_size=8)
  with jax.enable_x64(True):
    given = examples_of(data), jax.random.key(0)
    run = jax.eval_shape(functools.partial(train.run, recipe, (tracker,)), *given)
    assert is_float((run.network.params, run.scores), "float32")


def test_a_tracker_meets_the_dtypes_that_step_names():
  seen = []

  def update(state, step):
    seen.append({"rows": step.rows.dtype, "labels": step.labels.dtype, "epoch": step.epoch.dtype})
    return state + 1

  counter = train.Tracker(lambda n: jnp.zeros(n), update, lambda state: {"steps": state})
  recipe = train.Recipe(NETWORKS["mlp"][0](3), epochs=1)
  with jax.enable_x64(True):
    train.fit(recipe, toy("mlp"), jax.random.key(0), trackers={"counter": counter})
  assert set(seen[0].values()) == {jnp.dtype("int32")}


@pytest.mark.parametrize("name", POINT)
def test_point_proxies_have_the_same_numbers(name):
  proxy, batch = POINT[name], toy("mlp").batch()
  plain = proxy(fresh("mlp"), batch)
  with jax.enable_x64(True):
    found = [proxy(fresh("mlp", dtype=dtype), batch) for dtype in ("float32", "float64")]
    assert found[0].dtype == "float32"
    if name in ("confidence", "grand", "hvp"):
      found.append(proxies.score(proxy, fresh("mlp", dtype="float64"), toy("mlp")))
  # A difference of gradients over h = 1e-3 keeps three digits in float32.
  rtol = 5e-3 if name in ("finite_difference", "rum_compat") else 1e-4
  for scores in found:
    np.testing.assert_allclose(scores, plain, rtol, 1e-5)


@pytest.mark.parametrize("name", POINT)
def test_point_proxies_run_on_convolutions(name):
  with jax.enable_x64(True):
    for dtype in ("float32", "float64"):
      given = fresh("cnn", dtype=dtype), toy("cnn").batch()
      scores = jax.eval_shape(POINT[name], *given)
      assert scores.shape == (N,)
      assert dtype == "float64" or scores.dtype == "float32"


def test_holdout_retraining_keeps_the_dtype():
  recipe = train.Recipe(NETWORKS["mlp"][0](3), epochs=2, batch_size=8)
  with jax.enable_x64(True):
    for dtype in ("float32", "float64"):
      before = fresh("mlp", dtype=dtype)
      after = proxies.heldout_retrain(before, toy("mlp"), recipe, jax.random.key(0))
      assert is_float(after.params, dtype)
      assert np.isfinite(proxies.heldout_divergence(before, after, toy("mlp").batch())).all()


@pytest.mark.parametrize(
  "model",
  [
    models.mlp((4,)),
    models.cnn((2,), 3),
    models.resnet18(width=2),
    models.resnet18(width=2, norm="group"),
    models.vgg16(width=1),
    models.vit(patch=4, width=8, depth=1, heads=2),
  ],
  ids=["mlp", "cnn", "resnet18", "resnet18_group", "vgg16", "vit"],
)
def test_models_start_in_float32(model):
  with jax.enable_x64(True):
    made = models.shapes(model, spec(1))
    assert is_float(made, "float32")
    logits = jax.eval_shape(lambda network, inputs: network(inputs), made, spec(2))
    assert logits.dtype == "float32"


@pytest.mark.slow
def test_the_contract_of_algorithms_can_be_checked():
  split = Split(forget=np.arange(3), retain=np.arange(3, 10))
  with jax.enable_x64(True):
    assert len(testing.check_unlearner(unlearn.fine_tune(), fresh("mlp"), toy("mlp"), split)) > 25


@pytest.mark.slow
def test_five_minutes_run():
  """Training with a tracker, scores, a plan of three steps and metrics, as the page has them."""
  page = (Path(__file__).parents[1] / "docs" / "start.md").read_text()
  names: dict[str, Any] = {}
  with jax.enable_x64(True):
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
      exec(block, names)
    assert is_float(names["unlearned"], "float32")
