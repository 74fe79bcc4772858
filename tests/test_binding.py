"""Params that know their forward pass: what `bind` accepts, and the three forms of every call."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import models, proxies, train
from jaxmul.binding import as_bound, refuse_batch_stats
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
  params = {"params": {"w": jnp.eye(2)}}
  jaxmul.bind(lambda p, x: seen.append(p) or x, params)(jnp.ones((1, 2)))
  assert seen[0] is params


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
  with one_line("score got a Bound and an apply_fn.*drop apply_fn"):
    as_bound(jaxmul.bind(linear, jnp.eye(2)), linear, "score")


def test_forms_keep_the_params_they_were_given():
  w = jnp.eye(2)
  assert as_bound(w, linear, "x").params is w
  bound = jaxmul.bind(linear, w)
  assert as_bound(bound, None, "x") is bound


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
