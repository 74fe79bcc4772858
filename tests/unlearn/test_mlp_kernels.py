"""Which kernels are those of an MLP, and what no edit ever moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxmul import models, testing, unlearn
from jaxmul.binding import as_network
from jaxmul.data import Dataset, Split
from jaxmul.unlearn._mlp_kernels import mlp_kernels, neuron_kernels


def paths(mask):
  leaves = jax.tree_util.tree_leaves_with_path(mask)
  return {jax.tree_util.keystr(path, simple=True, separator="/") for path, one in leaves if one}


def shapes(model, example):
  return jax.eval_shape(lambda: models.init(model, jax.random.key(0), example)).params


def test_those_of_a_transformer_lie_between_its_norms():
  gpt = shapes(models.gpt(9, length=8, width=8, depth=2, heads=2), jnp.zeros((1, 8), int))
  blocks = [f"blocks_{k}/dense{i}/kernel" for k in (0, 1) for i in (1, 2)]
  assert paths(mlp_kernels(gpt, None, "x")) == set(blocks)
  assert paths(neuron_kernels(gpt, None, "x")) == {each for each in blocks if "dense2" in each}
  vit = shapes(models.vit(patch=4, width=8, depth=1, heads=2), jnp.zeros((1, 8, 8, 3)))
  assert paths(mlp_kernels(vit, None, "x")) == {f"block0_dense{i}/kernel" for i in (1, 2)}


def test_of_another_network_they_are_all_kernels_and_no_tables():
  mlp = shapes(models.mlp((6,), 3), jnp.zeros((1, 8)))
  assert paths(mlp_kernels(mlp, None, "x")) == {"Dense_0/kernel", "Dense_1/kernel"}
  assert paths(mlp_kernels(mlp, ("Dense_1",), "x")) == {"Dense_1/kernel"}

  class Words(nnx.Module):
    def __init__(self, rngs):
      self.table = nnx.Embed(5, 3, rngs=rngs)
      self.norm = nnx.LayerNorm(3, rngs=rngs)
      self.head = nnx.Linear(3, 5, rngs=rngs)

    def __call__(self, x):
      return self.head(self.norm(self.table(x)))

  words = as_network(Words(nnx.Rngs(0)), None, "x").params
  assert paths(mlp_kernels(words, None, "x")) == {"head/kernel"}
  plain = {"a": np.zeros((2, 3)), "b": np.zeros(3)}
  assert mlp_kernels(plain, None, "x") == {"a": True, "b": False}


MLP = {"Dense_0": {"kernel": np.zeros((8, 6)), "bias": np.zeros(6)}}
WEIGHTS, NEURONS = unlearn.durable, unlearn.zero_out_neurons


@pytest.mark.parametrize(
  ("find", "params", "layers", "message"),
  [
    (mlp_kernels, {"w": np.zeros(3)}, None, "needs kernels of two axes or more: this network has"),
    (mlp_kernels, MLP, ("head",), "x: the network has no layer 'head'"),
    (mlp_kernels, MLP, ("bias",), "x needs kernels of two axes or more: bias have none"),
    (neuron_kernels, MLP, None, "Name the layers that read the neurons"),
  ],
)
def test_where_nothing_matches_it_says_so_in_one_line(find, params, layers, message):
  with pytest.raises(ValueError, match=message) as caught:
    find(params, layers, "x")
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", ["dense1", ()])
def test_layers_are_a_tuple_of_names(layers):
  with pytest.raises(ValueError, match="must be a tuple of names, or None"):
    unlearn.obs(layers=layers)


EDITS = {
  "balanced_subnet": unlearn.balanced_subnet(fraction=0.25),
  "greedy": unlearn.greedy(0.5),
  "hard_concrete_neurons": unlearn.hard_concrete_neurons(fraction=0.25),
}


@pytest.mark.parametrize("name", EDITS)
def test_kernels_of_the_mlps_alone_lose_weights_and_nothing_else_moves(name):
  """On a transformer whose leaves are all random: biases, norms, attention and tables stay."""
  network, (tokens, labels) = testing.small_networks()["gpt"]
  data = Dataset(tokens, labels, num_classes=10)
  split = Split(forget=np.arange(4), retain=np.arange(4, len(tokens)))
  after = unlearn.run(EDITS[name], network, data, split, jax.random.key(0), epochs=1, batch_size=8)
  pairs = jax.tree_util.tree_leaves_with_path(network.params)
  lost = 0
  for (path, old), new in zip(pairs, jax.tree.leaves(after.params), strict=True):
    where = jax.tree_util.keystr(path, simple=True, separator="/")
    edited = "dense2/kernel" in where or ("dense1/kernel" in where and "neurons" not in name)
    moved = np.asarray(new) != np.asarray(old)
    assert not (moved & (np.asarray(new) != 0)).any()
    if not edited:
      assert not moved.any(), where
    elif name != "greedy":
      assert moved.sum() == old.size // 4, where
    lost += moved.sum()
  steps = -(-len(tokens) // 8)
  assert lost == {"greedy": steps}.get(name, lost) > 0


@pytest.mark.parametrize(
  ("model", "middle"),
  [
    (models.llama(9, length=8, width=8, depth=1, heads=2, inner=6), ("dense1", "gate")),
    (models.llama(9, length=8, width=8, depth=1, heads=2, inner=8), ("dense1", "gate")),
    (models.neox(9, length=8, width=16, depth=1, heads=2, inner=48), ("dense1",)),
  ],
  ids=["narrow", "square", "as wide as qkv"],
)
def test_of_our_transformers_names_tell_and_not_shapes(model, middle):
  params = shapes(model, jnp.zeros((1, 8), int))
  of_block = {f"blocks_0/{name}/kernel" for name in (*middle, "dense2")}
  assert paths(mlp_kernels(params, None, "x")) == of_block
  assert paths(neuron_kernels(params, None, "x")) == {"blocks_0/dense2/kernel"}


def test_of_another_transformer_the_wide_pair_is_its_mlp():
  def kernel(*shape):
    return {"kernel": np.zeros(shape)}

  params = {"block": {"up": kernel(4, 8), "down": kernel(8, 4), "q": kernel(4, 4)}}
  assert paths(mlp_kernels(params, None, "x")) == {"block/up/kernel", "block/down/kernel"}
  assert paths(neuron_kernels(params, None, "x")) == {"block/down/kernel"}


def test_a_layer_may_be_named_by_its_way():
  gpt = shapes(models.gpt(9, length=8, width=8, depth=2, heads=2), jnp.zeros((1, 8), int))
  chosen = mlp_kernels(gpt, ("blocks_1/dense2",), "x")
  assert paths(chosen) == {"blocks_1/dense2/kernel"}
  with pytest.raises(ValueError, match="no layer 'blocks_2/dense2'"):
    mlp_kernels(gpt, ("blocks_2/dense2",), "x")
