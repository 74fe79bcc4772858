"""Training that reads its examples as it goes has the numbers of training in memory."""

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fits import KEY, MLP, NETWORKS, difference, params_of, recipe, same_bits, toy

from experiments.bench import machine
from experiments.bench.streaming import PEAK
from jaxmul import _arrays, _read_ahead, _reading, bind, data, models, train
from jaxmul.data import Streamed
from jaxmul.proxies import trackers

pytest.importorskip("grain", reason="grain is not installed")
ROOT = Path(__file__).parents[1]
EVENTS = {"events": trackers.learning_events(), "forgotten": trackers.forgetting_events()}


def noisy(key, inputs):
  return inputs + 0.1 * jax.random.normal(key, inputs.shape)


CASES = {
  "mlp": ("mlp", {}),
  "cnn": ("cnn", {"augment": noisy}),
  "resnet": ("resnet", {"augment": noisy}),
  "mlp in microbatches": ("mlp", {"microbatch": 4, "weighting": train.LossTruncation(0.2, 16)}),
}


class Counted:
  """A source that counts what is read of it, by whom."""

  def __init__(self, examples):
    self.examples, self.counts, self.threads = examples, np.zeros(len(examples), int), set()
    self.lock = threading.Lock()

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    with self.lock:
      self.counts[index] += 1
      self.threads.add(threading.current_thread().name)
    return self.examples[index]


def source_of(dataset):
  """Examples stand at their ids; between them is nothing that may be read."""
  source = [None] * (max(dataset.ids) + 5)
  for id, image, label in zip(dataset.ids, dataset.inputs, dataset.labels, strict=True):
    source[id] = {"image": image, "label": label}
  return source


def streamed(dataset, **more):
  return Streamed(source_of(dataset), 3, **{"ids": dataset.ids} | more)


def everything(fit):
  return fit.network.params, fit.network.state, fit.scores, fit.history, fit.ids


def both(name, devices=None, **more):
  network, changes = CASES[name]
  model, shape = NETWORKS[network]
  dataset = toy(shape)
  chosen = None if devices is None else jax.devices()[:devices]
  return [
    train.fit(recipe(model, **changes), given, KEY, trackers=EVENTS, devices=chosen, **more)
    for given in (dataset, streamed(dataset))
  ]


@pytest.mark.parametrize("name", CASES)
def test_a_streamed_fit_is_one_in_memory(name):
  memory, stream = both(name)
  assert difference(everything(memory), everything(stream)) < 1e-6
  assert memory.scores.keys() == stream.scores.keys() > {"forgetting_events"}


@pytest.mark.rounding
@pytest.mark.parametrize("name", CASES)
def test_a_streamed_fit_has_the_bits_of_one_in_memory(name):
  """XLA could round otherwise in a program of one step; it was not seen to."""
  memory, stream = both(name)
  same_bits(everything(stream), everything(memory))


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("name", "devices"), [("mlp", 1), ("cnn", 8), ("resnet", 4)])
def test_devices_get_their_parts_of_each_batch(name, devices):
  """The ResNet is dealt 7 examples a step, which 4 devices divide only with padding."""
  memory, stream = both(name, devices)
  assert difference(everything(memory), everything(stream)) < 1e-6
  leaf = jax.tree.leaves(stream.network)[0]
  assert leaf.sharding.device_set == set(jax.devices()[:devices])


def test_each_example_is_read_once_an_epoch_and_no_other():
  for name in ("mlp", "resnet"):
    model, shape = NETWORKS[name]
    dataset = toy(shape)
    ids = np.random.default_rng(0).permutation(dataset.ids)[:17]  # of 8, 8 and 1; or 6, 6 and 5
    source = Counted(source_of(dataset))
    config = recipe(model, epochs=3)
    got = train.fit(config, Streamed(source, 3), KEY, ids, EVENTS)
    want = train.fit(config, dataset, KEY, ids, EVENTS)
    assert difference(everything(got), everything(want)) < 1e-6
    times = np.zeros(len(source), int)
    times[ids] = 3
    times[min(ids)] += 1  # the first one says of what shape they are
    np.testing.assert_array_equal(source.counts, times)
    readers = {thread for thread in source.threads if "grain" in thread}
    assert len(source.threads - readers) == 1  # that of the caller, for the first


TRACES = []


def counted(key, inputs):
  del key
  TRACES.append(inputs.shape)
  return inputs


