"""What is on disk is whole, or noticed and computed again; nothing finished is lost."""

import os
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest
import toys

from jaxmul import _files, memorization, models, retraining, train
from jaxmul.data import Dataset

RECIPE = train.Recipe(models.mlp((4,), 2), epochs=3, batch_size=8)
TOY = Dataset(np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32), np.arange(12) % 2)


def schedule(num_models=12, key=0, **changes):
  return retraining.leave_out(
    RECIPE, changes.get("data", TOY), jax.random.key(key), num_models=num_models, chunk_size=4
  )


@pytest.fixture(scope="module")
def chunks():
  return dict(retraining.serial(schedule(), range(3)))


@pytest.fixture
def store(tmp_path, chunks):
  kept = retraining.Store(tmp_path / "store", schedule())
  for number, chunk in chunks.items():
    kept.commit(number, chunk)
  return kept


def same(a, b):
  try:
    np.testing.assert_equal(vars(a), vars(b))  # NaN equals NaN
  except AssertionError:
    return False
  return True


def test_round_trip(store, chunks):
  read = store.load(range(3))
  assert all(same(read[number], chunks[number]) for number in range(3))


def test_damage_is_noticed_and_not_taken_for_another_schedule(store):
  file = store.path / "chunk-000001.jaxmul"
  scheduled = schedule()
  for copy in toys.damaged_copies(file.read_bytes()):
    file.write_bytes(copy)
    with pytest.warns(UserWarning, match=r"1 damaged chunks .* chunk-000001"):
      assert set(store.load(range(3))) == {0, 2}
    retraining.Store(store.path, scheduled)


def test_a_foreign_or_huge_file_is_noticed(store):
  (store.path / "chunk-000000.jaxmul").write_bytes(b"\0" * 10_000_000)
  with pytest.warns(UserWarning, match="chunk-000000"):
    assert set(store.load(range(3))) == {1, 2}


def test_a_chunk_of_an_older_version_is_computed_again_and_never_read_as_zeros(store, chunks):
  """Before, chunks held no sums of squares and no accuracy of tokens."""
  arrays = {k: v for k, v in vars(chunks[1]).items() if "_sq_" not in k and k[:8] != "accuracy"}
  assert len(arrays) == len(vars(chunks[1])) - 6
  content = store.schedule.hash.encode() + b"\n" + _files.npz(arrays)
  _files.write_sealed(store.path / "chunk-000001.jaxmul", content, "line")
  with pytest.warns(UserWarning, match=r"1 damaged chunks .* of an older version.*: chunk-000001"):
    assert store.missing() == [1]
  with pytest.warns(UserWarning, match=r"of an older version, are computed again: chunk-000001"):
    found = list(retraining.stream(store.schedule, store=store.path, executor=retraining.serial))
  assert all(same(chunk, chunks[number]) for number, chunk in enumerate(found))
  assert store.missing() == []


def test_what_a_killed_writer_left_is_removed_and_what_one_writes_now_is_not(store):
  old, new = (store.path / f".chunk-000001.jaxmul.{name}.tmp" for name in "ab")
  for file in (old, new):
    file.write_bytes(b"half a chunk")
  os.utime(old, (0, 0))
  store.describe()
  assert not old.exists()
  assert new.exists()


def test_estimate_computes_only_what_is_missing(store, chunks):
  (store.path / "chunk-000001.jaxmul").unlink()
  computed = []

  def watched(schedule, numbers):
    computed.extend(numbers)
    return retraining.serial(schedule, numbers)

  def estimate(num_models=12, **options):
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # examples that were never left out
      asked = retraining.leave_out(RECIPE, TOY, jax.random.key(0), num_models=num_models)
      return memorization.estimate(asked, executor=watched, **options)

  # chunk_size is part of a schedule: this one has the default, so it has a store of its own.
  folder = store.path / "own"
  whole = estimate(store=folder)
  assert computed == [0, 1]
  again = estimate(store=folder)
  assert computed == [0, 1]
  assert same(whole, again)
  (folder / "chunk-000000.jaxmul").unlink()
  assert same(estimate(store=folder), whole)
  assert computed == [0, 1, 0]
  estimate(20, store=folder)  # more models: the part chunk is computed whole, the full one kept
  assert computed == [0, 1, 0, 1, 2]
  assert same(estimate(store=folder), whole)  # fewer again: nothing was replaced
  estimate(20, store=folder)
  assert computed == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(
  "other",
  [{"key": 1}, {"data": Dataset(TOY.inputs + np.float32(1), TOY.labels)}],
)
def test_a_store_made_by_another_schedule_is_refused(store, other):
  with pytest.raises(ValueError, match=r"made by another schedule .* Use another folder") as caught:
    retraining.Store(store.path, schedule(**other))
  assert "\n" not in str(caught.value)


