"""Boundary shrink and expand, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import ETA, RNG, S, W, bound, first_step, gradient, linear, softmax

from jaxmul import bind, unlearn


def test_boundary_shrink_relabels_to_the_likeliest_wrong_class_nearby():
  x, y = S
  g = (softmax(x @ W) - np.eye(3)[y]) @ W.T
  z = (x + 0.3 * np.sign(g)) @ W
  z[np.arange(5), y] = -np.inf
  nearest = z.argmax(1)
  assert (nearest != y).all()
  _, after = first_step(unlearn.boundary_shrink(ETA, radius=0.3), bound())
  np.testing.assert_allclose(after.params, W + -ETA * gradient(W, x, nearest), rtol=1e-6)


def test_boundary_expand_gives_forget_a_class_that_is_dropped_again():
  wide = RNG.normal(size=(4, 4))
  with jax.enable_x64(True):
    algorithm = unlearn.boundary_expand(bind(linear, jnp.asarray(wide)), ETA)
  begun, after = first_step(algorithm, bound())
  widened = np.concatenate([W, wide[:, 3:]], 1)
  np.testing.assert_array_equal(begun.params, widened)
  expected = widened - ETA * gradient(widened, S[0], np.full(5, 3))
  np.testing.assert_allclose(after.params, expected[:, :3], rtol=1e-12)
  assert after.apply_fn is linear


def test_boundary_expand_keeps_a_param_without_axes():
  def scaled(theta, x):
    return theta["scale"] * (x @ theta["w"])

  def network(w):
    with jax.enable_x64(True):
      return bind(scaled, {"scale": jnp.ones(()), "w": jnp.asarray(w)})

  wide = network(RNG.normal(size=(4, 4)))
  _, after = first_step(unlearn.boundary_expand(wide, ETA), network(W))
  assert {name: leaf.shape for name, leaf in after.params.items()} == {"scale": (), "w": (4, 3)}


def test_boundary_expand_refuses_a_network_that_is_not_one_class_wider():
  with pytest.raises(ValueError, match="one class more") as caught:
    first_step(unlearn.boundary_expand(bound(), ETA), bound())
  assert "\n" not in str(caught.value)


def embed(params, tokens):
  return params["table"][tokens]


def of_text(params, inputs):
  """One class of a text: what its mean embedding says; also of the embeddings themselves."""
  floats = jnp.issubdtype(inputs.dtype, jnp.inexact)
  return (inputs if floats else embed(params, inputs)).mean(1) @ params["w"]


PARAMS = {"table": RNG.normal(size=(10, 4)).astype(np.float32), "w": np.float32(W)}
TOKENS = RNG.integers(0, 10, (5, 6)).astype(np.int32)


def session_of_tokens():
  rows = unlearn.Examples(jnp.asarray(TOKENS), jnp.asarray(S[1]), jnp.arange(5), jnp.int32(5))
  return unlearn.Session(rows, rows, 1, 5, jax.random.key(0))


def test_boundary_shrink_attacks_text_of_one_class_at_its_embeddings():
  network, y = bind(of_text, PARAMS, embed=embed), S[1]
  x = PARAMS["table"][TOKENS]
  g = (softmax(x.mean(1) @ PARAMS["w"]) - np.eye(3)[y]) @ PARAMS["w"].T
  z = (x + 0.3 * np.sign(g)[:, None]).mean(1) @ PARAMS["w"]
  z[np.arange(5), y] = -np.inf
  nearest = unlearn.boundary_shrink(radius=0.3).init(network, session_of_tokens()).memory
  np.testing.assert_array_equal(nearest, z.argmax(1))


@pytest.mark.parametrize(
  ("algorithm", "message"),
  [
    (unlearn.boundary_shrink(), "boundary_shrink takes gradients of inputs, which are int32"),
    (unlearn.amun(), "amun trains on adversarial inputs, and inputs of int32 have none"),
  ],
)
def test_tokens_without_a_gradient_are_refused_in_one_line(algorithm, message):
  with pytest.raises(ValueError, match=message) as caught:
    algorithm.init(bind(of_text, PARAMS), session_of_tokens())
  assert "\n" not in str(caught.value)
