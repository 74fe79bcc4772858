"""Data sets with ids, their splits, and where they come from."""

from jaxmul.data.dataframe import from_dataframe
from jaxmul.data.dataset import Dataset, as_inputs
from jaxmul.data.grain import from_grain
from jaxmul.data.huggingface import from_huggingface
from jaxmul.data.scenarios import forget_class, forget_random, forget_subclass
from jaxmul.data.sources import digits, from_folder, from_npz, mnist5k
from jaxmul.data.split import Heldout, Holdout, Split, cut_heldout, holdout
from jaxmul.data.tfds import from_tfds, from_tfds_folder
from jaxmul.data.tiny_imagenet_files import tiny_imagenet

__all__ = [
  "Dataset",
  "Heldout",
  "Holdout",
  "Split",
  "as_inputs",
  "cut_heldout",
  "digits",
  "forget_class",
  "forget_random",
  "forget_subclass",
  "from_dataframe",
  "from_folder",
  "from_grain",
  "from_huggingface",
  "from_npz",
  "from_tfds",
  "from_tfds_folder",
  "holdout",
  "mnist5k",
  "tiny_imagenet",
]
