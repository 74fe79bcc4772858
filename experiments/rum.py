"""The main job: memorization, proxies and RUM on real images, beside retrained models.

For each seed: train the original model (trackers riding along), score memorization by cheap
proxies, unlearn a forget set by every method, and compare each result with a model retrained from
scratch. The ground truth is estimated once. Default: 5,000 real digits, an MLP with 94 % test
accuracy, 200 ground-truth models, 3 seeds; about 4 minutes on 2 CPU cores.

    python -m experiments.rum --out runs/demo

Re-running the same command resumes: what is finished is read back. Nothing is chosen by looking at
test data, and the attack uses neither the test set nor the retain examples that ToW uses.
"""

import dataclasses
import functools
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import jax
import numpy as np

from experiments import cli, logs, outcome
from experiments.cache import (
  Begin,
  Kept,
  compute_missing,
  ensemble_store,
  name_of,
  timed,
  told,
)
from jaxmul import (
  checkpoint,
  data,
  memorization,
  metrics,
  models,
  proxies,
  report,
  rum,
  train,
  unlearn,
)
from jaxmul.binding import Bound

Proxy = Literal[
  "confidence", "max_confidence", "correctness", "entropy", "curvature", "heldout_divergence"
]
EVENTS = ("confidence", "max_confidence", "correctness", "entropy")
Network = Literal["mlp", "cnn", "resnet18", "resnet50", "vgg16", "vit"]
Keep = Callable[[str, Callable[[], Any]], tuple[Any, float]]
# What changes no number of a seed, and what is told by its content: the data and the ground truth.
OTHERS = ("seeds", "audit_models", "checkpoints", "log", "out", "dataset", "data_dir", "truth")
PLANS = {"neg_grad_plus": rum.neg_grad_plus_plan, "salun": rum.salun_plan}


@dataclasses.dataclass(frozen=True)
class Config:
  """RUM end to end.

  Attributes:
    dataset: mnist5k, digits, a path to an .npz file, or the name of a prepared TFDS data set.
    model: network to train; vgg16 needs images of 32 pixels a side, vit sides divisible by 8.
    proxy: memorization proxies to refine the forget set with.
    plan: RUM's published plan: salun (none, fine-tune, SalUn) or neg_grad_plus (three times).
    seeds: training seeds; one gives no intervals.
    num_models: models retrained without a random part of the data, for the ground truth.
    truth: .npz of an Estimate of this data and recipe, which takes their place; its seconds are not
      known.
    fraction: share of the training set that each of them sees, in (0, 1).
    group_size: examples in each of the three forget groups; 0 is n/45, at least 80.
    epochs: passes of every training run.
    batch_size: examples a step, in training and unlearning.
    learning_rate: step size of training in its first epoch; it falls along a cosine.
    audit_models: originals and oracles (each) that the evaluator is audited with; 0 leaves it out.
    checkpoints: keep every network, so that a run that is stopped goes on within a seed.
    key: number from which all randomness follows.
    data_dir: folder of prepared TFDS data sets.
    log: services that get the log too; `log.jsonl` in the run directory is always written.
    out: run directory to write.
  """

  dataset: str = "mnist5k"
  model: Network = "mlp"
  proxy: tuple[Proxy, ...] = (*EVENTS, "curvature", "heldout_divergence")
  plan: Literal["salun", "neg_grad_plus"] = "salun"
  seeds: int = 3
  num_models: int = 200
  truth: Path | None = None
  fraction: float = 0.7
  group_size: int = 0
  epochs: int = 10
  batch_size: int = 64
  learning_rate: float = 0.05
  audit_models: int = 24
  checkpoints: bool = False
  key: int = 0
  data_dir: Path | None = None
  log: tuple[logs.Service, ...] = ()
  out: Path = Path("runs/rum")

  def __post_init__(self):
    if self.seeds < 1:
      raise ValueError(f"--seeds {self.seeds}: must be at least 1.")
    if self.audit_models and self.audit_models < 8:
      raise ValueError(f"--audit-models {self.audit_models}: must be at least 8, or 0 for none.")
    if len(set(self.proxy)) != len(self.proxy) or not self.proxy:
      raise ValueError(f"--proxy {' '.join(self.proxy)}: name each proxy once, at least one.")
    if self.checkpoints:
      checkpoint.refuse_path(self.out)

  @property
  def stages(self) -> int:
    """What one seed takes: three trainings, the proxies that are no events, the methods."""
    points = len(set(self.proxy) - set(EVENTS))
    return 3 + points + 4 + (self.plan == "salun") + len(self.proxy)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
  """What all seeds share: the data, its parts, the recipe and the ground truth."""

  dataset: data.Dataset
  training: data.Dataset
  heldout: data.Heldout
  test: np.ndarray
  recipe: train.Recipe
  truth: memorization.Estimate
  truth_seconds: float
  groups: rum.Selection
  plan_hash: str


