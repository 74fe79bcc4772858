"""The stages of the main job, from a data set and its parts to a run directory.

`experiments.rum` runs it on the data set of its flags, `experiments.paper` with published numbers.
"""

import dataclasses
import functools
import importlib.util
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cache, logs, main_job_results, setting
from experiments.judge import Judge
from experiments.main_job_results import Problem, SeedResult, Work
from experiments.truth import TruthFlags, cross_fitted, ground_truth
from jaxmul import (
  checkpoint,
  data,
  metrics,
  models,
  proxies,
  report,
  rum,
  train,
  unlearn,
)
from jaxmul._command import export as exports
from jaxmul._command import own
from jaxmul.binding import Network

EVENTS = ("confidence", "max_confidence", "correctness", "entropy")
RIDING = (*EVENTS, "cumulative_loss")
PROXIES = (*EVENTS, "curvature", "heldout_divergence")
Arrays = dict[str, np.ndarray]
ModelName = Literal["mlp", "cnn", "resnet18", "resnet50", "vgg16", "vit"]
# What changes no number of a seed, and what is told by its content: the data and the ground truth.
OTHERS = (
  *("seeds", "first_seed", "audit_models", "checkpoints", "log", "out", "export"),
  *("dataset", "data_dir", "truth"),
)
ORACLES = 8  # whose mean p_y the example gap is measured from, where no audit trains more
PLANS = {"neg_grad_plus": rum.neg_grad_plus_plan, "salun": rum.salun_plan}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TruthFlags):
  """RUM end to end.

  Attributes:
    model: network to train; vgg16 needs images of 32 pixels a side, vit sides divisible by 8.
    proxy: memorization proxies to refine the forget set with: confidence, max_confidence,
      correctness, entropy and cumulative_loss over the epochs of training, curvature,
      heldout_divergence, or package.module:name of a function of your own, (params, batch) -> [B].
    rank: more of them, that are compared with the ground truth and refine nothing.
    method: package.module:name of an unlearning method of your own, an Unlearner or a rum.Step, or
      a function that returns one; it gets a row of the table.
    export: also write the table, with intervals, as table.csv, table.tex or table.parquet.
    plan: what RUM does to the groups: a published plan, salun (none, fine-tune, SalUn) or
      neg_grad_plus (three times); or auto, the autopilot, for each refinement anew.
    forget: what is to be deleted: memorization (RUM's three groups), random, or a class by its
      number, all of it; the latter two are cut into three groups by the ground truth.
    folds: K of the K networks, each trained without one K-th of the data, that tell the autopilot
      what a network says of an example that it never saw.
    trials: settings that the autopilot may try for all groups together, at least 3.
    first_seed: number of the first of the training seeds, to confirm a result on seeds that were
      never seen.
    truth: .npz of an Estimate of this data and recipe, which takes their place; its seconds are not
      known.
    group_size: examples in each of the three forget groups; 0 is n/45, at least 80. A class is
      forgotten whole.
    batch_size: examples a step, in training and unlearning.
    audit_models: originals and oracles (each) that the evaluator is audited with; 0 leaves it out.
    checkpoints: keep every network, so that a run that is stopped goes on within a seed.
  """

  model: ModelName = "mlp"
  proxy: tuple[str, ...] = PROXIES
  rank: tuple[str, ...] = ()
  method: tuple[str, ...] = ()
  export: exports.Kind | None = None
  plan: Literal["salun", "neg_grad_plus", "auto"] = "salun"
  forget: str = "memorization"
  folds: int = 5
  trials: int = 12
  first_seed: int = 0
  group_size: int = 0
  audit_models: int = 24
  checkpoints: bool = False
  out: Path = Path("runs/rum")

  def __post_init__(self):
    super().__post_init__()
    if self.first_seed < 0:
      raise ValueError(f"--first-seed {self.first_seed}: must be at least 0.")
    if self.audit_models and self.audit_models < 8:
      raise ValueError(f"--audit-models {self.audit_models}: must be at least 8, or 0 for none.")
    if len(set(self.scored)) != len(self.scored) or not self.proxy:
      raise ValueError(f"--proxy {' '.join(self.scored)}: name each proxy once, at least one.")
    known = dict.fromkeys((*PROXIES, *RIDING))
    for name in self.scored:
      if name not in known and ":" not in name:
        raise ValueError(
          f"--proxy {name}: must be one of {', '.join(known)}, or package.module:name of yours."
        )
    labels = [*map(own.label, (*self.scored, *self.method)), "shuffle", "original", "retrain"]
    if len(set(labels)) != len(labels):
      raise ValueError(f"--proxy and --method: two of {', '.join(labels)} have one name.")
    if self.forget not in ("memorization", "random") and not self.forget.isdecimal():
      raise ValueError(
        f"--forget {self.forget}: must be memorization, random or the number of a class."
      )
    if self.folds < 2 or self.trials < 3:
      raise ValueError(
        f"--folds {self.folds}: must be at least 2; --trials {self.trials}: at least 3."
      )
    if self.checkpoints:
      checkpoint.refuse_path(self.out)

  @property
  def scored(self) -> tuple[str, ...]:
    """All proxies."""
    return (*self.proxy, *self.rank)


