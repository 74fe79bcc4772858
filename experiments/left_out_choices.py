"""Which examples to leave out: ways to spend the same number of models, compared without training.

    python -m experiments.left_out_choices --truth runs/truth/estimate.npz --out runs/choices

The truth is an estimate of random subsets (`experiments.memorize`) by many more models than are
spent; without --truth it is estimated first. In each repetition one half of what its models said of
each example, in a random order, is what a strategy spends, and the other half is the truth that it
is compared with, the same for all strategies; see `spent_outcomes`. Two things cannot be seen so:
that models which leave out a chosen few saw nearly all the others, and that all outcomes of one
model go together.

Intervals are over repetitions, which share one truth and a few networks of the proxy: they say
whether strategies differ on these models, and not what other networks would give.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cli, setting, tables
from experiments.cache import Begin, compute_missing, name_of, told
from experiments.spent_outcomes import Outcomes, asked, outcomes_of
from experiments.truth import TruthFlags, ground_truth
from jaxmul import data, memorization, metrics, proxies, report, train
from jaxmul._files import read_npz
from jaxmul.memorization import adaptive, sleeping_experts
from jaxmul.metrics import Figure, intervals
from jaxmul.proxies import trackers

Results = Mapping[str, Mapping[str, list[float]]]

_MEMORIZED = 0.1
_SPENDING = ("num_models", "fraction", "budgets", "share", "rounds", "top", "repetitions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TruthFlags):
  """Compares uniform choice, the widest intervals, sleeping experts and a proxy's candidates.

  Attributes:
    budgets: numbers of models to spend. Of M models of the truth an example may spend 0.15 M
      without it, and candidates ask for half of a budget: up to M/4 hardly any lacks some.
    share: share of the examples that a later round, or every model on candidates, chooses from.
    rounds: later rounds; both strategies that have them are also compared with rounds of 2 models.
    top: each k of precision at k.
    repetitions: random orders of the outcomes.
    seeds: networks whose cumulative loss chooses candidates; repetitions take them in turn.
  """

  model: Literal["mlp", "cnn", "resnet8", "resnet18"] = "mlp"
  num_models: int = 400
  budgets: tuple[int, ...] = (25, 50, 100)
  share: float = 0.1
  rounds: int = 4
  top: tuple[int, ...] = (80, 350)
  repetitions: int = 10
  out: Path = Path("runs/left_out_choices")

  def __post_init__(self):
    super().__post_init__()
    if min(self.budgets) // 2 // self.rounds < 2:
      raise ValueError(
        f"--budgets {min(self.budgets)} --rounds {self.rounds}: half of the models must give each "
        "round two. Give more models or fewer rounds."
      )

  @property
  def strategies(self) -> dict[str, tuple[str, int]]:
    """All that is compared: {name in tables: (kind, models a later round or 0 for `rounds`)}."""
    rounds = f"{self.rounds} rounds"
    return {
      "uniform": ("uniform", 0),
      f"widest, {rounds}": ("widest", 0),
      "widest, rounds of 2": ("widest", 2),
      f"sleeping experts, {rounds}": ("sleeping experts", 0),
      "sleeping experts, rounds of 2": ("sleeping experts", 2),
      "candidates of a proxy": ("candidates", 0),
    }


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Drawn:
  """What the strategies of one repetition share."""

  repetition: int
  ids: np.ndarray
  outcomes: Outcomes
  proxy: np.ndarray


def spend(
  config: Config, strategy: str, budget: int, drawn: Drawn
) -> tuple[np.ndarray, np.ndarray]:
  """Returns memorization and interval width [n] after a strategy has spent its models."""
  kind, size = config.strategies[strategy]
  rng = np.random.default_rng([config.key, drawn.repetition])  # the same first round for all
  outcomes, n = drawn.outcomes, len(drawn.ids)
  everything, chosen = np.arange(n), round(config.share * n)
  left, half = n - round(config.fraction * n), chosen - round(chosen / 2)
  if kind == "uniform":
    return outcomes.seen(asked(rng, n, budget, everything, left))
  if kind == "candidates":
    rows = np.argsort(-drawn.proxy, kind="stable")[:chosen]
    return outcomes.seen(asked(rng, n, budget, rows, half))
  rounds = budget // 2 // size if size else config.rounds
  later = size or budget // 2 // rounds
  counts = asked(rng, n, budget - later * rounds, everything, left)
  experts = sleeping_experts.start(n)
  narrow = adaptive.narrow_enough(budget, 1 - left / n)
  for number in range(rounds):
    _, width = outcomes.seen(counts)
    if kind == "widest":
      rows = adaptive.widest(width, drawn.ids, chosen)
    else:
      key = jax.random.fold_in(jax.random.key(config.key), drawn.repetition * 2**16 + number)
      experts, rows = sleeping_experts.choose(experts, width, narrow, chosen, key)
    counts = counts.plus(asked(rng, n, later, rows, half))
  return outcomes.seen(counts)


def scored(config: Config, strategy: str, budget: int, drawn: Drawn) -> dict[str, float]:
  """Returns precision at each k, the median width over the memorized, and 0.99 quantile of all.

  The truth says who is memorized. Examples without a score are ranked last; their width is 2.
  """
  score, width = spend(config, strategy, budget, drawn)
  truth = np.nan_to_num(drawn.outcomes.truth)
  ranked, result = np.where(np.isnan(score), -1, score), {}
  for k in config.top:
    agreement = proxies.agreement(ranked, truth, top_k=k, resamples=1)
    assert agreement.precision_at_k is not None
    result[f"precision at {k}"] = agreement.precision_at_k
  result["median width"] = float(np.median(width[np.abs(truth) >= _MEMORIZED]))
  result["widest hundredth"] = float(np.quantile(width, 0.99))
  return result


def compared(
  config: Config, truth: memorization.Estimate, scores: list[np.ndarray], budget: int
) -> Results:
  """Returns {strategy: {figure: [value of each repetition]}} of a number of models."""
  results: dict[str, dict[str, list[float]]] = {name: {} for name in config.strategies}
  for repetition in range(config.repetitions):
    outcomes = outcomes_of(truth, np.random.default_rng([config.key, repetition, 1]))
    drawn = Drawn(
      repetition=repetition,
      ids=truth.ids,
      outcomes=outcomes,
      proxy=scores[repetition % len(scores)],
    )
    for name, of_strategy in results.items():
      for figure, value in scored(config, name, budget, drawn).items():
        of_strategy.setdefault(figure, []).append(value)
  return results


def cumulative_losses(
  config: Config, recipe: train.Recipe, training: data.Dataset
) -> list[np.ndarray]:
  """Returns the cumulative loss [n] of each training seed in the order of ids, or reads it back.

  The networks are not those of the truth: they have keys of their own.
  """
  others = ("log", "out", "dataset", "data_dir", "truth", "seeds", *_SPENDING)
  name = name_of(told(config, *others), training, recipe)
  paths = {seed: config.out / "cache" / f"proxy{seed}-{name}.npz" for seed in range(config.seeds)}

  def compute(seed: int, path: Path, begin: Begin) -> None:
    begin(f"seed {seed + 1}: training")
    key = jax.random.fold_in(jax.random.key(config.key), 100 + seed)
    fit = train.fit(recipe, training, key, trackers={"csl": trackers.cumulative_loss()})
    report.write_arrays(path, {"ids": fit.ids, "scores": fit.scores["cumulative_loss"]})

  compute_missing(paths, 1, compute)
  return [kept["scores"][np.argsort(kept["ids"])] for kept in map(read_npz, paths.values())]


def figures_of(results: Results) -> dict[str, list[Figure]]:
  """Returns the figures of each strategy, with an interval over repetitions."""
  return {
    strategy: [metrics.figures.over_seeds(values, name=name) for name, values in of_it.items()]
    for strategy, of_it in results.items()
  }


def less_the_default(config: Config, results: Results) -> dict[str, dict[str, object]]:
  """Returns what each strategy has more than the widest intervals, in the same repetitions."""
  default = results[f"widest, {config.rounds} rounds"]
  return {
    strategy: {name: intervals.paired(values, default[name]) for name, values in of_it.items()}
    for strategy, of_it in results.items()
    if of_it is not default
  }


def main(config: Config) -> None:
  """Reads or estimates the truth, spends it again and again, and writes and prints the figures."""
  dataset, parts = setting.cut(config)
  training = dataset.take(parts.train)
  recipe = setting.recipe_of(config, dataset.num_classes)
  truth, _, _ = ground_truth(config, recipe, training)
  scores = cumulative_losses(config, recipe, training)
  figures, differences = {}, {}
  for budget in config.budgets:
    results = compared(config, truth, scores, budget)
    figures[str(budget)] = figures_of(results)
    differences[str(budget)] = less_the_default(config, results)
    rows = [(name, *of_it) for name, of_it in figures[str(budget)].items()]
    names = [figure.name for figure in figures[str(budget)]["uniform"]]
    title = f"{budget} models, mean ± 95 % t over {config.repetitions} repetitions of one truth"
    tables.show(title, ("strategy", *names), rows)
  record = {"strategies": figures, "less_the_default": differences, "design": truth.design}
  record |= {"config": config, "versions": report.versions()}
  report.write_json(config.out / "metrics.json", record)
  print(f"written: {config.out}/metrics.json")


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
