"""Beside an ensemble of oracles: models retrained without the forget set, with several seeds."""

from jaxmul.metrics.oracle.challenge_epsilon import challenge_score, epsilon, forgetting_quality
from jaxmul.metrics.oracle.disagreement import churn, total_variation
from jaxmul.metrics.oracle.ensembles import Ensemble, ensemble, oracles, original, schedules
from jaxmul.metrics.oracle.kl_of_margins import klom, klom_null, percentiles
from jaxmul.metrics.oracle.model_outputs import Outputs, outputs, references

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
