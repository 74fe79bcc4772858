"""Deletion requests in sequence: the papers' unlearn steps 1, 2, 3 …, with a ledger of what went.

Before each request the scores of its examples are computed on the current network; afterwards its
examples are no longer in the data that anything is given: their rows are overwritten with zeros and
belong to no set, so that the arrays keep their shapes and one compiled program serves all requests.
"""

import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check, checkpoint
from jaxmul._dataset import Dataset
from jaxmul._files import write_atomic
from jaxmul._ids import check_ids
from jaxmul._paths import local
from jaxmul.binding import Network, as_network
from jaxmul.rum.groups import by_cuts, copies_together, refine
from jaxmul.rum.meta import Kept, Work, chained, params_hash
from jaxmul.rum.plan import Plan, refuse_no_plan, without_empty

Score = Callable[[Network, Dataset], ArrayLike]


class Entry(NamedTuple):
  """One line of the ledger.

  Attributes:
    request: number of the request, from 0.
    groups: the ids that were deleted, by group, low to high.
    plan: the plan in words.
    before: SHA-256 of the params before the request.
    after: SHA-256 of the params after it.
    finished: seconds since 1970, when it was done.
    record: folder of its record, in the store; "" where there is none.
  """

  request: int
  groups: tuple[tuple[int, ...], ...]
  plan: str
  before: str
  after: str
  finished: float
  record: str = ""


class Deletion(NamedTuple):
  """The network after a request, and the request's line of the ledger."""

  network: Network
  entry: Entry


def stream(
  plan: Plan,
  network: Network,
  dataset: Dataset,
  requests: Iterable[ArrayLike],
  key: jax.Array,
  *,
  score: Score,
  cuts: Sequence[float] | None = None,
  record: Callable[[Network, Entry], str] | None = None,
  store: str | os.PathLike[str] | None = None,
) -> Iterator[Deletion]:
  """Serves requests for deletion one after another, each on the network that the last one left.

  What was deleted stays in the data as zeros under its id, in no set, so that the shapes do not
  change: requests of equal or similar size share one compiled program for each algorithm.

  Args:
    plan: refines and unlearns every request: one step for each group.
    network: the trained network.
    dataset: D, exactly what it was trained on.
    requests: ids int [k] each, disjoint, at least one for each step of the plan; taken when their
      turn comes, so that they may come from a queue.
    key: request i uses `fold_in(key, i)`.
    score: `(network, data) -> [k]`, higher = more memorized; called with the current network and
      the examples of the request alone, in the order of their ids.
    cuts: scores between the groups, one fewer than steps, for requests of fewer ids than steps,
      copies counted once, which are else refused: the score of an example then says in which group
      it is, and groups may be empty.
    record: `(network, entry) -> folder`, called when a request is done and before its line is
      written, which names the folder; not for a request whose line is there.
    store: folder for the params after each step and for `ledger.jsonl`, a line for each request.
      The same call again, after a kill, reads back what is finished: its lines stay as they are,
      with the time when it was done, and more are added. A line is never taken out, so that another
      plan, network, data set or queue needs a folder of its own. Another version of a package does
      not: a finished request is what was served, and is not computed again.

  Yields:
    A `Deletion` after each request.

  Raises:
    ValueError: an id is no integer, not in the data, or was deleted before; a request has no ids,
      or without cuts fewer than the plan has steps; the store's ledger is damaged, or holds another
      request in this one's place; or as `meta_unlearn`.
    unlearn.Diverged: a step diverged.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, proxies, rum, unlearn
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(6, dtype=np.float32), np.arange(6) % 2)
    >>> network = models.init(models.mlp((8,), 2), jax.random.key(0), toy.inputs)
    >>> plan = rum.Plan([rum.Step(None), rum.Step(unlearn.neg_grad(), epochs=1)])
    >>> def loss(network, data):
    ...   return proxies.score(proxies.loss, network, data)
    >>> served = rum.stream(plan, network, toy, [[0, 1], [4, 2]], jax.random.key(0), score=loss)
    >>> [sorted(sum(done.entry.groups, ())) for done in served]
    [[0, 1], [2, 4]]
  """
  if store is not None:
    checkpoint.refuse_path(store)
  ledger = None if store is None else local(store) / "ledger.jsonl"
  old = [] if ledger is None else _read(ledger)
  refuse_no_plan(plan, "stream")
  _check.key(key, "stream")
  if cuts is not None and len(cuts) != len(plan.steps) - 1:
    raise ValueError(
      f"stream got {len(cuts)} cuts for {len(plan.steps)} steps of the plan, must be one fewer."
    )
  network = as_network(network, None, "stream")
  words, kept, gone = plan_words(plan, lasting=store is not None), [], np.zeros(0, np.int64)
  for number, request in enumerate(requests):
    ids = np.sort(np.asarray(request))
    check_ids(ids, ids.size, f"request {number}")
    if not len(ids):
      raise ValueError(f"request {number} has no ids. Leave it out.")
    again = np.intersect1d(ids, gone)
    if len(again):
      raise ValueError(
        f"request {number}: id {int(again[0])} was deleted before. Ask for what is left."
      )
    alone = len(dataset.first_of_each(ids))
    is_small = alone < len(plan.steps)
    if cuts is None and is_small:
      copies = "" if alone == len(ids) else f", {alone} without copies,"
      raise ValueError(
        f"request {number} has {len(ids)} ids{copies} for {len(plan.steps)} steps of the plan, "
        "must have one for each. Wait for more, or serve it with a shorter plan."
      )
    scores = score(network, dataset.take(ids))
    cut = functools.partial(_grouped, plan, scores, cuts if is_small else None)
    groups = copies_together(dataset, ids, cut)
    entry = Entry(
      request=number,
      groups=tuple(tuple(group.tolist()) for group in groups),
      plan=words,
      before=params_hash(network),
      after="",
      finished=0.0,
    )
    if number < len(old):
      _same(ledger, old[number], entry, ("request", "groups", "plan", "before"))
    folder = None if store is None else Kept(local(store) / f"request{number}")
    steps, filled = without_empty(plan, groups)
    work = Work(dataset, filled, jax.random.fold_in(key, number), gone)
    for done in chained(steps, network, work, folder):
      network = done.network
    dataset, gone = _blanked(dataset, ids), np.union1d(gone, ids)
    entry = entry._replace(after=params_hash(network), finished=time.time())
    if number < len(old):
      _same(ledger, old[number], entry, ("after",))
      entry = old[number]
    elif record is not None:
      entry = entry._replace(record=record(network, entry))
    kept.append(entry)
    if ledger is not None and len(kept) > len(old):
      write_atomic(ledger, "".join(map(_line, kept)).encode())
    yield Deletion(network, entry)


