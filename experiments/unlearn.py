"""Every unlearning algorithm on real images, beside models retrained without the forget set.

For each training seed and each forget set (of low, medium and high memorization, and all three
together, "mixed") every algorithm runs with its published settings; those that a paper only gives
ranges for are named in their docstrings. On the mixed set of the first seed `rum.tune` also chooses
each algorithm's rate among a few, without the oracle and without test data, by what networks that
never saw an example say of it (`retraining.cross_fit`). The mixed set is also given to RUM's
published plan, at once and as five requests for deletion one after another. What ends worse than
the untouched original, by the example gap or by ToW by group, is marked, where the difference is
more than that of the seeds.

    python -m experiments.unlearn --all --out runs/unlearn

`dmm` needs the influence of each forgotten example on each logit: as many models again as the
ground truth, recorded whole. Seconds are without compilation: what a process has not run before, at
this size of forget set, runs twice.

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

from experiments import cache, cli, logs, rows, setting
from experiments.algorithms import ALGORITHMS, check, given_of, runnable
from experiments.judge import HEADLINE, PARTS, Judge, unseeing
from experiments.rows import Row
from experiments.truth import TruthFlags, chunks_of, cross_fitted, ground_truth
from jaxmul import (
  data,
  memorization,
  metrics,
  proxies,
  report,
  retraining,
  rum,
  train,
  unlearn,
)
from jaxmul._identity import digest
from jaxmul.binding import Network
from jaxmul.metrics import find

SETS = ("mixed", "high", "medium", "low")
SCALES = (1.0, 3.0, 10.0, 0.3, 30.0)
REQUESTS = 5
LAYOUT = 2  # of what is kept of a row: raise it where an older file cannot be read
ORACLES = 8  # whose mean p_y the example gap is measured from
# What changes no row, and what is told by its content: the data and the ground truth.
OTHERS = (*("all", "algorithms", "sets", "seeds", "log", "out"), *("dataset", "data_dir", "truth"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TruthFlags):
  """All unlearning algorithms.

  Attributes:
    all: run every algorithm (ct needs --model cnn) and RUM; otherwise those named.
    algorithms: names, such as scrub.
    sets: forget sets.
    seeds: training seeds.
    num_models: models of the ground truth by which the forget sets are selected; 0 selects by the
      confidence of one training run.
    influence_models: models of the influences that dmm needs; 0 leaves dmm out.
    group_size: examples in the low, medium and high set each; 0 is n/45, at least 80.
    trials: settings that rum.tune may try for each algorithm; 0 leaves tuning out.
    folds: K of the K networks, each trained without one K-th of the data, that tuning asks.
    batch_size: examples a step, in training and unlearning.
  """

  all: bool = False
  algorithms: tuple[str, ...] = ()
  model: Literal["mlp", "cnn"] = "mlp"
  sets: tuple[Literal["mixed", "high", "medium", "low"], ...] = SETS
  influence_models: int = 200
  group_size: int = 0
  trials: int = 5
  folds: int = 5
  out: Path = Path("runs/unlearn")

  def __post_init__(self):
    check(self.algorithms, self.model)
    if "dmm" in self.algorithms and self.influence_models < 2:
      raise ValueError("dmm needs influences: --influence-models must be at least 2.")
    if not self.all and not self.algorithms:
      raise ValueError("nothing to run: give --all, or --algorithms with names.")
    super().__post_init__()
    if not 0 <= self.trials <= len(SCALES):
      raise ValueError(f"--trials {self.trials}: must be in [0, {len(SCALES)}].")

  @property
  def names(self) -> tuple[str, ...]:
    """The algorithms to run."""
    if not self.all:
      return self.algorithms
    return runnable(self.model, *(() if self.influence_models else ("dmm",)))


class Problem:
  """The data, its parts, the recipe and the forget sets, shared by all seeds."""

  def __init__(self, config: Config):
    self.config, self.key = config, jax.random.key(config.key)
    self.dataset, parts = setting.cut(config)
    self.training, self.test = self.dataset.take(parts.train), parts.test
    self.heldout = data.cut_heldout(parts.heldout, jax.random.fold_in(self.key, 2))
    self.recipe = setting.recipe_of(config, self.dataset.num_classes)
    size = setting.group_size_of(config.group_size, self.training)
    selected = config.truth is not None or config.num_models
    self.truth = ground_truth(config, self.recipe, self.training)[0] if selected else None
    if self.truth is None:
      events = {"events": proxies.trackers.learning_events()}
      key = jax.random.fold_in(self.key, 1)
      fit = train.fit(self.recipe, self.training, key, trackers=events)
      self.groups = rum.select(fit.scores["confidence"], fit.ids, size=size, centre="median")
    else:
      ids, scores, soft = setting.scored(self.truth)
      self.groups = rum.select(scores, ids, size=size, soft=soft)
    setting.show_groups(self.groups, self.training, self.truth)
    self.sets = self.groups._asdict() | {"mixed": np.sort(np.concatenate(self.groups))}
    self.compiled: set[Hashable] = set()

  @functools.cached_property
  def cross_fit(self) -> memorization.Estimate:
    """For each training example, what a network says of it that never saw it."""
    return cross_fitted(self.config, self.recipe, self.training, self.config.folds)[0]

  def split(self, name: str) -> data.Split:
    """The forget set of this name, and everything else."""
    return setting.split_of(self.sets[name], self.training, self.heldout, self.test)

  def oracles(self, name: str) -> metrics.oracle.Outputs:
    """Oracles of a forget set, of other seeds than those that are judged; kept in a store."""
    given = (self.recipe, self.dataset, self.split(name), jax.random.fold_in(self.key, 3))
    return cache.oracles(self.config.out, *given, ORACLES)

  @functools.cached_property
  def influence(self) -> memorization.ChosenInfluence | None:
    """Of every forget example on the logits of every training example; read back if it is there."""
    # Models of their own: those of the ground truth selected the forget sets.
    config, key = self.config, jax.random.fold_in(self.key, 7)
    if "dmm" not in config.names or not config.influence_models:
      return None
    schedule = retraining.leave_out(
      self.recipe,
      self.training,
      key,
      num_models=config.influence_models,
      fraction=config.fraction,
      test=self.training,
      target="logits",
    )
    forget, chunks = self.sets["mixed"], chunks_of(config.out, schedule)
    folder = chunks.with_name(f"influence-{digest(forget)[:12]}-{schedule.hash[:12]}")
    if folder.exists():
      return memorization.ChosenInfluence.load(folder)
    print(f"influences for dmm: {config.influence_models} models")
    return memorization.influence(schedule, forget, out=folder, store=chunks)


class Seed:
  """One training seed: the original, and for each forget set its oracle and a judge."""

  def __init__(self, problem: Problem, number: int):
    self.problem = problem
    keys = jax.random.split(jax.random.fold_in(problem.key, 100 + number), 6)
    self.oracle_keys, self.key = keys[1:3], keys[3]
    fit, self.seconds = cache.timed(lambda: train.fit(problem.recipe, problem.training, keys[0]))
    self.original = fit.network
    reference = problem.dataset.take(problem.heldout.proxy)
    given = given_of(problem.config, reference, keys[4], keys[5])
    self.given = dataclasses.replace(given, influence=problem.influence)
    self._judges: dict[str, Judge] = {}

  def judge(self, name: str) -> Judge:
    """Compares with the oracles of a forget set, which are retrained when first asked for."""
    if name not in self._judges:
      problem, groups = self.problem, self.problem.groups._asdict()
      self._judges[name] = Judge(
        dataset=problem.dataset,
        split=problem.split(name),
        attack_ids=problem.heldout.attack,
        groups=groups if name == "mixed" else {name: groups[name]},
        oracles=problem.oracles(name),
        oracle=self._oracle(name, self.oracle_keys[0]),
        key=self.key,
      )
    return self._judges[name]

  def original_row(self, name: str) -> Row:
    """What doing nothing scores."""
    return Row(figures=self.judge(name)(self.original, self.seconds))

  def retrain_row(self, name: str) -> Row:
    """What a second oracle scores."""
    second, seconds = cache.timed(lambda: self._oracle(name, self.oracle_keys[1]))
    return Row(figures=self.judge(name)(second, seconds))

  def _oracle(self, name: str, key: jax.Array) -> Network:
    problem = self.problem
    return unlearn.retrain(problem.recipe, problem.training, problem.split(name), key).network

  def row(self, name: str, algorithm: str) -> Row:
    """What an algorithm scores with its published settings; compilation is not timed."""
    make, epochs = ALGORITHMS[algorithm]
    problem, split = self.problem, self.problem.split(name)
    training, batch = problem.training, problem.config.batch_size
    shape = (algorithm, len(split.forget))

    def run() -> Network:
      chosen, original = make(self.given, 1.0), self.original
      return unlearn.run(
        chosen, original, training, split, self.key, epochs=epochs, batch_size=batch
      )

    try:
      after, seconds, first_call = rows.timed_compiled(run, problem.compiled, shape)
    except FloatingPointError:
      return Row()
    return Row(figures=self.judge(name)(after, seconds), first_call=first_call)

  def stream_row(self, name: str, requests: int) -> Row:
    """What RUM scores when the forget set arrives in so many requests, dealt at random.

    Every request is refined by the confidence of the network that the last one left.
    """
    problem, key = self.problem, jax.random.fold_in(self.key, requests)
    ids = problem.sets[name]  # of 64 bits, which JAX would cut
    dealt = np.array_split(ids[np.asarray(jax.random.permutation(key, len(ids)))], requests)

    def score(network: Network, asked: data.Dataset) -> np.ndarray:
      return proxies.score(proxies.confidence, network, asked)

    def serve() -> Network:
      plan = rum.salun_plan(problem.config.batch_size)
      done = rum.stream(plan, self.original, problem.training, dealt, key, score=score)
      return list(done)[-1].network

    cache.timed(serve)
    return Row(figures=self.judge(name)(*cache.timed(serve)))

  def tuned_row(self, name: str, algorithm: str) -> Row:
    """What an algorithm scores with the rate that `rum.tune` chose."""
    make, epochs = ALGORITHMS[algorithm]
    batch = self.problem.config.batch_size
    tried = {
      f"{scale:g}": rum.Step(make(self.given, scale), epochs, batch)
      for scale in SCALES[: self.problem.config.trials]
    }
    tuned, seconds = cache.timed(
      lambda: rum.tune(
        tried,
        self.original,
        self.problem.training,
        [self.problem.sets[name]],
        self.problem.dataset.take(self.problem.heldout.tune),
        self.key,
        budget=len(tried),
        estimate=self.problem.cross_fit,
      )
    )
    best = max(tuned.trials, key=lambda trial: trial.surrogate)
    return Row(figures=self.judge(name)(tuned.network, seconds), chosen=best.name)


def main(config: Config) -> None:
  """Runs what is missing, and writes the tables."""
  log = logs.start(config.out, config.log, vars(config))
  problem = Problem(config)
  counts = rum.class_counts(list(problem.sets.values()), problem.training).tolist()
  classes = dict(zip(problem.sets, counts, strict=True))
  record = {"config": config, "versions": report.versions(), "classes": classes}
  record["ties"] = setting.TIES_RULE
  report.write_json(config.out / "config.json", record)
  kept = functools.partial(rows.path_of, config.out, name_of_rows(problem))
  seed_of = functools.lru_cache(1)(functools.partial(Seed, problem))
  work = {
    (number, name): work_on(config, name, number, functools.partial(seed_of, number))
    for number in range(config.seeds)
    for name in config.sets
  }
  for results in rows.computed(work, kept, log):
    write(config, results)
  print((config.out / "table.md").read_text())


def name_of_rows(problem: Problem) -> str:
  """Returns what the rows of all seeds are named by: everything that decides them."""
  ids = (problem.training.ids, problem.heldout, problem.test, problem.sets)
  truth = None if problem.truth is None else problem.truth.digest
  given = (ids, problem.recipe, truth, LAYOUT)
  return cache.name_of(cache.told(problem.config, *OTHERS), problem.dataset, *given)


def work_on(
  config: Config, name: str, number: int, seed: Callable[[], Seed]
) -> dict[str, Callable[[], Row]]:
  """Returns what computes each row of the table of one forget set and training seed."""
  work: dict[str, Callable[[], Row]] = {
    "original": lambda: seed().original_row(name),
    "retrain": lambda: seed().retrain_row(name),
  }
  if name == "mixed" and config.all:
    for count in (1, REQUESTS):
      row = f"RUM, {count} request{'s' if count > 1 else ''}"
      work[row] = lambda count=count: seed().stream_row(name, count)
  for algorithm in config.names:
    work[algorithm] = lambda a=algorithm: seed().row(name, a)
    if name == "mixed" and number == 0 and config.trials:
      work[f"{algorithm}, tuned"] = lambda a=algorithm: seed().tuned_row(name, a)
  return work


def write(config: Config, results: rows.Results) -> None:
  """Writes results.json and table.md of what there is."""
  report.write_json(config.out / "results.json", results)
  lines = []
  for name, methods in results.items():
    if not methods:
      continue
    seeds = len(methods["original"])
    lines += [
      f"### {config.dataset.rsplit('/', 1)[-1]}, `{config.model}`, {name} ({seeds} "
      f"seed{'s' if seeds > 1 else ''})",
      "",
      f"| algorithm | {' | '.join(HEADLINE)} | forget | retain | test | seconds | speed-up | |",
      "|---" * (len(HEADLINE) + 7) + "|",
    ]
    figures = rows.means_of(methods)
    retrain = find(figures["retrain"], "seconds").value
    for method, of_seeds in methods.items():
      if method not in figures:
        lines.append(f"| {method} | diverged |" + " |" * (len(HEADLINE) + 5))
        continue
      mean = figures[method]
      worse = rows.worse_than(methods["original"][: len(of_seeds)], of_seeds)
      worse = f"worse than the original by {' and '.join(worse)}" if worse else ""
      chosen = of_seeds[0].chosen
      chosen = "no candidate chosen" if chosen == "none" else chosen and f"rate × {chosen}"
      seconds = find(mean, "seconds").value
      accuracies = (find(mean, "accuracy", part) for part in PARTS)
      lines.append(
        f"| {method} | {' | '.join(rows.spread(find(mean, figure)) for figure in HEADLINE)} | "
        f"{' | '.join(f'{figure.value:.3f}' for figure in accuracies)} | {seconds:.2f} | "
        f"{retrain / seconds:.1f}× | {', '.join(filter(None, (worse, chosen)))} |"
      )
    if blind := unseeing(figures["original"], figures["retrain"]):
      lines += ["", f"Not told apart here, original from retrain: {', '.join(blind)}."]
    lines.append("")
  (config.out / "table.md").write_text("\n".join(lines))


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
