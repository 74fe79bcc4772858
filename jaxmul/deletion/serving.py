"""Requests served one after another by the plan of a rehearsal, each with a record of its own."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import _article, _check, proxies, rum
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul._identity import digest
from jaxmul._paths import local
from jaxmul.binding import Network, as_network
from jaxmul.deletion import sealed_record
from jaxmul.deletion.given import ids_of, refuse_other_network
from jaxmul.deletion.refusal import Refused
from jaxmul.deletion.rehearsal import GROUPS, Rehearsal
from jaxmul.rum.plan import without_empty

_OPEN = (
  "Nothing was measured of this request: figures are of the rehearsal, which unlearned two other "
  "forget sets by the same plan.",
  "No membership attack was made.",
)


def serve(
  rehearsal: Rehearsal,
  network: Any,
  dataset: Dataset,
  requests: Iterable[Any],
  key: jax.Array,
  *,
  store: Path | str | None = None,
) -> Iterator[rum.Deletion]:
  """Serves requests one after another by the plan of a rehearsal.

  A request is cut into thirds by how memorized its examples seem. One of fewer than three ids is
  unlearned by the step that the rehearsal chose for examples of its score. Where that step is none,
  the rehearsal found nothing better for such examples than leaving them, and so they are: the
  record says it.

  Args:
    rehearsal: of the recipe that the network was trained by.
    network, dataset, requests, key: as `rum.stream`; a request has at least one id.
    store: as `rum.stream`, and for a record of each request, which `verify` accepts and whose
      folder its line of the ledger names: `ledger.jsonl`, `Deletion.entry.record`.

  Yields:
    A `rum.Deletion` after each request, with its line of the ledger.

  Raises:
    Refused: the rehearsal found the plan no better than doing nothing.
    ValueError: as `rum.stream`; or the network is none that the rehearsal's recipe trains.
  """
  if not isinstance(rehearsal, Rehearsal):
    raise ValueError(
      f"serve got {_article.of(rehearsal)}, must be a Rehearsal. Make one: deletion.rehearse."
    )
  refuse_no_dataset(dataset, "serve")
  _check.key(key, "serve")
  if not rehearsal.is_better_than_nothing:
    raise Refused(
      "serve: the rehearsal did not find its plan better than doing nothing. Look at its figures; "
      "retrain instead, or serve a plan of your own with rum.stream.",
      [figure for figures in rehearsal.figures.values() for figure in figures],
    )
  network = as_network(network, None, "serve")
  if rehearsal.recipe is not None:
    refuse_other_network(network, rehearsal.recipe, dataset, "serve")
  record = None
  if store is not None:
    record = functools.partial(_recorded, rehearsal, digest(dataset), key, local(store))
  return rum.stream(
    rehearsal.plan,
    network,
    dataset,
    (ids_of(request, "request", "serve") for request in requests),
    key,
    score=_unsure,
    cuts=rehearsal.cuts,
    record=record,
    store=store,
  )


def _recorded(
  rehearsal: Rehearsal, data: str, key: jax.Array, store: Path, network: Network, entry: rum.Entry
) -> str:
  """Writes the record of a request that was served, and returns its folder in the store."""
  groups = [np.asarray(ids, np.int64) for ids in entry.groups]
  named = {name: ids for name, ids in zip(GROUPS, groups, strict=True) if len(ids)}
  steps, _ = without_empty(rehearsal.plan, groups)
  figures = [
    dataclasses.replace(figure, part=f"{figure.part} ({name} ids of the rehearsal)")
    for name, figures in rehearsal.figures.items()
    for figure in figures
  ]
  own_key = jax.random.fold_in(key, entry.request)
  facts = sealed_record.facts_of(named, steps, rehearsal.recipe, own_key, figures)
  record = facts | {
    "request": entry.request,
    "refused": None,
    "scored_by": "confidence, of the network before the request",
    "plan_chosen_by": "a rehearsal",
    "trials": [],
    "network": {"before": entry.before, "after": entry.after},
    "data": {"trained on, before any request": data},
    "evidence": "of a rehearsal",
    "audit": None,
    "not_checked": [*_OPEN, *sealed_record.ALWAYS_OPEN],
  }
  folder = f"record{entry.request}"
  sealed_record.write(store / folder, network, record)
  return folder


def _unsure(network: Network, data: Dataset) -> np.ndarray:
  return proxies.score(proxies.confidence, network, data)
