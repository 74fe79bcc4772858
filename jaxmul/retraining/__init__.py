"""Many models, each trained without some of the data: what the ground truth and oracles are from.

A `Schedule` says what has to be trained; an executor computes its chunks, a `Store` keeps them, and
`stream` yields all of them in order. What they mean is for the caller: see `memorization` and
`metrics.oracle`.
"""

from jaxmul.retraining.chunk import Chunk, run_chunk
from jaxmul.retraining.estimated_cost import Cost, cost
from jaxmul.retraining.executors import Executor, default, devices, pool, processes, ray, serial
from jaxmul.retraining.leave_out_schedule import (
  Learner,
  Schedule,
  cross_fit,
  leave_out,
  repeat,
  train_key,
)
from jaxmul.retraining.stored_chunks import Status, Store, status
from jaxmul.retraining.streaming import stream

__all__ = [
  "Chunk",
  "Cost",
  "Executor",
  "Learner",
  "Schedule",
  "Status",
  "Store",
  "cost",
  "cross_fit",
  "default",
  "devices",
  "leave_out",
  "pool",
  "processes",
  "ray",
  "repeat",
  "run_chunk",
  "serial",
  "status",
  "stream",
  "train_key",
]
