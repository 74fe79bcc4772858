"""The record of a deletion: a folder that says what was done, and by which damage is noticed.

`record.json` is sealed and holds the hash of every other file of the record: of `report.html`, and
of what `network/`, a checkpoint, seals itself. A refused request has a record without a network.
"""

import dataclasses
import datetime
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import _identity, _settings, checkpoint, rum, train
from jaxmul._files import read_sealed, sha256, write_atomic, write_sealed
from jaxmul._paths import local
from jaxmul.binding import Network
from jaxmul.deletion.evidence_and_cost import NOT_CHECKED, Evidence
from jaxmul.deletion.request import Request, copies_left
from jaxmul.metrics.figures import Figure
from jaxmul.rum.ledger import plan_words

FORMAT = 1
RECORD, REPORT, NETWORK = "record.json", "report.html", "network"
_MOST_BYTES = 2**28
COPIES = "Nobody looked for copies of the examples in the data, in other networks or in backups."
ALWAYS_OPEN = (
  "Unlearning is approximate: nothing proves that the weights hold nothing of the examples.",
  COPIES,
)
_STILL_THERE = "Nothing was unlearned: the network holds what it learned of the examples."


def record_of(
  request: Request,
  plan: rum.Plan | None,
  tuned: rum.Tuned | None,
  after: Network | None,
  figures: list[Figure],
  *,
  evidence: Evidence,
  audit: str | None,
  key: jax.Array,
  refused: str | None = None,
) -> dict[str, Any]:
  """Returns what is known of a request once it is served, or refused, as JSON can hold it.

  Args:
    request: of which the record is.
    plan: what was done, or what was tried and refused; None where it did not come to a plan.
    tuned: the trials, where the plan was chosen.
    after: the unlearned network; None where the request was refused.
    figures: what was measured.
    evidence, audit, key: as `forget`.
    refused: the reason.
  """
  facts = facts_of(request.groups, plan, request.recipe, key, figures)
  open_ = (*NOT_CHECKED[evidence], *ALWAYS_OPEN) if refused is None else (_STILL_THERE, COPIES)
  if len(left := copies_left(request.dataset, request.split)):
    open_ = (left_words(left), *open_)
  return facts | {
    "refused": refused,
    "done": {} if refused else facts["done"],
    "scored_by": request.scored_by,
    "plan_chosen_by": "the user" if tuned is None and plan is not None else "rum.tune",
    "trials": [] if tuned is None else [trial._asdict() for trial in tuned.trials],
    "network": {
      "before": rum.params_hash(request.network),
      "after": None if after is None else rum.params_hash(after),
    },
    "data": {
      "trained on": _identity.digest(request.training),
      "held out": _identity.digest(request.dataset.take(request.split.heldout)),
      "test": _identity.digest(request.dataset.take(request.split.test)),
    },
    "evidence": evidence,
    "audit": audit,
    "not_checked": list(open_),
  }


def left_words(left: np.ndarray) -> str:
  """Returns one line on copies of the examples that stay in the data."""
  return (
    f"{len(left)} of the examples that stay repeat what is to be deleted, such as id {left[0]}: "
    "as long as they are trained on, it is known."
  )


def facts_of(
  groups: Mapping[str, np.ndarray],
  plan: rum.Plan | None,
  recipe: train.Recipe | None,
  key: jax.Array,
  figures: Iterable[Figure],
) -> dict[str, Any]:
  """Returns what a record holds whoever asked, and now."""
  now = datetime.datetime.now(datetime.UTC)
  steps = {} if plan is None else dict(zip(groups, plan.steps, strict=True))
  return {
    "format": FORMAT,
    "date": now.isoformat(timespec="seconds"),
    "forget": np.sort(np.concatenate(list(groups.values()))).tolist(),
    "groups": {name: ids.tolist() for name, ids in groups.items()},
    "done": {
      name: "left as it is"
      if step.unlearner is None
      else f"{step.unlearner.words(lasting=False)}, {step.epochs} epochs of {step.batch_size}"
      for name, step in steps.items()
    },
    "plan": None if plan is None else plan_words(plan, lasting=False),
    "recipe": _recipe(recipe),
    "key": np.asarray(jax.random.key_data(key)).tolist(),
    "versions": _identity.versions("scipy", "orbax-checkpoint"),
    "settings": dict(_settings.current()),
    "figures": [_row(figure) for figure in figures],
  }


