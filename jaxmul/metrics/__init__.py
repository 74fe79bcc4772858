"""How well data was forgotten: always beside models retrained without it, over several seeds."""

from jaxmul.metrics import attacks, intervals
from jaxmul.metrics.accuracy import accuracy, evaluate
from jaxmul.metrics.tow import tow, tow_mia

__all__ = [
  "accuracy",
  "attacks",
  "evaluate",
  "intervals",
  "tow",
  "tow_mia",
]
