"""Unlearning where the retain set R lost its labels, wholly or in part.

For each training seed 50, 90 and 100 % of the labels of R are taken away; the forget set keeps its
own. Algorithms then run with their published settings on an R whose missing labels are

- the true ones, as if nothing were missing ("known"),
- the answers of the network that is to forget ("argmax"),
- those of `data.pseudo_label` ("self-training"),
- or not there: R is what still has labels ("left out"), where something has.

    python -m experiments.unlabelled --out runs/unlabelled

Another table tells how many of the labels are right: of R, and of held-out examples, which no
network was trained on. What ends worse than with all labels known, by the example gap or by ToW by
group, is marked, where the difference is more than that of the seeds.

Every result is a file of its own: the same command again goes on where it stopped. table.md and
results.json are written after every seed.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cache, cli, logs, mixed_set, rows, setting
from experiments.algorithms import ALGORITHMS, check, given_of
from experiments.judge import Judge
from experiments.mixed_set import MixedSet
from experiments.rows import Row
from experiments.truth import TruthFlags
from jaxmul import data, report, train, unlearn
from jaxmul.metrics import Figure, find

SOURCES = ("argmax", "self-training", "left out")  # of the labels that algorithms get
LABELS = {"argmax": 1, "self-training": 10}  # in how many batches of pseudo_label
FIGURES = ("ToW", "ToW by group", "example gap")
# What changes no row, and what is told by its content: the data and the ground truth.
OTHERS = ("algorithms", "seeds", "log", "out", "dataset", "data_dir", "truth")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TruthFlags):
  """Unlearning with missing labels.

  Attributes:
    algorithms: names, such as scrub.
    missing: shares of the labels of R that are missing, in (0, 1].
    num_models: models of the ground truth by which the forget set is selected.
    group_size: examples of low, medium and high memorization to forget, each; 0 is n/45, at least
      80.
    batch_size: examples a step, in training and unlearning.
  """

  model: Literal["mlp", "cnn"] = "mlp"
  algorithms: tuple[str, ...] = ("fine_tune", "neg_grad_plus", "salun", "scrub")
  missing: tuple[float, ...] = (0.5, 0.9, 1.0)
  group_size: int = 0
  out: Path = Path("runs/unlabelled")

  def __post_init__(self):
    super().__post_init__()
    check(self.algorithms, self.model, "dmm")
    if outside := [share for share in self.missing if not 0 < share <= 1]:
      raise ValueError(f"--missing {outside[0]}: must be in (0, 1].")


class Seed:
  """One training seed: the original, its judge, and which labels are missing."""

  def __init__(self, config: Config, problem: MixedSet, number: int):
    self.config, self.problem = config, problem
    keys = jax.random.split(jax.random.fold_in(problem.key, 100 + number), 7)
    self.oracle_keys, self.key, self.label_key = keys[1:3], keys[3], keys[4]
    fit, self.seconds = cache.timed(lambda: train.fit(problem.recipe, problem.training, keys[0]))
    self.original = fit.network
    retain = problem.split.retain
    self.order = retain[np.asarray(jax.random.permutation(keys[5], len(retain)))]
    reference = problem.dataset.take(problem.heldout.proxy)
    self.given = given_of(config, reference, keys[6], keys[6])

  @functools.cached_property
  def judge(self) -> Judge:
    """Compares with the oracles, by the true labels."""
    return self.problem.judge(self.oracle_keys[0], self.key)

  def original_row(self) -> Row:
    """What doing nothing scores, and how many labels are right, of each source."""
    figures = self.judge(self.original, self.seconds)
    training, heldout = self.problem.training, self.problem.parts.heldout
    for share in self.config.missing:
      absent = self.absent(share)
      known = np.setdiff1d(training.ids, absent)
      for source in LABELS:
        for part, ids in (("retain", absent), ("heldout", heldout)):
          whole = self.problem.dataset.take(np.concatenate([known, ids]))
          right = self.labelled(source, whole, ids).take(ids).labels == whole.take(ids).labels
          name = f"right labels, {source}, {percent(share)}"
          figures.append(Figure(name=name, part=part, value=float(right.mean())))
    return Row(figures=figures)

  def retrain_row(self) -> Row:
    """What a second oracle scores."""
    second = cache.timed(lambda: self.problem.retrained(self.oracle_keys[1]))
    return Row(figures=self.judge(*second))

  def row(self, algorithm: str, source: str, share: float) -> Row:
    """What an algorithm scores when labels of R are missing and come from a source."""
    make, epochs = ALGORITHMS[algorithm]
    training, split = self.problem.training, self.problem.split
    absent = self.absent(share)
    if source == "left out":
      split = dataclasses.replace(split, retain=np.setdiff1d(split.retain, absent))
      training = training.take(split.train)
    else:
      training = self.labelled(source, training, absent)
    try:
      after, seconds = cache.timed(
        lambda: unlearn.run(
          make(self.given, 1.0),
          self.original,
          training,
          split,
          self.key,
          epochs=epochs,
          batch_size=self.config.batch_size,
        )
      )
    except FloatingPointError:
      return Row()
    return Row(figures=self.judge(after, seconds))

  def absent(self, share: float) -> np.ndarray:
    """Ids of R without a label; those of a smaller share are among those of a larger one."""
    return self.order[: round(share * len(self.order))]

  def labelled(self, source: str, dataset: data.Dataset, absent: np.ndarray) -> data.Dataset:
    """The data with labels of a source for the absent ones, which are blanked out before."""
    if source == "known":
      return dataset
    labels, places = dataset.labels.copy(), dataset.rows(absent)
    labels[places] = 0
    blank = dataclasses.replace(dataset, labels=labels)
    known = np.setdiff1d(dataset.ids, absent)
    options = {"features": self.given.features, "batches": LABELS[source]}
    return data.pseudo_label(self.original, blank, known, self.label_key, **options)


def percent(share: float) -> str:
  """Returns a share as tables show it."""
  return f"{share:.0%}".replace("%", " %")


def name_of(algorithm: str, source: str, share: float) -> str:
  """Returns the name of a row."""
  return f"{algorithm}, {source}" + (f", {percent(share)}" if source != "known" else "")


def variants(config: Config) -> list[tuple[str, float]]:
  """Returns the sources of labels with the share that is missing; at 100 % nothing is left."""
  some = [(source, share) for share in config.missing for source in SOURCES]
  return [("known", 0.0), *(pair for pair in some if pair != ("left out", 1.0))]


def work_on(config: Config, seed: Callable[[], Seed]) -> dict[str, Callable[[], Row]]:
  """Returns what computes each row of one training seed."""
  work: dict[str, Callable[[], Row]] = {
    "original": lambda: seed().original_row(),
    "retrain": lambda: seed().retrain_row(),
  }
  for algorithm in config.algorithms:
    for source, share in variants(config):
      work[name_of(algorithm, source, share)] = functools.partial(
        lambda *of: seed().row(*of), algorithm, source, share
      )
  return work


def name_of_rows(config: Config, problem: MixedSet) -> str:
  """Returns what the rows of all seeds are named by: everything that decides them."""
  ids = (problem.training.ids, problem.heldout, problem.parts.test, problem.split.forget)
  given = (ids, problem.recipe, problem.truth.digest)
  return cache.name_of(cache.told(config, *OTHERS), problem.dataset, *given)


def main(config: Config) -> None:
  """Runs what is missing, and writes the tables."""
  log = logs.start(config.out, config.log, vars(config))
  problem = MixedSet(config, config.group_size)
  record = {"config": config, "versions": report.versions(), "ties": setting.TIES_RULE}
  report.write_json(config.out / "config.json", record)
  kept = functools.partial(rows.path_of, config.out, name_of_rows(config, problem))
  seed_of = functools.lru_cache(1)(functools.partial(Seed, config, problem))
  work = {
    (number, mixed_set.NAME): work_on(config, functools.partial(seed_of, number))
    for number in range(config.seeds)
  }
  for results in rows.computed(work, kept, log):
    write(config, results)
  print((config.out / "table.md").read_text())


def write(config: Config, results: rows.Results) -> None:
  """Writes results.json and table.md of what there is."""
  report.write_json(config.out / "results.json", results)
  methods = results[mixed_set.NAME]
  figures = rows.means_of(methods)
  count = len(methods["original"])
  seeds = f"{count} seed{'s' if count > 1 else ''}"
  title = f"{config.dataset.rsplit('/', 1)[-1]}, `{config.model}` ({seeds})"
  lines = [f"### {title}: labels that are right", ""]
  lines += ["| of | missing of R |" + "".join(f" {source} |" for source in LABELS)]
  lines += ["|---" * (2 + len(LABELS)) + "|"]
  for part, what in (("retain", "what is missing of R"), ("heldout", "held-out examples")):
    for share in map(percent, config.missing):
      names = [f"right labels, {source}, {share}" for source in LABELS]
      cells = [rows.spread(find(figures["original"], name, part)) for name in names]
      lines.append(f"| {what} | {share} | {' | '.join(cells)} |")
  lines += ["", f"### {title}: unlearning", ""]
  lines += [f"| algorithm | labels of R | missing | {' | '.join(FIGURES)} | |"]
  lines += ["|---" * (4 + len(FIGURES)) + "|"]

  def add(method: str, first: str, source: str = "", share: str = "", mark: str = "") -> None:
    shown = ["diverged", *[""] * (len(FIGURES) - 1)]
    if method in figures:
      shown = [rows.spread(find(figures[method], figure)) for figure in FIGURES]
    lines.append(f"| {' | '.join([first, source, share, *shown, mark])} |")

  add("original", "original")
  add("retrain", "retrain")
  for algorithm in config.algorithms:
    known = name_of(algorithm, "known", 0.0)
    for source, share in variants(config):
      method = name_of(algorithm, source, share)
      both = known in figures and method in figures
      worse = rows.worse_than(methods[known], methods[method]) if both else []
      mark = f"worse than known by {' and '.join(worse)}" if worse else ""
      add(method, algorithm, source, percent(share) if share else "", mark)
  (config.out / "table.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
