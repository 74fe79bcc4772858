"""One training seed of the main job: it trains, scores, unlearns and judges."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from experiments import cache, logs, main_job_results, setting
from experiments.judge import Judge
from experiments.main_job_flags import PLANS, RIDING, Config
from experiments.main_job_results import Problem, SeedResult
from jaxmul import proxies, rum, train, unlearn
from jaxmul._command import own
from jaxmul.binding import Network

Arrays = dict[str, np.ndarray]


def methods_of(config: Config, plain: Iterable[str]) -> dict[str, main_job_results.Method]:
  """Returns what each seed is judged by, in the order of the tables; `plain` of the `Work`."""
  Method, first = main_job_results.Method, own.label(config.proxy[0])
  whole = list(plain)

  def beside(end: str) -> tuple[str, ...]:
    """Random groups, the plan's own algorithm on all at once, the autopilot's, and the truth."""
    alone = "NegGrad+ vanilla" if end else whole[-1]
    return f"RUM shuffle{end}", alone, "vanilla, tuned", f"RUM ground truth{end}"

  methods = {name: Method() for name in ("original", "retrain", *whole)}
  methods |= {own.label(name): Method(own=True, beside=beside("")) for name in config.method}
  for plan, end in (config.plans or {"": ""}).items():
    by_plan = functools.partial(Method, tuned=not plan, plan=plan)
    methods[f"RUM shuffle{end}"] = by_plan(scores="shuffle")
    for scores in ("ground truth", *map(own.label, config.proxy)):
      methods[f"RUM {scores}{end}"] = by_plan(scores=scores, beside=beside(end))
  methods["vanilla, tuned"] = Method(tuned=True)
  if config.plans:
    methods[f"RUM {first}, tuned"] = Method(scores=first, tuned=True, beside=beside(""))
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

  def by_plan(plan: str, groups: list[np.ndarray]) -> tuple[Network, np.ndarray]:
    network = rum.meta_unlearn(PLANS[plan](batch), original, training, groups, keys[4])
    return network, np.array([plan])

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
      make = functools.partial(by_plan, method.plan, groups)
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
