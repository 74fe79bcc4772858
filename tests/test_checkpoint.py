"""Checkpoints: what comes back is what was saved, or one line that says which file is damaged."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import _files, checkpoint, models


def linear(variables, inputs):
  return inputs @ variables["w"]


def shapes(model, *image):
  """Returns what `models.init` makes, without computing it."""
  return jax.eval_shape(
    lambda key: models.init(model, key, jnp.ones((1, *image))), jax.random.key(0)
  )


def filled(like, seed):
  """Returns `like` with numbers that are all different in place of its leaves."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), like)


@pytest.fixture(scope="module")
def original():
  """A network with BatchNorm statistics."""
  return filled(shapes(models.resnet18(width=8), 32, 32, 3), 0)


@pytest.fixture(scope="module")
def saved(original, tmp_path_factory):
  path = tmp_path_factory.mktemp("saved") / "original"
  checkpoint.save(path, original)
  return path


@pytest.fixture
def copy(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / "copy")


def assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(np.asarray(left), np.asarray(right))


def refusal(call, *args, kind: type[Exception] = ValueError):
  """Returns the message of the error that a call must raise, which must be one line."""
  with pytest.raises(kind) as caught:
    call(*args)
  message = str(caught.value)
  assert "\n" not in message
  assert message.endswith(".")
  return message


def files_of(path):
  return sorted(file for file in path.rglob("*") if file.is_file())


def test_a_network_with_state_comes_back_bit_for_bit(original, saved):
  assert original.state
  like = shapes(models.resnet18(width=8), 32, 32, 3)
  loaded = checkpoint.load(saved, like)
  assert_same((loaded.params, loaded.state), (original.params, original.state))
  assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
  assert (loaded.apply_fn, loaded.train_fn) == (like.apply_fn, like.train_fn)


def test_an_mlp_without_state_comes_back(tmp_path):
  params, like = (filled(shapes(models.mlp((16,)), 8, 8), seed) for seed in (0, 1))
  checkpoint.save(tmp_path / "mlp", params)
  loaded = checkpoint.load(tmp_path / "mlp", like)
  assert_same(loaded.params, params.params)
  assert loaded.state == {}
  inputs = jnp.ones((3, 8, 8))
  np.testing.assert_array_equal(loaded(inputs), params(inputs))
  assert not np.array_equal(loaded(inputs), like(inputs))


def test_without_like_plain_arrays_come_back(original, saved):
  loaded = checkpoint.load(saved)
  assert_same(loaded, {"params": original.params, "state": original.state})
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(loaded))


class Pair(NamedTuple):
  first: jax.Array
  second: list[jax.Array | None]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int8, jnp.uint32, jnp.bool_])
def test_every_dtype_and_container_comes_back(tmp_path, dtype):
  values = jnp.arange(6).reshape(2, 3).astype(dtype)
  tree = {"w": values, "rest": Pair(values[0, 0], [values.T, None, values[:1]])}
  params = jaxmul.bind(linear, tree)
  checkpoint.save(tmp_path / "x", params)
  assert_same(checkpoint.load(tmp_path / "x", params).params, tree)
  plain = checkpoint.load(tmp_path / "x")
  assert plain["state"] is None
  np.testing.assert_array_equal(plain["params"]["rest"]["second"]["2"], np.asarray(values[:1]))


def test_host_arrays_keep_their_64_bits(tmp_path):
  params = jaxmul.bind(linear, {"w": np.array([[1 + 2**-50]])})
  checkpoint.save(tmp_path / "x", params)
  assert checkpoint.load(tmp_path / "x", params).params["w"].dtype == np.float64
  assert_same(checkpoint.load(tmp_path / "x")["params"], params.params)


def test_params_stay_on_the_device_of_like(tmp_path):
  device = jax.devices()[-1]
  params = jaxmul.bind(linear, {"w": jax.device_put(jnp.eye(2), device)})
  checkpoint.save(tmp_path / "x", params)
  loaded = checkpoint.load(tmp_path / "x", params).params["w"]
  assert loaded.committed
  assert loaded.devices() == {device}