def _grouped(
  plan: Plan,
  scores: ArrayLike,
  cuts: Sequence[float] | None,
  ids: np.ndarray,
  places: np.ndarray,
) -> list[np.ndarray]:
  own = np.asarray(scores)[places]
  if cuts is not None:
    return by_cuts(own, ids, cuts)
  return refine(own, ids, num_groups=len(plan.steps))


def _blanked(dataset: Dataset, ids: np.ndarray) -> Dataset:
  """The data in the same shapes, with the inputs and labels of these ids overwritten by zeros."""
  inputs, labels = jax.tree.map(np.copy, (dataset.inputs, dataset.labels))
  rows = dataset.rows(ids)
  for array in jax.tree.leaves((inputs, labels)):
    array[rows] = 0
  return dataclasses.replace(dataset, inputs=inputs, labels=labels)


def _line(entry: Entry) -> str:
  fields = entry._asdict()
  if not entry.record:
    del fields["record"]
  return json.dumps(fields) + "\n"


def _read(ledger: Path) -> list[Entry]:
  if not ledger.exists():
    return []
  entries = []
  for number, line in enumerate(ledger.read_bytes().splitlines()):
    try:
      entry = Entry(**json.loads(line))
      entries.append(entry._replace(groups=tuple(tuple(group) for group in entry.groups)))
    except (ValueError, TypeError):
      raise ValueError(
        f"stream: line {number + 1} of {ledger} is damaged. Bring the file back from a copy, or "
        "move it away and call again: a new one is written, with new times."
      ) from None
  return entries


def _same(ledger: Path | None, old: Entry, new: Entry, fields: tuple[str, ...]) -> None:
  for field in fields:
    was, now = getattr(old, field), getattr(new, field)
    if was != now:
      raise ValueError(
        f"stream: {ledger} has request {old.request} with {field} {str(was)[:80]}, not "
        f"{str(now)[:80]}. Its lines are kept: give the same plan, network, data, requests, score "
        "and key again, or another store."
      )


def plan_words(plan: Plan, *, lasting: bool = True) -> str:
  """Returns a plan in words: each step's algorithm with all it was made with.

  Where they are `lasting`, equal plans have equal words in every process, and an algorithm that
  holds a lambda raises ValueError; otherwise its address will do.
  """
  return "; ".join(
    "none"
    if step.unlearner is None
    else f"{step.unlearner.words(lasting=lasting)} × {step.epochs} of {step.batch_size}"
    + ", statistics frozen" * step.freeze_statistics
    for step in plan.steps
  )
