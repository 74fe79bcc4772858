"""Data sets with ids, their splits, and where they come from."""

from jaxmul.data.dataset import Dataset, as_inputs
from jaxmul.data.split import Heldout, Holdout, Split, cut_heldout, holdout

__all__ = [
  "Dataset",
  "Heldout",
  "Holdout",
  "Split",
  "as_inputs",
  "cut_heldout",
  "holdout",
]
