"""GPT-2, GPT-NeoX (Pythia) and Llama in folders of transformers: config.json beside safetensors."""

import json
import os
from pathlib import Path

import numpy as np

from jaxmul._files import write_atomic
from jaxmul._paths import local
from jaxmul.binding import Network
from jaxmul.hub import _safetensors
from jaxmul.hub.gpt_config import config_of, model_of
from jaxmul.models.gpt_weights import named, network_of
from jaxmul.models.transformer import GPT

_WEIGHTS, _CONFIG, _GPT = "model.safetensors", "config.json", "gpt 1"


def load_gpt(folder: str | os.PathLike) -> tuple[GPT, Network]:
  """Reads a folder with a language model, as transformers' `save_pretrained` writes it.

  Nothing in it is executed, and neither transformers nor PyTorch is needed. Weights become float32
  whatever they are stored as. The model has no dropout and computes in float32; with others it is
  `models.shapes(model.clone(dropout=0.1, dtype=jnp.bfloat16), tokens).replace(params=
  network.params)`.

  Args:
    folder: with "config.json" and "model.safetensors", or the parts of it that
      "model.safetensors.index.json" names. `model_type` is "gpt2", "gpt_neox" (Pythia) or "llama".

  Returns:
    The model, for `models.generate` and `train.Recipe`, and the network: tokens int [B, T] ->
    logits [B, T, C].

  Raises:
    FileNotFoundError: there is no such folder, or no such file in it.
    ImportError: safetensors is not installed.
    ValueError: another architecture, or an option of it that `models.GPT` does not have, such as
      scaled rotary positions; a weight that is missing, left over or of another shape; or a file
      that is damaged.

  Example:
    >>> import jax, jax.numpy as jnp, tempfile
    >>> from jaxmul import hub, models
    >>> tiny, folder = models.llama(5, width=8, depth=1, heads=2), tempfile.mkdtemp()
    >>> hub.save_gpt(folder, tiny, models.init(tiny, jax.random.key(0), jnp.zeros((1, 3), int)))
    >>> model, network = hub.load_gpt(folder)
    >>> model == tiny, network(jnp.array([[1, 2, 3]])).shape
    (True, (1, 3, 5))
  """
  caller, place = "hub.load_gpt", local(folder)
  if not (place / _CONFIG).is_file():
    raise FileNotFoundError(
      f"{caller}: there is no {place / _CONFIG}. Give the folder of a model that was downloaded, "
      "or saved with save_pretrained."
    )
  model = model_of(_json(place / _CONFIG, caller), caller)
  return model, network_of(model, _weights(place, caller), caller)


def save_gpt(folder: str | os.PathLike, model: GPT, network: Network) -> None:
  """Writes a language model to a folder that transformers' `from_pretrained` reads.

  It holds "config.json" and "model.safetensors", each whole or not at all. Files of a tokenizer,
  and its tokens in the config, are not written: copy them from where the network came.

  Args:
    folder: made where it is absent.
    model: `models.gpt`, as GPT-2 or, with rotary positions, as GPT-NeoX; `models.neox` or `llama`.
    network: of this model.

  Raises:
    ImportError: safetensors is not installed.
    ValueError: `network` is of another model.

  Example:
    >>> import jax, jax.numpy as jnp, os, tempfile
    >>> from jaxmul import hub, models
    >>> tiny, folder = models.neox(5, width=32, depth=1), tempfile.mkdtemp()
    >>> hub.save_gpt(folder, tiny, models.init(tiny, jax.random.key(0), jnp.zeros((1, 3), int)))
    >>> sorted(os.listdir(folder))
    ['config.json', 'model.safetensors']
  """
  caller, place = "hub.save_gpt", local(folder)
  if not isinstance(model, GPT) or not isinstance(network, Network):
    raise ValueError(
      f"{caller} needs a models.gpt and its Network, got {type(model).__name__} and "
      f"{type(network).__name__}."
    )
  config, weights = config_of(model, caller), named(model, network, caller)
  place.mkdir(parents=True, exist_ok=True)
  # Transformers asks in which library's layout the weights are.
  _safetensors.write(place / _WEIGHTS, weights, {"format": "pt", "jaxmul": _GPT}, caller)
  write_atomic(place / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def _weights(folder: Path, caller: str) -> dict[str, np.ndarray]:
  """Returns the arrays of one file, or of all that an index names."""
  index, names = folder / f"{_WEIGHTS}.index.json", {_WEIGHTS}
  if not (folder / _WEIGHTS).is_file():
    if not index.is_file():
      raise FileNotFoundError(
        f"{caller}: there is no {folder / _WEIGHTS}, nor its index. Other files of weights are not "
        "read: some can execute. Save it again with safetensors."
      )
    parts = _json(index, caller).get("weight_map")
    names = set(parts.values()) if isinstance(parts, dict) else set()
    if not names or not all(isinstance(n, str) and n == Path(n).name for n in names):
      raise ValueError(f"{caller}: {index} names no files of its own folder. Copy it again.")
  weights: dict[str, np.ndarray] = {}
  for name in sorted(names):
    arrays, notes = _safetensors.read(folder / name, caller)
    if "jaxmul" in notes:
      _safetensors.refuse_damaged(folder / name, arrays, notes, caller)
    if twice := weights.keys() & arrays.keys():
      raise ValueError(f"{caller}: {min(twice)} is in two files of {index}. Copy them again.")
    weights |= arrays
  return weights


def _json(path: Path, caller: str) -> dict[str, object]:
  try:
    found = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    reason = str(error).splitlines()[0]
    raise ValueError(f"{caller}: {path} is damaged ({reason}). Copy it again.") from error
  if not isinstance(found, dict):
    raise ValueError(f"{caller}: {path} is no JSON object. Copy it again.")
  return found
