"""How well data was forgotten: always beside models retrained without it, over several seeds."""

from jaxmul.metrics import attacks, intervals, oracle, outputs
from jaxmul.metrics.accuracy import accuracy, evaluate
from jaxmul.metrics.gaps import average_gap, run_time_efficiency
from jaxmul.metrics.tow import tow, tow_mia

__all__ = [
  "accuracy",
  "attacks",
  "average_gap",
  "evaluate",
  "intervals",
  "oracle",
  "outputs",
  "run_time_efficiency",
  "tow",
  "tow_mia",
]
