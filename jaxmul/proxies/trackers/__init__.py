"""Proxies gathered while a model trains; hand any of them to `train.fit(..., trackers={...})`.

Each is a `train.Tracker`, oriented: higher = more memorized. Those of the first block read the
training step's own forward pass and are free; those of the second take gradients, which are
computed once a step for all of them, before its update and in evaluation mode.
"""

from jaxmul.proxies.trackers.gradients import cumulative_gradient, curvature, tracin, vog
from jaxmul.proxies.trackers.outputs import (
  area_under_margin,
  cumulative_loss,
  forgetting_events,
  late_learning,
  learning_events,
  loss_iqr,
)

__all__ = [
  "area_under_margin",
  "cumulative_gradient",
  "cumulative_loss",
  "curvature",
  "forgetting_events",
  "late_learning",
  "learning_events",
  "loss_iqr",
  "tracin",
  "vog",
]
