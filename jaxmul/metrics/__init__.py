"""How well data was forgotten: always beside models retrained without it, over several seeds."""

from jaxmul.metrics import attacks, extraction, figures, game, intervals, oracle, outputs, sequences
from jaxmul.metrics.accuracies import accuracy, evaluate
from jaxmul.metrics.auditing import Audit, Control, audit
from jaxmul.metrics.batch_norm import batch_norm_control, batch_stats_changed
from jaxmul.metrics.figures import Blind, Figure, compare, find, table
from jaxmul.metrics.figures_beside_oracles import beside_oracles
from jaxmul.metrics.gaps import average_gap, example_gap, run_time_efficiency
from jaxmul.metrics.linear_datamodeling import DatamodelingScore, lds
from jaxmul.metrics.per_example import by_example
from jaxmul.metrics.tug_of_war import tow, tow_by_group, tow_mia

__all__ = [
  "Audit",
  "Blind",
  "Control",
  "DatamodelingScore",
  "Figure",
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
  "extraction",
  "figures",
  "find",
  "game",
  "intervals",
  "lds",
  "oracle",
  "outputs",
  "run_time_efficiency",
  "sequences",
  "table",
  "tow",
  "tow_by_group",
  "tow_mia",
]
