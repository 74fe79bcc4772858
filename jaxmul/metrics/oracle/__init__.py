"""Beside an ensemble of oracles: models retrained without the forget set, with several seeds."""

from jaxmul.metrics.oracle.agreement import churn, total_variation
from jaxmul.metrics.oracle.ensemble import Ensemble, ensemble, oracles, original, schedules
from jaxmul.metrics.oracle.epsilon import challenge_score, epsilon, forgetting_quality
from jaxmul.metrics.oracle.kept import Outputs, outputs, references
from jaxmul.metrics.oracle.klom import klom, klom_null, percentiles

__all__ = [
  "Ensemble",
  "Outputs",
  "challenge_score",
  "churn",
  "ensemble",
  "epsilon",
  "forgetting_quality",
  "klom",
  "klom_null",
  "oracles",
  "original",
  "outputs",
  "percentiles",
  "references",
  "schedules",
  "total_variation",
]
