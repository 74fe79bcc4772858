"""A run that is saved by epoch ends with the bits of an undisturbed one, however it is stopped."""

import functools
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fits import KEY, MLP, NETWORKS, difference, params_of, recipe, same_bits, toy

from jaxmul import _runs, _saved_runs, bind, models, train
from jaxmul.proxies import trackers

RIDERS = {"events": trackers.learning_events(), "gradients": trackers.cumulative_gradient(2)}
CASES = {
  "resnet": ("resnet", {}),
  "adamw, weighting, microbatches": (
    "mlp",
    {
      "optimizer": functools.partial(optax.adamw, weight_decay=0.1),
      "weighting": train.LossTruncation(0.2, window=16),
      "microbatch": 4,
    },
  ),
}


class Killed(Exception):
  """Stands for a kill."""


def killed_after(epochs, monkeypatch, *given, **more):
  """Calls `fit` and stops it before it saves one epoch more."""
  write, left = _saved_runs.write_sealed, [epochs]

  def stopping(*args):
    if not left[0]:
      raise Killed
    left[0] -= 1
    write(*args)

  with monkeypatch.context() as patch:
    patch.setattr(_saved_runs, "write_sealed", stopping)
    with pytest.raises(Killed):
      train.fit(*given, **more)


def everything(fit):
  return fit.network.params, fit.network.state, fit.scores, fit.history


def names(folder):
  return sorted(file.name for file in folder.iterdir())


def one_line(message):
  return pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z")


def case(name):
  network, changes = CASES[name]
  model, shape = NETWORKS[network]
  return recipe(model, epochs=4, **changes), toy(shape), KEY


@pytest.mark.rounding
@pytest.mark.parametrize("name", CASES)
def test_a_saved_run_has_the_bits_of_one_that_is_not(name, tmp_path):
  """XLA could round otherwise in a program of one epoch; it was not seen to."""
  want, got = (
    train.fit(*case(name), trackers=RIDERS, checkpoints=folder) for folder in (None, tmp_path)
  )
  same_bits(everything(got), everything(want))


@pytest.mark.parametrize("name", CASES)
def test_what_goes_on_has_the_bits_of_an_undisturbed_run(name, tmp_path, monkeypatch):
  given = case(name)
  want = train.fit(*given, trackers=RIDERS, checkpoints=tmp_path / "undisturbed")
  folder = tmp_path / "run"
  for _ in range(2):
    killed_after(1, monkeypatch, *given, trackers=RIDERS, checkpoints=folder)
  assert names(folder) == ["epoch-000001.npz", "epoch-000002.npz"]
  got = train.fit(*given, trackers=RIDERS, checkpoints=str(folder))
  same_bits(everything(got), everything(want))
  assert got.ids.tolist() == want.ids.tolist()
  assert names(folder) == ["epoch-000003.npz", "epoch-000004.npz"]
  again = train.fit(*given, trackers=RIDERS, checkpoints=folder)  # nothing is left to train
  same_bits(everything(again), everything(want))
  assert not any(leaf.committed for leaf in jax.tree.leaves(again.network))


TRACES = []


def counted(key, inputs):
  del key
  TRACES.append(inputs.shape)
  return inputs


def times(params, inputs):
  return params["scale"] * inputs @ params["kernel"]


def weak(key, inputs):
  """A network one of whose params has a weak type until it is first trained."""
  del inputs
  return bind(times, {"kernel": jax.random.normal(key, (6, 3)), "scale": jnp.asarray(1.0)})


def test_all_epochs_are_one_trace(tmp_path, monkeypatch):
  assert weak(KEY, None).params["scale"].weak_type
  given = (recipe(weak, epochs=5, augment=counted), toy(), KEY)
  killed_after(1, monkeypatch, *given, checkpoints=tmp_path)
  traced = len(TRACES)
  train.fit(*given, checkpoints=tmp_path)
  train.fit(*given, checkpoints=tmp_path / "other")
  assert len(TRACES) == traced > 0


