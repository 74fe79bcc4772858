"""Cheap proxies of memorization, all oriented: higher = more memorized."""

from jaxmul._scoring import score
from jaxmul.proxies import trackers
from jaxmul.proxies.combination import Combined, combined
from jaxmul.proxies.gradients import grand, input_gradient
from jaxmul.proxies.heldout import heldout_divergence, heldout_recipe, heldout_retrain
from jaxmul.proxies.input_curvature import curvature
from jaxmul.proxies.low_curvature_share import curvature_basis, low_curvature
from jaxmul.proxies.outputs import (
  confidence,
  correctness,
  el2n,
  entropy,
  loss,
  margin,
  max_confidence,
)
from jaxmul.proxies.rank_agreement import Agreement, agreement
from jaxmul.proxies.tokens import min_k, min_k_plus, token_losses, zlib_ratio

__all__ = [
  "Agreement",
  "Combined",
  "agreement",
  "combined",
  "confidence",
  "correctness",
  "curvature",
  "curvature_basis",
  "el2n",
  "entropy",
  "grand",
  "heldout_divergence",
  "heldout_recipe",
  "heldout_retrain",
  "input_gradient",
  "loss",
  "low_curvature",
  "margin",
  "max_confidence",
  "min_k",
  "min_k_plus",
  "score",
  "token_losses",
  "trackers",
  "zlib_ratio",
]
