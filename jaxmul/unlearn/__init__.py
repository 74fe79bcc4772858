"""Unlearning algorithms as short pure updates, and the loop that runs them."""

from jaxmul.unlearn._passes import Batch, Rows
from jaxmul.unlearn.base import Diverged, Session, Unlearner, batch_risk, descend, retrain, run
from jaxmul.unlearn.gradient import fine_tune, neg_grad, neg_grad_plus
from jaxmul.unlearn.relabel import random_label, random_labels, saliency_mask, salun

__all__ = [
  "Batch",
  "Diverged",
  "Rows",
  "Session",
  "Unlearner",
  "batch_risk",
  "descend",
  "fine_tune",
  "neg_grad",
  "neg_grad_plus",
  "random_label",
  "random_labels",
  "retrain",
  "run",
  "saliency_mask",
  "salun",
]
