"""How well data was forgotten: always beside models retrained without it, over several seeds."""

from jaxmul.metrics import attacks, game, intervals, oracle, outputs
from jaxmul.metrics.accuracy import accuracy, evaluate
from jaxmul.metrics.audit import Audit, Control, audit
from jaxmul.metrics.batch_norm import batch_norm_control, batch_stats_changed
from jaxmul.metrics.beside import beside_oracles, table
from jaxmul.metrics.compare import compare
from jaxmul.metrics.examples import by_example
from jaxmul.metrics.gaps import average_gap, run_time_efficiency
from jaxmul.metrics.tow import tow, tow_mia
from jaxmul.metrics.where import example_gap, tow_by_group

__all__ = [
  "Audit",
  "Control",
  "accuracy",
  "attacks",
  "audit",
  "average_gap",
  "batch_norm_control",
  "batch_stats_changed",
  "beside_oracles",
  "by_example",
  "compare",
  "evaluate",
  "example_gap",
  "game",
  "intervals",
  "oracle",
  "outputs",
  "run_time_efficiency",
  "table",
  "tow",
  "tow_by_group",
  "tow_mia",
]