def load(config: Any) -> data.Dataset:
  """Returns the data set that the config names."""
  if config.dataset == "mnist5k":
    return data.mnist5k()
  if config.dataset == "digits":
    return data.digits()
  if config.dataset.endswith(".npz"):
    return data.from_npz(config.dataset)
  return data.from_tfds(config.dataset, "train", data_dir=config.data_dir)


def cut(config: Any) -> tuple[data.Dataset, data.Holdout]:
  """Returns the data set of a config and its training, held-out and test ids."""
  dataset = load(config)
  n = len(dataset)
  key = jax.random.fold_in(jax.random.key(config.key), 0)
  return dataset, data.holdout(dataset, key, heldout=n // 10, test=n // 5)


def recipe_of(config: Any, num_classes: int) -> train.Recipe:
  """Returns the training recipe of a config."""
  model = getattr(models, config.model)(num_classes=num_classes)
  return train.Recipe(model, config.epochs, config.batch_size, config.learning_rate)


def truth_settings(config: Any) -> dict[str, Any]:
  """Returns the key, the models and the share of the data of the ground truth of a config."""
  key = jax.random.fold_in(jax.random.key(config.key), 1)
  return {"key": key, "num_models": config.num_models, "fraction": config.fraction}


def planned_truth(
  config: Any, recipe: train.Recipe, training: data.Dataset
) -> tuple[memorization.Plan, Path]:
  """Returns what the ground truth of a config trains, and the folder for its chunks."""
  plan = memorization.plan(recipe, training, **truth_settings(config))
  return plan, config.out / "cache" / f"chunks-{plan.hash[:12]}"


def ground_truth(
  config: Any, recipe: train.Recipe, training: data.Dataset
) -> tuple[memorization.Estimate, float, str]:
  """Estimates the ground truth of a config, or reads it back.

  Returns:
    The estimate, the seconds that all of it took, and the hash of its plan.
  """
  plan, chunks = planned_truth(config, recipe, training)
  path = config.out / "cache" / f"ground_truth-{plan.hash[:12]}-{config.num_models}.npz"
  clock = path.with_suffix(".json")
  if path.exists() and clock.exists():
    print(f"ground truth: read back from {path}")
    seconds = json.loads(clock.read_text())["seconds"] or float("nan")
    return memorization.Estimate.load(path), seconds, plan.hash
  print(f"ground truth: {config.num_models} models of {plan.subset_size} examples each")
  missing = memorization.Store(chunks, plan).missing()
  start = time.perf_counter()
  truth = memorization.estimate(recipe, training, **truth_settings(config), store=chunks)
  # After a kill only a part was computed now: the time of all is the time of that part, scaled.
  new = sum(len(plan.models(number)) for number in missing)
  seconds = (time.perf_counter() - start) * config.num_models / new if new else float("nan")
  truth.save(path)
  report.write_json(clock, {"seconds": seconds})
  rate = f"{seconds:.0f} s, {config.num_models / seconds:.3g} models/s"
  print(f"ground truth: {rate if new else f'all models were in {chunks}'}")
  return truth, seconds, plan.hash


def read_truth(path: Path, training: data.Dataset) -> memorization.Estimate:
  """Reads a saved ground truth, which must cover the training set."""
  estimate = memorization.Estimate.load(path)
  missing = np.setdiff1d(training.ids, estimate.ids)
  if len(missing):
    raise ValueError(
      f"the ground truth lacks {len(missing)} of {len(training)} training examples, such as id "
      f"{missing[0]}. Pass the --truth of this --dataset and --key."
    )
  print(f"ground truth: read from {path}")
  return estimate.take(training.ids)


def prepare(
  config: Config, dataset: data.Dataset, parts: data.Holdout, recipe: train.Recipe
) -> Problem:
  """Estimates the ground truth, or reads it back, and selects the forget groups."""
  key = jax.random.key(config.key)
  training = dataset.take(parts.train)
  if config.truth is None:
    truth, seconds, plan_hash = ground_truth(config, recipe, training)
  else:
    truth = read_truth(config.truth, training)
    seconds, plan_hash = float("nan"), truth.digest
  size = config.group_size or max(80, round(len(training) / 45))
  known = np.isfinite(truth.memorization)
  groups = rum.select(truth.memorization[known], truth.ids[known], size=size)
  heldout = data.cut_heldout(parts.heldout, jax.random.fold_in(key, 2))
  return Problem(dataset, training, heldout, parts.test, recipe, truth, seconds, groups, plan_hash)


def split_of(problem: Problem) -> data.Split:
  """Returns the split of a problem: all three groups are forgotten."""
  forget = np.sort(np.concatenate(problem.groups))
  return data.Split(
    forget=forget,
    retain=np.setdiff1d(problem.training.ids, forget),
    heldout=np.concatenate(problem.heldout),
    test=problem.test,
  )


def audited(config: Config, problem: Problem) -> metrics.Audit:
  """Audits the evaluator with originals and oracles of the same recipe; resumable."""
  key = jax.random.fold_in(jax.random.key(config.key), 3)
  split, count = split_of(problem), config.audit_models
  what = (problem.recipe, problem.dataset, split, key)
  store = ensemble_store(config.out, metrics.oracle.plans(*what, count))
  start = time.perf_counter()
  ensemble = metrics.oracle.ensemble(*what, num_models=count, store=store)
  found = metrics.audit(
    *(ensemble, split, problem.heldout.attack, key),
    high=problem.groups.high,
    low=problem.groups.low,
    batch_norm=metrics.batch_norm_control(*what, num_models=count // 2),
  )
  print(f"audit: {count} originals and {count} oracles, {time.perf_counter() - start:.0f} s")
  return found


def run_seed(
  config: Config,
  problem: Problem,
  seed: int,
  log: logs.Log,
  begin: Begin,
  keep: Keep,
) -> dict[str, Any]:
  """Trains, scores, unlearns and evaluates with one seed.

  Args:
    config, problem: of the run.
    seed: from 0.
    log: gets the history of each training run by epoch, and what each method scored by seed.
    begin: is told when each of the `config.stages` begins.
    keep: `(name, make) -> (make(), seconds)`, which may read back what an earlier run made.

  Returns:
    {"proxies": {name: {"seconds", "scores" [n]}}, "methods": {name: {"seconds", "forget", "retain",
    "test", "attack", "ToW", "ToW-MIA"}}, "confidence": {name: p_y [k] of the forget set, by id}};
    accuracies and rates in [0, 1].
  """
  keys = jax.random.split(jax.random.fold_in(jax.random.key(config.key), 100 + seed), 7)
  split = split_of(problem)
  forget = split.forget

  label = f"seed {seed + 1}"

  def trained(name: str, make: Callable[[], train.Fit]) -> tuple[Bound, dict[str, Any], float]:
    begin(f"{label}: training {name}")
    fit = functools.cache(make)
    rows, seconds = keep(f"{name} history", lambda: fit().scores | fit().history._asdict())
    params, _ = keep(name, lambda: fit().params)
    logs.history(log, f"{label}/{name}", rows["loss"], rows["accuracy"])
    return params, rows, seconds

  def retrained(name: str, key: jax.Array) -> tuple[Bound, dict[str, Any], float]:
    return trained(name, lambda: unlearn.retrain(problem.recipe, problem.training, split, key))

  trackers = {"events": proxies.trackers.learning_events()}
  original, events, train_seconds = trained(
    "original", lambda: train.fit(problem.recipe, problem.training, keys[0], trackers=trackers)
  )
  oracle, _, retrain_seconds = retrained("oracle", keys[1])
  second, _, _ = retrained("second oracle", keys[2])

  scored: dict[str, tuple[np.ndarray, float]] = {}
  for name in config.proxy:
    if name in EVENTS:
      scored[name] = events[name], train_seconds
    else:
      begin(f"{label}: scoring {name}")
      found, seconds = keep(name, point_proxy(name, problem, original, keys[3]))
      scored[name] = found[name], seconds

  batch = config.batch_size

  def vanilla(algorithm: unlearn.Unlearner, epochs: int) -> Callable[[], Bound]:
    return lambda: unlearn.run(
      algorithm, original, problem.training, split, keys[4], epochs=epochs, batch_size=batch
    )

  def refined(groups: list[np.ndarray]) -> Callable[[], Bound]:
    plan = PLANS[config.plan](batch)
    return lambda: rum.meta_unlearn(plan, original, problem.training, groups, keys[4])

  def by(scores: np.ndarray) -> list[np.ndarray]:
    return rum.refine(scores[problem.training.rows(forget)], forget)

  methods: dict[str, Callable[[], Bound]] = {
    "fine-tune": vanilla(unlearn.fine_tune(), 10),
    "NegGrad+ vanilla": vanilla(unlearn.neg_grad_plus(), 5),
  }
  if config.plan == "salun":
    methods["SalUn vanilla"] = vanilla(unlearn.salun(), 10)
  methods["RUM shuffle"] = refined(rum.shuffle(forget, keys[5]))
  methods["RUM ground truth"] = refined(by(problem.truth.memorization))
  for name, (scores, _) in scored.items():
    methods[f"RUM {name}"] = refined(by(scores))

  judge = Judge(problem, split, keys[6], oracle)
  networks = {"original": (original, train_seconds), "retrain": (second, retrain_seconds)}
  results, confidence = {}, {}
  forgotten = problem.training.take(forget)
  for name in (*networks, *methods):
    if name in methods:
      begin(f"{label}: {name}")
    params, seconds = networks[name] if name in networks else keep(name, methods[name])
    results[name] = judge(params, seconds)
    log(seed, {f"{name}/{figure}": value for figure, value in results[name].items()})
    confidence[name] = 1 - proxies.score(proxies.confidence, params, forgotten)
  return {
    "proxies": {name: {"seconds": s, "scores": scores} for name, (scores, s) in scored.items()},
    "methods": results,
    "confidence": confidence,
  }


def point_proxy(
  name: str, problem: Problem, original: Bound, key: jax.Array
) -> Callable[[], dict[str, np.ndarray]]:
  """Returns what computes {name: scores [n]} of a proxy of the trained network."""

  def scores() -> dict[str, np.ndarray]:
    if name == "curvature":
      proxy = jax.tree_util.Partial(proxies.curvature)
    else:
      heldout = problem.dataset.take(problem.heldout.proxy)
      recipe = proxies.heldout_recipe(problem.recipe)
      after = proxies.heldout_retrain(original, heldout, recipe, key)
      proxy = jax.tree_util.Partial(proxies.heldout_divergence, heldout_params=after)
    # Curvature of a ResNet-50 keeps 30 MB for an image of 32 × 32, by its shapes.
    rows = 128 * len(jax.devices())
    return {name: proxies.score(proxy, original, problem.training, batch_size=rows)}

  return scores


class Judge:
  """Compares a network with the oracle: accuracies, attack rate, ToW and ToW-MIA.

  The attack is fitted on as many retain examples as there are held-out ones set aside for it; ToW
  uses the other retain examples.
  """

  def __init__(self, problem: Problem, split: data.Split, key: jax.Array, oracle: Bound):
    nonmembers = problem.heldout.attack
    order = np.asarray(jax.random.permutation(key, len(split.retain)))
    cut = len(nonmembers)
    self._dataset = problem.dataset
    self._split = dataclasses.replace(split, retain=split.retain[order[cut:]])
    self._attack: dict[str, Any] = {
      "members": split.retain[order[:cut]],
      "nonmembers": nonmembers,
      "targets": split.forget,
    }
    self._oracle = self._rates(oracle)

  def _rates(self, params: Bound) -> dict[str, float]:
    found = metrics.evaluate(params, self._dataset, self._split)
    attack = metrics.attacks.svc_on_split(params, self._dataset, **self._attack)
    return {name: found[name] for name in ("forget", "retain", "test")} | {"attack": attack}

  def __call__(self, params: Bound, seconds: float) -> dict[str, float]:
    rates = self._rates(params)

    def triples(entry: str) -> list[tuple[float, float, float]]:
      return [(each[entry], each["retain"], each["test"]) for each in (rates, self._oracle)]

    return rates | {
      "ToW": metrics.tow(*triples("forget")),
      "ToW-MIA": metrics.tow_mia(*triples("attack")),
      "seconds": seconds,
    }


def keeper(config: Config, problem: Problem, folder: Path) -> Keep:
  """Returns `keep` of `run_seed`: with checkpoints in a folder, or a clock alone."""
  if not config.checkpoints:
    return lambda _, make: timed(make)
  example = problem.training.take(problem.training.ids[:1]).batch()[0]
  return Kept(folder, models.shapes(problem.recipe.model, example))


def name_of_seeds(config: Config, problem: Problem) -> str:
  """Returns what the results of all seeds are named by: everything that decides them."""
  ids = (problem.training.ids, problem.heldout, problem.test)
  given = (problem.truth.digest, problem.groups)
  return name_of(told(config, *OTHERS), problem.dataset, ids, problem.recipe, given)


def resumed(config: Config, problem: Problem, log: logs.Log) -> list[dict[str, Any]]:
  """Returns the result of each seed, read back if the same run has finished it before."""
  name = name_of_seeds(config, problem)
  paths = [config.out / "cache" / f"seed{seed}-{name}.json" for seed in range(config.seeds)]

  def compute(seed: int, path: Path, begin: Begin) -> None:
    keep = keeper(config, problem, path.with_suffix(""))
    report.write_json(path, run_seed(config, problem, seed, log, begin, keep))

  compute_missing(paths, config.stages, compute)
  results = [json.loads(path.read_text()) for path in paths]
  for result in results:
    for found in result["proxies"].values():
      found["scores"] = np.asarray(found["scores"])
  return results


def steps_of(plan: rum.Plan) -> dict[str, str]:
  """Returns what a plan does to each group, with every setting: {group: algorithm(…), …}."""
  said = {}
  for group, step in zip(rum.Selection._fields, plan.steps, strict=True):
    if step.unlearner is None:
      said[group] = "left as it is"
    else:
      name, *values = cast(tuple, step.unlearner.identity)
      names = inspect.signature(getattr(unlearn, name)).parameters
      settings = ", ".join(f"{k}={v}" for k, v in zip(names, values, strict=True))
      said[group] = f"{name}({settings}), {step.epochs} epochs, batch {step.batch_size}"
  return said


def main(config: Config) -> None:
  """Runs everything on the data set of a config."""
  dataset, parts = cut(config)
  run(config, dataset, parts, recipe_of(config, dataset.num_classes))


def run(config: Config, dataset: data.Dataset, parts: data.Holdout, recipe: train.Recipe) -> None:
  """Runs everything on these parts, writes the run directory and prints the table."""
  plan = steps_of(PLANS[config.plan](config.batch_size))
  record = {"config": config, "plan": plan, "versions": report.versions()}
  log = logs.start(config.out, config.log, config)
  report.write_json(config.out / "config.json", record)
  problem = prepare(config, dataset, parts, recipe)
  outcome.write(config.out, problem, resumed(config, problem, log), record)
  if config.audit_models:
    found = audited(config, problem)
    report.write_json(
      config.out / "audit.json", {"passed": found.passed, "line": found.line, "audit": found}
    )
    print(found.line)
  page = report.html(config.out)
  print(f"written: {page}, metrics.json, scores.npz and *.png beside it")


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
