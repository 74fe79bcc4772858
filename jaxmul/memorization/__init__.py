"""Ground truth: which examples a network memorizes, by retraining without random subsets."""

from jaxmul.memorization.chunk import Chunk, run_chunk
from jaxmul.memorization.estimate import Estimate, estimate, merge
from jaxmul.memorization.executors import Executor, devices, processes, serial
from jaxmul.memorization.intervals import newcombe, wilson
from jaxmul.memorization.plan import Plan, plan
from jaxmul.memorization.store import Store

__all__ = [
  "Chunk",
  "Estimate",
  "Executor",
  "Plan",
  "Store",
  "devices",
  "estimate",
  "merge",
  "newcombe",
  "plan",
  "processes",
  "run_chunk",
  "serial",
  "wilson",
]
