"""Weights of a `GPT` to and from the names of transformers' GPT-2, GPT-NeoX and Llama.

Arrays are NumPy's; neither transformers nor PyTorch is needed. A dense kernel [I, O] is [O, I]
there, but in GPT-2's blocks. Keys, queries and values are one layer here, one head after another:
in GPT-NeoX they alternate within each head, in Llama they are three layers.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxmul.binding import Network
from jaxmul.models._init import shapes
from jaxmul.models._same_model import refuse_other
from jaxmul.models.transformer import GPT

# Their names of our layers, {} for the number of a block; the head's stands outside of `_BASE`.
_NAMES: dict[str, dict[str, str | tuple[str, ...]]] = {
  "gpt2": {
    "tokens": "wte",
    "positions": "wpe",
    "norm1": "h.{}.ln_1",
    "qkv": "h.{}.attn.c_attn",
    "out": "h.{}.attn.c_proj",
    "norm2": "h.{}.ln_2",
    "dense1": "h.{}.mlp.c_fc",
    "dense2": "h.{}.mlp.c_proj",
    "norm": "ln_f",
    "head": "lm_head",
  },
  "gpt_neox": {
    "tokens": "embed_in",
    "norm1": "layers.{}.input_layernorm",
    "qkv": "layers.{}.attention.query_key_value",
    "out": "layers.{}.attention.dense",
    "norm2": "layers.{}.post_attention_layernorm",
    "dense1": "layers.{}.mlp.dense_h_to_4h",
    "dense2": "layers.{}.mlp.dense_4h_to_h",
    "norm": "final_layer_norm",
    "head": "embed_out",
  },
  "llama": {
    "tokens": "embed_tokens",
    "norm1": "layers.{}.input_layernorm",
    "qkv": tuple(f"layers.{{}}.self_attn.{which}_proj" for which in "qkv"),
    "out": "layers.{}.self_attn.o_proj",
    "norm2": "layers.{}.post_attention_layernorm",
    "gate": "layers.{}.mlp.gate_proj",
    "dense1": "layers.{}.mlp.up_proj",
    "dense2": "layers.{}.mlp.down_proj",
    "norm": "norm",
    "head": "lm_head",
  },
}
_BASE = {"gpt2": "transformer.", "gpt_neox": "gpt_neox.", "llama": "model."}
_LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
# Constants that older files hold beside the weights: masks and waves.
_CONSTANTS = tuple(
  f".{layer}.{of}" for layer in ("attn", "attention") for of in ("bias", "masked_bias")
)
_CONSTANTS += (".rotary_emb.inv_freq",)
_HEADS = {f"{names['head']}.weight" for names in _NAMES.values()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
  """Where a param of ours stands there."""

  names: tuple[str, ...]
  sizes: tuple[int, ...]  # of each, along our last axis
  is_turned: bool
  alternates: bool  # key, query and value of each head


def architecture(model: GPT, caller: str) -> str:
  """Returns the `model_type` of transformers that a model is: "gpt2", "gpt_neox" or "llama".

  Raises:
    ValueError: none of them has these fields, as of a `GPT` that none of our functions makes.
  """
  layout, learned = model.layout, model.positions == "learned"
  is_whole = layout.kv_heads in (None, model.heads)
  is_one = {
    "gpt2": layout.kind == "gpt2" and learned and is_whole,
    "gpt_neox": layout.kind != "llama" and not learned and is_whole,
    "llama": layout.kind == "llama" and not learned and layout.rotary_share == 1,
  }
  for name, fits in is_one.items():
    if fits:
      return name
  raise ValueError(
    f"{caller}: transformers has no model with positions={model.positions!r} and {layout}. Make "
    "it with models.gpt, neox or llama."
  )


def named(model: GPT, network: Network, caller: str) -> dict[str, np.ndarray]:
  """Returns the weights of a network as transformers' `state_dict` has them; see `to_torch`."""
  refuse_other(model, network, caller)
  weights = {}
  for leaf, place in _places(model, network, caller):
    value, heads = np.asarray(leaf), (3, model.heads)
    value = _regrouped(value, heads) if place.alternates else value
    parts = np.split(value, np.cumsum(place.sizes)[:-1], axis=-1)
    for name, part in zip(place.names, parts, strict=True):
      weights[name] = np.array(part.T if place.is_turned else part, order="C")
  return weights


