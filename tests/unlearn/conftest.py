"""Problems that tests of several algorithms share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import linear, session_of

from jaxmul import bind, unlearn
from jaxmul._examples import Examples
from jaxmul.data import Dataset, Split


@pytest.fixture
def step():
  """Steps of an algorithm on a linear classifier in float64: returns (new w, old w, S, R)."""
  rng = np.random.default_rng(0)
  w = rng.normal(size=(4, 3))
  s = rng.normal(size=(5, 4)), rng.integers(0, 3, 5)
  r = rng.normal(size=(6, 4)), rng.integers(0, 3, 6)

  def take(algorithm, key=0, *, meets=("forget", "retain"), epoch=0, epochs=1, steps=1):
    with jax.enable_x64(True):
      params = bind(linear, jnp.asarray(w))
      images = jnp.concatenate([jnp.asarray(s[0]), jnp.asarray(r[0])])
      labels = jnp.concatenate([jnp.asarray(s[1]), jnp.asarray(r[1])])
      sets = (
        Examples(images, labels, jnp.arange(0), 0).subset(np.arange(5), 11),
        Examples(images, labels, jnp.arange(0), 0).subset(np.arange(5, 11), 11),
      )
      batches = [
        each.batch(0, each.count if name in meets else 0, int(each.count))
        for name, each in zip(("forget", "retain"), sets, strict=True)
      ]
      session = unlearn.Session(*sets, epochs, 4, jax.random.key(0), np.arange(11))
      state = algorithm.init(params, session)
      if algorithm.start is not None:
        params = algorithm.start(params, state)
      if algorithm.update is not None:
        zero = jnp.int32(0)
        state = algorithm.tick(state, unlearn.Clock(jnp.int32(epoch), zero, zero + 1))
        for _ in range(steps):
          updates, state = algorithm.update(*batches, state, params, jax.random.key(key))
          params = optax.apply_updates(params, updates)
      if algorithm.finish is not None:
        params = algorithm.finish(params, state)
      return np.asarray(params.params), w, s, r

  return take


@pytest.fixture
def parts():
  rng = np.random.default_rng(3)
  w, moved = rng.normal(size=(2, 4, 3))
  s = rng.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
  r = rng.normal(size=(6, 4)), rng.integers(0, 3, 6)
  return w, moved, s, r


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 3, 40))
  params = bind(linear, jnp.asarray(rng.normal(size=(4, 3)), jnp.float32))
  return data, params, Split(forget=np.arange(9), retain=np.arange(9, 40))


@pytest.fixture(scope="module")
def small():
  rng = np.random.default_rng(4)
  x, y, w = rng.normal(size=(12, 4)), rng.integers(0, 3, 12), rng.normal(size=(4, 3))
  with jax.enable_x64(True):
    session, retain = session_of(jnp.asarray(x), jnp.asarray(y), np.arange(5))
    return bind(linear, jnp.asarray(w)), session, x, y, retain
