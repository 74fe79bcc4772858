"""Requests for deletion: one, or many that come one after another."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from jaxmul import checkpoint as checkpoints
from jaxmul import deletion
from jaxmul._command import inputs, saved_config, tables
from jaxmul._command.flags import PathOrNone, Split
from jaxmul._files import read_sealed
from jaxmul._paths import local


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forget(Split):
  """Unlearns examples, shows how well, and writes a record of it.

  Attributes:
    checkpoint: folder of `jaxmul.checkpoint.save`, the trained network.
    ids: file of the ids to be deleted.
    evidence: how much is known afterwards: by a few oracles, or by attacks on 16 and an audit.
    score: name of the point proxy that makes groups.
  """

  checkpoint: Path
  ids: Path
  evidence: Literal["sample", "full"] = "sample"
  score: str = "confidence"
  out: Path = Path("runs/deletion")

  def run(self) -> None:
    """Serves the request, or says why it is refused."""
    recipe, dataset = self.given("record.json")
    network = inputs.network(recipe, dataset, self.checkpoint)
    ids, unseen = inputs.ids_in(self.ids, dataset, "ids"), self.unseen(dataset)
    self.save()
    try:
      done = deletion.forget(
        network,
        dataset,
        ids,
        recipe,
        self.jax_key,
        heldout=unseen.heldout,
        test=unseen.test,
        evidence=self.evidence,
        oracles=self.oracles,
        score=self.score,
        store=self.folder,
      )
    except deletion.Refused as refused:
      tables.show(refused.figures)
      raise
    tables.show(done.figures)
    print(f"record: {self.out}; `jaxmul verify {self.out}` checks it")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve(Split):
  """Chooses a plan once, in a rehearsal, then serves requests one after another by it.

  Attributes:
    checkpoint: folder of `jaxmul.checkpoint.save`, the trained network.
    requests: folder with a file of ids for each request, a .json of lists, or text with one request
      a line. What was served stays; more may be added at the end.
    store: folder for what the rehearsal trains; without it, a folder in --out.
  """

  checkpoint: Path
  requests: Path
  store: PathOrNone = None
  out: Path = Path("runs/served")

  def run(self) -> None:
    """Rehearses, then serves; each request gets its record."""
    recipe, dataset = self.given("ledger.jsonl")
    requests, unseen = inputs.read_requests(self.requests), self.unseen(dataset)
    training = dataset.take(np.setdiff1d(dataset.ids, np.concatenate(unseen)))
    for name, ids in requests.items():
      inputs.refuse_absent(ids, training, f"request {name}")
    network = inputs.network(recipe, dataset, self.checkpoint)
    self.save()
    rehearse_key, serve_key = jax.random.split(self.jax_key)
    store = self.folder / "rehearsal" if self.store is None else local(self.store)
    print(f"rehearsal: {6 + 2 * self.oracles} trainings, kept in {store}", flush=True)
    rehearsal = deletion.rehearse(
      dataset,
      recipe,
      rehearse_key,
      heldout=unseen.heldout,
      test=unseen.test,
      oracles=self.oracles,
      store=store,
    )
    for name, figures in rehearsal.figures.items():
      print(f"\nThe plan on examples that are {_KINDS[name]}:")
      tables.show(figures)
    served = deletion.serve(
      rehearsal, network, training, requests.values(), serve_key, store=self.folder
    )
    for name, done in zip(requests, served, strict=True):
      network, entry = done
      print(f"request {entry.request}, {name}: {sum(map(len, entry.groups))} ids, {entry.record}")
    checkpoints.save(self.folder / "network", network)
    print(f"network after all of them: {self.out}/network")


_KINDS = {"random": "drawn at random", "memorized": "memorized"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verify:
  """Checks every file of a record of a deletion by its hash.

  Attributes:
    folder: the --out of jaxmul forget, or a record that jaxmul serve names.
  """

  folder: tyro.conf.Positional[Path]

  def run(self) -> None:
    """Says that the record is whole, or which file is not."""
    folder = local(self.folder)
    try:
      record = deletion.verify(folder)
      if (config := folder / saved_config.CONFIG).exists():
        read_sealed(config, "json")
    except ValueError as error:
      raise RuntimeError(str(error)) from error  # the answer, and no fault of the question
    print(f"whole: request to delete {len(record['forget'])} ids, {record['date']}")
    print(f"network before: {record['network']['before']}")
    if record["refused"] is None:
      print(f"network after: {record['network']['after']}")
    else:
      print(f"refused: {record['refused']}")
