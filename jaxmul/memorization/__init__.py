"""Ground truth: which examples a network memorizes, by retraining without random subsets."""

from jaxmul.memorization.active import active
from jaxmul.memorization.chunk import Chunk, run_chunk
from jaxmul.memorization.executors import Executor, default, devices, pool, processes, ray, serial
from jaxmul.memorization.intervals import newcombe, wilson
from jaxmul.memorization.matrix import Influence
from jaxmul.memorization.plan import Learner, Plan, cross_fit_plan, plan, train_key
from jaxmul.memorization.rows import RowInfluence, influence
from jaxmul.memorization.run import cross_fit, estimate, stream
from jaxmul.memorization.scores import Estimate, merge
from jaxmul.memorization.store import Status, Store, status

__all__ = [
  "Chunk",
  "Estimate",
  "Executor",
  "Influence",
  "Learner",
  "Plan",
  "RowInfluence",
  "Status",
  "Store",
  "active",
  "cross_fit",
  "cross_fit_plan",
  "default",
  "devices",
  "estimate",
  "influence",
  "merge",
  "newcombe",
  "plan",
  "pool",
  "processes",
  "ray",
  "run_chunk",
  "serial",
  "status",
  "stream",
  "train_key",
  "wilson",
]
