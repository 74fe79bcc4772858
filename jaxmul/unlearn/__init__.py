"""Unlearning algorithms as short pure updates, and the loop that runs them."""

from jaxmul._examples import Batch, Examples
from jaxmul.unlearn._passes import Alternate
from jaxmul.unlearn.base import Clock, Diverged, Session, Unlearner, retrain, run
from jaxmul.unlearn.boundary import amun, boundary_expand, boundary_shrink
from jaxmul.unlearn.distill import bad_teacher, divergence, dmm, regun, scrub
from jaxmul.unlearn.features import layer_attack
from jaxmul.unlearn.gradient import fine_tune, l1_sparse, neg_grad, neg_grad_plus
from jaxmul.unlearn.layers import cf_k, eu_k
from jaxmul.unlearn.objective import Turn, batch_risk, descend, one_shot
from jaxmul.unlearn.relabel import random_label, random_labels, saliency_mask, salun
from jaxmul.unlearn.reset import ct, localized_reset, msg, random_k, top_k
from jaxmul.unlearn.second_order import fisher, influence, ssd
from jaxmul.unlearn.sharpness import sam

__all__ = [
  "Alternate",
  "Batch",
  "Clock",
  "Diverged",
  "Examples",
  "Session",
  "Turn",
  "Unlearner",
  "amun",
  "bad_teacher",
  "batch_risk",
  "boundary_expand",
  "boundary_shrink",
  "cf_k",
  "ct",
  "descend",
  "divergence",
  "dmm",
  "eu_k",
  "fine_tune",
  "fisher",
  "influence",
  "l1_sparse",
  "layer_attack",
  "localized_reset",
  "msg",
  "neg_grad",
  "neg_grad_plus",
  "one_shot",
  "random_k",
  "random_label",
  "random_labels",
  "regun",
  "retrain",
  "run",
  "saliency_mask",
  "salun",
  "sam",
  "scrub",
  "ssd",
  "top_k",
]