@pytest.mark.parametrize("devices", [None, 2])
def test_all_steps_and_epochs_are_one_trace(devices, monkeypatch):
  """Also of blocks of 1, 3, 3 and 2 steps."""
  monkeypatch.setattr(_read_ahead, "_STEPS", 3)
  chosen = None if devices is None else jax.devices()[:devices]
  before = len(TRACES)
  for seed in range(2):
    given = streamed(toy(n=69, seed=seed), threads=1), KEY
    train.fit(recipe(augment=counted, epochs=4), *given, devices=chosen)
  assert len(TRACES) == before + 1
  assert TRACES[-1] == (8, 6)


def blocked(monkeypatch, steps, threads, name="cnn"):
  """A fit in blocks of so many steps, of 9 an epoch."""
  monkeypatch.setattr(_read_ahead, "_STEPS", steps)
  model, shape = NETWORKS[name]
  given = streamed(toy(shape, n=69), threads=threads), KEY
  return everything(train.fit(recipe(model, augment=noisy), *given, trackers=EVENTS))


SIZES = [(1, 1), (2, 1), (4, 3), (16, 2), (16, 16)]  # the last is an epoch in one block


@pytest.mark.parametrize(("steps", "threads"), SIZES)
def test_blocks_change_no_number(steps, threads, monkeypatch):
  model, shape = NETWORKS["cnn"]
  want = train.fit(recipe(model, augment=noisy), toy(shape, n=69), KEY, trackers=EVENTS)
  assert difference(blocked(monkeypatch, steps, threads), everything(want)) < 1e-6


@pytest.mark.rounding
@pytest.mark.parametrize(("steps", "threads"), SIZES)
def test_blocks_change_no_bit(steps, threads, monkeypatch):
  model, shape = NETWORKS["cnn"]
  want = train.fit(recipe(model, augment=noisy), toy(shape, n=69), KEY, trackers=EVENTS)
  same_bits(blocked(monkeypatch, steps, threads), everything(want))


def test_blocks_are_the_batches_in_memory_that_is_used_again(monkeypatch):
  """What steps may still read, the last two blocks, stays while Grain's threads read ahead."""
  monkeypatch.setattr(_read_ahead, "_STEPS", 4)
  dataset = toy(n=40 * 8)
  reader = _reading.opened(streamed(dataset, threads=2))
  rooms = _read_ahead.Rooms(reader.kept)
  seen, addresses = [], set()
  for epoch in range(3):
    places = np.random.default_rng(epoch).permutation(40 * 8).reshape(40, 8).astype(np.int32)
    steps, before = 0, []
    for block in _read_ahead.blocks(reader, rooms, places):
      assert block.first == steps
      steps += block.size
      seen.append(block.size)
      addresses.add(block.read.inputs.ctypes.data)
      time.sleep(0.01)  # reading goes on
      for each in (*before, block):
        own = places[each.first : each.first + each.size].T
        np.testing.assert_array_equal(each.places[:, : each.size], own)
        np.testing.assert_array_equal(each.read.inputs[:, : each.size], dataset.inputs[own])
        np.testing.assert_array_equal(each.read.labels[:, : each.size], dataset.labels[own])
      before = [block]
    assert steps == 40
  assert seen == 3 * [2, *9 * [4], 2]
  assert len(addresses) <= 4  # two that steps may read, and two that hold the 4 read ahead
  assert not any(address % 64 for address in addresses)
  assert block.read.inputs.dtype == np.float32


def test_padding_is_the_first_example_whatever_was_there():
  dataset = toy()
  reader = _reading.opened(streamed(dataset))
  to = _reading.Read(np.full((4, 6), np.nan, np.float32), np.full(4, 99, np.int32))
  _reading.read(reader, np.array([7, 21, 3, 24]), to)
  np.testing.assert_array_equal(to.inputs, dataset.inputs[[7, 0, 3, 0]])
  np.testing.assert_array_equal(to.labels, dataset.labels[[7, 0, 3, 0]])


def test_a_block_is_bounded_in_bytes(monkeypatch):
  monkeypatch.setattr(_read_ahead, "_BYTES", 3 * 8 * (6 * 4 + 4))
  reader = _reading.opened(streamed(toy(n=69), threads=8))
  places = np.arange(72, dtype=np.int32).reshape(9, 8)
  blocks = _read_ahead.blocks(reader, _read_ahead.Rooms(reader.kept), places)
  assert [block.size for block in blocks] == [3, 3, 3]
  monkeypatch.setattr(_read_ahead, "_BYTES", 1)
  blocks = _read_ahead.blocks(reader, _read_ahead.Rooms(reader.kept), places)
  assert [block.size for block in blocks] == 9 * [1]


