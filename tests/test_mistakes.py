"""What people pass by mistake gets one line with the cure, or what they meant."""

# pyright: reportArgumentType=false, reportCallIssue=false
import dataclasses
import errno
import fcntl
import functools
import os
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import jaxmul
from jaxmul import (
  _files,
  checkpoint,
  data,
  deletion,
  losses,
  memorization,
  metrics,
  models,
  proxies,
  report,
  retraining,
  rum,
  sisa,
  train,
  unlearn,
)
from jaxmul.metrics import game
from jaxmul.metrics.oracle.ensembles import original, schedules

KEY = jax.random.key(0)
DIGITS = data.digits().take(np.arange(64))
INPUTS = DIGITS.batch()[0]
SPLIT = data.Split(forget=np.arange(9), retain=np.arange(9, 64))
PLAN = rum.Plan([rum.Step(unlearn.fine_tune(), 1)])
RECIPE = train.Recipe(models.mlp((8,)), epochs=1, batch_size=16)


def mlp():
  return eqx.nn.MLP(64, 10, 8, 1, key=KEY)


def over_batch(module, x):
  return jax.vmap(module)(x.reshape(len(x), -1))


def network():
  return jaxmul.bind(over_batch, mlp())


def learner(examples, key):
  batch = examples.whole()
  weights = jax.random.normal(key, (64, 10)) * 0.01

  def apply_fn(weights, x):
    return x.reshape(len(x), -1) @ weights

  def risk(weights):
    return jnp.mean(losses.cross_entropy(apply_fn(weights, batch.inputs), batch.labels))

  for _ in range(20):
    weights = weights - 0.5 * jax.grad(risk)(weights)
  return jaxmul.bind(apply_fn, weights)


MISTAKES = {
  "optimizer name": (lambda: train.Recipe(models.mlp(), optimizer="adam"), "optax.adam,"),
  "optimizer made": (lambda: train.Recipe(models.mlp(), optimizer=optax.sgd(0.1)), "optax.adam,"),
  "float batch": (lambda: train.Recipe(models.mlp(), batch_size=16.0), "batch_size=16.0"),
  "cnn of classes": (lambda: models.cnn(10), "cnn(num_classes=10)"),
  "mlp of classes": (lambda: models.mlp(10), "mlp(num_classes=10)"),
  "int key in fit": (lambda: train.fit(train.Recipe(models.mlp()), DIGITS, 0), "jax.random.key(0)"),
  "int key in init": (lambda: models.init(models.mlp(), 0, INPUTS), "jax.random.key(0)"),
  "int key in run": (
    lambda: unlearn.run(unlearn.fine_tune(), network(), DIGITS, SPLIT, 0, epochs=1),
    "jax.random.key(0)",
  ),
  "int key in leave_out": (
    lambda: retraining.leave_out(learner, DIGITS, 0, num_models=2),
    "jax.random.key(0)",
  ),
  **{
    f"int key in {name}": (functools.partial(call, 0), "jax.random.key(0)")
    for name, call in {
      "forget_random": lambda key: data.forget_random(DIGITS, 3, key),
      "cut_heldout": lambda key: data.cut_heldout(DIGITS.ids, key),
      "distill": lambda key: data.distill(DIGITS, 1, key),
      "holdout": lambda key: data.holdout(DIGITS, key, heldout=5, test=5),
      "math_sequences": lambda key: data.math_sequences([1, 2], key, noisy=1),
      "pseudo_label": lambda key: data.pseudo_label(
        network(), DIGITS, [], key, features=lambda network, inputs: inputs
      ),
      "shuffle": lambda key: rum.shuffle(DIGITS.ids, key),
      "clusters": lambda key: rum.clusters(np.eye(64), DIGITS.ids, key),
      "meta_unlearn": lambda key: rum.meta_unlearn(PLAN, network(), DIGITS, [SPLIT.forget], key),
      "stream": lambda key: list(
        rum.stream(PLAN, network(), DIGITS, [SPLIT.forget], key, score=lambda *_: np.arange(9.0))
      ),
      "tune": lambda key: rum.tune(
        *({"a": PLAN.steps[0]}, network(), DIGITS.take(SPLIT.retain), [np.arange(9, 12)]),
        *(DIGITS.take(SPLIT.forget), key),
      ),
      "curvature": lambda key: proxies.curvature(network(), DIGITS.batch(), key=key),
      "heldout_retrain": lambda key: proxies.heldout_retrain(
        network(), DIGITS, train.Recipe(models.mlp()), key
      ),
      "oracles": lambda key: metrics.oracle.oracles(learner, DIGITS, SPLIT, key, num_models=2),
      "generate": lambda key: models.generate(network(), np.ones((1, 2), int), 1, key=key),
      "attacks": lambda key: game.known(SPLIT, np.arange(100, 108), key),
    }.items()
  },
  "saved nnx": (
    lambda: checkpoint.save("never", nnx.Linear(2, 3, rngs=nnx.Rngs(0))),
    "jaxmul.bind(lambda module, x: module(x), module)",
  ),
  "saved equinox": (lambda: checkpoint.save("never", mlp()), "jax.vmap(module)(x), module)"),
  "one example": (
    lambda: proxies.max_confidence(mlp(), DIGITS.batch()),
    "jax.vmap(module)(x), mlp",
  ),
  "empty batch": (
    lambda: proxies.curvature(network(), (INPUTS[:0], DIGITS.labels[:0])),
    "an empty batch",
  ),
  "numbers": (lambda: data.Dataset(INPUTS, np.linspace(0, 1, 64)), "classes=False"),
  "several labels": (
    lambda: proxies.confidence(network(), (INPUTS, np.ones((64, 10), int))),
    "jaxmul.bind(..., loss=)",
  ),
  "trackers of a learner": (
    lambda: train.fit(learner, DIGITS, KEY, trackers={"a": proxies.trackers.cumulative_loss()}),
    "for a learner",
  ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_line_with_the_cure(name):
  call, cure = MISTAKES[name]
  with pytest.raises(ValueError, match=r"got|needs|could not") as caught:
    call()
  assert cure in str(caught.value)
  assert "\\n" not in str(caught.value)


def test_an_equinox_module_trains_its_float_arrays_alone():
  bound = network()
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(bound.params))
  np.testing.assert_array_equal(bound(INPUTS), over_batch(mlp(), INPUTS))
  after = unlearn.run(unlearn.fine_tune(0.1), bound, DIGITS, SPLIT, KEY, epochs=1)
  assert after.params.layers[0].weight.shape == (8, 64)
  assert np.abs(after(INPUTS) - bound(INPUTS)).max() > 1e-4


class Sown(nn.Module):
  sows: bool

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(8)(x.reshape(len(x), -1)))
    if self.sows:
      self.sow("losses", "activity", jnp.mean(x**2))
    return nn.Dense(10)(x)


