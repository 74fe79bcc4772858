"""Unlearning with a few distilled inputs in the place of the retain set R.

For each training seed the forget set, of low, medium and high memorization together, is unlearned
by each algorithm with its published settings three times: on R, on inputs that `data.distill`
learned from R, and on as many real examples of R. An epoch over few examples has few steps: the
seconds that this saves stand beside what it costs. "trained on distilled" is a network that saw
nothing but the distilled set. Distilling is timed on its own, as it can be done before a request.

    python -m experiments.distilled --truth experiments/truths/mnist5k_mlp.npz

Then the training set is distilled in shards, and it is attacked: is it told from the distilled set
of a shard which examples were in it? Scores are of the same examples, under the set of their own
shard and under the others, less the mean of the example's scores. The attacks must succeed on
as many real examples, some of which are the very ones, and on the whole shard.

Every result is a file of its own: the same command again goes on where it stopped. table.md,
results.json and, of images, distilled.png are written.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cache, cli, logs, mixed_set, rows, setting
from experiments.algorithms import ALGORITHMS, check, given_of
from experiments.judge import HEADLINE, PARTS
from experiments.mixed_set import MixedSet
from experiments.rows import Row
from experiments.truth import TruthFlags
from jaxmul import data, metrics, models, report, train, unlearn
from jaxmul.binding import Network
from jaxmul.metrics import Figure, find
from jaxmul.metrics.attacks import mean_of_distilled, nearest_distilled

RETAIN = ("R", "distilled", "as many real")
ATTACKS = {"nearest": nearest_distilled, "mean": mean_of_distilled}
LAYOUT = 1  # of what is kept of a row: raise it where an older file cannot be read
# What changes no row, and what is told by its content: the data and the ground truth.
OTHERS = (*("algorithms", "seeds", "shards", "log", "out"), *("dataset", "data_dir", "truth"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TruthFlags):
  """A distilled retain set.

  Attributes:
    algorithms: names, such as scrub; those that need R.
    per_class: distilled inputs of a class.
    steps: of distillation.
    shards: k parts of the training set that are distilled and attacked, at least 3; 0 skips it.
    group_size: examples in the low, medium and high set each; 0 is n/45, at least 80.
    batch_size: examples a step, in training and unlearning.
  """

  algorithms: tuple[str, ...] = ("fine_tune", "neg_grad_plus", "scrub", "salun")
  model: Literal["mlp", "cnn"] = "mlp"
  per_class: int = 10
  steps: int = 300
  shards: int = 5
  group_size: int = 0
  out: Path = Path("runs/distilled")

  def __post_init__(self):
    super().__post_init__()
    check(self.algorithms, self.model, "dmm")
    if self.shards and self.shards < 3:
      raise ValueError(f"--shards {self.shards}: must be at least 3, or 0 to skip the attack.")


class Problem:
  """The mixed forget set, and what is distilled of the data; shared by all seeds."""

  def __init__(self, config: Config):
    self.config, self.mixed = config, MixedSet(config, config.group_size)
    self.compiled: set[Hashable] = set()
    mixed, told = self.mixed, cache.told(config, *OTHERS)
    decides = (mixed.dataset, mixed.split, mixed.recipe, mixed.truth.digest, LAYOUT)
    self.version = cache.name_of(told, *decides)
    like = models.shapes(mixed.recipe.model, mixed.training.example)
    self.kept = cache.Kept(config.out / "cache" / f"sets-{self.version}", like)

  def keys(self, number: int) -> jax.Array:
    """The keys of a training seed."""
    return jax.random.split(jax.random.fold_in(self.mixed.key, 100 + number), 8)

  def small(self, number: int) -> tuple[data.Dataset, float]:
    """What is distilled of the retain set in a training seed, and its seconds."""
    return self.distilled(f"seed {number}", self.mixed.split.retain, self.keys(number)[5])

  def as_many(self, number: int) -> np.ndarray:
    """The ids of as many real examples of the retain set."""
    return self.real(self.small(number)[0], self.mixed.split.retain, self.keys(number)[6])

  def distilled(self, name: str, ids: np.ndarray, key: jax.Array) -> tuple[data.Dataset, float]:
    """Returns what is distilled of these training examples, and its seconds; kept in a file."""
    config = self.config

    def make() -> dict[str, np.ndarray]:
      small = data.distill(self.mixed.training, config.per_class, key, ids=ids, steps=config.steps)
      return {"inputs": small.inputs, "labels": small.labels, "ids": small.ids}

    arrays, seconds = self.kept(name, make)
    parts = (arrays["inputs"], arrays["labels"], arrays["ids"])
    return data.Dataset(*parts, num_classes=self.mixed.dataset.num_classes), seconds

  def real(self, like: data.Dataset, ids: np.ndarray, key: jax.Array) -> np.ndarray:
    """Returns the ids of as many real examples of each class, drawn among these."""
    order = np.asarray(jax.random.permutation(key, len(ids)))
    drawn = self.mixed.training.take(np.sort(ids)[order])
    counts = np.bincount(like.labels, minlength=self.mixed.dataset.num_classes)
    return np.concatenate([drawn.ids[drawn.labels == c][:k] for c, k in enumerate(counts)])


class Seed:
  """One training seed: the original, its oracle, a judge, and what R is replaced by."""

  def __init__(self, problem: Problem, number: int):
    self.problem, mixed = problem, problem.mixed
    keys = problem.keys(number)
    self.second_key, self.key, self.train_key = keys[2], keys[3], keys[7]
    fit, self.seconds = cache.timed(lambda: train.fit(mixed.recipe, mixed.training, keys[0]))
    self.original = fit.network
    reference = mixed.dataset.take(mixed.heldout.proxy)
    self.given = given_of(problem.config, reference, keys[4], keys[4])
    split = mixed.split
    self.small, _ = problem.small(number)
    both = data.concatenate([mixed.training.take(split.forget), self.small])
    self.worked_on: dict[str, tuple[data.Dataset, data.Split]] = {
      "R": (mixed.training, split),
      "distilled": (both, data.Split(split.forget, self.small.ids)),
      "as many real": (mixed.training, data.Split(split.forget, problem.as_many(number))),
    }
    self.judge = mixed.judge(keys[1], self.key)

  def original_row(self) -> Row:
    """What doing nothing scores."""
    return Row(figures=self.judge(self.original, self.seconds))

  def retrain_row(self) -> Row:
    """What a second oracle scores."""
    second = cache.timed(lambda: self.problem.mixed.retrained(self.second_key))
    return Row(figures=self.judge(*second))

  def trained_row(self) -> Row:
    """What a network scores that was trained on the distilled set alone."""
    recipe = self.problem.mixed.recipe

    def run() -> Network:
      return train.fit(recipe, self.small, self.train_key).network

    shape = ("trained", len(self.small))
    after, seconds, first_call = rows.timed_compiled(run, self.problem.compiled, shape)
    return Row(figures=self.judge(after, seconds), first_call=first_call)

  def row(self, algorithm: str, retain: str) -> Row:
    """What an algorithm scores with its published settings; compilation is not timed."""
    make, epochs = ALGORITHMS[algorithm]
    worked_on, split = self.worked_on[retain]
    batch = self.problem.config.batch_size

    def run() -> Network:
      chosen, original = make(self.given, 1.0), self.original
      return unlearn.run(
        chosen, original, worked_on, split, self.key, epochs=epochs, batch_size=batch
      )

    try:
      shape = (algorithm, len(worked_on), len(split.retain))
      after, seconds, first_call = rows.timed_compiled(run, self.problem.compiled, shape)
    except FloatingPointError:
      return Row()
    return Row(figures=self.judge(after, seconds), first_call=first_call)


def work_on(config: Config, seed: Callable[[], Seed]) -> dict[str, Callable[[], Row]]:
  """Returns what computes each row of the table of one training seed."""
  work: dict[str, Callable[[], Row]] = {
    "original": lambda: seed().original_row(),
    "retrain": lambda: seed().retrain_row(),
    "trained on distilled": lambda: seed().trained_row(),
  }
  for algorithm in config.algorithms:
    for retain in RETAIN:
      work[f"{algorithm}, {retain}"] = lambda a=algorithm, r=retain: seed().row(a, r)
  return work


def attacked(problem: Problem) -> dict[str, list[Figure]]:
  """Returns AUCs of attacks on what shards are distilled to, and on controls: {kind: figures}.

  Figures are of all training examples and of the forget set.
  """
  config, ids = problem.config, np.sort(problem.mixed.training.ids)
  key = jax.random.fold_in(problem.mixed.key, 11)
  order_key, *keys = jax.random.split(key, 1 + 2 * config.shards)
  order = np.asarray(jax.random.permutation(order_key, len(ids)))
  shards = np.array_split(ids[order], config.shards)
  keys, real_keys = keys[: config.shards], keys[config.shards :]
  small = [
    problem.distilled(f"shard {number} of {config.shards}", shard, own)[0]
    for number, (shard, own) in enumerate(zip(shards, keys, strict=True))
  ]
  real = [
    problem.mixed.training.take(problem.real(own_small, shard, own))
    for own_small, shard, own in zip(small, shards, real_keys, strict=True)
  ]
  kinds = {
    "distilled": small,
    "as many real": real,
    "the whole shard": [problem.mixed.training.take(shard) for shard in shards],
  }
  own = np.zeros(len(ids), int)
  for number, shard in enumerate(shards):
    own[np.searchsorted(ids, shard)] = number
  examples = problem.mixed.training.take(ids)
  asked = np.isin(ids, problem.mixed.split.forget)
  return {
    kind: [
      leak(np.stack([attack(examples, one) for one in sets])[:, chosen], own[chosen], name, part)
      for name, attack in ATTACKS.items()
      for part, chosen in (("train", np.ones(len(ids), bool)), ("forget", asked))
    ]
    for kind, sets in kinds.items()
  }


def leak(scores: np.ndarray, own: np.ndarray, attack: str, part: str) -> Figure:
  """Returns the AUC of scores under the set of an example's own shard against those of others.

  Args:
    scores: [k, n] of n examples under the sets of k shards, higher where one looks a member.
    own: int [n], the shard of each example.
    attack, part: of the figure.
  """
  count = len(scores)
  relative = (scores - scores.mean(0)).T  # [n, k]
  is_own = np.arange(count) == own[:, None]
  others = relative[~is_own].reshape(len(own), count - 1)
  rates = metrics.attacks.rates(relative[is_own], others.T, paired=True)
  note = metrics.figures.EXAMPLES
  return metrics.figures.with_interval(rates.auc, note, name="AUC", part=part, kind=attack)


def table(config: Config, methods: Mapping[str, list[Row]]) -> list[str]:
  """Returns the lines of a table of all rows."""
  seeds = len(methods["original"])
  lines = [
    f"### {config.dataset.rsplit('/', 1)[-1]}, `{config.model}`, {config.per_class} a class "
    f"({seeds} seed{'s' if seeds > 1 else ''})",
    "",
    f"| algorithm, on | {' | '.join(HEADLINE)} | forget | retain | test | seconds |",
    "|---" * (len(HEADLINE) + 5) + "|",
  ]
  means = rows.means_of(methods)
  for method in methods:
    if method not in means:
      lines.append(f"| {method} | diverged |" + " |" * (len(HEADLINE) + 3))
      continue
    mean = means[method]
    cells = [rows.spread(find(mean, figure)) for figure in HEADLINE]
    cells += [f"{find(mean, 'accuracy', part).value:.3f}" for part in PARTS]
    lines.append(f"| {method} | {' | '.join(cells)} | {find(mean, 'seconds').value:.2f} |")
  return [*lines, ""]


def attack_table(attacks: Mapping[str, list[Figure]]) -> list[str]:
  """Returns the lines of a table of AUCs with their intervals."""
  first = next(iter(attacks.values()))
  names = [f"{figure.kind}, {figure.part}" for figure in first]
  lines = [f"| AUC of | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
  for kind, figures in attacks.items():
    cells = [f"{f.value:.3f} ({f.low:.3f}–{f.high:.3f})" for f in figures]
    lines.append(f"| {kind} | {' | '.join(cells)} |")
  return [*lines, ""]


def main(config: Config) -> None:
  """Runs what is missing, and writes the tables and the picture."""
  log = logs.start(config.out, config.log, vars(config))
  problem = Problem(config)
  record = {"config": config, "versions": report.versions(), "ties": setting.TIES_RULE}
  report.write_json(config.out / "config.json", record)
  kept = functools.partial(rows.path_of, config.out, problem.version)
  seed_of = functools.lru_cache(1)(functools.partial(Seed, problem))
  work = {
    (number, mixed_set.NAME): work_on(config, functools.partial(seed_of, number))
    for number in range(config.seeds)
  }
  results: rows.Results = {}
  for results in rows.computed(work, kept, log):
    (config.out / "table.md").write_text("\n".join(table(config, results[mixed_set.NAME])))
  attacks = attacked(problem) if config.shards else {}
  seconds = [problem.small(number)[1] for number in range(config.seeds)]
  lines = table(config, results[mixed_set.NAME]) + (attack_table(attacks) if attacks else [])
  lines.append(f"Distilling took {', '.join(f'{one:.1f}' for one in seconds)} s, compiled anew.")
  (config.out / "table.md").write_text("\n".join(lines) + "\n")
  record = {"rows": results[mixed_set.NAME], "attacks": attacks, "seconds_of_distilling": seconds}
  report.write_json(config.out / "results.json", record)
  small, real = problem.small(0)[0], problem.mixed.training.take(problem.as_many(0))
  if small.inputs.ndim > 2:
    images = {"distilled": small.inputs, "as many real": real.inputs}
    report.plots.sheets(config.out / "distilled.png", images)
  print((config.out / "table.md").read_text())


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
