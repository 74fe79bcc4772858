"""What a script keeps is read back as it was, and only where all of it is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cache import Kept
from jaxmul import checkpoint, models


@pytest.fixture
def network():
  return models.init(models.mlp((3,), 2), jax.random.key(0), jnp.zeros((1, 4)))


def never():
  raise AssertionError("it was there already")


def test_networks_and_arrays_come_back_with_their_seconds(tmp_path, network):
  first = Kept(tmp_path, network)
  _, seconds = first("RUM ground truth", lambda: network)
  first("history", lambda: {"loss": jnp.arange(3.0), "confidence": np.ones(5)})
  again = Kept(tmp_path, jax.eval_shape(lambda: network))
  params, read = again("RUM ground truth", never)
  assert read == seconds > 0
  for ours, theirs in zip(jax.tree.leaves(network), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert params(jnp.ones((2, 4))).shape == (2, 2)
  arrays, _ = again("history", never)
  assert {name: each.tolist() for name, each in arrays.items()} == {
    "loss": [0, 1, 2],
    "confidence": [1] * 5,
  }


def test_a_checkpoint_of_a_run_that_was_killed_before_its_clock_is_made_again(tmp_path, network):
  checkpoint.save(tmp_path / "oracle", network)
  other = models.init(models.mlp((3,), 2), jax.random.key(1), jnp.zeros((1, 4)))
  params, _ = Kept(tmp_path, network)("oracle", lambda: other)
  read, _ = Kept(tmp_path, network)("oracle", never)
  for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(read), strict=True):
    np.testing.assert_array_equal(ours, theirs)
  assert not np.array_equal(jax.tree.leaves(read)[1], jax.tree.leaves(network)[1])


def test_names_that_differ_after_a_dot_are_two_results(tmp_path, network):
  keep = Kept(tmp_path, network)
  for number in range(2):
    keep(f"damping 0.1 of {number}", lambda number=number: {"value": np.array([number])})
  for number in range(2):
    assert keep(f"damping 0.1 of {number}", never)[0]["value"].tolist() == [number]
