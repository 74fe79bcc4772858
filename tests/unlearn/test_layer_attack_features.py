"""The attack on the features of the last layer, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, RNG, S, W, deep, first_step, hidden, softmax

from jaxmul import models, unlearn


def affine(theta, x):
  return x @ theta["head"]["kernel"] + theta["head"]["bias"]


def test_layer_attack_moves_only_the_head_and_only_for_what_is_still_right():
  params = deep()
  algorithm = unlearn.layer_attack(hidden, "head", ETA, alpha=0.0, step=0.05)
  begun, after = first_step(algorithm, params)
  phi = np.tanh(S[0] @ np.asarray(params.params["first"]["kernel"]))
  right = (phi @ W).argmax(1) == S[1]
  assert 0 < right.sum() < 5
  with jax.enable_x64(True):
    rows = unlearn.Examples(jnp.asarray(S[0]), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    session = unlearn.Session(rows, rows, 1, 5, jax.random.key(0))
    attacked = algorithm.init(params, session).memory
  labels = np.asarray(attacked.labels)
  assert (labels[right] != S[1][right]).all()
  np.testing.assert_array_equal(np.asarray(attacked.teacher).argmax(1), labels)
  delta = np.where(right[:, None], softmax(phi @ W) - np.eye(3)[labels], 0)
  np.testing.assert_allclose(after.params["head"]["kernel"], W - ETA * phi.T @ delta / 5, rtol=1e-5)
  np.testing.assert_array_equal(after.params["first"]["kernel"], begun.params["first"]["kernel"])


def test_layer_attack_uses_the_teacher_at_the_adversarial_features():
  params = deep()
  _, hard = first_step(unlearn.layer_attack(hidden, "head", ETA, alpha=0.0), params)
  _, soft = first_step(unlearn.layer_attack(hidden, "head", ETA, alpha=1.0), params)
  algorithm = unlearn.layer_attack(hidden, "head", ETA, alpha=1.0)
  with jax.enable_x64(True):
    rows = unlearn.Examples(jnp.asarray(S[0]), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    session = unlearn.Session(rows, rows, 1, 5, jax.random.key(0))
    teacher = np.asarray(algorithm.init(params, session).memory.teacher)
  phi = np.tanh(S[0] @ np.asarray(params.params["first"]["kernel"]))
  right = (phi @ W).argmax(1) == S[1]
  delta = np.where(right[:, None], 4 * (softmax(phi @ W / 4) - softmax(teacher / 4)), 0)
  np.testing.assert_allclose(soft.params["head"]["kernel"], W - ETA * phi.T @ delta / 5, rtol=1e-4)
  assert (hard.params["head"]["kernel"] != soft.params["head"]["kernel"]).any()


def test_features_are_what_the_head_is_given():
  model = models.mlp((6, 5), 3)
  x = jnp.asarray(RNG.normal(size=(4, 7)), jnp.float32)
  params = models.init(model, jax.random.key(0), x)
  phi = models.features(model, "Dense_2")(params, x)
  head = params.params["Dense_2"]
  np.testing.assert_allclose(phi @ head["kernel"] + head["bias"], params(x), rtol=1e-5, atol=1e-6)
  with pytest.raises(ValueError, match=r"no layer 'Dense_9'\. It has Dense_0, Dense_1, Dense_2"):
    models.features(model, "Dense_9")(params, x)


@pytest.mark.parametrize(("step", "steps"), [(0.05, 100), (1e-3, 1)])
def test_layer_attack_stops_one_step_past_the_boundary_and_never_names_the_true_class(step, steps):
  params = deep()
  algorithm = unlearn.layer_attack(hidden, "head", ETA, step=step, steps=steps)
  with jax.enable_x64(True):
    rows = unlearn.Examples(jnp.asarray(S[0]), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    session = unlearn.Session(rows, rows, 1, 5, jax.random.key(0))
    attacked = algorithm.init(params, session).memory
  phi = np.tanh(S[0] @ np.asarray(params.params["first"]["kernel"]))
  length = step * np.linalg.norm(phi, axis=1).mean()
  for _ in range(steps):
    up = (softmax(phi @ W) - np.eye(3)[S[1]]) @ W.T
    inside = (phi @ W).argmax(1) == S[1]
    phi = phi + inside[:, None] * length * up / np.linalg.norm(up, axis=1, keepdims=True)
  np.testing.assert_allclose(attacked.teacher, phi @ W, rtol=1e-6)
  wrong = np.where(np.eye(3)[S[1]] == 1, -np.inf, phi @ W)
  np.testing.assert_array_equal(attacked.labels, wrong.argmax(1))
  assert ((phi @ W).argmax(1) == S[1]).any() == (steps == 1)


def test_layer_attack_takes_a_head_by_its_way_and_refuses_a_name_of_several_layers():
  params = deep()
  head = params.params["head"]
  nested = params.replace(params={"a": {"out": head}, "b": {"out": head}})
  with jax.enable_x64(True):
    rows = unlearn.Examples(jnp.asarray(S[0]), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
    session = unlearn.Session(rows, rows, 1, 5, jax.random.key(0))

    def attacked(name):
      return unlearn.layer_attack(lambda network, x: x, name, ETA).init(nested, session).memory

    assert attacked("b/out").teacher.shape == (5, 3)
    with pytest.raises(ValueError, match=r"'out' has a/out/bias, b/out/bias, a/out/ker") as caught:
      attacked("out")
  assert "\n" not in str(caught.value)