def test_300_flipped_bits_are_all_found(saved, copy):
  rng = np.random.default_rng(0)
  files = files_of(copy)
  assert copy / checkpoint.MANIFEST in files
  assert len(files) > 5
  order = np.concatenate([np.arange(len(files)), rng.integers(len(files), size=300 - len(files))])
  for file in (files[at] for at in order):
    content = file.read_bytes()
    damaged = bytearray(content)
    bit = int(rng.integers(8 * len(content)))
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    assert repr(file.relative_to(copy).as_posix()) in refusal(checkpoint.verify, copy)
    file.write_bytes(content)
  assert checkpoint.verify(copy) == checkpoint.verify(saved)


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 0.99])
def test_a_truncated_file_is_found(copy, share):
  for file in files_of(copy):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert repr(file.relative_to(copy).as_posix()) in refusal(checkpoint.verify, copy)
    file.write_bytes(content)
  checkpoint.verify(copy)


def test_a_deleted_file_is_found(copy):
  for file in files_of(copy):
    content = file.read_bytes()
    file.unlink()
    message = refusal(checkpoint.verify, copy)
    assert repr(file.relative_to(copy).as_posix()) in message
    assert "missing" in message
    file.write_bytes(content)
  checkpoint.verify(copy)


@pytest.mark.parametrize("name", ["notes.txt", "arrays/d/extra", "arrays/.hidden", "a\nb"])
def test_an_extra_file_is_found(copy, name):
  (copy / name).write_text("x")
  assert repr(name) in refusal(checkpoint.verify, copy)


def test_a_link_is_not_a_file(copy, saved):
  file = next(file for file in files_of(copy) if file.name == "_METADATA")
  file.unlink()
  file.symlink_to(saved / file.relative_to(copy))
  assert "not a plain file" in refusal(checkpoint.verify, copy)


def test_bytes_that_spell_the_same_manifest_are_found(copy):
  manifest = copy / checkpoint.MANIFEST
  content = json.loads(manifest.read_bytes())
  for text in (json.dumps(content), manifest.read_text() + "\n"):
    manifest.write_text(text)
    assert repr(checkpoint.MANIFEST) in refusal(checkpoint.verify, copy)


@pytest.mark.parametrize(
  "text", ["", "[]", "null", "{}", '{"sha256": 1}', "[" * 100_000, "\ud800", '{"files": {"a": 1}}']
)
def test_a_foreign_manifest_is_refused(copy, text):
  (copy / checkpoint.MANIFEST).write_bytes(text.encode("utf-8", "surrogatepass"))
  assert repr(checkpoint.MANIFEST) in refusal(checkpoint.verify, copy)


@pytest.mark.parametrize("size", [float("inf"), "x", None])
def test_a_sealed_but_malformed_manifest_is_refused(copy, size):
  content = json.loads((copy / checkpoint.MANIFEST).read_bytes())
  del content["sha256"]
  content["files"]["arrays/_METADATA"]["bytes"] = size
  _files.write_sealed(copy / checkpoint.MANIFEST, json.dumps(content).encode(), "json")
  assert repr(checkpoint.MANIFEST) in refusal(checkpoint.verify, copy)


def test_a_later_format_is_refused(copy):
  content = json.loads((copy / checkpoint.MANIFEST).read_bytes())
  del content["sha256"]
  content["format"] = "jaxmul checkpoint 2"
  _files.write_sealed(copy / checkpoint.MANIFEST, json.dumps(content).encode(), "json")
  assert "jaxmul checkpoint 2" in refusal(checkpoint.verify, copy)