def work_of(config: Config) -> Work:
  """Returns what is done with images: the published settings, on the groups of `forget`."""
  batch = config.batch_size
  steps = {
    "fine-tune": rum.Step(unlearn.fine_tune(), 10, batch),
    "NegGrad+ vanilla": rum.Step(unlearn.neg_grad_plus(), 5, batch),
  }
  if config.plan == "salun":
    steps["SalUn vanilla"] = rum.Step(unlearn.salun(), 10, batch)

  def choose(training, truth, key):
    size = setting.group_size_of(config.group_size, training)
    return setting.forget_groups(config.forget, size, training, truth, key)

  return Work(plain={name: {"published": step} for name, step in steps.items()}, choose=choose)


def prepare(
  config: Config,
  dataset: data.Dataset,
  parts: data.Holdout,
  recipe: train.Recipe,
  work: Work | None = None,
) -> Problem:
  """Estimates the ground truth, or reads it back, and selects the forget groups."""
  work = work_of(config) if work is None else work
  key = jax.random.key(config.key)
  training = dataset.take(parts.train)
  estimate, seconds, schedule_hash = ground_truth(config, recipe, training)
  groups = work.choose(training, estimate, jax.random.fold_in(key, 6))
  setting.show_groups(groups, training, estimate)
  heldout = data.cut_heldout(parts.heldout, jax.random.fold_in(key, 2))
  cross_fit, cross_fit_seconds = cross_fitted(config, recipe, training, config.folds)
  split = setting.split_of(np.sort(np.concatenate(groups)), training, heldout, parts.test)
  key, count = jax.random.fold_in(key, 3), config.audit_models or ORACLES
  store = cache.ensemble_store(config.out, recipe, dataset, split, key, count)
  oracles, oracle_seconds = cache.clocked(
    store.with_name(f"{store.name}-oracles.json"),
    store,
    lambda: cache.oracles(config.out, recipe, dataset, split, key, count),
  )
  return Problem(
    dataset=dataset,
    training=training,
    heldout=heldout,
    test=parts.test,
    recipe=recipe,
    truth=estimate,
    schedule_hash=schedule_hash,
    groups=groups,
    split=split,
    cross_fit=cross_fit,
    oracles=oracles,
    seconds={
      "ground truth": seconds,
      "cross-fit": cross_fit_seconds,
      "oracles": oracle_seconds,
    },
    work=work,
  )


