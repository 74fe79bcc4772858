"""Networks and scores in the file format of the Hugging Face Hub, safetensors.

Such a file holds named arrays and nothing that can execute, and any library reads it. It has no
checksum of its own: ours has the SHA-256 of all names, dtypes, shapes and bits in its metadata.
Within jaxmul `checkpoint` does the same for networks, and does not need the extra `hub`.

A folder of transformers with GPT-2, GPT-NeoX (Pythia) or Llama becomes a network and one becomes
such a folder, without transformers or PyTorch.
"""

from jaxmul.hub.gpt_folder import load_gpt, save_gpt
from jaxmul.hub.own_files import load_network, load_scores, save_network, save_scores

__all__ = ["load_gpt", "load_network", "load_scores", "save_gpt", "save_network", "save_scores"]
