"""JAX's and NumPy's own settings that people switch on: everything runs as without them."""

import contextlib

import jax
import numpy as np
import pytest

from jaxmul import memorization, models, proxies, retraining, train, unlearn
from jaxmul.data import Dataset, Split

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
TOY = Dataset(RNG.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8), np.arange(12) % 3)
MODEL = models.cnn((4, 4), 8, 3, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
RECIPE = train.Recipe(MODEL, epochs=2, batch_size=4, learning_rate=0.05)
SPLIT = Split(forget=np.arange(4), retain=np.arange(4, 12))


def everything():
  """What is computed under a setting: a training run, proxies, ground truth, three algorithms."""
  network = train.fit(RECIPE, TOY, KEY).network
  results = [jax.tree.leaves(network.params)]
  for method in ("hvp", "finite_difference"):
    proxy = jax.tree_util.Partial(proxies.curvature, method=method)
    results.append(proxies.score(proxy, network, TOY))
  results.append(proxies.score(proxies.grand, network, TOY))
  schedule = retraining.leave_out(RECIPE, TOY, KEY, num_models=4, fraction=0.5)
  results.append(memorization.estimate(schedule, executor=retraining.serial, progress=False).soft)
  for algorithm in (unlearn.salun(0.01), unlearn.ssd(1.0), unlearn.scrub(0.01)):
    after = unlearn.run(algorithm, network, TOY, SPLIT, KEY, epochs=1, batch_size=4)
    results.append(jax.tree.leaves(after.params))
  return jax.tree.map(np.asarray, results)


@pytest.fixture(scope="module")
def plain():
  return everything()


@contextlib.contextmanager
def numpy_raises():
  with np.errstate(all="raise"):
    yield


@pytest.mark.filterwarnings("ignore:.*never in or never out.*")
@pytest.mark.parametrize(
  ("setting", "exact"),
  [
    pytest.param(lambda: jax.numpy_dtype_promotion("strict"), True, id="strict promotion"),
    pytest.param(lambda: jax.numpy_rank_promotion("raise"), True, id="rank promotion"),
    pytest.param(numpy_raises, True, id="numpy raises"),
    pytest.param(lambda: jax.debug_nans(True), True, id="debug nans"),
    pytest.param(jax.disable_jit, False, id="no jit", marks=pytest.mark.slow),
  ],
)
def test_results_are_those_without_the_setting(setting, exact, plain):
  with setting():
    got = everything()
  for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(plain), strict=True):
    if exact:
      np.testing.assert_array_equal(ours, theirs)
    else:
      np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["confidence", "curvature", "grand"])
def test_what_is_jitted_moves_nothing_from_the_host(name):
  network, batch = models.init(MODEL, KEY, TOY.batch()[0]), jax.device_put(TOY.batch())
  proxy = jax.jit(lambda network, batch: getattr(proxies, name)(network, batch))
  with jax.transfer_guard("disallow"):
    scores = proxy(network, batch)
  np.testing.assert_allclose(scores, getattr(proxies, name)(network, batch), rtol=1e-4, atol=1e-6)
