"""The record of a deletion: a folder that says what was done, and by which damage is noticed.

`record.json` is sealed and holds the hash of every other file of the record: of `report.html`, and
of what `network/`, a checkpoint, seals itself.
"""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import _identity, _settings, checkpoint, rum, train
from jaxmul._files import read_sealed, sha256, write_atomic, write_sealed
from jaxmul.binding import Network
from jaxmul.deletion.evidence import NOT_CHECKED, Evidence
from jaxmul.deletion.request import Request
from jaxmul.metrics.figures import Figure
from jaxmul.rum.ledger import plan_words

FORMAT = 1
RECORD, REPORT, NETWORK = "record.json", "report.html", "network"
_MOST_BYTES = 2**28
_ALWAYS_OPEN = (
  "Unlearning is approximate: nothing proves that the weights hold nothing of the examples.",
  "Nobody looked for copies of the examples in the data, in other networks or in backups.",
)


def record_of(
  request: Request,
  plan: rum.Plan,
  tuned: rum.Tuned | None,
  after: Network,
  figures: list[Figure],
  *,
  evidence: Evidence,
  audit: str | None,
  key: jax.Array,
) -> dict[str, Any]:
  """Returns what is known of a request once it is served, as JSON can hold it."""
  now = datetime.datetime.now(datetime.UTC)
  trials = () if tuned is None else tuned.trials
  return {
    "format": FORMAT,
    "date": now.isoformat(timespec="seconds"),
    "forget": request.split.forget.tolist(),
    "groups": {name: ids.tolist() for name, ids in request.groups.items()},
    "scored_by": request.scored_by,
    "done": {
      name: "left as it is"
      if step.unlearner is None
      else f"{step.unlearner.words(lasting=False)}, {step.epochs} epochs of {step.batch_size}"
      for name, step in zip(request.groups, plan.steps, strict=True)
    },
    "plan": plan_words(plan, lasting=False),
    "plan_chosen_by": "the user" if tuned is None else "rum.tune",
    "trials": [trial._asdict() for trial in trials],
    "recipe": _recipe(request.recipe),
    "key": np.asarray(jax.random.key_data(key)).tolist(),
    "network": {"before": rum.params_hash(request.network), "after": rum.params_hash(after)},
    "data": {
      "trained on": _identity.digest(request.training),
      "held out": _identity.digest(request.dataset.take(request.split.heldout)),
      "test": _identity.digest(request.dataset.take(request.split.test)),
    },
    "versions": _identity.versions("scipy", "orbax-checkpoint"),
    "settings": dict(_settings.current()),
    "evidence": evidence,
    "audit": audit,
    "figures": [_row(figure) for figure in figures],
    "not_checked": [*NOT_CHECKED[evidence], *_ALWAYS_OPEN],
  }


def _row(figure: Figure) -> dict[str, Any]:
  """Returns a figure as JSON can hold it: NaN is null, as JSON has none."""
  row = dataclasses.asdict(figure) | {"seeds": list(figure.seeds)}
  return {
    name: None if isinstance(value, float) and not np.isfinite(value) else value
    for name, value in row.items()
  }


def _recipe(recipe: train.Recipe) -> str:
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


def write(folder: Path, network: Network, record: dict[str, Any]) -> dict[str, Any]:
  """Writes the record into a folder, and returns it with the hashes of its files."""
  checkpoint.save(folder / NETWORK, network)
  write_atomic(folder / REPORT, page(record).encode())
  files = [folder / REPORT, folder / NETWORK / checkpoint.MANIFEST]
  record = record | {"files": {str(f.relative_to(folder).as_posix()): sha256(f) for f in files}}
  write_sealed(folder / RECORD, json.dumps(record).encode(), "json", _MOST_BYTES)
  return record


def verify(folder: Path | str) -> dict[str, Any]:
  """Returns the record in a folder, if every file of it is whole.

  Args:
    folder: the `store` of `forget`.

  Raises:
    FileNotFoundError: there is no record.
    ValueError: a file is damaged, missing, or not the one that the record was made with.
  """
  folder = Path(folder)
  if not (folder / RECORD).is_file():
    raise FileNotFoundError(f"no {RECORD} in {folder}. Name the store of jaxmul.forget.")
  record = json.loads(read_sealed(folder / RECORD, "json", _MOST_BYTES))
  if record.get("format") != FORMAT:
    raise ValueError(f"{folder / RECORD} is no record of a deletion in format {FORMAT}.")
  for name, digest in record["files"].items():
    if not (folder / name).is_file() or sha256(folder / name) != digest:
      raise ValueError(f"{folder / name} is missing or damaged: its SHA-256 is not the record's.")
  checkpoint.verify(folder / NETWORK)
  return record
