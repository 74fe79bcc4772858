"""RUM: refine a forget set into groups of similar memorization, unlearn each with what suits it."""

from jaxmul.rum.groups import (
  Selection,
  class_counts,
  clusters,
  copies_together,
  entanglement,
  entanglement_scores,
  refine,
  select,
  shuffle,
)
from jaxmul.rum.ledger import Deletion, Entry, stream
from jaxmul.rum.meta import Effect, Outcome, meta_unlearn, params_hash, run
from jaxmul.rum.plan import Plan, Step, neg_grad_plus_plan, salun_plan
from jaxmul.rum.tuning import Trial, Tuned, candidates, surrogate, tune

__all__ = [
  "Deletion",
  "Effect",
  "Entry",
  "Outcome",
  "Plan",
  "Selection",
  "Step",
  "Trial",
  "Tuned",
  "candidates",
  "class_counts",
  "clusters",
  "copies_together",
  "entanglement",
  "entanglement_scores",
  "meta_unlearn",
  "neg_grad_plus_plan",
  "params_hash",
  "refine",
  "run",
  "salun_plan",
  "select",
  "shuffle",
  "stream",
  "surrogate",
  "tune",
]
