"""Hidden states that are pulled to a direction, by hand; on text too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import R, S, deep, hidden
from by_hand_text import begun, value_of

from jaxmul import bind, models, testing, unlearn


def moved(network):
  with jax.enable_x64(True):
    shift = 0.3 * np.cos(np.arange(16)).reshape(4, 4)
    kernel = network.params["first"]["kernel"] + shift
    return network.replace(params=network.params | {"first": {"kernel": kernel}})


def test_its_loss_and_gradient_are_those_by_hand():
  original, now = deep(), moved(deep())
  algorithm = unlearn.rmu(hidden, steering=3.0, gamma=2.0, alpha=0.7)
  with jax.enable_x64(True):
    got, slope = value_of(algorithm, original, now, S, R)
    _, state = begun(algorithm, original, S, R)
  goal, teacher = state.memory
  np.testing.assert_allclose(np.linalg.norm(goal), 3.0, rtol=1e-6)
  assert (np.asarray(goal) >= 0).all()
  assert teacher is original
  first, kernel = (np.asarray(each.params["first"]["kernel"]) for each in (original, now))
  value, want = 0, 0
  for weight, (x, _), target in ((2.0, S, np.asarray(goal)), (0.7, R, np.tanh(R[0] @ first))):
    h = np.tanh(x @ kernel)
    value += weight * ((h - target) ** 2).mean()
    want = want + weight * x.T @ (2 * (h - target) * (1 - h**2)) / h.size
  np.testing.assert_allclose(got, value, rtol=1e-12)
  np.testing.assert_allclose(slope["first"]["kernel"], want, rtol=1e-10, atol=1e-15)
  assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(slope["head"]))


def embedded(network, x):
  return network.params["tokens"][x]


def test_only_scored_positions_of_text_are_pulled():
  """A table of vectors: the gradient of a token's is the sum over its scored places."""
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 6, (2, 7, 4))
  y[:, 1], y[0, 2:] = -1, -1
  theta = {"tokens": rng.normal(size=(6, 3)), "head": rng.normal(size=(3, 6))}
  with jax.enable_x64(True):
    network = bind(lambda p, x: p["tokens"][x] @ p["head"], jax.tree.map(jnp.asarray, theta))
    algorithm = unlearn.rmu(embedded, alpha=0)
    forget, retain = (x[:3], y[:3]), (x[3:], y[3:])
    _, slope = value_of(algorithm, network, network, forget, retain)
    goal = np.asarray(begun(algorithm, network, forget, retain)[1].memory[0])
  share = (y[:3] >= 0) / (y[:3] >= 0).sum(1, keepdims=True) / 3
  want = np.zeros((6, 3))
  np.add.at(want, x[:3], share[..., None] * 2 * (theta["tokens"][x[:3]] - goal) / 3)
  np.testing.assert_allclose(slope["tokens"], want, rtol=1e-10, atol=1e-15)


def test_without_gamma_the_original_is_where_it_stays():
  with jax.enable_x64(True):
    _, slope = value_of(unlearn.rmu(hidden, gamma=0), deep(), deep(), S, R)
  assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(slope))


def test_named_layers_alone_move():
  with jax.enable_x64(True):
    algorithm = unlearn.rmu(hidden, ["head"], weight_decay=0.1)
    batches, state = begun(algorithm, deep(), S, R)
    updates, _ = algorithm.update(*batches, state, deep(), jax.random.key(0))
    assert (np.asarray(updates.params["first"]["kernel"]) == 0).all()
    assert (np.asarray(updates.params["head"]["kernel"]) != 0).all()
    with pytest.raises(ValueError, match=r"^rmu: the network has no layer 'block'\. It has bias, "):
      begun(unlearn.rmu(hidden, ["block"]), deep(), S, R)


def test_a_block_of_a_gpt_is_given_a_vector_at_each_position():
  network, (tokens, labels) = testing.small_networks()["gpt"]
  model = models.gpt(10, length=8, width=8, depth=2, heads=2)
  text = tokens[:3], labels[:3]
  given = unlearn.rmu(models.features(model, "blocks_1"))
  assert begun(given, network, text, text)[1].memory[0].shape == (8,)
  with pytest.raises(
    ValueError, match=r"^rmu got hidden states \[1, 10\] of an example with label"
  ):
    begun(unlearn.rmu(lambda network, x: network(x)[:, 0]), network, text, text)
