"""Cheap proxies of memorization, all oriented: higher = more memorized."""

from jaxmul.proxies import trackers
from jaxmul.proxies.agreement import Agreement, agreement
from jaxmul.proxies.combined import Combined, combined
from jaxmul.proxies.curvature import curvature
from jaxmul.proxies.gradients import grand, input_gradient
from jaxmul.proxies.heldout import heldout_divergence, heldout_recipe, heldout_retrain
from jaxmul.proxies.outputs import (
  confidence,
  correctness,
  el2n,
  entropy,
  loss,
  margin,
  max_confidence,
)
from jaxmul.proxies.scoring import score

__all__ = [
  "Agreement",
  "Combined",
  "agreement",
  "combined",
  "confidence",
  "correctness",
  "curvature",
  "el2n",
  "entropy",
  "grand",
  "heldout_divergence",
  "heldout_recipe",
  "heldout_retrain",
  "input_gradient",
  "loss",
  "margin",
  "max_confidence",
  "score",
  "trackers",
]