def network_of(model: GPT, weights: Mapping[str, np.ndarray], caller: str) -> Network:
  """Returns the network of weights that are named as in transformers; see `from_torch`."""
  base = _BASE[architecture(model, caller)]
  given = {name: value for name, value in weights.items() if not name.endswith(_CONSTANTS)}
  left = {name.removeprefix(base): value for name, value in given.items()}
  if base == _BASE["gpt_neox"] and "lm_head.weight" in left and "embed_out.weight" not in left:
    # What transformers 5 calls it in memory; its files have the older name.
    left["embed_out.weight"] = left.pop("lm_head.weight")
  if len(left) < len(given):
    raise ValueError(f"{caller}: a name is there with and without {base!r}. Drop one of them.")
  like, leaves = shapes(model, jnp.zeros((1, 1), int)), []
  for leaf, place in _places(model, like, caller):
    parts = []
    for name, size in zip(place.names, place.sizes, strict=True):
      shape = (*leaf.shape[:-1], size)
      part = _taken(left, name.removeprefix(base), shape[:: -1 if place.is_turned else 1], caller)
      parts.append(part.T if place.is_turned else part)
    value = np.concatenate(parts, axis=-1)
    value = _regrouped(value, (model.heads, 3)) if place.alternates else value
    leaves.append(jnp.asarray(value, leaf.dtype))
  network = like.replace(params=jax.tree.unflatten(jax.tree.structure(like.params), leaves))
  for name in left.keys() & _HEADS if model.tied else ():
    if not np.array_equal(left.pop(name), network.params["tokens"]["embedding"]):
      raise ValueError(
        f"{caller}: {name} is not the table of tokens. Make the model with tied=False."
      )
  if left:
    raise ValueError(f"{caller}: {min(left)} is not in the model. Drop it, or rename it.")
  return network


def _taken(
  left: dict[str, np.ndarray], name: str, shape: tuple[int, ...], caller: str
) -> np.ndarray:
  """Returns the array of a name, which is taken out."""
  if name not in left:
    cure = "make the model with tied=True" if name in _HEADS else "pass all of the weights"
    raise ValueError(f"{caller}: {name} is missing. Check the names, or {cure}.")
  value = left.pop(name)
  if value.shape != shape:
    raise ValueError(
      f"{caller}: {name} has shape {value.shape}, the model needs {shape}. Make the model with the "
      "same sizes."
    )
  if not jnp.issubdtype(value.dtype, jnp.floating):
    raise ValueError(f"{caller}: {name} is {value.dtype}, must be floats. Undo the quantization.")
  return value


def _regrouped(value: np.ndarray, groups: tuple[int, int]) -> np.ndarray:
  """Returns an array whose last axis is one of groups, with the two of them in the other order."""
  split = value.reshape(*value.shape[:-1], *groups, -1)
  return split.swapaxes(-3, -2).reshape(value.shape)


def _places(model: GPT, network: Network, caller: str) -> list[tuple[jax.Array, _Place]]:
  """Returns each param and its place, in the order of the tree."""
  kind, keys = architecture(model, caller), model.width // model.heads
  keys *= model.layout.kv_heads or model.heads
  places = []
  for path, leaf in jax.tree_util.tree_leaves_with_path(network.params):
    *block, layer, name = (key.key for key in path)
    theirs = _NAMES[kind][layer]
    prefix = "" if layer == "head" else _BASE[kind]
    number = "".join(block).removeprefix("blocks_")
    names = tuple(
      f"{prefix}{of_layer.format(number)}.{_LEAVES[name]}"
      for of_layer in ((theirs,) if isinstance(theirs, str) else theirs)
    )
    place = _Place(
      names=names,
      sizes=(model.width, keys, keys) if len(names) == 3 else leaf.shape[-1:],
      is_turned=name == "kernel" and (kind != "gpt2" or layer == "head"),
      alternates=kind == "gpt_neox" and layer == "qkv",
    )
    places.append((leaf, place))
  return places