def test_a_cpu_takes_a_block_without_a_copy():
  reader = _reading.opened(streamed(toy(n=69)))
  rooms = _read_ahead.Rooms(reader.kept)
  inputs = rooms.of(0, (8, 3)).inputs
  inputs[:] = 1
  assert jax.device_put(inputs).unsafe_buffer_pointer() == inputs.ctypes.data


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells of memory")
def test_blocks_that_are_free_are_given_back():
  """Grain's threads make them: an allocator would keep 20 MiB for each thread, or more."""
  all_there = threading.Barrier(8)

  def make():
    for _ in range(3):  # after the first, glibc takes it from a heap
      block = _arrays.aligned((20, 2**20), np.dtype(np.uint8))
      block[:] = 1
      all_there.wait()
      del block
    all_there.wait()

  before = machine.memory("VmRSS")
  threads = [threading.Thread(target=make) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert machine.memory("VmRSS") - before < 40 * 2**20


def same_as_memory(model, dataset, source):
  want, got = (
    train.fit(recipe(model, epochs=1), given, KEY)
    for given in (dataset, Streamed(source, dataset.num_classes))
  )
  assert difference(params_of(want), params_of(got)) < 1e-6


def test_pixels_and_floats_are_kept_as_in_memory():
  rng = np.random.default_rng(0)
  pixels, labels = rng.integers(0, 256, (21, 6)).astype(np.uint8), rng.integers(0, 3, 21)
  for inputs in (pixels, pixels / 255):
    pairs = list(zip(inputs, labels.tolist(), strict=True))
    same_as_memory(MLP, data.Dataset(inputs, labels, num_classes=3), pairs)


def unigrams(key, tokens):
  """Logits of the next token by the last one."""
  del tokens
  return bind(lambda table, rows: table[rows], jax.random.normal(key, (11, 11)))


def test_tokens_are_kept_as_in_memory():
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 11, (21, 6))
  labels = np.where(rng.random((21, 6)) < 0.3, -1, tokens)
  labels[:, 0] = 10
  same_as_memory(unigrams, data.Dataset(tokens, labels), list(zip(tokens, labels, strict=True)))


def test_a_dict_of_inputs_is_read_as_one():
  def made(key, inputs):
    weights = jax.random.normal(key, (inputs["a"].shape[-1], 3))
    return bind(lambda w, x: x["a"] @ w + x["b"][:, None], weights)

  dataset = toy()
  inputs = {"a": dataset.inputs, "b": dataset.inputs[:, 0]}
  source = [
    ({"a": a, "b": a[0]}, label) for a, label in zip(dataset.inputs, dataset.labels, strict=True)
  ]
  same_as_memory(made, data.Dataset(inputs, dataset.labels), source)


def test_grains_own_data_sets_are_sources():
  import grain

  dataset = toy()
  rows = [{"x": x, "y": y} for x, y in zip(dataset.inputs, dataset.labels, strict=True)]
  source = grain.MapDataset.source(rows).map(lambda row: row | {"x": 2 * row["x"]})
  got = train.fit(recipe(), Streamed(source, 3, inputs="x", label="y"), KEY)
  want = train.fit(recipe(), data.Dataset(2 * dataset.inputs, dataset.labels), KEY)
  assert difference(params_of(got), params_of(want)) < 1e-6


def test_a_run_that_diverges_says_the_same_and_stops_reading():
  dataset = toy()
  config = recipe(epochs=6, learning_rate=1e30, schedule=train.MultiStep((0,), 1.0))
  source = Counted(source_of(dataset))
  fits = []
  for given in (dataset, Streamed(source, 3, ids=dataset.ids)):
    with pytest.raises(train.Diverged, match="diverged in epoch") as caught:
      train.fit(config, given, KEY, trackers=EVENTS)
    fits.append(caught.value)
  assert str(fits[0]) == str(fits[1])
  assert difference(everything(fits[0].fit)[:3], everything(fits[1].fit)[:3]) < 1e-6
  np.testing.assert_array_equal(*(np.isnan(fit.fit.history) for fit in fits))
  assert source.counts.max() < 6


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_saved_run_goes_on_without_what_was_read(epochs, tmp_path, monkeypatch):
  dataset = toy(NETWORKS["resnet"][1])
  config = recipe(NETWORKS["resnet"][0], epochs=4, augment=noisy)
  source = Counted(source_of(dataset))
  given = Streamed(source, 3, ids=dataset.ids), KEY
  from jaxmul import _saved_runs

  write, left = _saved_runs.write_sealed, [epochs]

  def stopping(*args):
    left[0] -= 1
    if left[0] < 0:
      raise KeyboardInterrupt
    write(*args)

  with monkeypatch.context() as patch:
    patch.setattr(_saved_runs, "write_sealed", stopping)
    with pytest.raises(KeyboardInterrupt):
      train.fit(config, *given, trackers=EVENTS, checkpoints=tmp_path)
  source.counts[:] = 0
  got = train.fit(config, *given, trackers=EVENTS, checkpoints=tmp_path)
  want = train.fit(config, *given, trackers=EVENTS)
  same_bits(everything(got), everything(want))
  assert source.counts.max() == (4 - epochs + 1) + (4 + 1)
  other = Streamed([(np.zeros((4, 4, 2), np.float32), 0)] * 100, 3, ids=dataset.ids)
  with refused("of another run: data differ"):
    train.fit(config, other, KEY, trackers=EVENTS, checkpoints=tmp_path)


