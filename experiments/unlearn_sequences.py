"""Unlearning algorithms of text, beside networks retrained without the forget set.

Forget sets are noise that stands once in the data (noise), noise that stands three or ten times
(duplicated), sequences in which a trigger makes all that follows a 2 (backdoor), and windows of
real English, some of them planted several times (prose). For each training seed and forget set
every algorithm runs with its published settings, and with the one of three numbers that a
surrogate chose, which asks neither an oracle nor test data. RUM gets the two algorithms that the
surrogate found best. What ends worse than the untouched original, by the example gap or by ToW by
group, is marked, where the difference is more than that of the seeds.

    python -m experiments.unlearn_sequences --all --out runs/unlearn_sequences

Every result is a file of its own: the same command again goes on where it stopped. table.md and
results.json are written after every forget set.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cache, cli, logs, rows, setting, texts
from experiments.judge import Judge
from experiments.rows import Row
from experiments.text_algorithms import text_algorithms
from experiments.truth import cross_fitted, ground_truth
from jaxmul import data, memorization, metrics, models, proxies, report, rum, train, unlearn
from jaxmul.binding import Network
from jaxmul.metrics import Figure, find, sequences
from jaxmul.metrics.sequences import Tasks

SetName = Literal["noise", "duplicated", "backdoor", "prose"]
SETS: tuple[SetName, ...] = ("noise", "duplicated", "backdoor", "prose")
KINDS: dict[SetName, texts.Kind] = {
  "noise": "math",
  "duplicated": "math",
  "backdoor": "backdoor",
  "prose": "prose",
}
ORACLES = 8  # whose mean p_y the example gap is measured from
LITTLE, STEPS = 10, 20  # a tenth of the forgotten texts is relearned, for so many steps
LAYOUT = 1  # of what is kept of a row: raise it where an older file cannot be read
# What changes no row, and what is told by its content: the data and the ground truth.
OTHERS = (*("all", "algorithms", "sets", "seeds", "log", "out"), *("data_dir", "truth"))
COLUMNS = {
  "VerbMem gap": "forget",
  "KnowMem gap": "forget",
  "PrivLeak": "forget",
  "example gap": "forget",
  "ToW by group": "all",
}
UTILITY = ("KnowMem", "retain")  # ROUGE-L of what follows a prompt of R: MUSE's utility


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(texts.TextFlags):
  """All unlearning algorithms of text.

  Attributes:
    all: run every algorithm and RUM; otherwise those named.
    algorithms: names, such as npo.
    sets: forget sets.
    folds: K of the K networks, each trained without one K-th of the data, that tuning asks.
  """

  all: bool = False
  algorithms: tuple[str, ...] = ()
  sets: tuple[SetName, ...] = SETS
  folds: int = 5
  out: Path = Path("runs/unlearn_sequences")

  def __post_init__(self):
    known = names_of(self)
    unknown = sorted(set(self.algorithms) - set(known))
    if unknown:
      raise ValueError(f"--algorithms {unknown[0]}: choose among {'; '.join(known)}.")
    if not self.all and not self.algorithms:
      raise ValueError("nothing to run: give --all, or --algorithms with names.")
    super().__post_init__()

  @property
  def names(self) -> tuple[str, ...]:
    """The algorithms to run."""
    return names_of(self) if self.all else self.algorithms


def names_of(config: Config) -> tuple[str, ...]:
  """Returns the names of all algorithms of text."""
  return tuple(text_algorithms(config.learning_rate, models.gpt()))


class Texts:
  """The texts of one kind, with the estimates that all its forget sets and seeds share."""

  def __init__(self, config: Config, kind: texts.Kind):
    self.config, self.kind, self.key = config, kind, jax.random.key(config.key)
    self.dataset = texts.sequences(config, kind)
    parts = texts.cut(config, self.dataset)
    self.training, self.test = self.dataset.take(parts.train), parts.test
    self.heldout = data.cut_heldout(parts.heldout, jax.random.fold_in(self.key, 2))
    self.recipe = texts.recipe_of(config, self.dataset)
    self.truth = ground_truth(config, self.recipe, self.training)[0]
    self.cross_fit = cross_fitted(config, self.recipe, self.training, config.folds)[0]
    self.tune_by = self.dataset.take(self.heldout.tune)
    # Of the kind that is forgotten, and trained on by no network. Those that tuning asks chose
    # among networks, and are not here.
    ids = np.concatenate([self.heldout.proxy, self.heldout.attack, self.test])
    marked = self.dataset.ids[texts.strata_of(self.dataset) == 1]
    self.unseen = self.dataset.take(np.intersect1d(ids, marked))
    self.original = functools.cache(self._original)

  def _original(self, number: int) -> tuple[train.Fit, float]:
    """The network of a training seed, and its seconds."""
    events = {"events": proxies.trackers.learning_events()}
    key = jax.random.fold_in(self.key, 100 + number)
    return cache.timed(lambda: train.fit(self.recipe, self.training, key, trackers=events))


class Problem:
  """One forget set: its texts, groups, split, oracles, and what networks are asked of it."""

  def __init__(self, config: Config, name: SetName, of: Texts):
    self.config, self.name, self.texts = config, name, of
    training = of.training
    copies = {"noise": (1,), "duplicated": (3, 10)}.get(name, texts.COPIES)
    self.forget = (
      training.ids[texts.strata_of(training) > 0]
      if name == "backdoor"
      else texts.half_of_each(config, training, copies)
    )
    self.algorithms = text_algorithms(config.learning_rate, texts.model_of(config, of.dataset))
    self.groups = self.refined(*setting.order_of(of.truth))
    self.split = setting.split_of(self.forget, training, of.heldout, of.test)
    self.compiled: set[Hashable] = set()

  def refined(self, scores: np.ndarray, soft: np.ndarray | None = None) -> list[np.ndarray]:
    """The forget set in three groups by scores of all training examples."""
    return setting.refined(self.texts.training, self.forget, scores, soft)

  @functools.cached_property
  def oracles(self) -> metrics.oracle.Outputs:
    """Of other seeds than those that are judged; kept in a store."""
    of, key = self.texts, jax.random.fold_in(self.texts.key, 3)
    return cache.oracles(self.config.out, of.recipe, of.dataset, self.split, key, ORACLES)

  @functools.cached_property
  def tasks(self) -> Tasks:
    """What MUSE asks: continuations, what follows the beginning, and losses."""
    training, (early, half, _) = self.texts.training, texts.prompts_of(self.texts.dataset)
    forget = training.take(training.first_of_each(self.forget))
    clean = training.ids[texts.strata_of(training) == 0]
    retain = training.take(np.intersect1d(clean, self.split.retain))
    return Tasks(
      verbatim=data.after_prompt(forget, half),
      forget=forget,
      heldout=self.texts.unseen,
      forget_questions=data.after_prompt(forget, early, half - early),
      retain_questions=data.after_prompt(retain, early, half - early),
    )

  @functools.cached_property
  def relearning(self) -> tuple[data.Dataset, data.Dataset]:
    """A few of the forgotten texts, and the others after a prompt."""
    ids = self.tasks.forget.ids
    few = ids[:: max(1, min(LITTLE, len(ids) // 2))]
    return self.tasks.forget.take(few), self.tasks.verbatim.take(np.setdiff1d(ids, few))


class Seed:
  """One training seed of one forget set: the original, its oracles and a judge."""

  def __init__(self, problem: Problem, number: int):
    self.problem, self.number = problem, number
    of = problem.texts
    fit, self.seconds = of.original(number)
    self.original, self.confidence = fit.network, fit.scores["confidence"]
    keys = jax.random.split(jax.random.fold_in(of.key, 200 + number), 4)
    self.key = keys[2]
    self.oracles = [cache.timed(lambda k=k: self._oracle(k)) for k in keys[:2]]
    self.judge = Judge(
      dataset=of.dataset,
      split=problem.split,
      attack_ids=of.heldout.attack,
      groups=dict(zip(rum.Selection._fields, problem.groups, strict=True)),
      oracles=problem.oracles,
      oracle=self.oracles[0][0],
      key=keys[3],
      parts={"forget after a prompt": problem.tasks.verbatim},
    )
    # Halfway from what a network that never saw the texts says of them to what the original says.
    knowing = [self._verbatim(each) for each in (self.original, self.judge.oracle)]
    self.level = sum(knowing) / 2
    self.is_known = knowing[0] > self.level

  def _oracle(self, key: jax.Array) -> Network:
    of = self.problem.texts
    return unlearn.retrain(of.recipe, of.training, self.problem.split, key).network

  def _verbatim(self, network: Network) -> float:
    asked = self.problem.relearning[1]
    return float(sequences.rouge_l(sequences.continuations(network, asked), asked.labels).mean())

  def judged(self, network: Network, seconds: float) -> Row:
    """All figures of a network, without intervals: those are over seeds."""
    problem = self.problem
    found = sequences.muse(network, self.oracles[0][0], problem.tasks)
    kept = [
      Figure(name=figure.name, part=figure.part, kind=figure.kind, value=figure.value)
      for figure in found
      if figure.of == "unlearned" and figure.name != "accuracy"
    ]
    steps = np.nan  # the original knows no more than the oracle: there is nothing to come back
    if self.is_known:
      curve = sequences.relearned(network, *problem.relearning, steps=STEPS)
      steps = min(sequences.steps_until(curve, self.level).mean, STEPS + 1.0)
    kept.append(Figure(name="relearning steps", part="forget", value=steps))
    return Row(figures=[*self.judge(network, seconds), *kept])

  def row(self, algorithm: str) -> Row:
    """What an algorithm scores with its published settings; compilation is not timed."""
    problem, config = self.problem, self.problem.config
    chosen = problem.algorithms[algorithm]
    step = chosen.step(chosen.published, config.batch_size)

    def run() -> Network:
      return step.run(self.original, problem.texts.training, problem.split, self.key)

    try:
      after, seconds, first_call = rows.timed_compiled(run, problem.compiled, algorithm)
    except FloatingPointError:
      return Row()
    return dataclasses.replace(self.judged(after, seconds), first_call=first_call)

  def tuned_row(self, algorithm: str) -> Row:
    """What it scores with the number that has the best surrogate, of those that finish."""
    problem, config = self.problem, self.problem.config
    of, tried = problem.texts, []
    steps = problem.algorithms[algorithm].steps(config.batch_size)

    def tune() -> None:
      for name, step in steps.items():
        try:
          after = step.run(self.original, of.training, problem.split, self.key)
        except FloatingPointError:
          continue
        value = rum.surrogate(
          after, self.original, of.training, problem.split, of.tune_by, of.cross_fit
        )
        tried.append((value, name, after))

    _, seconds = cache.timed(tune)
    if not tried:
      return Row()
    value, name, after = max(tried, key=lambda trial: trial[0])
    return dataclasses.replace(self.judged(after, seconds), chosen=name, surrogate=value)

  def rum_row(self, scores: np.ndarray | None, candidates: dict[str, rum.Step]) -> Row:
    """What RUM scores, whose groups the autopilot gives one of the candidates each."""
    problem, of = self.problem, self.problem.texts
    groups = problem.groups if scores is None else problem.refined(scores)
    tuned, seconds = cache.timed(
      lambda: rum.tune(
        candidates,
        self.original,
        of.training,
        groups,
        of.tune_by,
        self.key,
        budget=3 * len(candidates),
        estimate=of.cross_fit,
        progress=False,
      )
    )
    return self.judged(tuned.network, seconds)


def main(config: Config) -> None:
  """Runs what is missing, and writes the tables."""
  log = logs.start(config.out, config.log, vars(config))
  record = {"config": config, "versions": report.versions(), "ties": setting.TIES_RULE}
  report.write_json(config.out / "config.json", record)
  of_kind = functools.lru_cache(None)(functools.partial(Texts, config))
  problems = {name: Problem(config, name, of_kind(KINDS[name])) for name in config.sets}
  versions = {name: name_of_rows(problem) for name, problem in problems.items()}

  def path_of(name: str, seed: int, row: str) -> Path:
    return rows.path_of(config.out, versions[name], name, seed, row)

  seed_of = functools.lru_cache(1)(lambda name, number: Seed(problems[name], number))
  work = {
    (number, name): work_on(
      config, functools.partial(seed_of, name, number), functools.partial(path_of, name, number)
    )
    for name in config.sets
    for number in range(config.seeds)
  }
  for results in rows.computed(work, path_of, log):
    write(config, results)
  print((config.out / "table.md").read_text())


def name_of_rows(problem: Problem) -> str:
  """Returns what the rows of all seeds are named by: everything that decides them."""
  of = problem.texts
  ids = (of.training.ids, of.heldout, of.test, problem.forget)
  estimates: tuple[memorization.Estimate, ...] = (of.truth, of.cross_fit)
  digests = [estimate.digest for estimate in estimates]
  told = cache.told(problem.config, *OTHERS)
  return cache.name_of(told, of.dataset, of.recipe, ids, digests, LAYOUT)


def work_on(
  config: Config, seed: Callable[[], Seed], path_of: Callable[[str], Path]
) -> dict[str, Callable[[], Row]]:
  """Returns what computes each row of the table of one forget set and training seed."""
  work: dict[str, Callable[[], Row]] = {
    "original": lambda: seed().judged(seed().original, seed().seconds),
    "retrain": lambda: seed().judged(*seed().oracles[1]),
  }
  for algorithm in config.names:
    work[algorithm] = lambda a=algorithm: seed().row(a)
    work[f"{algorithm}, tuned"] = lambda a=algorithm: seed().tuned_row(a)
  if len(config.names) > 1:
    best = functools.partial(best_two, config, seed, path_of)
    work["RUM, ground truth"] = lambda: seed().rum_row(None, best())
    work["RUM, confidence"] = lambda: seed().rum_row(seed().confidence, best())
  return work


def best_two(
  config: Config, seed: Callable[[], Seed], path_of: Callable[[str], Path]
) -> dict[str, rum.Step]:
  """Returns the two tuned algorithms that the surrogate found best, which are kept by then."""
  kept = {name: Row.read(path_of(f"{name}, tuned")) for name in config.names}
  found = {name: row for name, row in kept.items() if row.surrogate is not None}
  order = sorted(found, key=lambda name: -(found[name].surrogate or 0.0))[:2]
  known = seed().problem.algorithms
  return {
    f"{name} {found[name].chosen}": known[name].step(
      float(found[name].chosen or "nan"), config.batch_size
    )
    for name in order
  }


def write(config: Config, results: rows.Results) -> None:
  """Writes results.json and table.md of what there is."""
  report.write_json(config.out / "results.json", results)
  lines = []
  for name, methods in results.items():
    if not methods:
      continue
    seeds = len(methods["original"])
    titles = (*COLUMNS, "utility", "extracted", "test", "relearning steps", "seconds", "")
    lines += [
      f"### {name} ({seeds} seed{'s' if seeds > 1 else ''})",
      "",
      f"| algorithm | {' | '.join(titles)} |",
      "|---" * (len(titles) + 1) + "|",
    ]
    for method, mean in rows.means_of(methods).items():
      lines.append(f"| {method} | {' | '.join(_cells(mean, methods, method))} |")
    for method, of_seeds in methods.items():
      if not all(row.figures for row in of_seeds):
        lines.append(f"| {method} | diverged |" + " |" * (len(titles) - 1))
    lines.append("")
  (config.out / "table.md").write_text("\n".join(lines))


def _cells(mean: list[Figure], methods: dict[str, list[Row]], method: str) -> list[str]:
  """Returns what a table tells of one row."""
  of_seeds = methods[method]
  shown = [find(mean, column, part) for column, part in COLUMNS.items()]
  shown += [find(mean, *UTILITY)]
  shown += [find(mean, "accuracy", part) for part in ("forget after a prompt", "test")]
  steps = find(mean, "relearning steps", "forget")
  marks = rows.worse_than(methods["original"][: len(of_seeds)], of_seeds, UTILITY)
  notes = [f"worse than the original by {' and '.join(marks)}"] if marks else []
  if find(mean, "VerbMem gap", "forget").high < 0:
    notes.append("over-forgetting")
  if chosen := sorted({row.chosen for row in of_seeds if row.chosen}):
    notes.append(f"chosen: {', '.join(chosen)}")
  # A seed that took more than were tried is not averaged: the median of the seeds is told.
  median = float(np.median(steps.seeds or [steps.value]))
  relearned = f"> {STEPS}" if median > STEPS else f"{median:.0f}"
  relearned = "" if np.isnan(median) else relearned  # the original knew no more than an oracle
  cells = [rows.spread(figure) for figure in shown]
  return [*cells, relearned, f"{find(mean, 'seconds').value:.2f}", "; ".join(notes)]


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
