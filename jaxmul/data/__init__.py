"""Data sets with ids, their splits, and where they come from."""

from jaxmul._dataset import Dataset, as_inputs
from jaxmul._streamed import Streamed
from jaxmul.data.dataframe import from_dataframe
from jaxmul.data.distribution_matching import distill
from jaxmul.data.documents import after_prompt, english_prose, near_duplicates, repeated, text
from jaxmul.data.grain import from_grain
from jaxmul.data.huggingface import from_huggingface
from jaxmul.data.pseudo_labels import pseudo_label
from jaxmul.data.question_answers import questions
from jaxmul.data.scenarios import forget_class, forget_random, forget_subclass
from jaxmul.data.several_datasets import concatenate
from jaxmul.data.sources import digits, from_folder, from_npz, mnist5k
from jaxmul.data.split import Heldout, Holdout, Split, cut_heldout, holdout
from jaxmul.data.tfds import from_tfds, from_tfds_folder
from jaxmul.data.tiny_imagenet_files import tiny_imagenet
from jaxmul.data.tinymem import MathSequences, as_text, math_sequences

__all__ = [
  "Dataset",
  "Heldout",
  "Holdout",
  "MathSequences",
  "Split",
  "Streamed",
  "after_prompt",
  "as_inputs",
  "as_text",
  "concatenate",
  "cut_heldout",
  "digits",
  "distill",
  "english_prose",
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
  "math_sequences",
  "mnist5k",
  "near_duplicates",
  "pseudo_label",
  "questions",
  "repeated",
  "text",
  "tiny_imagenet",
]
