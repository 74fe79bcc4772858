"""Files of the Hub's format come back bit for bit; whatever else they are is said in one line."""

import functools
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmul
from jaxmul import hub, models

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is in the extra hub")

LIKE = models.shapes(models.resnet18(width=2), jnp.zeros((1, 32, 32, 3)))
SMALL = jaxmul.bind(len, {"w": jnp.ones((2, 3), jnp.bfloat16)}, {"step": np.arange(2)})


def filled(like, dtype=None):
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), dtype or leaf.dtype), like
  )


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert type(left) is type(right)
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


def refusal(call, *args, kind: type[Exception] = ValueError):
  with pytest.raises(kind) as caught:
    call(*args)
  message = str(caught.value)
  assert "\n" not in message
  assert message.endswith((".", "jaxmul[hub]'"))
  return message


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_network_with_batch_norm_comes_back_bit_for_bit(dtype, tmp_path):
  network = filled(LIKE, dtype)
  assert network.state["batch_stats"]
  like = jax.eval_shape(lambda: filled(LIKE, dtype))
  path = tmp_path / "model.safetensors"
  hub.save_network(path, network)
  assert_same(hub.load_network(path, like), network)
  hub.save_network(path, network.replace(params=jax.tree.map(lambda x: -x, network.params)))
  assert_same(hub.load_network(path, like).params, jax.tree.map(lambda x: -x, network.params))


def test_numpy_leaves_scalars_booleans_and_empty_arrays_come_back(tmp_path):
  state = {"mask": np.array([True, False]), "none": np.zeros((0, 3), np.int8)}
  network = jaxmul.bind(len, {"w": jnp.float32(np.nan), "v": np.arange(6).reshape(2, 3).T}, state)
  path = tmp_path / "odd.safetensors"
  hub.save_network(path, network)
  assert_same(hub.load_network(path, network), network)


def test_a_committed_network_is_read_onto_its_device(tmp_path):
  device = jax.devices()[-1]
  like = jax.device_put(filled(LIKE), device)
  hub.save_network(tmp_path / "x", like)
  loaded = hub.load_network(tmp_path / "x", like)
  assert {leaf.device for leaf in jax.tree.leaves(loaded)} == {device}


def test_other_libraries_read_the_file(tmp_path):
  path = tmp_path / "model.safetensors"
  network = filled(LIKE)
  hub.save_network(path, network)
  read = safetensors.load_file(path)
  np.testing.assert_array_equal(read["params.head.kernel"], network.params["head"]["kernel"])
  statistics = network.state["batch_stats"]["norm"]["mean"]
  np.testing.assert_array_equal(read["state.batch_stats.norm.mean"], statistics)


def test_scores_come_back_with_their_ids(tmp_path):
  ids = np.array([10**12, -5, 7, 3])
  scores = {"memorization": np.array([0.1, np.nan, -1.0, 1.0]), "soft": np.float32([[1, 2]] * 4)}
  hub.save_scores(tmp_path / "scores", ids, scores)
  found, read = hub.load_scores(tmp_path / "scores")
  assert_same((found, read), (ids, scores))
  read["soft"][0] = 0  # they are the caller's own


@pytest.mark.parametrize("kind", ["network", "scores"])
def test_every_flipped_bit_and_every_cut_is_noticed(kind, tmp_path):
  path = tmp_path / "file.safetensors"
  if kind == "network":
    hub.save_network(path, SMALL)
    load = functools.partial(hub.load_network, path, SMALL)
  else:
    hub.save_scores(path, [10**12, 3], {"soft": [0.25, 0.5]})
    load = functools.partial(hub.load_scores, path)
  whole = path.read_bytes()
  load()
  for place in range(8 * len(whole)):
    damaged = bytearray(whole)
    damaged[place // 8] ^= 1 << place % 8
    path.write_bytes(damaged)
    assert str(path) in refusal(load)
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    refusal(load)
  path.write_bytes(whole + b"\0")
  refusal(load)


def test_foreign_files_and_other_networks_get_one_line(tmp_path):
  path = tmp_path / "file.safetensors"
  message = refusal(hub.load_scores, path, kind=FileNotFoundError)
  assert "there is no file" in message
  safetensors.save_file({"conv1.weight": np.zeros((2, 3))}, path)
  assert "models.from_torch" in refusal(hub.load_network, path, SMALL)
  hub.save_scores(path, [1], {"soft": [0.5]})
  assert "is 'scores 1', not 'network 1'" in refusal(hub.load_network, path, SMALL)
  hub.save_network(path, SMALL)
  assert "is 'network 1', not 'scores 1'" in refusal(hub.load_scores, path)
  other = SMALL.replace(params={"w": jnp.ones((2, 3))})
  assert "'params.w' is bfloat16 (2, 3), but like has float32" in refusal(
    hub.load_network, path, other
  )
  other = SMALL.replace(params={"w": jnp.ones((3, 2), jnp.bfloat16)})
  assert "but like has bfloat16 (3, 2)" in refusal(hub.load_network, path, other)
  other = SMALL.replace(state={"steps": np.arange(2)})
  assert "'state.step' is in the file, but not in like" in refusal(hub.load_network, path, other)
  other = SMALL.replace(params=SMALL.params | {"b": 1.0})
  assert "'params.b' is in like, but not in the file" in refusal(hub.load_network, path, other)
  assert "needs like to be a Network" in refusal(hub.load_network, path, {})


def test_what_the_format_does_not_hold_is_refused_and_nothing_is_written(tmp_path):
  path = tmp_path / "file.safetensors"
  save = hub.save_network
  assert "needs a Network, got dict" in refusal(save, path, {})
  keys = SMALL.replace(state={"key": jax.random.key(0)})
  assert "'state.key' is key<fry>" in refusal(save, path, keys)
  assert "'state.z' is complex64" in refusal(
    save, path, SMALL.replace(state={"z": jnp.ones(2) * 1j})
  )
  assert "same name" in refusal(save, path, SMALL.replace(params={"a": {"b": 1.0}, "a.b": 2.0}))
  with pytest.raises(ValueError, match="is being traced"):
    jax.jit(lambda network: save(path, network))(SMALL)
  assert "more than once" in refusal(hub.save_scores, path, [1, 1], {"soft": [0, 1]})
  assert "nothing to save" in refusal(hub.save_scores, path, [1], {})
  assert "shape (3,), must be [2, ...]" in refusal(hub.save_scores, path, [1, 2], {"x": [0, 1, 2]})
  assert "not be called 'ids'" in refusal(hub.save_scores, path, [1, 2], {"ids": [0, 1]})
  assert list(tmp_path.iterdir()) == []


def test_an_absent_package_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
  for call in (hub.save_network, hub.load_network):
    assert "pip install 'jaxmul[hub]'" in refusal(call, tmp_path / "x", SMALL, kind=ImportError)
  toml = (Path(__file__).parents[1] / "pyproject.toml").read_text()
  assert re.search(r'^hub = .*"safetensors"', toml, re.MULTILINE)