def refused(message, kind=ValueError):
  return pytest.raises(kind, match=rf"\A[^\n]*{message}[^\n]*\Z")


def test_a_bad_record_is_refused():
  pairs = [(np.zeros(6, np.float32), 0)] * 4
  with refused(r"Streamed got a generator, needs a source with len\(source\)"):
    Streamed((pair for pair in pairs), 3)
  with refused("num_classes=0"):
    Streamed(pairs, 0)
  with refused("threads=0"):
    Streamed(pairs, 3, threads=0)
  with refused(r"got id 4, must be a position in the source, in \[0, 4\)"):
    Streamed(pairs, 3, ids=[1, 4])
  with refused("id 1 more than once"):
    Streamed(pairs, 3, ids=[1, 1])
  with refused("id 3 is not in the data"):
    Streamed(pairs, 3, ids=[1, 2]).take([3])
  assert Streamed(pairs, 3, ids=[3, 1, 2]).take([2, 3]).ids.tolist() == [2, 3]


GOOD = (np.zeros(6, np.float32), 2)
BAD = [
  ((GOOD[0], 3), r"label 3, outside \[0, 3\)"),
  ((GOOD[0], -1), r"label -1, outside"),
  ((GOOD[0], 2**64 - 1), r"label 18446744073709551615, outside \[0, 3\)"),
  ((np.full(6, np.nan, np.float32), 0), "hold nan"),
  (b"png", "an example is a bytes"),
  (None, "an example is a NoneType"),
  ({"inputs": 3}, r"has no 'image', but \['inputs'\]"),
  ((GOOD[0],), "has no 1, but 1 parts"),
  (("path.png", 0), "it holds a str, must be an array of numbers"),
]
UNLIKE = [
  ((GOOD[0], 1.0), r"label float64 \[\], but the first one"),
  ((np.zeros(5, np.float32), 0), r"has inputs float32 \[5\], label .*, but the first one inputs"),
  ((np.zeros(6, np.uint8), 0), r"inputs uint8 \[6\], label .*, but the first one inputs float32"),
  ({"image": {"a": GOOD[0]}, "label": 0}, r"has a float32 \[6\], .* but the first one inputs"),
  ((np.zeros(6, np.float32), [0, 1]), r"label int64 \[2\], but the first"),
  ((np.zeros(6, np.float32), np.zeros(2, np.uint64)), r"label uint64 \[2\], but the first"),
]


@pytest.mark.parametrize(
  ("bad", "message", "place"),
  [
    *((bad, message, place) for bad, message in BAD for place in (0, 13)),
    *((bad, message, 13) for bad, message in UNLIKE),  # the first one says what all are
    ((GOOD[0], 1.0), "integer labels, got float64", 0),
  ],
)
def test_a_bad_example_is_named_by_its_id(bad, message, place):
  source = [GOOD] * 21
  source[place] = bad
  with refused(rf"example {place} of the source: .*({message})") as caught:
    train.fit(recipe(), Streamed(source, 3), KEY)
  assert str(caught.value).count("fit ") == 1


def test_an_unscored_position_is_no_label_that_is_too_large():
  """In 64 bits 2**64 - 1 is -1, which stands for a position that is not scored."""
  tokens = np.array([4, 0, 10, 3], np.uint64)
  wrong = np.array([4, 0, 2**64 - 1, 3], np.uint64)
  source = [(tokens.astype(np.int64), tokens)] * 21
  source[13] = (source[0][0], wrong)
  with refused(r"example 13 of the source: .*label 18446744073709551615, outside \[0, 11\)"):
    train.fit(recipe(unigrams), Streamed(source, 11), KEY)


