"""What the main job leaves behind: metrics with intervals over seeds, scores, plots, a table."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import jax
import numpy as np

from experiments import judge, tables
from experiments.judge import HEADLINE, unseeing
from experiments.setting import TIES_RULE
from jaxmul import data, metrics, report, rum, train
from jaxmul.memorization import Estimate
from jaxmul.metrics import Blind, Figure, find

LAYOUT = 3  # of what is kept of a seed: raise it where an older file cannot be read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
  """One way to a network that is judged.

  Attributes:
    scores: what RUM refines the forget set by: a proxy, "ground truth" or "shuffle"; None where the
      forget set stays whole.
    tuned: whether the autopilot chose what is done.
    own: whether the user brought it.
    plan: the published plan that is followed, or "".
    beside: the methods that it is compared with, seed by seed.
  """

  scores: str | None = None
  tuned: bool = False
  own: bool = False
  plan: str = ""
  beside: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Work:
  """What is done, where it does not follow from the flags.

  Attributes:
    plain: {name: {setting: what is done to the whole forget set}}; of several settings the
      autopilot's surrogate chooses one.
    choose: `(training, truth, key) -> groups` of the forget set, of low to high memorization.
    parts: {name: examples} whose accuracy under each network is told too.
    decode: inputs [n, ...] as texts, or None where they are shown as they are.
    class_names: of the data, for the report; numbers where it is empty.
    watched: texts of which each network's probability of every token is kept, or None.
  """

  plain: dict[str, dict[str, rum.Step]]
  choose: Callable[[data.Dataset, Estimate, jax.Array], rum.Selection]
  parts: dict[str, data.Dataset] = dataclasses.field(default_factory=dict)
  decode: Callable[[np.ndarray], list[str]] | None = None
  class_names: tuple[str, ...] = ()
  watched: data.Dataset | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
  """What all seeds share: the data, its parts, the recipe, the ground truth and the forget set.

  Attributes:
    seconds: of the ground truth, of cross-fitting and of the oracles; NaN where they are not known.
    cross_fit: for each training example, what a network says of it that never saw it; these
      networks are not those of the ground truth.
    split: in which all three groups are forgotten.
    oracles: of other seeds than those that are judged.
    work: what is done besides what the flags say.
  """

  dataset: data.Dataset
  training: data.Dataset
  heldout: data.Heldout
  test: np.ndarray
  recipe: train.Recipe
  truth: Estimate
  schedule_hash: str
  groups: rum.Selection
  split: data.Split
  cross_fit: Estimate
  oracles: metrics.oracle.Outputs
  seconds: dict[str, float]
  work: Work


class Scored(TypedDict):
  """Scores [n] of a proxy, in the order of the training ids, and the seconds that they took."""

  seconds: float
  scores: np.ndarray


class SeedResult(TypedDict):
  """What one training seed gave, by the name of the proxy or method.

  Attributes:
    methods: figures of a `Judge`.
    tuned: the step that was chosen for each group, or of several settings for the whole forget set.
    confidence: p_y [k] of the forget set, by id.
    tokens: probability [k, T] of each token of what is watched, NaN where it is not scored.
    seconds: of each of its stages; not there where an older version made it.
  """

  proxies: dict[str, Scored]
  methods: dict[str, list[Figure]]
  tuned: dict[str, list[str]]
  confidence: dict[str, np.ndarray]
  tokens: dict[str, np.ndarray]
  seconds: NotRequired[dict[str, float]]


def write(
  out: Path,
  problem: Problem,
  methods: Mapping[str, Method],
  seeds: Sequence[SeedResult],
  record: Mapping[str, object],
  *,
  blind: Sequence[Blind] = (),
) -> tuple[list[str], dict[str, list[Figure]]]:
  """Writes metrics.json, the arrays and the plots, and prints the table.

  Returns the names of the headline figures that are shown, and {method: figures} without those
  that are blind here.

  Args:
    out: the run directory.
    problem: what all seeds share.
    methods: what was judged, from top to bottom.
    seeds: the result of each seed.
    record: config and versions.
    blind: what the audit found blind here: in metrics.json, but in no table or plot.
  """
  truth, groups = problem.truth, problem.groups._asdict()
  figures = {name: judge.over_seeds([seed["methods"][name] for seed in seeds]) for name in methods}
  known = np.isfinite(truth.memorization)
  memorization, high = truth.memorization[known], len(problem.groups.high)
  classes = problem.training.kinds("the report")[known]
  scores, agreements, scored = {}, {}, {}
  for name in seeds[0]["proxies"]:
    scores[name] = np.stack([seed["proxies"][name]["scores"] for seed in seeds])
    agreements[name] = [judge.ranked(row[known], memorization, high) for row in scores[name]]
    within = [judge.ranked(row[known], memorization, classes=classes) for row in scores[name]]
    precisions = [agreement.precision_at_k for agreement in agreements[name]]
    seconds = [seed["proxies"][name]["seconds"] for seed in seeds]
    cost = metrics.figures.over_seeds(seconds, within=(0, np.inf), name="seconds")
    scored[name] = [
      *judge.rank_figures(agreements[name]),
      *judge.rank_figures(within, "spearman within class"),
      judge.maybe_over_seeds(
        precisions, within=metrics.figures.RATE, name="precision at high group"
      ),
      cost,
      Figure(name="speed-up", value=problem.seconds["ground truth"] / cost.value),
    ]
  for name, cost in scoring_of(methods, scored, problem.seconds).items():
    figures[name].append(Figure(name="scoring", value=cost))
  differences = differences_of(methods, figures)

  report.write_json(
    out / "metrics.json",
    {
      "methods": {
        name: {**vars(method), "figures": figures[name]} for name, method in methods.items()
      },
      "differences": differences,
      "proxies": scored,
      "ground_truth": {
        "seconds": problem.seconds["ground truth"],
        "models": int(truth.count_in[0] + truth.count_out[0]),
        "examples": len(truth.ids),
        "undefined": int(np.sum(~known)),
        "exactly_zero": float(np.mean(truth.memorization == 0)),
        "above_one_half": int(np.sum(truth.memorization > 0.5)),
        "median_interval_width": float(np.nanmedian(truth.high - truth.low)),
      },
      "groups": groups_of(problem),
      "ties": TIES_RULE,
      "autopilot": {
        "seconds": problem.seconds["cross-fit"],
        "trainings": int((problem.cross_fit.count_in + problem.cross_fit.count_out)[0]),
        "chosen": [seed["tuned"] for seed in seeds],
      },
      "oracles_of_the_gap": len(problem.oracles),
      "record": {
        "ground_truth_schedule": problem.schedule_hash,
        "ground_truth_digest": truth.digest,
      },
      **record,
    },
  )
  report.write_arrays(
    out / "scores.npz",
    {
      "ids": truth.ids,
      "memorization": truth.memorization,
      "memorization_low": truth.low,
      "memorization_high": truth.high,
      "group": group_numbers(truth.ids, problem.groups),
      "group_names": np.array(list(groups)),
      "proxies": np.stack(list(scores.values())),
      "proxy_names": np.array(list(scores)),
    },
  )
  confidence = [[seed["confidence"][name] for seed in seeds] for name in methods]
  report.write_arrays(
    out / "unlearned.npz",
    {
      "ids": problem.split.forget,
      "methods": np.array(list(methods)),
      "confidence": np.array(confidence, np.float32),
      "oracles": problem.oracles.take(problem.split.forget).probability.mean(axis=0),
    },
  )
  training = problem.training
  decode = problem.work.decode
  texts = None if decode is None else np.array(decode(training.inputs))
  report.write_arrays(
    out / "images.npz",
    {
      "ids": training.ids,
      "images": training.inputs,
      "labels": training.kinds("the report"),
      **({} if texts is None else {"decode": texts}),
      **({"class_names": np.array(problem.work.class_names)} if problem.work.class_names else {}),
    },
  )
  write_tokens(out / "tokens.npz", problem.work, methods, seeds)
  plots = report.plots
  memorized = {name: truth.take(ids).memorization for name, ids in groups.items()}
  plots.memorization_histogram(out / "memorization.png", truth.memorization, memorized)
  plots.proxies_against_truth(
    out / "proxies.png",
    memorization,
    {name: of_seeds[0][known] for name, of_seeds in scores.items()},
    {name: of_seeds[0] for name, of_seeds in agreements.items()},
    "The first training seed; 95 % bootstrap over examples",
  )
  unseen = unseeing(figures["original"], figures["retrain"])
  missing = [
    name
    for name in HEADLINE
    if name in unseen or any(figure.hides(find(figures["original"], name)) for figure in blind)
  ]
  shown = [name for name in HEADLINE if name not in missing]
  refined = {name for name, method in methods.items() if method.scores is not None}
  if shown:  # with two seeds it can be that nothing tells an original from an oracle
    plots.method_intervals(out / "methods.png", figures, shown, refined)
  plots.gallery(
    out / "gallery.png",
    training.inputs if texts is None else texts,
    training.kinds("the report"),
    truth.memorization,
    truth.soft,
  )
  print_table(methods, figures, scored, problem.seconds["ground truth"], shown)
  if missing:
    print(f"Blind here, left out of the table: {', '.join(missing)}.")
  if len(seeds) > 1:
    for name in ("example gap", "ToW"):
      if name not in missing:
        show_differences(differences, name, len(seeds))
  told = {
    name: [figure for figure in rows if figure.name not in missing]
    for name, rows in figures.items()
  }
  return shown, told


def seconds_of_stages(problem: Problem, seeds: Sequence[SeedResult]) -> dict[str, float]:
  """Returns the seconds that each stage took when it was computed, NaN where nobody knows."""
  stages = ("original", "oracles", "proxies", "unlearning", "judging")
  of_seeds = {
    stage: sum(seed.get("seconds", {}).get(stage, np.nan) for seed in seeds) for stage in stages
  }
  of_seeds["oracles"] += problem.seconds["oracles"]
  shared = {name: problem.seconds[name] for name in ("ground truth", "cross-fit")}
  return shared | of_seeds


def words_of_stages(seconds: Mapping[str, float]) -> str:
  """Returns one line with the seconds of each stage, and of all whose are known."""
  said = (f"{name} {s:.0f}" if np.isfinite(s) else f"{name} –" for name, s in seconds.items())
  return f"seconds by stage: {', '.join(said)}; {np.nansum(list(seconds.values())):.0f} in all"


def group_numbers(ids: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
  """Returns int8 [n], the number of the group that each id is in, −1 where it is in none."""
  numbers = np.full(len(ids), -1, np.int8)
  for number, members in enumerate(groups):
    numbers[np.isin(ids, members)] = number
  return numbers


def write_tokens(
  path: Path, work: Work, methods: Mapping[str, Method], seeds: Sequence[SeedResult]
) -> None:
  """Writes what each network says of every token of the texts that are watched, if any are."""
  if work.watched is None or work.decode is None:
    return
  inputs, labels = np.asarray(work.watched.inputs), work.watched.labels
  after = np.concatenate([inputs[:, 1:], labels[:, -1:]], axis=1)  # of each, also where unscored
  said = work.decode(after.reshape(-1, 1))
  report.write_arrays(
    path,
    {
      "ids": work.watched.ids,
      "methods": np.array(list(methods)),
      "tokens": np.array(said).reshape(after.shape),
      "probability": np.array(
        [[seed["tokens"][name] for seed in seeds] for name in methods], np.float32
      ),
    },
  )


def groups_of(problem: Problem) -> dict[str, dict[str, object]]:
  """Returns of each forget group its size, its examples of each class, and their memorization."""
  counts = rum.class_counts(problem.groups, problem.training)
  scores = [problem.truth.take(ids).memorization for ids in problem.groups]
  return {
    name: {
      "size": len(of_group),
      "classes": classes.tolist(),
      "memorization": {"mean": of_group.mean(), "least": of_group.min(), "most": of_group.max()},
    }
    for name, classes, of_group in zip(problem.groups._fields, counts, scores, strict=True)
  }


def scoring_of(
  methods: Mapping[str, Method],
  scored: Mapping[str, Sequence[Figure]],
  seconds: Mapping[str, float],
) -> dict[str, float]:
  """Returns the seconds of what a method is told of examples, of those that are told anything.

  Learning events are charged the training run they ride in, the autopilot all of cross-fitting.
  """
  own: dict[str | None, float] = {"ground truth": seconds["ground truth"]}
  own |= {name: find(figures, "seconds").value for name, figures in scored.items()}
  seconds_of = {}
  for name, method in methods.items():
    if method.tuned or method.scores in own:
      cost = own.get(method.scores, 0.0)
      seconds_of[name] = cost + (seconds["cross-fit"] if method.tuned else 0.0)
  return seconds_of


def differences_of(
  methods: Mapping[str, Method], figures: Mapping[str, Sequence[Figure]]
) -> dict[str, dict[str, list[Figure]]]:
  """Returns {method: {other: differences}} of those that are compared with others.

  Methods of a seed share the original and the oracle.
  """
  return {
    name: {
      other: [
        metrics.figures.difference(find(figures[name], figure), find(figures[other], figure))
        for figure in HEADLINE
      ]
      for other in method.beside
      if other != name
    }
    for name, method in methods.items()
    if method.beside
  }


def show_differences(
  differences: Mapping[str, Mapping[str, Sequence[Figure]]], figure: str, seeds: int
) -> None:
  """Prints one row for each method: its figure minus that of others, seed by seed.

  A table for each plan: methods of one plan are first compared with the same random groups.
  """
  plans: dict[str, dict[str, dict[str, str]]] = {}
  for name, beside in differences.items():
    cells = plans.setdefault(next(iter(beside)), {}).setdefault(name, {})
    for other, figures in beside.items():
      difference = find(figures, figure)
      cells[other] = f"{tables.with_half_width(difference)} (p {difference.p:.2f})"
  better = "below 0 is better" if figure == "example gap" else "above 0 is better"
  title = (
    f"{figure} minus that of another method ({better}), mean ± 95 % t over {seeds} seeds; p: sign "
    f"flips, at least {2 ** (1 - seeds):.2f}"
  )
  for of_plan in plans.values():
    others = dict.fromkeys(other for cells in of_plan.values() for other in cells)
    rows = [(name, *(cells.get(o, "") for o in others)) for name, cells in of_plan.items()]
    tables.show(title, ("method", *(f"− {other}" for other in others)), rows)


def print_table(
  methods: Mapping[str, Method],
  figures: Mapping[str, Sequence[Figure]],
  scored: Mapping[str, Sequence[Figure]],
  truth_seconds: float,
  shown: Sequence[str],
) -> None:
  """Prints one row for each method: the shown figures, test accuracy, and what its scores cost."""
  from rich import box
  from rich.table import Table

  seeds = len(find(figures["original"], "ToW").seeds)
  title = f"Unlearning beside models retrained from scratch, mean ± 95 % t over {seeds} seeds"
  if seeds == 1:
    title = "Unlearning beside models retrained from scratch; one seed gives no interval"
  table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for name in ("method", *shown, "test", "seconds", "scoring", "ρ", "speed-up"):
    table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
  ranks = {name: find(proxy, "spearman", kind="").value for name, proxy in scored.items()}
  for name, own in figures.items():
    cost = next((figure.value for figure in own if figure.name == "scoring"), np.nan)
    compared = np.isfinite([cost, truth_seconds]).all()  # not where the truth was read from a file
    scores = methods[name].scores
    rank = ranks.pop(scores, None) if scores is not None else None  # said once
    table.add_row(
      name,
      *(tables.with_half_width(find(own, figure)) for figure in shown),
      f"{find(own, 'accuracy', 'test').value:.3f}",
      f"{find(own, 'seconds').value:.2f}",
      f"{cost:.1f}" if np.isfinite(cost) else "",
      "" if rank is None else f"{rank:.2f}",
      f"{truth_seconds / cost:.0f}×" if compared and cost else "",
    )
  console = tables.console()
  console.print(table)
  console.print(
    "example gap: mean distance of p_y from the mean of oracles', on the forget set; 0 is best,\n"
    "and “retrain”, an oracle that is not among them, is as near as can be expected. ToW, by\n"
    "group: over low, medium and high memorization; ToW-MIA: by an attack; 1 = as a retrained\n"
    "model. test: accuracy. scoring: seconds to score memorization; learning events are charged\n"
    "the training that they ride in, “tuned” all of cross-fitting. ρ: Spearman with the ground\n"
    "truth. speed-up: scoring against the ground truth's seconds. Seconds include compilation."
  )