def test_what_is_sown_is_left_out_and_said():
  recipe = train.Recipe(Sown(sows=False), epochs=2, batch_size=16)
  want = train.fit(recipe, DIGITS, KEY)
  with pytest.warns(UserWarning, match="sows 'losses', which is left out"):
    got = train.fit(dataclasses.replace(recipe, model=Sown(sows=True)), DIGITS, KEY)
  assert got.network.state == {}
  jax.tree.map(np.testing.assert_array_equal, got.network.params, want.network.params)


def test_a_learner_stands_wherever_a_recipe_does():
  again = unlearn.retrain(learner, DIGITS, SPLIT, KEY)
  np.testing.assert_array_equal(again.ids, SPLIT.retain)
  right = np.argmax(again.network(INPUTS), 1) == DIGITS.labels
  assert right[9:].mean() > 0.8
  fitted = original(learner, DIGITS, SPLIT, KEY, 1)
  schedule, _ = schedules(learner, DIGITS, SPLIT, KEY, 2)
  chunk = list(retraining.stream(schedule, executor=retraining.serial))[1]
  logits = fitted.network(INPUTS)
  np.testing.assert_allclose(logits, chunk.test[0], 1e-4, 1e-5)


def test_a_folder_that_cannot_be_synced_is_still_saved_to(tmp_path, monkeypatch):
  plain = os.fsync

  def refusing(handle):
    if os.path.isdir(f"/proc/self/fd/{handle}"):
      raise OSError(errno.EINVAL, "folders are not synced here")
    plain(handle)

  monkeypatch.setattr(os, "fsync", refusing)
  checkpoint.save(tmp_path / "saved", network())
  assert checkpoint.verify(tmp_path / "saved")
  _files.write_atomic(tmp_path / "file", b"whole")
  monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "disk")))
  with pytest.raises(OSError, match="disk"):
    _files.write_atomic(tmp_path / "other", b"lost")