def test_a_token_that_is_none_is_named_as_what_may_have_diverged():
  """In memory it is refused; of tokens that are read as it goes only NaN tells."""
  tokens = np.random.default_rng(0).integers(0, 11, (21, 6))
  source = list(zip(tokens, tokens, strict=True))
  source[13] = (np.where(np.arange(6) == 2, 50, tokens[13]), tokens[13])
  model = models.gpt(11, length=6, width=8, depth=1, heads=2)
  with pytest.raises(train.Diverged, match="unless a token is above what the network embeds"):
    train.fit(recipe(model, epochs=1), Streamed(source, 11), KEY)


def test_a_source_that_fails_is_named_by_the_id():
  class Broken(Counted):
    def __getitem__(self, index):
      if index == 17:
        raise OSError("the disk\nis gone")
      return super().__getitem__(index)

  with refused("read example 17 of the source: it failed with OSError: the disk"):
    train.fit(recipe(), Streamed(Broken([GOOD] * 21), 3), KEY)


def test_what_fit_cannot_do_with_a_source_is_refused(monkeypatch):
  given = streamed(toy())
  with refused("got a Streamed for a learner"):
    train.fit(lambda examples, key: None, given, KEY)
  with refused("no training examples"):
    train.fit(recipe(), given, KEY, ids=[])
  with refused("id 0 is not in the data"):
    train.fit(recipe(), given, KEY, ids=[0])
  with refused("num_classes=4, but a network of 3 outputs. Give it 4"):
    train.fit(recipe(), Streamed(given.source, 4, ids=given.ids), KEY)
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, "find_spec", lambda name, *more: None if name == "grain" else find(name, *more)
  )
  with refused(r"pip install 'jaxmul\[grain\]'", ImportError):
    train.fit(recipe(), given, KEY)


def test_memory_does_not_grow_with_the_data():
  """In memory, 20,000 images would be 234 MiB, and on a CPU as many again on the device."""
  one_device = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "PYTHONPATH": str(ROOT)}
  ours = np.ones(2**27)  # 1 GiB: what this process takes is not theirs
  works = [
    subprocess.Popen(
      [sys.executable, "-c", PEAK, str(size)],
      env=os.environ | one_device,
      stdout=subprocess.PIPE,
      text=True,
    )
    for size in (6_000, 20_000)  # of 2,000 all blocks would not be there at once
  ]
  small, large = (float(work.communicate()[0]) for work in works)
  assert 100 < small < ours.nbytes / 2**20
  assert abs(large - small) < 0.08 * small, (small, large)


PROCESS = """
import sys
import jax, numpy as np
port, number, count = sys.argv[1:4]
if count == "2":
  jax.distributed.initialize("localhost:" + port, 2, int(number))
import test_streamed
from fits import KEY, NETWORKS, recipe, toy
from jaxmul import train
from jaxmul.data import Streamed
dataset = toy(NETWORKS["mlp"][1])
source = test_streamed.Counted(test_streamed.source_of(dataset))
fit = train.fit(
  recipe(NETWORKS["mlp"][0], epochs=3), Streamed(source, 3, ids=dataset.ids), KEY,
  trackers=test_streamed.EVENTS, devices=jax.devices())
assert len(jax.devices()) == 4
leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((fit.network, fit.history, fit.scores))]
np.savez(sys.argv[4], source.counts[dataset.ids], *leaves)
"""


def test_processes_read_their_own_rows_of_each_batch(tmp_path):
  def started(number, count, port):
    devices = f"--xla_force_host_platform_device_count={4 // count}"
    file = tmp_path / f"{number} of {count}.npz"
    command = [sys.executable, "-c", PROCESS, port, str(number), str(count), str(file)]
    environment = os.environ | {"XLA_FLAGS": devices, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return file, subprocess.Popen(
      command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )

  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = str(free.getsockname()[1])
  works = [started(0, 2, port), started(1, 2, port), started(0, 1, port)]
  found = []
  for file, work in works:
    error = work.communicate(timeout=300)[1]
    assert not work.returncode, error
    with np.load(file) as arrays:
      found.append([arrays[name] for name in arrays.files])
  (first, *got), (second, *other), (counts, *want) = found
  for one, two, three in zip(got, other, want, strict=True):
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, three, atol=1e-6)
  opened = np.arange(21) == 0  # the first example says to each process of what shape they are
  np.testing.assert_array_equal(counts, 3 + opened)
  np.testing.assert_array_equal(first + second, 3 + 2 * opened)
  assert 0 < second.sum() < first.sum() < 45
