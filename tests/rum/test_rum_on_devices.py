"""Steps of a plan run on the devices that are given, and do not depend on them beyond rounding."""

import warnings

import jax
import numpy as np
import pytest

from jaxmul import models, rum, unlearn
from jaxmul.data import Dataset

pytestmark = pytest.mark.usefixtures("eight")

KEY, GROUPS = jax.random.key(2), [np.arange(4), np.arange(4, 9), np.arange(9, 12)]


@pytest.fixture
def used(monkeypatch):
  """The devices of what each step returned, where all of its params are."""
  steps, run = [], rum.Step.run

  def watched(self, *args, **kwargs):
    after = run(self, *args, **kwargs)
    (devices,) = {frozenset(leaf.sharding.device_set) for leaf in jax.tree.leaves(after)}
    steps.append(devices)
    return after

  monkeypatch.setattr(rum.Step, "run", watched)
  return steps


@pytest.fixture(scope="module")
def problem():
  rng = np.random.default_rng(0)
  data = Dataset(rng.normal(size=(40, 6)).astype(np.float32), rng.integers(0, 3, 40))
  return models.init(models.mlp((5,), 3), jax.random.key(0), data.inputs[:1]), data


def plan(batch_size=8):
  return rum.Plan(
    [
      rum.Step(unlearn.neg_grad_plus(), 2, batch_size),
      rum.Step(None, batch_size=7),
      rum.Step(unlearn.salun(), 2, batch_size),
    ]
  )


def run(problem, devices, **options):
  network, data = problem
  return rum.meta_unlearn(plan(), network, data, GROUPS, KEY, devices=devices, **options)


def difference(one, other):
  pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
  return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


@pytest.mark.parametrize("which", [slice(3, 4), slice(4, 8), slice(None)])
def test_steps_run_on_the_devices_that_are_given_which_do_not_matter(problem, used, which):
  devices = jax.devices()[which]
  some = run(problem, devices)
  assert used == [set(devices)] * 2
  one = run(problem, None)
  assert used[2:] == [set(jax.devices()[:1])] * 2
  assert difference(one, some) < 1e-5
  assert difference(one, problem[0]) > 1e-3


def test_kept_steps_serve_other_devices(problem, used, tmp_path):
  """Names of steps hold no devices; a step that is read back is placed for the next one."""
  eight = run(problem, jax.devices(), store=tmp_path)
  names = sorted(folder.name for folder in tmp_path.iterdir())
  again = run(problem, None, store=tmp_path)
  assert len(used) == 2
  assert difference(eight, again) == 0
  assert sorted(folder.name for folder in tmp_path.iterdir()) == names
  assert len(names) == 2
  last = next(folder for folder in tmp_path.iterdir() if folder.name.startswith("step2"))
  last.rename(tmp_path.parent / f"{tmp_path.name}-moved")
  mixed = run(problem, jax.devices()[2:4], store=tmp_path)
  assert used[2:] == [set(jax.devices()[2:4])]
  assert difference(eight, mixed) < 1e-5


@pytest.mark.parametrize("stored", [False, True])
def test_trials_run_on_the_devices_that_are_given_which_do_not_matter(
  problem, used, tmp_path, stored
):
  network, data = problem
  heldout = Dataset(data.inputs[:8] + 1, data.labels[:8], np.arange(100, 108), 3)
  tried = {"ascent": rum.Step(unlearn.neg_grad(0.1), 1, 8), "other": rum.Step(None, 1, 7)}
  tuned = []
  for devices, folder in ((None, "one"), (jax.devices(), "eight")):
    with warnings.catch_warnings():
      warnings.filterwarnings("ignore", message="rum.tune")
      tuned.append(
        rum.tune(
          tried,
          network,
          data,
          GROUPS[:1],
          heldout,
          KEY,
          store=tmp_path / folder if stored else None,
          progress=False,
          devices=devices,
        )
      )
  assert used == [set(jax.devices()[:1]), set(jax.devices())]
  one, eight = tuned
  assert one.plan == eight.plan
  values = [[trial.surrogate for trial in each.trials] for each in tuned]
  np.testing.assert_allclose(values[0], values[1], atol=1e-5)


@pytest.mark.parametrize(
  ("devices", "message"),
  [
    (3, r"rum: step 0 got batch_size=8 for 3 devices, which must divide it\. Use 9\."),
    (0, r"rum got devices=\[\], must be at least one\. Use jax\.devices\(\) or None\."),
  ],
)
def test_devices_that_do_not_fit_are_refused_before_the_first_step(problem, used, devices, message):
  with pytest.raises(ValueError, match=rf"\A{message}\Z"):
    run(problem, jax.devices()[:devices])
  assert not used


def test_a_later_step_that_does_not_fit_is_refused_before_the_first(problem, used):
  network, data = problem
  steps = [*plan().steps[:2], rum.Step(unlearn.neg_grad(), 1, 12)]
  with pytest.raises(ValueError, match=r"\Arum: step 2 got batch_size=12 for 8 devices.*16\.\Z"):
    rum.meta_unlearn(rum.Plan(steps), network, data, GROUPS, KEY, devices=jax.devices())
  assert not used


def test_a_candidate_that_does_not_fit_is_named(problem):
  network, data = problem
  tried = {"ascent": rum.Step(unlearn.neg_grad(), 1, 12)}
  heldout = Dataset(data.inputs[:8] + 1, data.labels[:8], np.arange(100, 108), 3)
  with pytest.raises(ValueError, match=r"\Arum\.tune: ascent got batch_size=12 for 8.*16\.\Z"):
    rum.tune(tried, network, data, GROUPS[:1], heldout, KEY, devices=jax.devices())