def audited(config: Config, problem: Problem) -> tuple[metrics.Audit, float]:
  """Audits the evaluator with originals and oracles of the same recipe; resumable.

  Returns the audit and the seconds that it took.
  """
  key = jax.random.fold_in(jax.random.key(config.key), 3)
  recipe, dataset, split = problem.recipe, problem.dataset, problem.split
  count = config.audit_models
  store = cache.ensemble_store(config.out, recipe, dataset, split, key, count)

  def make() -> metrics.Audit:
    ensemble = metrics.oracle.ensemble(recipe, dataset, split, key, num_models=count, store=store)
    return metrics.audit(
      ensemble,
      split,
      problem.heldout.attack,
      key,
      high=problem.groups.high,
      low=problem.groups.low,
      batch_norm=metrics.batch_norm_control(recipe, dataset, split, key, num_models=count // 2),
    )

  clock, before = store.with_name(f"{store.name}-audit.json"), config.out / "audit.json"
  audit, seconds = cache.clocked(clock, before, make)
  print(f"audit: {count} originals and {count} oracles, {seconds:.0f} s")
  return audit, seconds


def methods_of(config: Config, plain: Iterable[str]) -> dict[str, main_job_results.Method]:
  """Returns what each seed is judged by, in the order of the tables; `plain` of the `Work`."""
  auto, first = config.plan == "auto", own.label(config.proxy[0])
  methods = {name: main_job_results.Method() for name in ("original", "retrain", *plain)}
  methods |= {own.label(name): main_job_results.Method(own=True) for name in config.method}
  for scores in ("shuffle", "ground truth", *map(own.label, config.proxy)):
    methods[f"RUM {scores}"] = main_job_results.Method(scores, tuned=auto)
  methods["vanilla, tuned"] = main_job_results.Method(tuned=True)
  if not auto:
    methods[f"RUM {first}, tuned"] = main_job_results.Method(first, tuned=True)
  return methods


def stages_of(config: Config, problem: Problem) -> int:
  """What one seed takes: three trainings, the proxies that do not ride along, the methods."""
  points = len(set(config.scored) - set(RIDING))
  return (
    3 + points + len(methods_of(config, problem.work.plain)) - 2
  )  # original and oracle are trained


def run_seed(
  config: Config,
  problem: Problem,
  seed: int,
  log: logs.Log,
  *,
  begin: cache.Begin,
  keep: cache.Keep,
) -> SeedResult:
  """Trains, scores, unlearns and evaluates with one seed.

  Args:
    config, problem: of the run.
    seed: from 0.
    log: gets the history of each training run by epoch, and what each method scored by seed.
    begin: is told when each of the `stages_of` begins.
    keep: gets what takes long, and may read it back.
  """
  keys = jax.random.split(jax.random.fold_in(jax.random.key(config.key), 100 + seed), 7)
  training, split, forget = problem.training, problem.split, problem.split.forget
  work = problem.work
  label = f"seed {seed + 1}"

  def trained(name: str, make: Callable[[], train.Fit]) -> tuple[Network, Arrays, float]:
    begin(f"{label}: training {name}")
    fit = functools.cache(make)
    rows, seconds = keep(f"{name} history", lambda: fit().scores | fit().history._asdict())
    network, _ = keep(name, lambda: fit().network)
    logs.history(log, f"{label}/{name}", rows["loss"], rows["accuracy"])
    return network, rows, seconds

  def retrained(name: str, key: jax.Array) -> tuple[Network, Arrays, float]:
    return trained(name, lambda: unlearn.retrain(problem.recipe, training, split, key))

  trackers = {"events": proxies.trackers.learning_events()}
  if "cumulative_loss" in config.scored:
    trackers["cumulative_loss"] = proxies.trackers.cumulative_loss()
  original, events, train_seconds = trained(
    "original", lambda: train.fit(problem.recipe, training, keys[0], trackers=trackers)
  )
  oracle, _, retrain_seconds = retrained("oracle", keys[1])
  second, _, second_seconds = retrained("second oracle", keys[2])
  spent = {"original": train_seconds, "oracles": retrain_seconds + second_seconds}
  spent |= dict.fromkeys(("proxies", "unlearning", "judging"), 0.0)

  scored: dict[str, tuple[np.ndarray, float]] = {}
  for name in config.scored:
    if name in RIDING:
      scored[name] = events[name], train_seconds
    else:
      begin(f"{label}: scoring {name}")
      proxy = functools.partial(point_proxy, name, problem, original, keys[3])
      scores, seconds = keep(own.label(name), proxy)
      scored[own.label(name)] = scores["scores"], seconds
      spent["proxies"] += seconds

  batch = config.batch_size

  tune_by = problem.dataset.take(problem.heldout.tune)

  def autopilot(groups: list[np.ndarray]) -> tuple[Network, np.ndarray]:
    tuned = rum.tune(
      candidates,
      original,
      training,
      groups,
      tune_by,
      keys[4],
      budget=config.trials,
      estimate=problem.cross_fit,
      progress=False,  # it is a stage of the job's own
    )
    return tuned.network, best_of(tuned.trials)

  def whole(settings: Mapping[str, rum.Step]) -> tuple[Network, np.ndarray]:
    """The setting with the best surrogate of those that finish, doing nothing not among them."""
    tried: list[tuple[float, str, Network]] = []
    for number, (name, step) in enumerate(settings.items(), 1):
      try:
        after = step.run(original, training, split, keys[4])
      except FloatingPointError:
        if number == len(settings) and not tried:
          raise
        continue
      value = 0.0
      if len(settings) > 1:
        value = rum.surrogate(after, original, training, split, tune_by, problem.cross_fit)
      tried.append((value, name, after))
    _, best, network = max(tried, key=lambda trial: trial[0])
    return network, np.array([best])

  def by(scores: np.ndarray, soft: np.ndarray | None = None) -> list[np.ndarray]:
    return setting.refined(training, forget, scores, soft)

  def by_plan(groups: list[np.ndarray]) -> tuple[Network, np.ndarray]:
    plan = PLANS[config.plan](batch)
    network = rum.meta_unlearn(plan, original, training, groups, keys[4])
    return network, np.array([config.plan])

  steps = work.plain | {own.label(name): {"": own.step(name, batch)} for name in config.method}
  candidates = rum.candidates(problem.recipe, problem.dataset.take(problem.heldout.proxy))
  refinements = {
    None: [forget],
    "shuffle": rum.copies_together(training, forget, lambda ids, _: rum.shuffle(ids, keys[5])),
    "ground truth": by(*setting.order_of(problem.truth)),
    **{name: by(scored[name][0]) for name in map(own.label, config.proxy)},
  }

  judge = Judge(
    dataset=problem.dataset,
    split=split,
    attack_ids=problem.heldout.attack,
    groups=problem.groups._asdict(),
    parts=work.parts,
    oracles=problem.oracles,
    oracle=oracle,
    key=keys[6],
  )
  networks = {"original": (original, train_seconds), "retrain": (second, retrain_seconds)}
  results, choices, confidence, tokens = {}, {}, {}, {}
  forgotten = training.take(forget)
  for name, method in methods_of(config, work.plain).items():
    groups = refinements[method.scores]
    if name in networks:
      network, seconds = networks[name]
    else:
      begin(f"{label}: {name}")
      make = functools.partial(by_plan, groups)
      if method.tuned:
        make = functools.partial(autopilot, groups)
      elif name in steps:
        make = functools.partial(whole, steps[name])
      made = functools.cache(make)
      try:
        network, seconds = keep(name, lambda made=made: made()[0])
      except FloatingPointError as error:
        raise FloatingPointError(f"{label}, {name}: {error}") from error
      spent["unlearning"] += seconds
      if method.tuned or len(steps.get(name, ())) > 1:
        chosen, _ = keep(f"{name} choice", lambda made=made: {"steps": made()[1]})
        choices[name] = chosen["steps"].tolist()
    start = time.perf_counter()
    results[name] = judge(network, seconds)
    log(seed, logs.named(results[name], name))
    confidence[name] = 1 - proxies.score(proxies.confidence, network, forgotten)
    if work.watched is not None:
      of_tokens = np.exp(-proxies.score(proxies.token_losses, network, work.watched))
      tokens[name] = of_tokens.round(4)
    spent["judging"] += time.perf_counter() - start
  return {
    "proxies": {name: {"seconds": s, "scores": scores} for name, (scores, s) in scored.items()},
    "methods": results,
    "tuned": choices,
    "confidence": confidence,
    "tokens": tokens,
    "seconds": spent,
  }


def best_of(trials: Sequence[rum.Trial]) -> np.ndarray:
  """Returns the name of the best trial of each group."""
  best: dict[int, rum.Trial] = {}
  for trial in trials:
    if trial.group not in best or trial.surrogate > best[trial.group].surrogate:
      best[trial.group] = trial
  return np.array([best[group].name for group in sorted(best)])


def point_proxy(name: str, problem: Problem, original: Network, key: jax.Array) -> Arrays:
  """Returns {"scores": [n]} of a proxy of the trained network."""
  if ":" in name:
    proxy = jax.tree_util.Partial(own.proxy(name))
  elif name == "curvature":
    proxy = jax.tree_util.Partial(proxies.curvature)
  else:
    heldout = problem.dataset.take(problem.heldout.proxy)
    recipe = proxies.heldout_recipe(problem.recipe)
    after = proxies.heldout_retrain(original, heldout, recipe, key)
    proxy = jax.tree_util.Partial(proxies.heldout_divergence, heldout_params=after)
  # Curvature of a ResNet-50 keeps 30 MB for an image of 32 × 32, by its shapes.
  rows = 128 * len(jax.devices())
  return {"scores": proxies.score(proxy, original, problem.training, batch_size=rows)}


def name_of_seeds(config: Config, problem: Problem) -> str:
  """Returns what the results of all seeds are named by: everything that decides them."""
  ids = (problem.training.ids, problem.heldout, problem.test)
  estimates = (problem.truth.digest, problem.cross_fit.digest)
  given = (*estimates, problem.groups, problem.oracles.logits, main_job_results.LAYOUT)
  given += tuple(sorted(own.files((*config.scored, *config.method)).items()))
  steps = {name: [*map(words_of, steps.values())] for name, steps in problem.work.plain.items()}
  given += (steps, problem.work.parts, problem.work.watched)
  return cache.name_of(cache.told(config, *OTHERS), problem.dataset, ids, problem.recipe, given)


def resumed(config: Config, problem: Problem, log: logs.Log) -> list[SeedResult]:
  """Returns the result of each seed, read back if the same run has finished it before."""
  name = name_of_seeds(config, problem)
  first, folder = config.first_seed, config.out / "cache"
  numbers = range(first, first + config.seeds)
  paths = {seed: folder / f"seed{seed}-{name}.json" for seed in numbers}

  def compute(seed: int, path: Path, begin: cache.Begin) -> None:
    like = models.shapes(problem.recipe.model, problem.training.example)
    kept = cache.Kept(path.with_suffix(""), like) if config.checkpoints else None
    keep = kept or (lambda _, make: cache.timed(make))
    done = run_seed(config, problem, seed, log, begin=begin, keep=keep)
    report.write_json(path, done)

  cache.compute_missing(paths, stages_of(config, problem), compute)
  results = [json.loads(path.read_text()) for path in paths.values()]
  for result in results:
    result["methods"] = {
      name: metrics.figures.read(rows) for name, rows in result["methods"].items()
    }
    for proxy in result["proxies"].values():
      proxy["scores"] = np.asarray(proxy["scores"])
  return results


def steps_of(config: Config) -> dict[str, str]:
  """Returns what the plan does to each group, with every setting: {group: algorithm(…), …}."""
  if config.plan == "auto":
    return dict.fromkeys(rum.Selection._fields, "what the autopilot chose, see metrics.json")
  plan = PLANS[config.plan](config.batch_size)
  return {
    group: words_of(step) for group, step in zip(rum.Selection._fields, plan.steps, strict=True)
  }


def words_of(step: rum.Step) -> str:
  """Returns what a step does, with every setting."""
  if step.unlearner is None:
    return "left as it is"
  return f"{step.unlearner.words()}, {step.epochs} epochs, batch {step.batch_size}"


def run(
  config: Config,
  dataset: data.Dataset,
  parts: data.Holdout,
  recipe: train.Recipe,
  work: Work | None = None,
  *,
  data_seconds: float,
) -> Problem:
  """Runs everything on these parts, writes the run directory and prints the table.

  `data_seconds` were spent on the data before.
  """
  exports.check(config.export)
  if importlib.util.find_spec("matplotlib") is None:
    raise ImportError("the main job draws pictures: pip install 'jaxmul[plots]'.")
  own.check(config.method, config.scored)
  record = {"config": config, "plan": steps_of(config), "versions": report.versions()}
  log = logs.start(config.out, config.log, vars(config))
  report.write_json(config.out / "config.json", record)
  own.try_out(config.method, config.scored, recipe, dataset.take(parts.train))
  problem = prepare(config, dataset, parts, recipe, work)
  seeds = resumed(config, problem, log)
  audit, audit_seconds = metrics.Audit(()), 0.0
  if config.audit_models:
    audit, audit_seconds = audited(config, problem)
  start = time.perf_counter()
  shown, figures = main_job_results.write(
    config.out,
    problem,
    methods_of(config, problem.work.plain),
    seeds,
    record,
    blind=audit.blind,
  )
  if config.export:
    print(f"exported: {exports.write(config.out, config.export, figures, shown)}")
  if config.audit_models:
    report.write_json(
      config.out / "audit.json",
      {"passed": audit.passed, "line": audit.line, "blind": audit.blind, "audit": audit},
    )
    print(audit.line)
  stages = main_job_results.seconds_of_stages(problem, seeds)
  stages = {"data": data_seconds, **stages, "audit": audit_seconds}
  stages["report"] = time.perf_counter() - start
  report.write_json(config.out / "seconds.json", stages)
  print(main_job_results.words_of_stages(stages))
  page = report.html(config.out)
  print(f"written: {page}, metrics.json, scores.npz and *.png beside it")
  return problem
