"""Deletion requests in sequence: the papers' unlearn steps 1, 2, 3 …, with a ledger of what went.

Before each request the scores of its examples are computed on the current network; afterwards its
examples are no longer in the data that anything is given.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmul._files import write_atomic
from jaxmul.binding import Bound
from jaxmul.data.dataset import Dataset
from jaxmul.memorization.plan import describe
from jaxmul.rum.groups import refine
from jaxmul.rum.meta import meta_unlearn, params_hash
from jaxmul.rum.plan import Plan

Score = Callable[[Bound, Dataset], Any]


class Entry(NamedTuple):
  """One line of the ledger.

  Attributes:
    request: number of the request, from 0.
    groups: the ids that were deleted, by group, low to high.
    plan: the plan in words.
    before: SHA-256 of the params before the request.
    after: SHA-256 of the params after it.
    finished: seconds since 1970, when it was done.
  """

  request: int
  groups: tuple[tuple[int, ...], ...]
  plan: str
  before: str
  after: str
  finished: float


class Deletion(NamedTuple):
  """The network after a request, and the request's line of the ledger."""

  params: Bound
  entry: Entry


def stream(
  plan: Plan,
  params: Bound,
  dataset: Dataset,
  requests: Iterable[Any],
  key: jax.Array,
  *,
  score: Score,
  store: str | os.PathLike[str] | None = None,
) -> Iterator[Deletion]:
  """Serves requests for deletion one after another, each on the network that the last one left.

  Args:
    plan: refines and unlearns every request: one step for each group.
    params: the trained network.
    dataset: D, exactly what it was trained on.
    requests: ids int [k] each, disjoint, at least one for each step of the plan; taken when their
      turn comes, so that they may come from a queue.
    key: request i uses `fold_in(key, i)`.
    score: `(params, data) -> [k]`, higher = more memorized; called with the current network and the
      examples of the request alone, in the order of their ids.
    store: folder for the params after each step and for `ledger.jsonl`. The same call again, after
      a kill, reads back what is finished. The ledger is written whole after each request.

  Yields:
    A `Deletion` after each request.

  Raises:
    ValueError: an id is not in the data, or was deleted before, or as `meta_unlearn`.
    unlearn.Diverged: a step diverged.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, proxies, rum, unlearn
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> params = models.init(models.mlp((8,), 2), jax.random.key(0), toy.images)
    >>> plan = rum.Plan([rum.Step(None), rum.Step(unlearn.neg_grad(), epochs=1)])
    >>> def loss(params, data):
    ...   return proxies.score(proxies.loss, params, data)
    >>> served = rum.stream(plan, params, toy, [[0, 1], [4, 2]], jax.random.key(0), score=loss)
    >>> [sorted(sum(done.entry.groups, ())) for done in served]
    [[0, 1], [2, 4]]
  """
  kept: list[Entry] = []
  for number, request in enumerate(requests):
    ids = np.sort(np.asarray(request, np.int64))
    gone = np.intersect1d(ids, [i for entry in kept for group in entry.groups for i in group])
    if len(gone):
      raise ValueError(
        f"request {number}: id {int(gone[0])} was deleted before. Ask for what is left."
      )
    scores = score(params, dataset.take(ids))
    groups = refine(scores, ids, num_groups=len(plan.steps))
    before = params_hash(params)
    params = meta_unlearn(
      plan,
      params,
      dataset,
      groups,
      jax.random.fold_in(key, number),
      store=None if store is None else Path(store) / f"request{number}",
    )
    dataset = dataset.take(np.setdiff1d(dataset.ids, ids))
    kept.append(
      Entry(
        number,
        tuple(tuple(group.tolist()) for group in groups),
        plan_words(plan),
        before,
        params_hash(params),
        time.time(),
      )
    )
    if store is not None:
      lines = [json.dumps(entry._asdict()) + "\n" for entry in kept]
      write_atomic(Path(store) / "ledger.jsonl", "".join(lines).encode())
    yield Deletion(params, kept[-1])


def plan_words(plan: Plan) -> str:
  """Returns a plan in words: each step's algorithm with its settings, epochs and batch size."""
  return "; ".join(
    "none"
    if step.unlearner is None
    else f"{describe(step.unlearner.identity)} × {step.epochs} of {step.batch_size}"
    for step in plan.steps
  )
