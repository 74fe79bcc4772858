"""The stages of the main job, from a data set and its parts to a run directory.

`experiments.rum` runs it on the data set of its flags, `experiments.paper` with published numbers.
"""

import importlib.util
import json
import time
from pathlib import Path

import jax
import numpy as np

from experiments import cache, logs, main_job_results, setting
from experiments.main_job_flags import PLANS, Config
from experiments.main_job_results import Problem, SeedResult, Work
from experiments.main_job_seed import methods_of, run_seed, stages_of
from experiments.truth import cross_fitted, ground_truth, read_estimate
from jaxmul import (
  data,
  memorization,
  metrics,
  models,
  report,
  rum,
  train,
  unlearn,
)
from jaxmul._command import export as exports
from jaxmul._command import own

# What changes no number of a seed, and what is told by its content: the data and the ground truth.
OTHERS = (
  *("seeds", "first_seed", "audit_models", "checkpoints", "log", "out", "export"),
  *("dataset", "data_dir", "truth", "cross_fit"),
)
ORACLES = 8  # whose mean p_y the example gap is measured from, where no audit trains more


def work_of(config: Config) -> Work:
  """Returns what is done with images: the published settings, on the groups of `forget`."""
  batch = config.batch_size
  steps = {
    "fine-tune": rum.Step(unlearn.fine_tune(), 10, batch),
    "NegGrad+ vanilla": rum.Step(unlearn.neg_grad_plus(), 5, batch),
  }
  if "salun" in config.plans:
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
  cross_fit, cross_fit_seconds = cross_fit_of(config, recipe, training, estimate)
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


def cross_fit_of(
  config: Config, recipe: train.Recipe, training: data.Dataset, truth: memorization.Estimate
) -> tuple[memorization.Estimate, float]:
  """Returns what the autopilot knows, cross-fitted or from its file, and the seconds it took."""
  if config.cross_fit is None:
    return cross_fitted(config, recipe, training, config.folds)
  estimate = read_estimate(config.cross_fit, training, "cross-fit")
  if estimate.digest == truth.digest:
    raise ValueError(
      f"--cross-fit {config.cross_fit} is the ground truth, which the autopilot must not know. "
      "Pass that of other networks, or leave it out."
    )
  return estimate, float("nan")


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
  """Returns what a plan does to each group, with every setting: {group: algorithm(…), …}."""
  if not config.plans:
    return dict.fromkeys(rum.Selection._fields, "what the autopilot chose, see metrics.json")
  return {
    f"{group}{end}": words_of(step)
    for plan, end in config.plans.items()
    for group, step in zip(rum.Selection._fields, PLANS[plan](config.batch_size).steps, strict=True)
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
