"""Params that know their forward pass: what `bind` accepts, and the three forms of every call."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import models, proxies, train
from jaxmul.binding import as_network, refuse_batch_stats
from jaxmul.data import Dataset


def one_line(pattern):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def linear(w, x):
  return x @ w


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.BatchNorm(use_running_average=True)(x)
    return nn.Dense(3)(x)


def normed_variables():
  """Raw Linen variables whose batch statistics are not 0 and 1."""
  variables = dict(jax.jit(Normed().init)(jax.random.key(0), jnp.zeros((1, 2))))
  stats = {"mean": jnp.array([1.0, -1.0]), "var": jnp.array([4.0, 0.5])}
  return variables | {"batch_stats": {"BatchNorm_0": stats}}


def test_without_state_apply_fn_gets_params_unchanged():
  seen = []
  plain, of_linen = {"w": jnp.eye(2)}, {"params": {"w": jnp.eye(2)}}
  for params in (plain, of_linen):
    jaxmul.bind(lambda p, x: seen.append(p) or x, params)(jnp.ones((1, 2)))
  assert seen[0] is plain
  assert seen[1] == of_linen


def test_with_state_apply_fn_gets_linens_variables():
  seen = []
  w, stats = jnp.eye(2), {"mean": jnp.zeros(2)}
  bound = jaxmul.bind(lambda p, x: seen.append(p) or x, w, state={"batch_stats": stats})
  bound(jnp.ones((1, 2)))
  assert seen == [{"params": w, "batch_stats": stats}]


def test_training_pass_is_the_evaluation_pass_without_a_train_fn():
  bound = jaxmul.bind(linear, jnp.eye(2))
  logits, state = bound.train(jnp.ones((1, 2)), jax.random.key(0), jnp.array([True]))
  assert logits.tolist() == [[1.0, 1.0]]
  assert state is None


def test_training_pass_hands_everything_to_train_fn():
  def train_fn(params, state, inputs, key, mask):
    return inputs @ params * mask[:, None], {"seen": state["seen"] + mask.sum()}

  bound = jaxmul.bind(lambda v, x: x @ v["params"], 2 * jnp.eye(2), {"seen": 3}, train_fn)
  mask = jnp.array([True, False])
  logits, state = bound.train(jnp.ones((2, 2)), jax.random.key(0), mask)
  assert logits.tolist() == [[2.0, 2.0], [0.0, 0.0]]
  assert int(state["seen"]) == 4


def test_bound_goes_through_transforms_like_plain_params():
  x = jnp.arange(6.0).reshape(3, 2)
  stacked = jaxmul.bind(linear, jnp.stack([jnp.eye(2), 2 * jnp.eye(2)]))
  got = jax.jit(jax.vmap(lambda bound: bound(x)))(stacked)
  np.testing.assert_array_equal(got, jnp.stack([x, 2 * x]))
  bound = jaxmul.bind(lambda v, x: x @ v["params"] + v["shift"], jnp.eye(2), {"shift": 1.0})
  assert len(jax.tree.leaves(bound)) == 2
  gradient = jax.grad(lambda theta: bound.replace(params=theta)(x).sum())(bound.params)
  np.testing.assert_allclose(gradient, jnp.broadcast_to(x.sum(0)[:, None], (2, 2)))


def test_bound_twice_with_one_function_is_one_trace():
  traces = []

  @jax.jit
  def call(bound, x):
    traces.append(bound)
    return bound(x)

  x = jnp.ones((1, 2))
  call(jaxmul.bind(linear, jnp.eye(2)), x)
  call(jaxmul.bind(linear, 2 * jnp.eye(2)), x)
  assert len(traces) == 1
  call(jaxmul.bind(lambda w, x: x @ w, jnp.eye(2)), x)
  assert len(traces) == 2


def test_bind_refuses_arguments_in_the_wrong_order():
  with one_line(r"apply_fn, got dict.*jaxmul\.bind\(model\.apply, params\)"):
    jaxmul.bind({"w": 1.0}, linear)


@pytest.mark.parametrize(
  ("state", "named"), [([1.0], "list"), ({"params": 1.0, "batch_stats": 2.0}, "'params'")]
)
def test_bind_refuses_a_state_that_is_none(state, named):
  with one_line(rf"without 'params', got .*{named}.*Pass state={{'batch_stats'"):
    jaxmul.bind(linear, jnp.eye(2), state)


def test_a_bare_dict_gets_the_cure():
  with one_line(
    r"curvature needs apply_fn: params is a dict with keys \['w'\], not callable\. "
    r"Pass apply_fn=model\.apply, or bind it once with jaxmul\.bind\(model\.apply, params\)"
  ):
    proxies.curvature({"w": jnp.eye(2)}, (jnp.ones((1, 2)), jnp.array([0])))


def test_two_forward_passes_are_refused():
  with one_line("score got a Network and an apply_fn.*drop apply_fn"):
    as_network(jaxmul.bind(linear, jnp.eye(2)), linear, "score")


def test_forms_keep_the_params_they_were_given():
  w = jnp.eye(2)
  assert as_network(w, linear, "x").params is w
  bound = jaxmul.bind(linear, w)
  assert as_network(bound, None, "x") is bound


CURE = (
  r"heldout_retrain.*'batch_stats'.*jaxmul\.bind\(model\.apply, variables\['params'\], "
  r"state=\{'batch_stats': variables\['batch_stats'\]\}\)"
)


def test_parameter_gradients_refuse_raw_batch_statistics():
  raw = jaxmul.bind(Normed().apply, normed_variables())
  data = Dataset(np.zeros((2, 2), np.float32), np.array([0, 2]))
  recipe = train.Recipe(models.mlp(), epochs=1)
  with one_line(CURE):
    proxies.heldout_retrain(raw, data, recipe, jax.random.key(0))


def test_the_cure_for_raw_batch_statistics_works():
  variables, apply = normed_variables(), Normed().apply
  state = {"batch_stats": variables["batch_stats"]}
  cured = jaxmul.bind(apply, variables["params"], state=state)
  refuse_batch_stats(cured, "heldout_retrain")
  x = jnp.array([[0.5, 2.0], [-1.0, 3.0]])
  np.testing.assert_array_equal(cured(x), apply(variables, x))


def test_input_gradients_take_raw_batch_statistics():
  variables, apply = normed_variables(), Normed().apply
  batch = jnp.array([[0.5, 2.0], [-1.0, 3.0]]), jnp.array([0, 2])
  state = {"batch_stats": variables["batch_stats"]}
  want = proxies.curvature(jaxmul.bind(apply, variables["params"], state=state), batch)
  np.testing.assert_allclose(proxies.curvature(variables, batch, apply), want, rtol=1e-5)
  assert (want > 0).all()


def test_an_empty_batch_leaves_the_state_and_no_nan():
  """Statistics of the rows that count: of none, 0 / 0."""

  def train_fn(params, state, inputs, key, mask):
    mean = jnp.sum(jnp.where(mask[:, None], inputs, 0), 0) / mask.sum()
    return (inputs - mean) @ params, {"mean": mean, "steps": state["steps"] + 1}

  state = {"mean": jnp.zeros(2), "steps": jnp.array(3)}
  bound = jaxmul.bind(lambda v, x: x @ v["params"], jnp.eye(2), state, train_fn)
  x, mask = jnp.arange(6.0).reshape(3, 2), jnp.array([True, True, False])

  def risk(params, mask):
    logits, state = bound.replace(params=params).train(x, jax.random.key(0), mask)
    return jnp.sum(logits**2), state

  for rows, want in ((mask, ([1.0, 2.0], 4)), (mask & False, ([0.0, 0.0], 3))):
    gradient, new = jax.jit(jax.grad(risk, has_aux=True))(bound.params, rows)
    assert jnp.isfinite(gradient).all()
    assert (new["mean"].tolist(), int(new["steps"])) == want


class EquinoxNet(eqx.Module):
  layer: eqx.Module
  head: eqx.nn.Linear

  def __call__(self, x):
    return jax.vmap(lambda one: self.head(self.layer(one)))(x)


def equinox_net(layer):
  return EquinoxNet(layer, eqx.nn.Linear(2, 3, key=jax.random.key(0)))


def test_an_equinox_module_is_its_own_forward_pass():
  batch = jnp.array([[0.5, 2.0], [-1.0, 3.0]]), jnp.array([0, 2])
  scores = proxies.confidence(equinox_net(eqx.nn.Lambda(jnp.tanh)), batch)
  assert scores.shape == (2,)
  quiet = eqx.nn.inference_mode(equinox_net(eqx.nn.Dropout(0.5)))
  head = quiet.head
  np.testing.assert_allclose(
    proxies.loss(quiet, batch),
    proxies.loss(head.weight, batch, lambda w, x: x @ w.T + head.bias),
    rtol=1e-5,
  )


@pytest.mark.parametrize(
  ("layer", "message"),
  [
    (
      lambda: eqx.nn.BatchNorm(2, "batch", mode="ema"),
      r"got an EquinoxNet of Equinox that carries state.*jaxmul\.bind\(apply_fn, params, {",
    ),
    (
      lambda: eqx.nn.Dropout(0.5),
      r"got an EquinoxNet of Equinox whose dropout is on.*eqx\.nn\.inference_mode.*jaxmul\.bind\(",
    ),
  ],
)
def test_an_equinox_module_that_needs_more_than_inputs_is_refused(layer, message):
  net = equinox_net(layer())
  with one_line("curvature " + message):
    proxies.curvature(net, (jnp.ones((1, 2)), jnp.array([0])))
  with one_line(r"models\.init\(<lambda>\) " + message):
    models.init(lambda key, inputs: net, jax.random.key(0), jnp.ones((1, 2)))


class Counting(eqx.Module):
  index: eqx.nn.StateIndex

  def __init__(self):
    self.index = eqx.nn.StateIndex(jnp.array(0))

  def __call__(self, x, state):
    return x, state.set(self.index, state.get(self.index) + 1)


def test_a_state_that_equinox_has_set_is_still_there():
  """Setting makes the old state unusable; a step may yet be undone or compared with it."""
  model, state = eqx.nn.make_with_state(Counting)()

  def train_fn(params, state, inputs, key, mask):
    logits, new = model(inputs @ params, state["count"])
    return logits, {"count": new}

  bound = jaxmul.bind(lambda v, x: x @ v["params"], jnp.eye(2), {"count": state}, train_fn)
  for mask, want in ((jnp.array([True]), 1), (jnp.array([False]), 0), (jnp.array([True]), 1)):
    _, new = bound.train(jnp.ones((1, 2)), jax.random.key(0), mask)
    assert int(new["count"].get(model.index)) == want


def test_only_float_arrays_are_trained():
  data = Dataset(np.ones((2, 2), np.float32), np.array([0, 2]))
  recipe = train.Recipe(models.mlp(), epochs=1)
  whole = {"w": jnp.eye(3), "rows": jnp.arange(3)}
  with one_line(r"trains all params, but \['rows'\] is int32"):
    proxies.heldout_retrain(
      jaxmul.bind(lambda p, x: x @ p["w"], whole), data, recipe, jax.random.key(0)
    )