def test_where_windows_refuses_to_open_or_sync_everything_is_still_saved(tmp_path, monkeypatch):
  opening, syncing = os.open, os.fsync

  def opened(path, *given, **more):
    if os.path.isdir(path) and not more:  # shutil opens folders relative to another one
      raise PermissionError(errno.EACCES, "folders are not opened here")
    return opening(path, *given, **more)

  def synced(handle):
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
      raise OSError(errno.EBADF, "not open for writing")
    syncing(handle)

  monkeypatch.setattr(os, "fsync", synced)
  monkeypatch.setattr(_files.os, "open", opened)
  schedule = retraining.leave_out(learner, DIGITS, KEY, num_models=16, test=DIGITS)
  memorization.influence(
    *(schedule, [1]), store=tmp_path / "s", out=tmp_path / "i", executor=retraining.serial
  )
  checkpoint.save(tmp_path / "c", network())
  assert retraining.status(tmp_path / "s").done == 16
  assert checkpoint.verify(tmp_path / "c")
  assert memorization.ChosenInfluence.load(tmp_path / "i").ids.tolist() == [1]


def test_a_folder_of_orbax_is_told_from_a_damaged_one(tmp_path):
  ocp.PyTreeCheckpointer().save(tmp_path / "theirs", {"a": np.ones(3)})
  with pytest.raises(ValueError, match=r"not a checkpoint of jaxmul.*jaxmul\.bind"):
    checkpoint.load(tmp_path / "theirs")


def test_home_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  checkpoint.save("~/saved", network())
  assert (tmp_path / "saved" / "manifest.json").exists()
  schedule = retraining.leave_out(learner, DIGITS, KEY, num_models=16, test=DIGITS)
  estimate = memorization.estimate(schedule, store="~/s", executor=retraining.serial)
  assert retraining.status("~/s").done == 16
  estimate.save("~/estimate.npz")
  assert memorization.Estimate.load("~/estimate.npz").digest == estimate.digest
  effects = memorization.influence(schedule, [1], store="~/s", out="~/i", executor=never)
  assert memorization.ChosenInfluence.load("~/i").ids.tolist() == effects.ids.tolist()
  for _ in range(2):
    after = rum.meta_unlearn(PLAN, network(), DIGITS, [SPLIT.forget], KEY, store="~/steps")
    monkeypatch.setattr(unlearn, "run", never)  # the second time it is read back
  served = list(rum.stream(PLAN, after, DIGITS, [], KEY, score=never, store="~/ledger"))
  assert not served
  outputs = metrics.oracle.outputs([network()], DIGITS, SPLIT.forget)
  outputs.save("~/outputs.npz")
  assert len(metrics.oracle.Outputs.load("~/outputs.npz")) == 1
  assert {path.name for path in tmp_path.iterdir()} == {
    *("saved", "s", "estimate.npz", "i", "steps", "outputs.npz")
  }


def never(*_, **__):
  raise AssertionError("this was done before")


STORED = {
  "store": lambda path: memorization.estimate(
    retraining.leave_out(learner, DIGITS, KEY, num_models=2), store=path, executor=never
  ),
  "status": retraining.status,
  "influence": lambda path: memorization.influence(
    retraining.leave_out(learner, DIGITS, KEY, num_models=2, test=DIGITS), [1], out=path
  ),
  "estimate": memorization.Estimate.load,
  "checkpoint": lambda path: checkpoint.save(path, network()),
  "steps": lambda path: rum.meta_unlearn(PLAN, network(), DIGITS, [SPLIT.forget], KEY, store=path),
  "stream": lambda path: list(
    rum.stream(PLAN, network(), DIGITS, [], KEY, score=never, store=path)
  ),
  "oracles": lambda path: metrics.oracle.oracles(
    learner, DIGITS, SPLIT, KEY, num_models=2, store=path, executor=never
  ),
  "outputs": metrics.oracle.Outputs.load,
  "report": report.html,
  "verify": deletion.verify,
  "npz": data.from_npz,
  "folder": data.from_folder,
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_bucket_is_no_folder(tmp_path, monkeypatch, name, kind):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r"gs:.* is a URL.*Mount the bucket") as caught:
    STORED[name](kind("gs://bucket/runs"))
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda network, toy: proxies.score("grand", network, toy),
      r"\Ascore got proxy='grand', must be a function such as proxies\.grand\.\Z",
    ),
    (
      lambda network, toy: proxies.score(proxies.grand, network, (toy.inputs, toy.labels)),
      r"\Ascore got a tuple as the data, must be a Dataset\. Make one: data\.Dataset\(inputs, lab",
    ),
    (
      lambda network, toy: proxies.trackers.tracin().update(
        proxies.trackers.tracin().init(len(toy)),
        train.Step(jnp.arange(2), jnp.zeros(2, int), jnp.zeros((2, 2)), jnp.zeros(2), 0),
      ),
      r"\Athe tracker of 'tracin' needs train\.Step\(parameter_norms=\.\.\.\), which a loop of",
    ),
  ],
)
def test_what_a_loop_of_ones_own_gets_wrong_is_told(call, message):
  toy = data.Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
  network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs)
  with pytest.raises(ValueError, match=message) as caught:
    call(network, toy)
  assert "\n" not in str(caught.value)