def test_orbax_never_sees_a_damaged_checkpoint(copy, original, monkeypatch):
  monkeypatch.setattr(checkpoint, "_read", lambda folder: pytest.fail("Orbax was asked"))
  largest = max(files_of(copy), key=lambda file: file.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  assert "SHA-256" in refusal(checkpoint.load, copy, original)
  assert "SHA-256" in refusal(checkpoint.load, copy)


def test_what_orbax_cannot_read_is_one_line(copy, original, monkeypatch):
  class Broken:
    def __enter__(self):
      raise RuntimeError("first\nsecond")

    def __exit__(self, *_):
      pass

  monkeypatch.setattr(checkpoint, "_checkpointer", Broken)
  assert "RuntimeError: first)" in refusal(checkpoint.load, copy, original)


def test_arrays_other_than_the_manifest_says_are_refused(copy, monkeypatch):
  tree = {"params": {"w": np.ones(3, np.float32)}}
  monkeypatch.setattr(checkpoint, "_read", lambda folder: tree)
  assert checkpoint.ARRAYS in refusal(checkpoint.load, copy)


def test_nothing_there_is_a_missing_file(tmp_path):
  assert "no checkpoint" in refusal(checkpoint.load, tmp_path / "x", kind=FileNotFoundError)
  (tmp_path / "x").write_text("")
  assert "is a file" in refusal(checkpoint.load, tmp_path / "x")
  (tmp_path / "empty").mkdir()
  assert repr(checkpoint.MANIFEST) in refusal(checkpoint.load, tmp_path / "empty")


def test_like_must_be_the_same_network(tmp_path):
  checkpoint.save(tmp_path / "x", jaxmul.bind(linear, {"w": jnp.eye(2), "b": jnp.ones(2)}))

  def message(params):
    return refusal(checkpoint.load, tmp_path / "x", jaxmul.bind(linear, params))

  assert "'params.b' is stored, but like has none" in message({"w": jnp.eye(2)})
  more = {"w": jnp.eye(2), "b": jnp.ones(2), "c": jnp.ones(2)}
  assert "'params.c' of like is not stored" in message(more)
  wide = {"w": jnp.eye(3), "b": jnp.ones(2)}
  assert "'params.w' is float32 (2, 2), but like has float32 (3, 3)" in message(wide)
  half = {"w": jnp.eye(2), "b": jnp.ones(2, jnp.bfloat16)}
  assert "'params.b' is float32 (2,), but like has bfloat16 (2,)" in message(half)
  assert "Network, got dict" in refusal(checkpoint.load, tmp_path / "x", {"w": jnp.eye(2)})


def test_what_cannot_be_stored_is_refused(tmp_path):
  def message(params, path="x"):
    return refusal(checkpoint.save, tmp_path / path, jaxmul.bind(linear, params))

  assert "Network, got dict" in refusal(checkpoint.save, tmp_path / "x", {"w": jnp.eye(2)})
  assert "'params.w' is a str" in message({"w": "weights"})
  assert "'params.w' is a function" in message({"w": linear})
  assert "key_data" in message({"w": jax.random.key(0)})
  assert "(0, 3)" in message({"w": jnp.ones((0, 3))})
  assert "nothing to save" in message({"w": None})
  # Orbax itself writes one of these over the other without a word.
  assert "'params.a.b'" in message({"a.b": jnp.ones(2), "a": {"b": jnp.zeros(2)}})
  url = refusal(checkpoint.save, "gs://bucket/x", jaxmul.bind(linear, {"w": jnp.eye(2)}))
  assert "URL" in url
  assert not list(tmp_path.iterdir())


def test_a_traced_leaf_is_refused(tmp_path):
  params = jaxmul.bind(linear, {"w": jnp.eye(2)})
  assert "outside of jit" in refusal(jax.jit(lambda p: checkpoint.save(tmp_path / "x", p)), params)


def test_saving_again_replaces(tmp_path):
  for value in (1.0, 2.0):
    params = jaxmul.bind(linear, {"w": jnp.full((2, 2), value)})
    checkpoint.save(tmp_path / "deep" / "x", params)
    assert_same(checkpoint.load(tmp_path / "deep" / "x", params).params, params.params)
  assert [file.name for file in (tmp_path / "deep").iterdir()] == ["x"]


def test_saving_never_deletes_what_is_not_a_checkpoint(tmp_path):
  params = jaxmul.bind(linear, {"w": jnp.eye(2)})
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "thesis.tex").write_text("x")
  (tmp_path / "file").write_text("x")
  assert "not a checkpoint" in refusal(checkpoint.save, tmp_path / "results", params)
  assert "not a checkpoint" in refusal(checkpoint.save, tmp_path / "file", params)
  checkpoint.save(tmp_path / "x", params)
  (tmp_path / "x" / "notes.txt").write_text("x")
  assert "not a checkpoint" in refusal(checkpoint.save, tmp_path / "x", params)
  (tmp_path / "empty").mkdir()
  checkpoint.save(tmp_path / "empty", params)
  checkpoint.verify(tmp_path / "empty")


