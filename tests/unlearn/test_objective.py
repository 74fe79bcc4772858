"""Algorithms of one shot in the loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import linear

from jaxmul import bind, unlearn
from jaxmul.data import Dataset, Split


def test_one_shot_in_run_checks_what_comes_out():
  rng = np.random.default_rng(4)
  data = Dataset(rng.normal(size=(12, 4)).astype(np.float32), rng.integers(0, 3, 12))
  params = bind(linear, jnp.asarray(rng.normal(size=(4, 3)), jnp.float32))
  split = Split(forget=np.arange(4), retain=np.arange(4, 12))
  with pytest.raises(unlearn.Diverged, match="one shot") as caught:
    unlearn.run(unlearn.influence(3e38), params, data, split, jax.random.key(0), epochs=1)
  assert caught.value.network.params is params.params
