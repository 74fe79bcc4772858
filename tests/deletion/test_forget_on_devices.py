"""What a request scores and unlearns runs on the devices that are given, with the same numbers."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest

import jaxmul
from jaxmul import _scoring, data, deletion, memorization, models, retraining, rum, train, unlearn
from jaxmul.deletion import evidence_and_cost as evidence
from jaxmul.deletion.request import request_of
from jaxmul.metrics import oracle

pytestmark = pytest.mark.usefixtures("eight")

KEY = jax.random.key(3)
RECIPE = train.Recipe(models.mlp((8,), 3), epochs=12, batch_size=8)
PLAN = rum.Plan([rum.Step(unlearn.neg_grad(0.05), epochs=2, batch_size=8)])


class Ensemble:
  """Of as many originals as "full" takes at least."""

  originals = range(16)


@pytest.fixture
def used(monkeypatch):
  """The devices of scores and of unlearned networks, by who computed them."""
  seen = {"score": [], "unlearn": []}

  def watch(place, name, by):
    work = getattr(place, name)

    def watched(*args, **kwargs):
      made = work(*args, **kwargs)
      (devices,) = {frozenset(leaf.sharding.device_set) for leaf in jax.tree.leaves(made)}
      seen[by].append(devices)
      return made

    monkeypatch.setattr(place, name, watched)

  watch(_scoring, "_score", "score")
  watch(rum.Step, "run", "unlearn")
  return seen


@pytest.fixture(scope="module")
def toy():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 96)
  inputs = rng.normal(size=(96, 6)) + 2 * np.eye(6)[labels]
  return data.Dataset(inputs.astype(np.float32), labels, num_classes=3)


@pytest.fixture(scope="module")
def network(toy):
  return train.fit(RECIPE, toy, KEY, range(64)).network


def forget(network, toy, devices, **options):
  given = {"plan": PLAN, "evidence": "none", "heldout": range(64, 80), "test": range(80, 96)}
  given |= {"progress": False, "devices": devices} | options
  recipe = given.pop("recipe", RECIPE)
  return jaxmul.forget(network, toy, [3, 5, 8, 9], recipe, KEY, **given)


@pytest.mark.parametrize("which", [slice(3, 4), slice(None)])
def test_a_plan_runs_on_the_devices_that_are_given_which_do_not_matter(network, toy, used, which):
  devices = jax.devices()[which]
  some = forget(network, toy, devices)
  assert used["unlearn"] == [set(devices)]
  assert used["score"][0] == set(devices)  # the groups; others are of the evidence
  one = forget(network, toy, None)
  assert used["unlearn"][1:] == [set(jax.devices()[:1])]
  pairs = list(zip(*(jax.tree.leaves(each.network.params) for each in (one, some)), strict=True))
  for a, b in pairs:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)
  before = jax.tree.leaves(network.params)
  moved = [np.abs(np.asarray(a) - b).max() for (a, _), b in zip(pairs, before, strict=True)]
  assert max(moved) > 1e-3
  for a, b in zip(one.figures, some.figures, strict=True):
    assert a.value == pytest.approx(b.value, abs=1e-5), a.name


def test_the_autopilot_tries_on_the_devices_that_are_given(network, toy, used):
  schedule = retraining.cross_fit(RECIPE, toy.take(range(64)), KEY, folds=2)
  said = memorization.estimate(schedule, executor=retraining.serial, progress=False)
  with contextlib.suppress(deletion.Refused):
    forget(network, toy, jax.devices()[4:], plan="auto", estimate=said)
  assert len(used["unlearn"]) == 3
  assert set(used["unlearn"]) == {frozenset(jax.devices()[4:])}


def test_originals_are_trained_and_unlearned_again_on_the_devices_that_are_given(
  network, toy, monkeypatch
):
  """No oracle is trained here: it ends where the first original would be unlearned."""
  taken = []

  def stop(plan, original, *args, devices, **kwargs):
    taken.append((original, devices))
    raise KeyboardInterrupt

  monkeypatch.setattr(rum, "meta_unlearn", stop)
  monkeypatch.setattr(oracle, "ensemble", lambda *args, **kwargs: Ensemble())
  for devices in (jax.devices()[2:4], None):
    request = request_of(
      network,
      toy,
      data.Split(
        forget=np.arange(4),
        retain=np.arange(4, 64),
        heldout=np.arange(64, 80),
        test=np.arange(80, 96),
      ),
      RECIPE,
      KEY,
      score="loss",
      num_groups=1,
      store=None,
      progress=False,
      devices=devices,
    )
    with pytest.raises(KeyboardInterrupt):
      evidence.beside_an_ensemble(request, PLAN, KEY, 16)
  (two, given), (one, none) = taken
  assert (given, none) == (jax.devices()[2:4], None)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    assert b.sharding.device_set == set(given)
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)


def with_batch(size, microbatch=None):
  return dataclasses.replace(RECIPE, batch_size=size, microbatch=microbatch)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"devices": []}, r"forget got devices=\[\], must be at least one.*None\."),
    ({"devices": 3}, r"forget: step 0 got batch_size=8 for 3 devices.*Use 9\."),
    (
      {"devices": 8, "plan": "auto", "recipe": with_batch(20), "evidence": "sample"},
      r"forget got 8 devices, which must divide the recipe's batch_size=20\. "
      r"Use 5 of them: devices\[:5\]\.",
    ),
    (
      {"devices": 8, "recipe": with_batch(16, 4), "evidence": "full"},
      r"forget got 8 devices, which must divide the recipe's microbatch=4\. "
      r"Use 4 of them: devices\[:4\]\.",
    ),
  ],
)
def test_devices_that_do_not_fit_are_refused_before_anything_is_trained(
  network, toy, used, options, message
):
  devices = jax.devices()[: options["devices"]] if options["devices"] else []
  with pytest.raises(ValueError, match=rf"\A{message}\Z"):
    forget(network, toy, **(options | {"devices": devices}))
  assert used == {"score": [], "unlearn": []}


def test_a_recipe_that_is_not_trained_by_may_have_any_batch(network, toy):
  """With a plan, and without an ensemble, nothing is split as the recipe splits it."""
  forget(network, toy, jax.devices(), recipe=with_batch(20))
