"""What is saved is read again, whatever its name; or it is refused before work is done for it."""

import dataclasses
import hashlib
import json
import os
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jaxmul
from experiments import logs, paper, rum
from jaxmul import _files, checkpoint, memorization, models, report, retraining, train, unlearn
from jaxmul import rum as refinement
from jaxmul.data import Dataset
from jaxmul.memorization import ChosenInfluence, Estimate
from jaxmul.metrics import oracle

NETWORK = jaxmul.bind(len, {"w": np.arange(6.0).reshape(2, 3)})
TOY = Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
RECIPE = train.Recipe(models.mlp((4,), 2), epochs=1, batch_size=4)

REFUSED = ("a[b]c", "[0-9]", "[", "a]", "a\\b", "gs:", "C:", "no utf-8 \udcff")
NAMES = (
  *("plain", "a*b", "a?b", "{a,b}", " lead", "trail ", "trail.", ".hidden", "..dots", "~", "$HOME"),
  *("a%2Fb", "a#b", "a:b", "a;b", "a|b", "a<b>", "a'b", 'a"b', "-dash", "é", "é", "日本語", "😀"),
  *(
    "new\nline",
    "tab\t",
    "\x01",
    "manifest.json",
    "arrays",
    "chunk-000000.jaxmul",
    "x.npz",
    "x.tmp",
  ),
  *("x" * 255, "x" * 240, "é" * 127, "x" * 250 + ".json"),
)


def estimate():
  arrays = {f.name: np.arange(3.0) for f in dataclasses.fields(Estimate)[:-2]}
  return Estimate(**arrays | {"ids": np.arange(3)}, design="three – of them")


def same(one, other):
  return all(
    np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    for a, b in zip(jax.tree.leaves(vars(one)), jax.tree.leaves(vars(other)), strict=True)
  )


@pytest.mark.parametrize("name", [*NAMES, *REFUSED], ids=lambda name: ascii(name)[:20])
def test_files_under_any_name_and_in_any_folder_are_read_again(tmp_path, name):
  outputs = oracle.Outputs.of_logits(np.arange(2), np.arange(2), np.ones((1, 2, 2), np.float32))
  for folder, file in ((tmp_path / "in", name), (tmp_path / name, "file")):
    path = folder / file
    for text in (b"one", b"two"):
      _files.write_atomic(path, text)
      assert path.read_bytes() == text
    path.unlink()
    estimate().save(path)
    assert same(Estimate.load(path), estimate())
    outputs.save(path)
    assert same(oracle.Outputs.load(path), outputs)
    report.write_arrays(path, {"a": np.arange(3)})
    with np.load(path) as found:
      assert found["a"].tolist() == [0, 1, 2]
    report.write_json(path, {"a": 1})
    path.unlink()
    logs.start(path)(0, {"loss": 1.0})
    assert (path / "log.jsonl").read_text().count("\n") == 1
    assert [each.name for each in folder.iterdir()] == [file]  # nothing is left beside it


@pytest.mark.parametrize("name", [*NAMES, *REFUSED], ids=lambda name: ascii(name)[:20])
def test_checkpoints_under_any_name_are_read_again_or_refused(tmp_path, name):
  path = tmp_path / name / name
  if name in REFUSED:
    for odd in (path, tmp_path / name / "network", tmp_path / "in" / name):
      with pytest.raises(ValueError, match="Name another folder") as caught:
        checkpoint.save(odd, NETWORK)
      assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    return
  for params in (NETWORK, NETWORK.replace(params={"w": -NETWORK.params["w"]})):
    checkpoint.save(path, params)
    np.testing.assert_array_equal(checkpoint.load(path, params).params["w"], params.params["w"])
  assert [each.name for each in path.parent.iterdir()] == [name]


def test_a_long_name_has_a_place_of_its_own_while_it_is_replaced(tmp_path, monkeypatch):
  """A save of one that is cut off between its renames leaves the other one alone."""
  paths = [tmp_path / ("x" * 200 + letter * 50) for letter in "ab"]
  for number, path in enumerate(paths):
    checkpoint.save(path, NETWORK.replace(params={"w": np.full(2, number)}))
    os.rename(path, checkpoint._aside(path))
  for number, path in enumerate(paths):
    with pytest.warns(UserWarning, match="cut off"):
      assert (checkpoint.load(path)["params"]["w"] == number).all()


def test_a_checkpoint_of_an_older_version_under_such_a_path_says_what_to_do(tmp_path, monkeypatch):
  checkpoint.save(tmp_path / "x", NETWORK)
  (tmp_path / "x").rename(tmp_path / "a[b]c")
  checkpoint.verify(tmp_path / "a[b]c")
  with pytest.raises(ValueError, match=r"cannot read a path with '\['.*Name another folder"):
    checkpoint.load(tmp_path / "a[b]c", NETWORK)