def test_a_damaged_epoch_is_said_and_the_one_before_is_used(tmp_path):
  given = (recipe(epochs=4), toy(), KEY)
  want = train.fit(*given, checkpoints=tmp_path)
  for damaged in (["epoch-000004.npz"], ["epoch-000003.npz", "epoch-000004.npz"]):
    for name in damaged:
      content = bytearray((tmp_path / name).read_bytes())
      content[len(content) // 2] ^= 1
      (tmp_path / name).write_bytes(content)
    with pytest.warns(UserWarning, match="damaged: training goes on from the epoch") as caught:
      got = train.fit(*given, checkpoints=tmp_path)
    assert len(caught) == len(damaged)
    assert all(name in str(each.message) for each, name in zip(caught, damaged[::-1], strict=True))
    same_bits(everything(got), everything(want))
    assert names(tmp_path) == ["epoch-000003.npz", "epoch-000004.npz"]
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    train.fit(*given, checkpoints=tmp_path)  # whole again


def test_an_epoch_under_the_name_of_another_is_damaged(tmp_path):
  given = (recipe(epochs=3), toy(), KEY)
  want = train.fit(*given, checkpoints=tmp_path)
  (tmp_path / "epoch-000002.npz").rename(tmp_path / "epoch-000003.npz")
  with pytest.warns(UserWarning, match="epoch-000003.npz is damaged"):
    got = train.fit(*given, checkpoints=tmp_path)
  same_bits(everything(got), everything(want))


def test_what_a_killed_write_left_is_removed_and_other_files_stay(tmp_path):
  (tmp_path / ".epoch-000001.npz.abc.tmp").write_bytes(b"half")
  (tmp_path / "notes.txt").write_text("mine")
  train.fit(recipe(epochs=1), toy(), KEY, checkpoints=tmp_path)
  assert names(tmp_path) == ["epoch-000001.npz", "notes.txt"]


def scaled(factor):
  """A tracker whose functions are local ones, and hold a number."""
  return train.Tracker(
    lambda n: jnp.zeros(n),
    lambda sums, step: sums.at[step.rows].add(factor * step.losses, mode="drop"),
    lambda sums: {"scaled": sums},
  )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved")
  given = {"recipe": recipe(epochs=1), "dataset": toy(), "key": KEY}
  given |= {"trackers": {"a": scaled(1.0)}, "checkpoints": folder}
  return given, train.fit(**given)


@pytest.mark.parametrize(
  ("changes", "which"),
  [
    ({"recipe": recipe(epochs=2)}, "recipe"),
    ({"recipe": recipe(epochs=1, microbatch=4)}, "recipe"),
    ({"dataset": toy(seed=1)}, "data"),
    ({"ids": toy().ids[1:]}, "data, ids"),
    ({"key": jax.random.key(4)}, "key"),
    ({"trackers": {}}, "trackers"),
    ({"trackers": {"b": scaled(1.0)}}, "trackers"),
    ({"trackers": {"a": scaled(2.0)}}, "trackers"),
  ],
)
def test_the_folder_of_another_run_is_refused(saved, changes, which):
  given, _ = saved
  folder = given["checkpoints"]
  before = {name: (folder / name).read_bytes() for name in names(folder)}
  with one_line(rf"of another run: {which} differ\. Use another folder\."):
    train.fit(**given | changes)
  assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_every_tracker_of_the_library_has_a_text_of_its_own():
  made = [getattr(trackers, name)() for name in trackers.__all__]
  made += [trackers.loss_iqr(0.9), trackers.curvature(num_probes=2), trackers.vog(every=2)]
  found = {
    _saved_runs.identity_of(_runs.Task(recipe(), (each,)), ("a",), toy(), KEY)["trackers"]
    for each in made
  }
  assert len(found) == len(made) > 10


def test_the_same_run_told_otherwise_is_not_another(saved):
  given, want = saved
  order = np.random.default_rng(0).permutation(len(given["dataset"]))
  other = {"dataset": given["dataset"].take(given["dataset"].ids[order])}
  other |= {"ids": given["dataset"].ids[order], "trackers": {"a": scaled(1.0)}}
  same_bits(everything(train.fit(**given | other)), everything(want))


def test_settings_of_jax_are_part_of_a_run(saved):
  given, _ = saved
  with jax.default_matmul_precision("float32"), one_line("of another run: settings differ"):
    train.fit(**given)


def test_what_cannot_be_saved_is_refused(tmp_path):
  file = tmp_path / "file"
  file.write_text("mine")
  with one_line("file', which is a file. Name a folder"):
    train.fit(recipe(), toy(), KEY, checkpoints=file)
  with one_line("is a URL, must be a local path"):
    train.fit(recipe(), toy(), KEY, checkpoints="gs://bucket/run")
  with one_line("cannot be told from another such function.*could not be resumed"):
    unnamed = recipe(lambda key, inputs: models.init(MLP, key, inputs))
    train.fit(unnamed, toy(), KEY, checkpoints=tmp_path)
  with one_line("fit got checkpoints for a learner"):
    train.fit(lambda examples, key: None, toy(), KEY, checkpoints=tmp_path)


def carries_all_kinds(params, state, inputs, key, mask):
  del mask
  dropped = jax.random.bernoulli(jax.random.fold_in(state["key"], 0), 0.5, inputs.shape)
  new = {"key": jax.random.split(state["key"])[0], "first": jnp.zeros((), bool)}
  return jnp.where(dropped, 0, inputs) @ params, new | {"last": key}


def all_kinds(key, inputs):
  del inputs
  state = {"key": key, "first": jnp.ones((), bool), "last": key}
  weights = jax.random.normal(key, (6, 3), jnp.bfloat16)
  return bind(lambda v, x: x @ v["params"], weights, state, carries_all_kinds)


def test_keys_and_bfloat16_come_back_as_they_were(tmp_path, monkeypatch):
  given = (recipe(all_kinds, epochs=3), toy(), KEY)
  want = train.fit(*given, checkpoints=tmp_path / "undisturbed")
  killed_after(2, monkeypatch, *given, checkpoints=tmp_path)
  got = train.fit(*given, checkpoints=tmp_path)
  assert got.network.params.dtype == jnp.bfloat16
  data = [
    jax.tree.map(
      lambda leaf: (
        jax.random.key_data(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf, np.float32)
      ),
      (fit.network.params, fit.network.state),
    )
    for fit in (got, want)
  ]
  same_bits(*data)


def test_a_run_that_diverges_says_the_same_and_is_not_saved_beyond(tmp_path):
  given = (recipe(epochs=4, learning_rate=1e30, schedule=train.MultiStep((0,), 1.0)), toy(), KEY)
  fits = []
  for more in ({}, {"checkpoints": tmp_path}, {"checkpoints": tmp_path}):
    with pytest.raises(train.Diverged, match="diverged in epoch") as caught:
      train.fit(*given, **more)
    fits.append((str(caught.value), everything(caught.value.fit)))
  assert fits[0][0] == fits[1][0] == fits[2][0]
  same_bits(fits[1][1], fits[2][1])
  for got, want in zip(*map(jax.tree.leaves, (fits[0][1], fits[1][1])), strict=True):
    np.testing.assert_allclose(got, want, 1e-5)


# Keeps the outputs of the last step: left to XLA, they would stay on the devices of their rows.
LAST = train.Tracker(
  lambda n: jnp.zeros((8, 3)),
  lambda last, step: step.logits,
  lambda last: {"last": last},
)


def test_a_run_on_devices_goes_on(tmp_path, monkeypatch, eight):
  given = {"recipe": recipe(epochs=3), "dataset": toy(), "key": KEY, "trackers": {"last": LAST}}
  spread = given | {"devices": eight[:4]}
  programs = _saved_runs._epoch._cache_size()
  want = train.fit(**spread, checkpoints=tmp_path / "undisturbed")
  killed_after(1, monkeypatch, **spread, checkpoints=tmp_path)
  got = train.fit(**spread, checkpoints=tmp_path)
  assert _saved_runs._epoch._cache_size() == programs + 1
  same_bits(everything(got), everything(want))
  assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(got.network))
  (tmp_path / "epoch-000003.npz").unlink()
  fewer = train.fit(**given, checkpoints=tmp_path)  # the same run, on one device
  assert difference(params_of(fewer), params_of(want)) < 1e-5