TAKES_DATA = {
  "fit": lambda data: train.fit(RECIPE, data, KEY),
  "unlearn.run": lambda data: unlearn.run(
    unlearn.fine_tune(), network(), data, SPLIT, KEY, epochs=1
  ),
  "rum": lambda data: rum.meta_unlearn(PLAN, network(), data, [SPLIT.forget], KEY),
  "rum.tune": lambda data: rum.tune(
    {"step": PLAN.steps[0]}, network(), data, [SPLIT.forget], DIGITS, KEY
  ),
  "leave_out": lambda data: retraining.leave_out(RECIPE, data, KEY, num_models=2, fraction=0.5),
  "cross_fit": lambda data: retraining.cross_fit(RECIPE, data, KEY),
  "repeat": lambda data: retraining.repeat(RECIPE, data, KEY, num_models=2, test=DIGITS),
  "holdout": lambda given: data.holdout(given, KEY, heldout=1, test=1),
  "forget_class": lambda given: data.forget_class(given, 1),
  "forget_subclass": lambda given: data.forget_subclass(given, 1),
  "forget_random": lambda given: data.forget_random(given, 1, KEY),
  "heldout_retrain": lambda given: proxies.heldout_retrain(network(), given, RECIPE, KEY),
  "oracle.ensemble": lambda given: metrics.oracle.ensemble(RECIPE, given, SPLIT, KEY, num_models=2),
  "concatenate": lambda given: data.concatenate([DIGITS, given]),
  "sisa.fit": lambda given: sisa.fit(RECIPE, given, KEY, shards=2, store="never made"),
}


@pytest.mark.parametrize("given", [(INPUTS, DIGITS.labels), None, data.Streamed])
@pytest.mark.parametrize("caller", TAKES_DATA)
def test_what_is_no_data_set_is_told(caller, given):
  message = rf"\A{caller} got .* as the data, must be a Dataset\. Make one: data\.Dataset\(inputs, "
  with pytest.raises(ValueError, match=message) as caught:
    TAKES_DATA[caller](given)
  assert "\n" not in str(caught.value)


def test_one_data_set_is_not_several():
  with pytest.raises(ValueError, match="concatenate got a Dataset, must be several data sets"):
    data.concatenate(DIGITS)


def test_heldout_examples_of_candidates_are_a_data_set():
  with pytest.raises(ValueError, match=r"\Arum.candidates got a tuple as the data, must be a Data"):
    rum.candidates(RECIPE, (INPUTS, DIGITS.labels))


def test_a_truth_value_is_no_number():
  with pytest.raises(ValueError, match="learning_rate=True, must be a number"):
    unlearn.fine_tune(True)


@pytest.mark.parametrize("caller", ["leave_out", "repeat"])
def test_test_examples_are_a_data_set(caller):
  call = functools.partial(getattr(retraining, caller), RECIPE, DIGITS, KEY, num_models=2)
  more = {"fraction": 0.5} if caller == "leave_out" else {}
  with pytest.raises(ValueError, match=f"{caller} got a tuple as the data, must be a Dataset"):
    call(test=(INPUTS, DIGITS.labels), **more)


@pytest.mark.parametrize(
  "devices",
  [
    2,
    "cpu:0",
    ["cpu:0"],
    jax.devices()[:1] * 2,
    jax.devices()[0],
    np.array(jax.devices()[:1] * 4).reshape(2, 2),
  ],
)
def test_what_is_no_list_of_devices_is_told(devices):
  message = r"fit got devices=.*, must be a list of different devices\. Use jax\.devices\(\)\[:2\]"
  with pytest.raises(ValueError, match=message) as caught:
    train.fit(RECIPE, DIGITS, KEY, devices=devices)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("path", ["", 3, True])
def test_what_is_no_path_is_told(tmp_path, monkeypatch, name, path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ValueError, match=r"a path is .*, must be a name\. Use '\.' for the working"):
    STORED[name](path)
  assert not list(tmp_path.iterdir())


def test_a_truth_value_is_no_count():
  with pytest.raises(ValueError, match="got epochs=True, must be an integer of at least 1"):
    unlearn.run(unlearn.fine_tune(), network(), DIGITS, SPLIT, KEY, epochs=True)