@pytest.mark.parametrize("change", ["bits", "a leaf less", "unreadable"])
def test_a_checkpoint_that_reads_back_as_something_else_does_not_take_the_name(
  tmp_path, monkeypatch, change
):
  checkpoint.save(tmp_path / "x", NETWORK)
  read = checkpoint._read

  def strange(folder):
    tree = read(folder)
    if change == "unreadable":
      raise ValueError("NOT_FOUND")
    weights = tree["params"]["w"].copy()
    weights[0, 0] = -0.0  # equal, and another bit
    return {"params": {"w": weights} if change == "bits" else {}}

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "_read", strange)
    with pytest.raises(ValueError, match=r"checkpoint\.save: Orbax .*Name another folder"):
      checkpoint.save(tmp_path / "x", NETWORK)
  assert [each.name for each in tmp_path.iterdir()] == ["x"]
  assert (checkpoint.load(tmp_path / "x")["params"]["w"] == NETWORK.params["w"]).all()


def test_a_file_that_reads_back_as_something_else_does_not_take_the_name(tmp_path, monkeypatch):
  path, fsync = tmp_path / "file", os.fsync
  _files.write_atomic(path, b"before")

  def damaging(handle):
    fsync(handle)
    os.truncate(handle, 3)

  monkeypatch.setattr(os, "fsync", damaging)
  with pytest.raises(OSError, match="what is read back is not what was written"):
    _files.write_atomic(path, b"after")
  assert path.read_bytes() == b"before"
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
  "array",
  [
    np.array([object()]),
    np.array([None]),
    np.ones(2, ml_dtypes.bfloat16),
    jnp.ones(2, jnp.bfloat16),
  ],
)
def test_arrays_that_a_file_does_not_give_back_are_refused(tmp_path, array):
  with pytest.raises(ValueError, match=r"array 'a' of .* does not come back.*Convert") as caught:
    report.write_arrays(tmp_path / "x.npz", {"fine": np.ones(1), "a": array})
  assert "\n" not in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_arrays_come_back_with_every_bit():
  rng = np.random.default_rng(0)
  arrays = {
    str(number): each
    for number, each in enumerate(
      [
        *(np.zeros((0, 3)), np.array(1.5), np.array("é"), np.array([np.nan, -0.0, np.inf])),
        *(np.asfortranarray(rng.random((3, 4))), rng.random((4, 4))[::2, ::-1]),
        *(np.arange(3, dtype=">i4"), np.array([True]), np.float16([1.0]), np.complex64([1j])),
      ]
    )
  }
  assert _files.npz(arrays)


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_stores_of_networks_are_refused_before_the_first_step(tmp_path, name, monkeypatch):
  params = models.init(RECIPE.model, jax.random.key(0), TOY.inputs)
  plan = refinement.Plan([refinement.Step(unlearn.fine_tune(), 1, 4)])
  monkeypatch.setattr(unlearn, "run", never)
  given = (plan, params, TOY, [[0, 1]], jax.random.key(0))
  for call in (
    lambda: refinement.meta_unlearn(*given, store=tmp_path / name),
    lambda: refinement.run(*given, store=tmp_path / name / "below"),
    lambda: next(refinement.stream(*given, score=never, store=tmp_path / name)),
    lambda: rum.Config(checkpoints=True, out=tmp_path / name),
    lambda: paper.main(paper.Config(preset="cifar10", smoke=True, out=tmp_path / name)),
  ):
    with pytest.raises(ValueError, match="Name another folder"):
      call()
  assert not list(tmp_path.iterdir())
  rum.Config(out=tmp_path / name)  # without networks any folder will do


def never(*_, **__):
  raise AssertionError("work was done")


@pytest.mark.parametrize("name", ["a[b]c", "x" * 240, "é "], ids=lambda name: ascii(name)[:20])
def test_ground_truth_and_influence_live_in_any_folder(tmp_path, name):
  given = {"num_models": 4, "test": TOY, "target": "logits"}
  schedule = retraining.leave_out(RECIPE, TOY, jax.random.key(0), **given)
  options = {"executor": retraining.serial, "progress": False}
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # examples that were never left out
    for _ in range(2):
      found = memorization.influence(
        schedule, [1, 4], out=tmp_path / name, store=tmp_path / "chunks" / name, **options
      )
  again = ChosenInfluence.load(tmp_path / name)
  np.testing.assert_array_equal(again.value, found.value)
  assert retraining.status(tmp_path / "chunks" / name).done == 4


def halves(examples, key):
  """A learner of a network that computes in bfloat16."""
  weights = jax.random.normal(key, (examples.inputs.shape[1], 2), jnp.bfloat16)
  return jax.tree_util.Partial(product, weights)


def product(weights, inputs):
  return inputs.astype(jnp.bfloat16) @ weights