def _row(figure: Figure) -> dict[str, Any]:
  """Returns a figure as JSON can hold it: NaN is null, as JSON has none."""
  row = dataclasses.asdict(figure) | {"seeds": list(figure.seeds)}
  return {
    name: None if isinstance(value, float) and not np.isfinite(value) else value
    for name, value in row.items()
  }


def _recipe(recipe: train.Recipe | None) -> str:
  """Returns a recipe in words; one that holds a lambda has none that last."""
  try:
    return _identity.describe(recipe)
  except ValueError:
    return repr(recipe)


def page(record: dict[str, Any]) -> str:
  """Returns the record as one HTML page that loads nothing."""
  import jinja2

  loader = jinja2.PackageLoader("jaxmul.deletion")
  environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
  return environment.get_template("deletion.html").render(record=record)


def earlier(request: Request, key: jax.Array) -> dict[str, Any] | None:
  """Returns the record that the store holds of this very request, None where it holds none.

  Raises:
    ValueError: it holds the record of another request, or a checkpoint could not be written there.
  """
  folder = request.store
  assert folder is not None
  checkpoint.refuse_path(folder / NETWORK)
  if not (folder / RECORD).exists():
    return None
  record = json.loads(read_sealed(folder / RECORD, "json", _MOST_BYTES))
  own = (
    sorted(request.split.forget.tolist()),
    rum.params_hash(request.network),
    np.asarray(jax.random.key_data(key)).tolist(),
  )
  if (sorted(record["forget"]), record["network"]["before"], record["key"]) != own:
    raise ValueError(
      f"forget: {folder} holds the record of another request, of {record['date']}. Name another "
      "folder."
    )
  return record


def write(folder: Path, network: Network | None, record: dict[str, Any]) -> dict[str, Any]:
  """Writes the record into a folder, and returns it with the hashes of its files.

  Args:
    folder: where a record of the same request may be, which this one replaces.
    network: the unlearned one; None of a refused request, whose folder has none.
    record: as `record_of`.
  """
  files = [folder / REPORT]
  if network is not None:
    checkpoint.save(folder / NETWORK, network)
    files.append(folder / NETWORK / checkpoint.MANIFEST)
  elif (folder / NETWORK / checkpoint.MANIFEST).is_file():
    shutil.rmtree(folder / NETWORK)  # of the same request, served on weaker evidence
  write_atomic(folder / REPORT, page(record).encode())
  record |= {"files": {str(f.relative_to(folder).as_posix()): sha256(f) for f in files}}
  write_sealed(folder / RECORD, json.dumps(record).encode(), "json", _MOST_BYTES)
  return record


def verify(folder: Path | str) -> dict[str, Any]:
  """Returns the record in a folder, if every file of it is whole.

  Args:
    folder: the `store` of `forget`, whether it served or refused; or a folder that the ledger of
      `serve` names.

  Raises:
    FileNotFoundError: there is no record.
    ValueError: a file is damaged, missing, or not the one that the record was made with.
  """
  folder = local(folder)
  if not (folder / RECORD).is_file():
    raise FileNotFoundError(f"no {RECORD} in {folder}. Name the store of jaxmul.forget.")
  record = json.loads(read_sealed(folder / RECORD, "json", _MOST_BYTES))
  if record.get("format") != FORMAT:
    raise ValueError(f"{folder / RECORD} is no record of a deletion in format {FORMAT}.")
  for name, digest in record["files"].items():
    if not (folder / name).is_file() or sha256(folder / name) != digest:
      raise ValueError(f"{folder / name} is missing or damaged: its SHA-256 is not the record's.")
  if record.get("refused") is None:
    checkpoint.verify(folder / NETWORK)
  elif (folder / NETWORK).exists():
    raise ValueError(f"{folder / NETWORK} is not of the record: the request was refused.")
  return record
