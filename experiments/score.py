"""Every proxy of memorization from one training run, beside ground truth and planted label noise.

For each seed: train with every tracker riding along and score the trained network with every point
proxy; then the same with a part of the labels replaced by a uniformly different class, which a
proxy of memorization should find. The ground truth is estimated once, or read from a file.

    python -m experiments.score --out runs/score_mnist5k --model mlp --epochs 10
    python -m experiments.score --out runs/score_cifar --dataset cifar10_small.npz --epochs 20

Most of the second is ground truth, 200 `cnn`s. Re-running the same command resumes. Nothing is
chosen by looking at the results.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jax.tree_util import Partial

from experiments import cli, logs, tables
from experiments.cache import Begin, compute_missing, name_of, timed, told
from experiments.judge import rank_figures, ranked
from experiments.setting import cut, recipe_of
from experiments.truth import TruthFlags, ground_truth
from jaxmul import data, metrics, proxies, report, train
from jaxmul._files import read_npz
from jaxmul.metrics import Figure
from jaxmul.proxies import trackers

TRACKERS = {
  "learning_events": trackers.learning_events,
  "cumulative_loss": trackers.cumulative_loss,
  "area_under_margin": trackers.area_under_margin,
  "forgetting_events": trackers.forgetting_events,
  "late_learning": trackers.late_learning,
  "loss_iqr": trackers.loss_iqr,
  "cumulative_gradient": trackers.cumulative_gradient,
  "tracin": trackers.tracin,
  "curvature": trackers.curvature,
  "vog": trackers.vog,
}
GRADIENTS = ("cumulative_gradient", "tracin", "curvature", "vog")
POINTS: dict[str, Callable[..., jax.Array]] = {
  "final_confidence": proxies.confidence,
  "final_max_confidence": proxies.max_confidence,
  "final_entropy": proxies.entropy,
  "final_correctness": proxies.correctness,
  "final_loss": proxies.loss,
  "final_margin": proxies.margin,
  "final_el2n": proxies.el2n,
  "final_grand": proxies.grand,
  "final_input_gradient": proxies.input_gradient,
  "final_curvature": proxies.curvature,
  "final_curvature_finite_difference": Partial(proxies.curvature, method="finite_difference"),
  "final_curvature_rum": Partial(proxies.curvature, method="rum_compat"),
}
# What changes no score, and what is told by its content: the data. The truth is only compared with.
OTHERS = (
  *("seeds", "log", "out", "dataset", "data_dir"),
  *("truth", "num_models", "fraction", "sample"),
)
PROXIES = (*TRACKERS, *POINTS, "heldout_divergence")
LAYOUT = 2  # of what is kept of a seed: raise it where an older file cannot be read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TruthFlags):
  """Proxies against the truth.

  Attributes:
    model: network to train, for the truth and for the proxies.
    proxy: which to compute; names with final_ are of the trained network.
    every: k, to gather proxies that take gradients in every k-th epoch only.
    seeds: training seeds; one gives no intervals over seeds.
    truth: .npz of an Estimate of this data and recipe; if not given, estimated into the run
      directory.
    num_models: models retrained without a random part of the data, for the truth; 0 skips it.
    planted: share of labels that are replaced in the runs with noise, in [0, 1); 0 skips them.
    sample: share of examples whose truth the combined proxy gets, in (0, 1).
  """

  model: Literal["mlp", "cnn", "resnet8", "resnet18"] = "cnn"
  proxy: tuple[str, ...] = PROXIES
  every: int = 1
  planted: float = 0.1
  sample: float = 0.05
  epochs: int = 20
  out: Path = Path("runs/score")

  def __post_init__(self):
    super().__post_init__()
    if len(set(self.proxy)) != len(self.proxy) or not self.proxy:
      raise ValueError(f"--proxy {' '.join(self.proxy)}: name each proxy once, at least one.")
    unknown = sorted(set(self.proxy) - set(PROXIES))
    if unknown:
      raise ValueError(f"--proxy {unknown[0]}: must be one of {', '.join(PROXIES)}.")
    if not 0 <= self.planted < 1:
      raise ValueError(f"--planted {self.planted}: must be in [0, 1).")
    if not 0 < self.sample < 1:
      raise ValueError(f"--sample {self.sample}: must be in (0, 1).")

  @property
  def stages(self) -> int:
    """What one seed takes: a training run and every point proxy, with planted labels twice."""
    return (1 + len(set(self.proxy) - set(TRACKERS))) * (2 if self.planted else 1)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Scored:
  """Scores {name: [n]} by id, seconds of each point proxy and of training, and its history."""

  scores: dict[str, np.ndarray]
  seconds: dict[str, float]
  training_seconds: float
  history: train.History


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """What all seeds share: training data, held-out data for the holdout proxy, the recipe."""

  training: data.Dataset
  heldout: data.Dataset
  recipe: train.Recipe


def prepare(config: Config) -> Problem:
  """Loads and cuts the data exactly as `experiments.rum` does, so that truths can be shared."""
  dataset, parts = cut(config)
  key = jax.random.fold_in(jax.random.key(config.key), 2)
  heldout = data.cut_heldout(parts.heldout, key).proxy
  recipe = recipe_of(config, dataset.num_classes)
  return Problem(dataset.take(parts.train), dataset.take(heldout), recipe)


def truth_of(config: Config, problem: Problem) -> np.ndarray | None:
  """Returns memorization [n] in the order of the training ids, or None if it is to be skipped."""
  if config.truth is None and not config.num_models:
    return None
  estimate, _, _ = ground_truth(config, problem.recipe, problem.training)
  if config.truth is None:
    estimate.save(config.out / "ground_truth.npz")
  return estimate.take(problem.training.ids).memorization


def score_all(config: Config, problem: Problem, key: jax.Array, begin: Begin) -> Scored:
  """Trains once and scores by every proxy; `begin` is told of training and of each point proxy."""
  train_key, heldout_key = jax.random.split(key)
  chosen = {
    name: make(config.every) if name in GRADIENTS else make()
    for name, make in TRACKERS.items()
    if name in config.proxy
  }
  begin("training")
  fit, training_seconds = timed(
    lambda: train.fit(problem.recipe, problem.training, train_key, trackers=chosen)
  )
  order = np.searchsorted(fit.ids, problem.training.ids)
  scores = {name: of_run[order] for name, of_run in fit.scores.items()}
  seconds = {}
  for name in config.proxy:
    if name in TRACKERS:
      continue
    begin(name)
    if name in POINTS:
      proxy = POINTS[name]
    else:
      recipe = proxies.heldout_recipe(problem.recipe)
      after = proxies.heldout_retrain(fit.network, problem.heldout, recipe, heldout_key)
      proxy = Partial(proxies.heldout_divergence, heldout_params=after)
    start = time.perf_counter()
    scores[name] = proxies.score(proxy, fit.network, problem.training)
    seconds[name] = time.perf_counter() - start
  return Scored(
    scores=scores, seconds=seconds, training_seconds=training_seconds, history=fit.history
  )


def plant(dataset: data.Dataset, share: float, key: jax.Array) -> tuple[data.Dataset, np.ndarray]:
  """Returns the data with a share of its labels replaced by a different class, and which [n]."""
  rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
  n, classes = len(dataset), dataset.num_classes
  planted = np.isin(np.arange(n), rng.permutation(n)[: round(share * n)])
  moved = (dataset.labels + rng.integers(1, classes, n)) % classes
  labels = np.where(planted, moved, dataset.labels)
  return dataclasses.replace(dataset, labels=labels), planted


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
  """Returns P[a positive scores above a negative], ties counting half."""
  from scipy.stats import rankdata

  ranks, hits = rankdata(scores), int(positive.sum())
  return float((ranks[positive].mean() - (hits + 1) / 2) / (len(scores) - hits))


def name_of_seeds(config: Config, problem: Problem) -> str:
  """Returns what the results of all seeds are named by: everything that decides them."""
  return name_of(told(config, *OTHERS), problem.training, problem.heldout, problem.recipe, LAYOUT)


def resumed(config: Config, problem: Problem, log: logs.Log) -> list[dict[str, np.ndarray]]:
  """Returns what `run_seed` does with each seed, read back if the same run has finished it."""
  name = name_of_seeds(config, problem)
  cache = config.out / "cache"
  paths = {seed: cache / f"seed{seed}-{name}.npz" for seed in range(config.seeds)}

  def compute(seed: int, path: Path, begin: Begin) -> None:
    report.write_arrays(path, run_seed(config, problem, seed, log, begin))

  compute_missing(paths, config.stages, compute)
  return [read_npz(path) for path in paths.values()]


def run_seed(
  config: Config, problem: Problem, seed: int, log: logs.Log, begin: Begin
) -> dict[str, np.ndarray]:
  """Returns what is kept of a seed.

  That is names [P] of proxies, their scores "clean" [P, n] and, with planted labels, "noisy" [P, n]
  and "planted" bool [n]; "seconds" [P], NaN for trackers; "training_seconds" and "loss" [E].

  `log` gets the history of each training run, `begin` is told when one of `config.stages` begins.
  """
  keys = jax.random.split(jax.random.fold_in(jax.random.key(config.key), 100 + seed), 3)
  kinds, arrays = {"clean": (problem, keys[0])}, {}
  if config.planted:
    training, arrays["planted"] = plant(problem.training, config.planted, keys[1])
    kinds["noisy"] = (dataclasses.replace(problem, training=training), keys[2])
  results = {}
  for kind, (own, key) in kinds.items():
    label = f"seed {seed + 1}, {kind} labels"
    results[kind] = score_all(
      config, own, key, lambda stage, label=label: begin(f"{label}: {stage}")
    )
    logs.history(log, f"seed {seed + 1}/{kind}", *results[kind].history)
  clean = results["clean"]
  names = list(clean.scores)
  arrays |= {
    "names": np.array(names),
    "seconds": np.array([clean.seconds.get(name, np.nan) for name in names]),
    "training_seconds": np.array(clean.training_seconds),
    "loss": np.asarray(clean.history.loss),
  }
  return arrays | {
    kind: np.stack([own.scores[name] for name in names]) for kind, own in results.items()
  }


def write(
  config: Config, problem: Problem, truth: np.ndarray | None, seeds: list[dict[str, np.ndarray]]
) -> dict[str, list[Figure]]:
  """Writes scores.npz and metrics.json, and returns the figures of each proxy."""
  n = len(problem.training)
  names = seeds[0]["names"].tolist()
  figures: dict[str, list[Figure]] = {name: [] for name in names}
  arrays = {"ids": problem.training.ids}
  known, top_k = np.zeros(n, bool), 1
  if truth is not None:
    arrays["memorization"], known = truth, np.isfinite(truth)
    top_k = max(1, known.sum() // 20)
  if config.planted:
    arrays["planted"] = np.stack([seed["planted"] for seed in seeds])
  kinds = ("clean", "noisy") if config.planted else ("clean",)
  of = {kind: np.stack([seed[kind] for seed in seeds], axis=1) for kind in kinds}  # [P, seeds, n]
  arrays |= {"proxy_names": np.array(names), "proxies": of["clean"]}
  if config.planted:
    arrays["proxies_of_planted"] = of["noisy"]
  for row, name in enumerate(names):
    clean = of["clean"][row]
    if truth is not None:
      figures[name] += rank_figures([ranked(own[known], truth[known], top_k) for own in clean])
    if config.planted:
      rates = list(map(auroc, of["noisy"][row], arrays["planted"]))
      figures[name].append(
        metrics.figures.over_seeds(rates, within=metrics.figures.RATE, name="auroc")
      )
    times = [float(seed["seconds"][row]) for seed in seeds]
    if np.isfinite(times).all():
      median = float(np.median(times))
      figures[name].append(Figure(name="seconds", kind="median", value=median, seeds=tuple(times)))
  record: dict[str, object] = {
    "proxies": figures,
    "training_seconds": [float(seed["training_seconds"]) for seed in seeds],
    "final_loss": [float(seed["loss"][-1]) for seed in seeds],
    "config": config,
    "versions": report.versions(),
  }
  if truth is not None:
    record["ground_truth"] = {"examples": n, "exactly_zero": float(np.mean(truth == 0))}
    record["combined"] = [
      combine(config, dict(zip(names, of["clean"][:, i], strict=True)), truth, i)
      for i in range(len(seeds))
    ]
  report.write_arrays(config.out / "scores.npz", arrays)
  report.write_json(config.out / "metrics.json", record)
  return figures


def combine(
  config: Config, scores: dict[str, np.ndarray], truth: np.ndarray, seed: int
) -> dict[str, object]:
  """Returns ρ of the combined proxy and of the best single one, both by a sample, on the others."""
  scores = {name: values for name, values in scores.items() if np.ptp(values) > 0}
  known = np.isfinite(truth)
  order = np.random.default_rng(seed).permutation(np.flatnonzero(known))
  sample = order[: max(30, round(config.sample * len(order)))]
  rest = np.setdiff1d(order, sample)
  partly = np.full(len(truth), np.nan)
  partly[sample] = truth[sample]
  try:
    result = proxies.combined(scores, partly)
  except ValueError as error:  # so few are known that all of them are 0
    return {"undefined": str(error)}
  singles = {
    name: proxies.agreement(values[sample], truth[sample], resamples=1).spearman
    for name, values in scores.items()
    if min(np.ptp(values[sample]), np.ptp(values[rest])) > 0
  }
  best = max(singles, key=lambda name: singles[name])
  return {
    "sample": len(sample),
    "cross_validated": result.agreement,
    "rest": proxies.agreement(result.scores[rest], truth[rest]),
    "best_single": best,
    "best_single_rest": proxies.agreement(scores[best][rest], truth[rest]),
  }


def print_table(proxy_figures: dict[str, list[Figure]]) -> None:
  """Prints ρ and AUROC of each proxy."""
  rows = []
  for name, figures in proxy_figures.items():
    means = {figure.name: figure for figure in figures if not figure.kind}
    rows.append((name, means.get("spearman", np.nan), means.get("auroc", np.nan)))
  title = "Proxies against ground truth and planted labels, mean ± 95 % t over seeds"
  tables.show(title, ("proxy", "ρ", "AUROC"), rows)


def main(config: Config) -> None:
  """Runs everything, writes the run directory and prints the table."""
  log = logs.start(config.out, config.log, vars(config))
  record = {"config": config, "versions": report.versions()}
  report.write_json(config.out / "config.json", record)
  problem = prepare(config)
  seeds = resumed(config, problem, log)
  print_table(write(config, problem, truth_of(config, problem), seeds))
  print(f"written: {config.out}/metrics.json, scores.npz")


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