def test_outputs_of_bfloat16_networks_are_read_again(tmp_path):
  key = jax.random.key(0)
  schedule = retraining.leave_out(halves, TOY, key, num_models=2, test=TOY, target="logits")
  chunk = retraining.run_chunk(schedule, 0)
  assert chunk.test.dtype == np.float32
  store = retraining.Store(tmp_path / "store", schedule)
  store.commit(0, chunk)
  assert same(store.load([0])[0], chunk)
  params = jaxmul.bind(product, jnp.ones((6, 2), jnp.bfloat16))
  outputs = oracle.outputs([params], TOY, TOY.ids)
  outputs.save(tmp_path / "outputs.npz")
  assert same(oracle.Outputs.load(tmp_path / "outputs.npz"), outputs)


def test_a_chunk_that_no_store_would_read_is_not_written(tmp_path):
  schedule = retraining.leave_out(
    *(RECIPE, TOY, jax.random.key(0)), num_models=2, chunk_size=2, test=TOY, target="logits"
  )
  store = retraining.Store(tmp_path, schedule)
  chunk = retraining.run_chunk(schedule, 0)
  logits = np.random.default_rng(0).random((2, len(TOY), 2**15))  # of a network with more classes
  with pytest.raises(ValueError, match=r"no more than \d+ are read"):
    store.commit(0, dataclasses.replace(chunk, test=logits))
  assert not list(tmp_path.iterdir())
  store.commit(0, dataclasses.replace(chunk, test=logits[..., : 2**13]))
  assert list(store.load([0])) == [0]


# Written by hand: files of before the seals had one implementation have these bytes.
CONTENTS = {
  "line": (
    b"hash\ncontent",
    b"4a72e45a3b3d634e8de151cbed7bf7805ced9f85558abfeb2f832d19d499221b\nhash\ncontent",
  ),
  "json": (
    b'{"format": "x", "b": [1]}',
    b'{\n "b": [\n  1\n ],\n "format": "x",\n "sha256": '
    b'"3fb45ec1d801b4daa9fbaec8b048d966480ee9f46ce434e2e90e4395b1260963"\n}',
  ),
}


@pytest.mark.parametrize("place", CONTENTS)
def test_the_formats_of_sealed_files_stay_as_they_are(tmp_path, place):
  content, data = CONTENTS[place]
  path = tmp_path / "file"
  _files.write_sealed(path, content, place)
  assert path.read_bytes() == data
  found = _files.read_sealed(path, place)
  assert found == content if place == "line" else json.loads(found) == json.loads(content)


def test_a_sealed_archive_is_one_that_numpy_reads(tmp_path):
  path, content = tmp_path / "file", _files.npz({"a": np.arange(3)})
  _files.write_sealed(path, content, "zip")
  data = path.read_bytes()
  assert data[:-66] == content[:-2]  # all but the comment and its length
  assert hashlib.sha256(data[:-64]).hexdigest().encode() == data[-64:]
  with np.load(path) as arrays:
    assert arrays["a"].tolist() == [0, 1, 2]
  assert _files.read_npz(path, ["a"], _files.read_sealed(path, "zip"))["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("place", ["line", "json", "zip"])
def test_any_flipped_bit_and_any_missing_byte_of_a_sealed_file_is_noticed(tmp_path, place):
  path = tmp_path / "file"
  content = _files.npz({"a": np.arange(3)}) if place == "zip" else CONTENTS[place][0]
  _files.write_sealed(path, content, place)
  whole = path.read_bytes()
  copies = [whole[:length] for length in range(len(whole))] + [whole + b"\n"]
  for at in range(8 * len(whole)):
    damaged = bytearray(whole)
    damaged[at // 8] ^= 1 << (at % 8)
    copies.append(bytes(damaged))
  for copy in copies:
    path.write_bytes(copy)
    with pytest.raises(ValueError, match="its SHA-256 does not fit"):
      _files.read_sealed(path, place)


def test_no_sealed_file_is_larger_than_what_is_read(tmp_path):
  path = tmp_path / "file"
  with pytest.raises(ValueError, match="has 72 bytes, and no more than 71 are read"):
    _files.write_sealed(path, b"content", "line", 71)
  assert not list(tmp_path.iterdir())
  _files.write_sealed(path, b"content", "line", 72)
  assert _files.read_sealed(path, "line", 72) == b"content"
  with pytest.raises(ValueError, match="has 72 bytes, and no more than 71 are read"):
    _files.read_sealed(path, "line", 71)


def test_an_archive_that_is_damaged_or_holds_objects_or_lacks_a_name_is_refused(tmp_path):
  path = tmp_path / "file.npz"
  np.savez_compressed(path, a=np.arange(100))
  whole = path.read_bytes()
  with pytest.raises(ValueError, match=r"file\.npz is damaged .*no key 'b'"):
    _files.read_npz(path, ["a", "b"])
  for content in (whole[:80] + bytes([whole[80] ^ 1]) + whole[81:], whole[:90], b"", b"no"):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"\A[^\n]*file\.npz is damaged[^\n]*\Z"):
      _files.read_npz(path)
  np.savez(path, a=np.array([object()]), allow_pickle=True)
  with pytest.raises(ValueError, match="damaged"):
    _files.read_npz(path)