def test_the_description_is_written_read_and_mended(tmp_path, chunks):
  kept = retraining.Store(tmp_path, schedule())
  kept.describe()
  kept.commit(0, chunks[0])
  file = tmp_path / "schedule.jaxmul"
  whole = file.read_bytes()
  found = retraining.status(tmp_path)
  assert (found.done, found.num_models, found.damaged) == (4, 12, ())
  assert found.design == "12 models, each without 4 of all of 12 examples"
  for copy in toys.damaged_copies(whole):
    file.write_bytes(copy)
    assert retraining.status(tmp_path).damaged == ("schedule.jaxmul",)
    with pytest.warns(UserWarning, match=r"schedule\.jaxmul was damaged and is written again"):
      kept.describe()
    assert file.read_bytes() == whole
  with pytest.raises(FileNotFoundError, match="there is no store"):
    retraining.status(tmp_path / "elsewhere")


LIMITED = """
import encodings.cp437  # zipfile asks for it late, when its folder may be closed to this user
import os, resource, sys
sys.path.insert(0, {folder!r})
import test_store as t
{limit}
chunk = dict(t.retraining.serial(t.schedule(), [1]))[1]
try:
  t.retraining.Store({store!r}, t.schedule()).commit(1, chunk)
except OSError as error:
  print("OSError", error)
"""


@pytest.mark.parametrize(
  ("limit", "said"),
  [
    ("resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))", "File too large"),
    ("os.geteuid() == 0 and os.setuid(65534)", "Permission denied"),
  ],
)
def test_a_full_disk_or_a_read_only_folder_loses_nothing(store, limit, said):
  before = {file.name: file.read_bytes() for file in store.path.iterdir()}
  store.path.chmod(0o555)
  for folder in [store.path.parent, *store.path.parent.parents][:3]:
    folder.chmod(folder.stat().st_mode | 0o055)
  if "FSIZE" in limit:
    store.path.chmod(0o755)
  code = LIMITED.format(folder=os.path.dirname(__file__), limit=limit, store=str(store.path))
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
  assert done.stdout.startswith("OSError"), done.stderr
  assert said in done.stdout
  store.path.chmod(0o755)
  assert {file.name: file.read_bytes() for file in store.path.iterdir()} == before


def test_two_processes_on_one_store_lose_and_repeat_nothing(tmp_path):
  folder = tmp_path / "shared"
  code = WORK.format(folder=os.path.dirname(__file__), store=str(folder), models=80)
  both = [
    subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) for _ in range(2)
  ]
  assert [work.wait(timeout=200) for work in both] == [0, 0]
  assert len(list(folder.iterdir())) == 11  # ten chunks and the description
  asked = retraining.leave_out(RECIPE, TOY, jax.random.key(0), num_models=80)
  read = memorization.estimate(asked, store=folder, executor=None)
  whole = memorization.estimate(asked, executor=retraining.serial)
  assert read.digest == whole.digest


WORK = """
import sys, jax, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {folder!r})
import test_store as t
from jaxmul import memorization, retraining
print("ready", flush=True)
asked = retraining.leave_out(t.RECIPE, t.TOY, jax.random.key(0), num_models={models})
memorization.estimate(asked, store={store!r}, executor=retraining.serial, progress=False)
"""


def test_killed_at_any_time_it_goes_on_with_the_same_result(tmp_path):
  folder, rng = tmp_path / "killed", np.random.default_rng(0)
  code = WORK.format(folder=os.path.dirname(__file__), store=str(folder), models=400)
  for _ in range(5):
    work = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert work.stdout is not None
    work.stdout.readline()
    before = len(list(folder.glob("chunk-*")))
    deadline = time.monotonic() + 60
    while len(list(folder.glob("chunk-*"))) <= before and time.monotonic() < deadline:
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.1))
    work.send_signal(signal.SIGKILL)
    work.wait()
    work.stdout.close()
  found = len(list(folder.glob("chunk-*")))
  assert found >= 5
  asked = retraining.leave_out(RECIPE, TOY, jax.random.key(0), num_models=400)
  resumed, whole = (
    memorization.estimate(asked, store=path, executor=retraining.serial) for path in (folder, None)
  )
  assert same(resumed, whole)


def test_a_chunk_too_large_to_be_read_is_not_written(store, chunks, monkeypatch):
  monkeypatch.setattr(retraining.Store, "_limit", 700)
  before = store.path.joinpath("chunk-000001.jaxmul").read_bytes()
  says = r"\A\S+ has \d+ bytes, and no more than 700 are read\. Keep .* fewer test examples\.\Z"
  with pytest.raises(ValueError, match=says):
    store.commit(1, chunks[2])
  assert store.path.joinpath("chunk-000001.jaxmul").read_bytes() == before


def test_a_folder_that_cannot_be_written_gets_one_error_and_keeps_what_was_finished(
  store, chunks, monkeypatch
):
  def full(descriptor):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match="No space left"):
    store.commit(1, chunks[2])
  monkeypatch.undo()
  assert same(store.load([1])[1], chunks[1])
  assert not list(store.path.glob(".*tmp"))
