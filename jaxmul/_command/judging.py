"""Unlearned networks beside oracles, and the report of a run directory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tyro

from jaxmul import data, metrics, report
from jaxmul._command import inputs, tables
from jaxmul._command.flags import Split
from jaxmul.metrics import Figure, figures, intervals, oracle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Split):
  """Shows how near unlearned networks are to networks retrained without the ids.

  Attributes:
    checkpoint: folders of `jaxmul.checkpoint.save`, one unlearned network or several.
    ids: file of the ids that were deleted.
    oracles: networks that are retrained without the ids, and as many with them; attacks need 4, and
      3 say how far oracles are from each other.
  """

  checkpoint: tuple[Path, ...]
  ids: Path
  oracles: int = 4
  out: Path = Path("runs/evaluation")

  def run(self) -> None:
    """Trains oracles, and writes evaluation.json."""
    if self.oracles < 2 or not self.checkpoint:
      raise ValueError(f"--oracles {self.oracles}: must be at least 2; one --checkpoint at least.")
    recipe, dataset = self.given("evaluation.json")
    forget, unseen = inputs.ids_in(self.ids, dataset, "ids"), self.unseen(dataset)
    retain = np.setdiff1d(dataset.ids, np.concatenate([forget, *unseen]))
    split = data.Split(forget=forget, retain=retain, **unseen._asdict())
    split.check(dataset)
    networks = [inputs.network(recipe, dataset, folder) for folder in self.checkpoint]
    self.save()
    train_key, cut_key, attack_key = jax.random.split(self.jax_key, 3)
    store = self.folder / "ensemble"
    print(f"{2 * self.oracles} trainings, kept in {store}", flush=True)
    ensemble = oracle.ensemble(
      recipe, dataset, split, train_key, num_models=self.oracles, store=store
    )
    unlearned = oracle.outputs(networks, dataset, ensemble.oracles.ids)
    attack_ids = data.cut_heldout(split.heldout, cut_key).attack
    found = metrics.beside_oracles(unlearned, ensemble, split, attack_ids, attack_key)
    if len(networks) == 1:
      found = _of_one(found, unlearned, ensemble.oracles, split)
    report.write_json(
      self.folder / "evaluation.json", {"figures": found, "versions": report.versions()}
    )
    tables.show(found)
    if len(networks) == 1:
      print("Attacks, KLoM and ε need several unlearned networks: give more to --checkpoint.")
    print("Not audited: whether these figures see anything here, experiments.evaluate says.")
    print(f"written: {self.out}/evaluation.json, config.json")


def _of_one(
  found: Sequence[Figure], unlearned: oracle.Outputs, oracles: oracle.Outputs, split: data.Split
) -> list[Figure]:
  """Returns figures of one network, over examples or oracles where it has none over seeds.

  What is estimated from how several networks spread is left out.
  """
  p, mean = unlearned.take(split.forget).probability[0], oracles.take(split.forget).probability
  of_examples = {("example gap", "forget"): np.abs(p - mean.mean(0))}
  for part in ("forget", "test"):
    of_examples["accuracy", part] = unlearned.take(getattr(split, part)).correct[0].astype(float)
  own, theirs = (
    [metrics.find(found, "accuracy", part, of=of).seeds for part in ("forget", "retain", "test")]
    for of in ("unlearned", "oracle")
  )
  tows = [
    metrics.tow(tuple(seeds[0] for seeds in own), tuple(seeds[k] for seeds in theirs))
    for k in range(len(oracles))
  ]
  done = []
  for figure in found:
    values = of_examples.get((figure.name, figure.part))
    if figure.of == "unlearned" and figure.name in _OF_SEVERAL:
      continue
    if figure.of == "unlearned" and values is not None:
      interval = intervals.over_examples(values)
      what = {"name": figure.name, "part": figure.part}
      figure = figures.with_interval(interval, figures.EXAMPLES, seeds=figure.seeds, **what)
    if figure.name == "ToW":
      figure = figures.over_seeds(tows, within=figures.RATE, name="ToW")
    done.append(figure)
  return done


_OF_SEVERAL = ("KLoM", "epsilon", "ToW-MIA", "average gap")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Writes report.html into a run directory of the experiments.

  Attributes:
    folder: the run directory.
  """

  folder: tyro.conf.Positional[Path]

  def run(self) -> None:
    """Writes the page."""
    print(report.html(self.folder))