WORK = """
import sys
from fits import KEY, recipe, toy
from jaxmul import train
from jaxmul._identity import digest
from jaxmul.proxies import trackers
fit = train.fit(
  recipe(epochs=400), toy(), KEY, trackers={"events": trackers.learning_events()},
  checkpoints=sys.argv[1])
print(digest(fit.network.params, fit.scores, *fit.history))
"""


def test_three_kills_do_not_change_a_bit(tmp_path):
  rng, folder, kills = np.random.default_rng(0), tmp_path / "killed", 3
  tests = Path(__file__).parent
  environment = os.environ | {"PYTHONPATH": str(tests)}

  def started(path):
    command = [sys.executable, "-c", WORK, str(path)]
    return subprocess.Popen(
      command, env=environment, cwd=tests.parent, stdout=subprocess.PIPE, text=True
    )

  def last():
    return max((file.name for file in folder.glob("epoch-*.npz")), default="")

  before = ""
  for _ in range(kills):
    work = started(folder)
    while last() <= before and work.poll() is None:
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.05))
    assert work.poll() is None, "it ended before it was killed: raise its epochs"
    os.kill(work.pid, signal.SIGKILL)
    work.communicate()
    before = last()
  assert "epoch-000001.npz" < before < "epoch-000400.npz"
  killed, quiet = (started(path).communicate()[0] for path in (folder, tmp_path / "quiet"))
  assert killed == quiet != ""
