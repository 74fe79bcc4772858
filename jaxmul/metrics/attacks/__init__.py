"""Attacks: can it be told from a network's outputs that an example was trained on?

Every score is higher for members. `rates` turns scores into AUC, balanced accuracy and TPR at a low
FPR with intervals.
"""

from jaxmul.metrics.attacks.by_id import label_confidence, on_split, refuse_overlap, svc_on_split
from jaxmul.metrics.attacks.distilled_sets import mean_of_distilled, nearest_distilled
from jaxmul.metrics.attacks.lira_attack import lira
from jaxmul.metrics.attacks.population import entropy, loss, modified_entropy
from jaxmul.metrics.attacks.rates_with_intervals import Rates, best_threshold, rates
from jaxmul.metrics.attacks.rmia_attack import Reference, rmia
from jaxmul.metrics.attacks.svc_attacks import svc, svc_features, svc_scores

__all__ = [
  "Rates",
  "Reference",
  "best_threshold",
  "entropy",
  "label_confidence",
  "lira",
  "loss",
  "mean_of_distilled",
  "modified_entropy",
  "nearest_distilled",
  "on_split",
  "rates",
  "refuse_overlap",
  "rmia",
  "svc",
  "svc_features",
  "svc_on_split",
  "svc_scores",
]
