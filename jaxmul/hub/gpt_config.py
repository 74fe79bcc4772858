"""What transformers' config.json says of GPT-2, GPT-NeoX and Llama, as a `GPT`, and back."""

from collections.abc import Mapping
from typing import Any

from jaxmul import _check
from jaxmul.models.gpt_weights import architecture
from jaxmul.models.transformer import GPT, Activation, Layout, checked

_COUNTS = ("num_classes", "length", "width", "depth", "heads")
_SIZES = {
  "num_classes": "vocab_size",
  "length": "max_position_embeddings",
  "width": "hidden_size",
  "depth": "num_hidden_layers",
  "heads": "num_attention_heads",
  "inner": "intermediate_size",
}
_NAMES = {
  "gpt2": {
    "num_classes": "vocab_size",
    "length": "n_positions",
    "width": "n_embd",
    "depth": "n_layer",
    "heads": "n_head",
    "inner": "n_inner",
    "activation": "activation_function",
    "epsilon": "layer_norm_epsilon",
  },
  "gpt_neox": {
    **_SIZES,
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "rotary_share": "rotary_pct",
    "rotary_base": "rotary_emb_base",
  },
  "llama": {
    **_SIZES,
    "kv_heads": "num_key_value_heads",
    "activation": "hidden_act",
    "epsilon": "rms_norm_eps",
    "rotary_base": "rope_theta",
  },
}
"""By their model_type, their names of our fields."""
_DEFAULTS = {
  "gpt2": {
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
  },
  "gpt_neox": {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10_000.0,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
  },
  "llama": {
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
  },
}
"""What is meant where a name is absent; sizes never are."""
_ONLY: dict[str, dict[str, bool]] = {
  "gpt2": {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
  },
  "gpt_neox": {"attention_bias": True},
  "llama": {"attention_bias": False, "mlp_bias": False},
}
"""Options that `GPT` does not have, with the value that leaves them alone."""
_NEWER = {
  "gpt_neox": {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
  "llama": {"rope_theta": "rope_theta"},
}
"""What newer versions call an option, in the entry rope_parameters."""
_CLASSES = {
  "gpt2": "GPT2LMHeadModel",
  "gpt_neox": "GPTNeoXForCausalLM",
  "llama": "LlamaForCausalLM",
}
_ACTIVATIONS: dict[str, Activation] = {
  "gelu_new": "gelu",  # the first of a kind is what is written
  "gelu_fast": "gelu",
  "gelu_pytorch_tanh": "gelu",
  "gelu": "exact_gelu",
  "relu": "relu",
  "silu": "silu",
  "swish": "silu",
}


def model_of(config: Mapping[str, Any], caller: str) -> GPT:
  """Returns the model that a config.json describes, without dropout.

  Raises:
    ValueError: it is of another architecture, lacks a size, or asks for what `GPT` has not.
  """
  kind = config.get("model_type")
  if kind not in tuple(_NAMES):
    raise ValueError(
      f"{caller}: config.json has model_type={kind!r}, must be one of {', '.join(_NAMES)}."
    )
  told = {**_DEFAULTS[kind], **config, **_waves(config, kind, caller)}
  for name, only in _ONLY[kind].items():
    _refuse_other(name, told.get(name, only), only, caller)
  for name in _NAMES[kind].values():
    if name not in told:
      raise ValueError(f"{caller}: config.json does not say {name}. Take that of the model.")
  ours = {name: told[theirs] for name, theirs in _NAMES[kind].items()}
  _check_values(kind, ours, caller)
  width, heads = ours["width"], ours["heads"]
  _refuse_other("head_dim", told.get("head_dim") or width / heads, width / heads, caller)
  for name, usual in (("inner", 4 * width), ("kv_heads", heads)):
    if ours.get(name) == usual:
      ours[name] = None  # as models have it that are made without
  own = "llama" if kind == "llama" else "gpt2"
  if kind == "gpt_neox" and told["use_parallel_residual"]:
    own = "neox"
  model = GPT(
    **{name: ours.pop(name) for name in _COUNTS},
    activation=_ACTIVATIONS[ours.pop("activation")],
    positions="learned" if kind == "gpt2" else "rotary",
    tied=bool(told["tie_word_embeddings"]),
    layout=Layout(kind=own, **ours),
  )
  return checked(model, caller)


def _check_values(kind: str, ours: dict[str, Any], caller: str) -> None:
  """Raises ValueError where a value is not of the type of our field."""
  names = _NAMES[kind]
  for name in _COUNTS:
    _check.count(ours[name], names[name], caller)
  if ours["activation"] not in tuple(_ACTIVATIONS):
    raise ValueError(
      f"{caller}: config.json has {names['activation']}={ours['activation']!r}, must be one of "
      f"{', '.join(_ACTIVATIONS)}."
    )
  for name in ours.keys() & {"epsilon", "rotary_base", "rotary_share"}:
    if not isinstance(ours[name], int | float):
      raise ValueError(f"{caller}: config.json has {names[name]}={ours[name]!r}, no number.")


def config_of(model: GPT, caller: str) -> dict[str, Any]:
  """Returns what config.json says of a model, in names that old and new transformers read."""
  kind = architecture(model, caller)
  layout = model.layout
  ours = {
    **{name: getattr(model, name) for name in _COUNTS},
    "inner": layout.inner or 4 * model.width,
    "kv_heads": layout.kv_heads or model.heads,
    "activation": next(n for n, act in _ACTIVATIONS.items() if act == model.activation),
    "epsilon": layout.epsilon,
    "rotary_share": layout.rotary_share,
    "rotary_base": layout.rotary_base,
  }
  config = {
    "architectures": [_CLASSES[kind]],
    "model_type": kind,
    **{theirs: ours[name] for name, theirs in _NAMES[kind].items()},
    **_ONLY[kind],
    "tie_word_embeddings": model.tied,
    "bos_token_id": None,  # their defaults may be no tokens of this vocabulary
    "eos_token_id": None,
  }
  if kind == "gpt_neox":
    config["use_parallel_residual"] = layout.kind == "neox"
  return config


def _waves(config: Mapping[str, Any], kind: str, caller: str) -> dict[str, Any]:
  """Returns what newer versions say of rotary positions in one entry, under the older names."""
  given = config.get("rope_parameters") or config.get("rope_scaling") or {}
  if not isinstance(given, Mapping):
    raise ValueError(f"{caller}: config.json has rope_parameters={given!r}, must be an object.")
  _refuse_other(
    "rope_type", given.get("rope_type", given.get("type", "default")), "default", caller
  )
  return {old: given[new] for old, new in _NEWER.get(kind, {}).items() if new in given}


def _refuse_other(name: str, value: object, only: object, caller: str) -> None:
  if value != only:
    raise ValueError(f"{caller}: config.json has {name}={value!r}, only {only!r} is read.")