def test_only_one_process_of_a_job_saves(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  params = jaxmul.bind(linear, {"w": jnp.eye(2)})
  assert "process 1" in refusal(checkpoint.save, tmp_path / "x", params)


class Cut(BaseException):
  pass


@pytest.mark.parametrize("where", ["_write", "_manifest", "sync", "_install"])
def test_a_save_that_stops_leaves_the_old_one(tmp_path, monkeypatch, where):
  old = jaxmul.bind(linear, {"w": jnp.eye(2)})
  checkpoint.save(tmp_path / "x", old)

  def cut(*_):
    raise Cut

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, where, cut)
    for name in ("x", "new"):
      with pytest.raises(Cut):
        checkpoint.save(tmp_path / name, old.replace(params={"w": jnp.zeros((2, 2))}))
  assert [file.name for file in tmp_path.iterdir()] == ["x"]
  assert_same(checkpoint.load(tmp_path / "x", old).params, old.params)


@pytest.mark.parametrize("where", ["before the renames", "between the renames"])
def test_a_killed_save_leaves_the_old_one(tmp_path, where):
  """The process ends at once, as by kill -9: nothing is tidied up."""
  old = jaxmul.bind(linear, {"w": jnp.eye(2)})
  new = old.replace(params={"w": jnp.zeros((2, 2))})
  checkpoint.save(tmp_path / "x", old)
  program = """
    import os, sys
    import jax.numpy as jnp
    import jaxmul
    from jaxmul import checkpoint

    path, at = sys.argv[1:]
    rename = os.rename

    def dying(source, target):
      if str(target) == path:
        os._exit(9)
      rename(source, target)

    if at.startswith("between"):
      os.rename = dying
    else:
      checkpoint._install = lambda *_: os._exit(9)
    checkpoint.save(path, jaxmul.bind(len, {"w": jnp.zeros((2, 2))}))
  """
  killed = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "x"), where],
    capture_output=True,
    text=True,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
  )
  assert killed.returncode == 9, killed.stderr
  assert (tmp_path / "x").exists() == where.startswith("before")
  if where.startswith("before"):
    assert_same(checkpoint.load(tmp_path / "x", old).params, old.params)
  else:
    with pytest.warns(UserWarning, match="cut off"):
      assert_same(checkpoint.load(tmp_path / "x", old).params, old.params)
  checkpoint.save(tmp_path / "x", new)
  assert_same(checkpoint.load(tmp_path / "x", old).params, new.params)
  left = [file.name for file in tmp_path.iterdir() if file.name != "x"]
  assert all(name.startswith(".x.") and name.endswith(".tmp") for name in left)


def test_saving_and_loading_print_nothing(original, tmp_path, capfd):
  checkpoint.save(tmp_path / "x", original)
  checkpoint.load(tmp_path / "x", original)
  checkpoint.load(tmp_path / "x")
  assert capfd.readouterr() == ("", "")
