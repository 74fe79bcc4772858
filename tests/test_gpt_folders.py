"""Folders of transformers become our networks, and ours theirs: GPT-2, GPT-NeoX, Llama."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmul import hub, models

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is in the extra hub")

VOCABULARY, LENGTH, DEPTH, HEADS = 61, 11, 2, 4
GPT2 = {
  "model_type": "gpt2",
  "vocab_size": VOCABULARY,
  "n_positions": LENGTH,
  "n_embd": 12,
  "n_layer": DEPTH,
  "n_head": HEADS,
  "n_inner": None,
  "activation_function": "gelu_new",
  "layer_norm_epsilon": 1e-3,
}
SIZES = {
  "vocab_size": VOCABULARY,
  "max_position_embeddings": LENGTH,
  "hidden_size": 32,
  "intermediate_size": 18,
  "num_hidden_layers": DEPTH,
  "num_attention_heads": HEADS,
}
NEOX = {
  **SIZES,
  "model_type": "gpt_neox",
  "hidden_act": "gelu",
  "layer_norm_eps": 1e-3,
  "rotary_pct": 0.5,
  "rotary_emb_base": 500,
  "use_parallel_residual": True,
  "tie_word_embeddings": False,
}
LLAMA = {
  **SIZES,
  "model_type": "llama",
  "num_key_value_heads": 2,
  "hidden_act": "silu",
  "rms_norm_eps": 1e-3,
  "tie_word_embeddings": False,
  "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},  # as newer versions write it
}
CONFIGS = {
  "gpt2": GPT2,
  "gpt2_untied": GPT2 | {"tie_word_embeddings": False, "n_inner": 7, "activation_function": "gelu"},
  "neox": NEOX,
  "neox_one_after_another": NEOX | {"use_parallel_residual": False, "hidden_act": "gelu_fast"},
  "llama": LLAMA,
  "llama_tied": LLAMA | {"tie_word_embeddings": True, "num_key_value_heads": 4},
}
EVERY = pytest.mark.parametrize("name", CONFIGS)


def tokens():
  return np.random.default_rng(0).integers(0, VOCABULARY, (3, LENGTH)).astype(np.int32)


def raw(config):
  """{name: array} of a folder, written out by hand, with weights large enough to matter."""
  kind = config["model_type"]
  d = config["n_embd" if kind == "gpt2" else "hidden_size"]
  inner = config.get("n_inner") or config.get("intermediate_size") or 4 * d
  size = {}
  if kind == "gpt2":
    size |= {"transformer.wte": (VOCABULARY, d), "transformer.wpe": (LENGTH, d)}
    for i in range(DEPTH):
      at = f"transformer.h.{i}"
      size |= {f"{at}.ln_1": (d,), f"{at}.ln_2": (d,), f"{at}.attn.c_attn": (d, 3 * d)}
      size |= {f"{at}.attn.c_proj": (d, d), f"{at}.mlp.c_fc": (d, inner)}
      size |= {f"{at}.mlp.c_proj": (inner, d)}
    size |= {"transformer.ln_f": (d,)}
    if not config.get("tie_word_embeddings", True):
      size |= {"lm_head": (VOCABULARY, d)}
  elif kind == "gpt_neox":
    size |= {"gpt_neox.embed_in": (VOCABULARY, d), "embed_out": (VOCABULARY, d)}
    for i in range(DEPTH):
      at = f"gpt_neox.layers.{i}"
      size |= {f"{at}.input_layernorm": (d,), f"{at}.post_attention_layernorm": (d,)}
      size |= {f"{at}.attention.query_key_value": (3 * d, d), f"{at}.attention.dense": (d, d)}
      size |= {f"{at}.mlp.dense_h_to_4h": (inner, d), f"{at}.mlp.dense_4h_to_h": (d, inner)}
    size |= {"gpt_neox.final_layer_norm": (d,)}
  else:
    keys = d // HEADS * config["num_key_value_heads"]
    size |= {"model.embed_tokens": (VOCABULARY, d)}
    for i in range(DEPTH):
      at = f"model.layers.{i}"
      size |= {f"{at}.input_layernorm": (d,), f"{at}.post_attention_layernorm": (d,)}
      size |= {f"{at}.self_attn.q_proj": (d, d), f"{at}.self_attn.o_proj": (d, d)}
      size |= {f"{at}.self_attn.k_proj": (keys, d), f"{at}.self_attn.v_proj": (keys, d)}
      size |= {f"{at}.mlp.gate_proj": (inner, d), f"{at}.mlp.up_proj": (inner, d)}
      size |= {f"{at}.mlp.down_proj": (d, inner)}
    size |= {"model.norm": (d,)}
    if not config["tie_word_embeddings"]:
      size |= {"lm_head": (VOCABULARY, d)}
  rng, found = np.random.default_rng(1), {}
  for layer, shape in size.items():
    found[f"{layer}.weight"] = np.float32(0.5 * rng.normal(size=shape))
    if kind != "llama" and not layer.endswith(("wte", "wpe", "embed_in", "embed_out", "lm_head")):
      outputs = shape[-1] if kind == "gpt2" else shape[0]
      found[f"{layer}.bias"] = np.float32(0.5 * rng.normal(size=outputs))
  return found


def written(folder, config, weights=None):
  weights = raw(config) if weights is None else weights
  folder.mkdir(exist_ok=True)
  (folder / "config.json").write_text(json.dumps(config))
  safetensors.save_file(weights, folder / "model.safetensors", {"format": "pt"})
  return folder


def tanh_gelu(v):
  return 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))


def exact_gelu(v):
  return 0.5 * v * (1 + np.vectorize(math.erf)(v / np.sqrt(2)))


def silu(v):
  return v / (1 + np.exp(-v))


def normalized(v, weight, bias, epsilon):
  """LayerNorm, or RMSNorm where there is no bias."""
  v = v - v.mean(-1, keepdims=True) if bias is not None else v
  v = v / np.sqrt((v * v).mean(-1, keepdims=True) + epsilon) * weight
  return v if bias is None else v + bias


def turned(v, t, entries, base):
  """One vector at position t: pairs of its first entries as complex numbers, which are turned."""
  half = entries // 2
  pairs = v[:half] + 1j * v[half:entries]
  pairs = pairs * np.exp(1j * t / base ** (2 * np.arange(half) / entries))
  return np.concatenate([pairs.real, pairs.imag, v[entries:]])


def attention(q, k, v, entries=0, base=1.0):
  """What each head [T, H, D] sees of keys and values [T, K, D] up to its position, [T, H · D]."""
  length, heads, size = q.shape
  seen = np.zeros_like(q)
  for head in range(heads):
    group = head // (heads // k.shape[1])
    for t in range(length):
      query = turned(q[t, head], t, entries, base)
      keys = [turned(k[s, group], s, entries, base) for s in range(t + 1)]
      weights = np.exp(np.stack(keys) @ query / np.sqrt(size))
      seen[t, head] = weights / weights.sum() @ v[: t + 1, group]
  return seen.reshape(length, -1)


def forward(config, weights, row):
  """Logits [T, C] of one row of tokens from their names, in float64."""
  w = {name: value.astype(np.float64) for name, value in weights.items()}
  kind = config["model_type"]
  epsilon = config[
    {"gpt2": "layer_norm_epsilon", "gpt_neox": "layer_norm_eps", "llama": "rms_norm_eps"}[kind]
  ]
  act = {"gelu_new": tanh_gelu, "gelu_fast": tanh_gelu, "gelu": exact_gelu, "silu": silu}[
    config["activation_function" if kind == "gpt2" else "hidden_act"]
  ]

  def norm(name, v):
    return normalized(v, w[f"{name}.weight"], w.get(f"{name}.bias"), epsilon)

  def linear(name, v):
    return v @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

  def conv1d(name, v):
    return v @ w[f"{name}.weight"] + w[f"{name}.bias"]

  if kind == "gpt2":
    h = w["transformer.wte.weight"][row] + w["transformer.wpe.weight"][: len(row)]
    for i in range(DEPTH):
      at = f"transformer.h.{i}"
      qkv = conv1d(f"{at}.attn.c_attn", norm(f"{at}.ln_1", h)).reshape(len(row), 3, HEADS, -1)
      h = h + conv1d(f"{at}.attn.c_proj", attention(*np.moveaxis(qkv, 1, 0)))
      h = h + conv1d(f"{at}.mlp.c_proj", act(conv1d(f"{at}.mlp.c_fc", norm(f"{at}.ln_2", h))))
    return norm("transformer.ln_f", h) @ w.get("lm_head.weight", w["transformer.wte.weight"]).T
  if kind == "gpt_neox":
    h = w["gpt_neox.embed_in.weight"][row]
    entries = int(config["rotary_pct"] * config["hidden_size"] / HEADS)
    for i in range(DEPTH):
      at = f"gpt_neox.layers.{i}"
      qkv = linear(f"{at}.attention.query_key_value", norm(f"{at}.input_layernorm", h))
      q, k, v = np.split(qkv.reshape(len(row), HEADS, -1), 3, axis=-1)
      seen = attention(q, k, v, entries, config["rotary_emb_base"])
      seen = linear(f"{at}.attention.dense", seen)
      read = h if config["use_parallel_residual"] else h + seen
      y = act(linear(f"{at}.mlp.dense_h_to_4h", norm(f"{at}.post_attention_layernorm", read)))
      h = h + seen + linear(f"{at}.mlp.dense_4h_to_h", y)
    return norm("gpt_neox.final_layer_norm", h) @ w["embed_out.weight"].T
  h = w["model.embed_tokens.weight"][row]
  size = config["hidden_size"] // HEADS
  for i in range(DEPTH):
    at, read = f"model.layers.{i}", norm(f"model.layers.{i}.input_layernorm", h)
    q, k, v = (
      linear(f"{at}.self_attn.{which}_proj", read).reshape(len(row), -1, size) for which in "qkv"
    )
    seen = attention(q, k, v, size, config["rope_parameters"]["rope_theta"])
    h = h + linear(f"{at}.self_attn.o_proj", seen)
    read = norm(f"{at}.post_attention_layernorm", h)
    y = act(linear(f"{at}.mlp.gate_proj", read)) * linear(f"{at}.mlp.up_proj", read)
    h = h + linear(f"{at}.mlp.down_proj", y)
  return norm("model.norm", h) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


@EVERY
def test_a_folder_is_read_as_the_numpy_forward_pass_of_its_names(name, tmp_path):
  config, x = CONFIGS[name], tokens()
  model, network = hub.load_gpt(written(tmp_path, config))
  want = np.stack([forward(config, raw(config), row) for row in x])
  assert want.std() > 0.5
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(network.params))
  with jax.enable_x64(True):
    wide = network.replace(params=jax.tree.map(lambda leaf: leaf.astype(float), network.params))
    np.testing.assert_allclose(wide(x), want, rtol=0, atol=1e-10)
  assert models.has_ghost_norms(network, jnp.asarray(x)) != model.tied


@EVERY
def test_what_is_written_is_what_was_read(name, tmp_path):
  config = CONFIGS[name]
  model, network = hub.load_gpt(written(tmp_path / "theirs", config))
  hub.save_gpt(tmp_path / "ours", model, network)
  again = safetensors.load_file(tmp_path / "ours/model.safetensors")
  assert again.keys() == raw(config).keys()
  for key, value in raw(config).items():
    np.testing.assert_array_equal(again[key], value, err_msg=key)
  same, copy = hub.load_gpt(tmp_path / "ours")
  assert same == model
  jax.tree.map(np.testing.assert_array_equal, copy.params, network.params)
  for key, value in models.to_torch(model, network).items():
    np.testing.assert_array_equal(value, again[key])
  back = models.from_torch(model, again)
  jax.tree.map(np.testing.assert_array_equal, back.params, network.params)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama"])
def test_older_files_parts_and_half_precision_are_read(name, tmp_path):
  config = CONFIGS[name]
  like = hub.load_gpt(written(tmp_path / "whole", config))[1]
  weights = raw(config)
  constant = {
    "gpt2": "transformer.h.0.attn.bias",
    "neox": "gpt_neox.layers.1.attention.masked_bias",
    "llama": "model.layers.0.self_attn.rotary_emb.inv_freq",
  }[name]
  named = weights | {constant: np.ones((1, 1, 4, 4), np.float32)}
  if name == "gpt2":  # the first files of GPT-2 have no such word before their names, and a head
    named |= {"lm_head.weight": weights["transformer.wte.weight"]}
    named = {key.removeprefix("transformer."): value for key, value in named.items()}
  folder = written(tmp_path / "parts", config)
  (folder / "model.safetensors").unlink()
  places = {}
  for number in (0, 1):
    part = dict(sorted(named.items())[number::2])
    file = f"model-{number}-of-2.safetensors"
    safetensors.save_file(part, folder / file)
    places |= dict.fromkeys(part, file)
  (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
  jax.tree.map(np.testing.assert_array_equal, hub.load_gpt(folder)[1].params, like.params)
  half = {key: np.asarray(value, jnp.bfloat16) for key, value in weights.items()}
  read = hub.load_gpt(written(tmp_path / "half", config, half))[1]
  rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), like.params)
  jax.tree.map(np.testing.assert_array_equal, read.params, rounded)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_answers_as_transformers_does_both_ways(name, tmp_path):
  torch = pytest.importorskip("torch", reason="PyTorch comes with the extra bench")
  transformers = pytest.importorskip("transformers", reason="it comes with the extra bench")
  kind, config = CONFIGS[name]["model_type"], CONFIGS[name] | {"bos_token_id": None}
  own = transformers.AutoConfig.for_model(**config, eos_token_id=None)
  theirs = transformers.AutoModelForCausalLM.from_config(own).eval()
  rng, x = np.random.default_rng(2), tokens()
  with torch.no_grad():
    for weight in theirs.parameters():
      weight.copy_(torch.from_numpy(0.4 * rng.normal(size=tuple(weight.shape))))

  def answers(network):
    with torch.no_grad():
      return network(torch.from_numpy(x).long()).logits.numpy()

  want = answers(theirs)
  assert want.std() > 0.1
  theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20kB")
  model, network = hub.load_gpt(tmp_path / "theirs")
  np.testing.assert_allclose(network(x), want, rtol=0, atol=1e-4)
  direct = models.from_torch(model, theirs.state_dict())
  jax.tree.map(np.testing.assert_array_equal, direct.params, network.params)
  hub.save_gpt(tmp_path / "ours", model, network)
  again, report = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
  assert again.config.model_type == kind
  assert not any(report.values())
  for key, value in theirs.state_dict().items():
    np.testing.assert_array_equal(again.state_dict()[key].numpy(), value.numpy(), err_msg=key)
  # Not bit for bit: gelu_fast is written as gelu_new, which rounds otherwise.
  np.testing.assert_allclose(answers(again.eval()), want, rtol=0, atol=1e-4)


def refused(folder, says, kind: type[Exception] = ValueError):
  with pytest.raises(kind, match=rf"\A[^\n]*{says}[^\n]*\.\Z"):
    hub.load_gpt(folder)


LAYER = "model.layers.1.self_attn.q_proj.weight"
SCALED = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}


@pytest.mark.parametrize(
  ("config", "weights", "says"),
  [
    ({"model_type": "mistral"}, {}, "model_type='mistral', must be one of gpt2, gpt_neox, llama"),
    ({"model_type": ["llama"]}, {}, "model_type=\\['llama'\\], must be one of"),
    ({"hidden_size": None}, {}, "hidden_size=None, must be an integer of at least 1"),
    ({"num_attention_heads": 3}, {}, "width=32 and heads=3; heads must divide"),
    ({"num_key_value_heads": 3}, {}, "heads=4 and kv_heads=3; kv_heads must divide"),
    ({"head_dim": 16}, {}, r"head_dim=16, only 8\.0 is read"),
    ({"hidden_act": "quick_gelu"}, {}, "hidden_act='quick_gelu', must be one of gelu_new"),
    ({"attention_bias": True}, {}, "attention_bias=True, only False is read"),
    ({"rope_parameters": SCALED}, {}, "rope_type='llama3', only 'default' is read"),
    ({"rope_parameters": 3}, {}, "rope_parameters=3, must be an object"),
    ({"rms_norm_eps": "1e-5"}, {}, "rms_norm_eps='1e-5', no number"),
    ({"intermediate_size": 19}, {}, r"up_proj.weight has shape \(18, 32\).*needs \(19, 32\)"),
    ({"num_hidden_layers": 1}, {}, r"layers\.1\.\S+ is not in the model"),
    ({"num_hidden_layers": 3}, {}, r"layers\.2\.\S+ is missing"),
    ({"tie_word_embeddings": True}, {}, "lm_head.weight is not the table of tokens.*tied=False"),
    ({}, {"lm_head.weight": None}, "lm_head.weight is missing.*tied=True"),
    ({}, {"score.weight": np.zeros(3)}, "score.weight is not in the model"),
    ({}, {LAYER: np.zeros((32, 32), np.int8)}, "q_proj.weight is int8, must be floats"),
    ({}, {LAYER.removeprefix("model."): np.zeros(3)}, "with and without 'model.'"),
  ],
)
def test_what_is_no_model_of_ours_gets_one_line(config, weights, says, tmp_path):
  named = {key: value for key, value in (raw(LLAMA) | weights).items() if value is not None}
  refused(written(tmp_path, LLAMA | config, named), says)


def test_files_that_are_absent_damaged_or_elsewhere_get_one_line(tmp_path):
  refused(tmp_path / "none", "there is no .*config.json", FileNotFoundError)
  folder = written(tmp_path / "model", LLAMA)
  model, network = hub.load_gpt(folder)
  weights = folder / "model.safetensors"
  index = folder / "model.safetensors.index.json"
  whole = weights.read_bytes()
  weights.write_bytes(whole[:-1])
  refused(folder, "model.safetensors is damaged")
  weights.unlink()
  (folder / "pytorch_model.bin").write_bytes(b"")
  refused(folder, "nor its index.*some can execute", FileNotFoundError)
  for parts in ({}, {LAYER: "../model.safetensors"}, {LAYER: 3}, [LAYER]):
    index.write_text(json.dumps({"weight_map": parts}))
    refused(folder, "names no files of its own folder")
  index.write_text(json.dumps({"weight_map": {LAYER: "model-1.safetensors"}}))
  refused(folder, "there is no file .*model-1.safetensors", FileNotFoundError)
  (folder / "model-1.safetensors").write_bytes(whole)
  (folder / "model-2.safetensors").write_bytes(whole)
  index.write_text(
    json.dumps({"weight_map": {"a": "model-1.safetensors", LAYER: "model-2.safetensors"}})
  )
  refused(folder, "is in two files")
  hub.save_gpt(folder, model, network)
  ours = bytearray(weights.read_bytes())
  ours[-1] ^= 1
  weights.write_bytes(ours)
  refused(folder, "its SHA-256 does not fit")
  for content in ("{", "[]"):
    (folder / "config.json").write_text(content)
    refused(folder, r"config\.json is (damaged|no JSON object)")


def test_what_transformers_has_no_name_for_is_not_written(tmp_path):
  model, network = hub.load_gpt(written(tmp_path / "model", LLAMA))
  save = functools.partial(hub.save_gpt, tmp_path / "ours")
  with pytest.raises(
    ValueError, match=r"\Ahub\.save_gpt: model= is another[^\n]*differ in layout\.[^\n]*\Z"
  ):
    save(model.clone(layout=dataclasses.replace(model.layout, epsilon=1e-5)), network)
  odd = model.clone(layout=dataclasses.replace(model.layout, rotary_share=0.5))
  with pytest.raises(ValueError, match=r"\Ahub\.save_gpt: transformers has no model with [^\n]*\Z"):
    save(odd, network)
  with pytest.raises(ValueError, match=r"\Ahub\.save_gpt needs a models.gpt and its Network, got"):
    save(model, network.params)
  assert not (tmp_path / "ours").exists()
