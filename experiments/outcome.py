"""What the main job leaves behind: metrics with intervals over seeds, scores, plots, a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import judge, tables
from experiments.judge import HEADLINE, unseeing
from experiments.setting import TIES_RULE
from jaxmul import metrics, proxies, report, rum
from jaxmul.metrics import Blind, Figure, find

LAYOUT = 2  # of what is kept of a seed: raise it where an older file cannot be read


class Method(NamedTuple):
  """One way to a network that is judged.

  Attributes:
    scores: what RUM refines the forget set by: a proxy, "ground truth" or "shuffle"; None where the
      forget set stays whole.
    tuned: whether the autopilot chose what is done.
  """

  scores: str | None = None
  tuned: bool = False


def write(
  out: Path,
  problem: Any,
  methods: Mapping[str, Method],
  seeds: Sequence[dict[str, Any]],
  record: dict,
  *,
  blind: Sequence[Blind] = (),
) -> None:
  """Writes metrics.json, the arrays and the plots, and prints the table.

  Args:
    out: the run directory.
    problem: `experiments.main_job.Problem`.
    methods: what was judged, from top to bottom.
    seeds: the result of each seed, see `experiments.main_job.run_seed`.
    record: config and versions.
    blind: what the audit found blind here: in metrics.json, but in no table or plot.
  """
  truth = problem.truth
  figures = {name: judge.over_seeds([seed["methods"][name] for seed in seeds]) for name in methods}
  known = np.isfinite(truth.memorization)
  first, agreements, scored = {}, {}, {}
  for name in seeds[0]["proxies"]:
    scores = np.stack([seed["proxies"][name]["scores"] for seed in seeds])
    high = len(problem.groups.high)
    first[name] = scores[0][known]
    agreements[name] = [ranked(row[known], truth.memorization[known], high) for row in scores]
    seconds = [seed["proxies"][name]["seconds"] for seed in seeds]
    scored[name] = proxy_figures(agreements[name], seconds, problem.seconds["ground truth"])
  for name, cost in scoring_of(methods, scored, problem.seconds).items():
    figures[name].append(Figure(name="scoring", value=cost))
  differences = differences_of(methods, figures)

  report.write_json(
    out / "metrics.json",
    {
      "methods": {
        name: {**method._asdict(), "figures": figures[name]} for name, method in methods.items()
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
        "trainings": int((problem.said.count_in + problem.said.count_out)[0]),
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
      **{f"group_{name}": ids for name, ids in problem.groups._asdict().items()},
      **{
        f"proxy_{name}": np.stack([seed["proxies"][name]["scores"] for seed in seeds])
        for name in scored
      },
    },
  )
  forget = np.sort(np.concatenate(problem.groups))
  report.write_arrays(
    out / "unlearned.npz",
    {
      "ids": forget,
      "methods": np.array(list(methods)),
      "confidence": np.array(
        [[seed["confidence"][name] for seed in seeds] for name in methods], np.float32
      ),
    },
  )
  data = problem.training
  report.write_arrays(
    out / "images.npz", {"ids": data.ids, "images": data.inputs, "labels": data.labels}
  )
  groups = {
    name: truth.memorization[data.rows(ids)] for name, ids in problem.groups._asdict().items()
  }
  plots = report.plots
  plots.memorization_histogram(out / "memorization.png", truth.memorization, groups)
  plots.proxies_against_truth(
    out / "proxies.png",
    truth.memorization[known],
    first,
    {name: each[0] for name, each in agreements.items()},
    "The first training seed; 95 % bootstrap over examples",
  )
  unseen = unseeing(figures["original"], figures["retrain"])
  missing = [
    name
    for name in HEADLINE
    if name in unseen or any(each.hides(find(figures["original"], name)) for each in blind)
  ]
  shown = [name for name in HEADLINE if name not in missing]
  refined = {name for name, method in methods.items() if method.scores is not None}
  if shown:  # with two seeds it can be that nothing tells an original from an oracle
    plots.method_intervals(out / "methods.png", figures, shown, refined)
  plots.gallery(out / "gallery.png", data.inputs, data.labels, truth.memorization, truth.soft)
  print_table(methods, figures, scored, problem.seconds["ground truth"], shown)
  if missing:
    print(f"Blind here, left out of the table: {', '.join(missing)}.")
  if len(seeds) > 1:
    for name in ("example gap", "ToW"):
      if name not in missing:
        show_differences(differences, name, len(seeds))


def groups_of(problem: Any) -> dict[str, dict[str, Any]]:
  """Returns of each forget group its size, its examples of each class, and their memorization."""
  counts = rum.class_counts(problem.groups, problem.training)
  found = {}
  for name, ids, classes in zip(problem.groups._fields, problem.groups, counts, strict=True):
    scores = problem.truth.take(ids).memorization
    found[name] = {
      "size": len(ids),
      "classes": classes.tolist(),
      "memorization": {"mean": scores.mean(), "least": scores.min(), "most": scores.max()},
    }
  return found


def scoring_of(
  methods: Mapping[str, Method],
  scored: Mapping[str, Sequence[Figure]],
  seconds: Mapping[str, float],
) -> dict[str, float]:
  """Returns the seconds of what a method is told of examples, of those that are told anything.

  Learning events are charged the training run they ride in, the autopilot all of cross-fitting.
  """
  own = {name: find(figures, "seconds").value for name, figures in scored.items()}
  own["ground truth"] = seconds["ground truth"]
  found = {}
  for name, method in methods.items():
    costs = [own[method.scores]] if method.scores in own else []
    costs += [seconds["cross-fit"]] if method.tuned else []
    if costs:
      found[name] = sum(costs)
  return found


def differences_of(
  methods: Mapping[str, Method], figures: Mapping[str, Sequence[Figure]]
) -> dict[str, dict[str, list[Figure]]]:
  """Returns {method: {other: differences}}: each RUM beside what it should not lose to.

  The others are the same plan on groups drawn at random, the plan's own algorithm on the whole
  forget set, the autopilot on it, and RUM with the ground truth. Methods of a seed share the
  original and the oracle.
  """
  whole = [name for name, method in methods.items() if method == Method()]
  others = ["RUM shuffle", whole[-1], "vanilla, tuned", "RUM ground truth"]
  return {
    name: {
      other: [
        metrics.figures.difference(find(figures[name], each), find(figures[other], each))
        for each in HEADLINE
      ]
      for other in others
      if other != name
    }
    for name, method in methods.items()
    if method.scores not in (None, "shuffle")
  }


def show_differences(
  found: Mapping[str, Mapping[str, Sequence[Figure]]], figure: str, seeds: int
) -> None:
  """Prints one row for each method: its figure minus that of others, seed by seed."""
  others = list(dict.fromkeys(other for each in found.values() for other in each))

  def cell(differences: Sequence[Figure] | None) -> str:
    if differences is None:
      return ""
    difference = find(differences, figure)
    return f"{tables.with_half_width(difference)} (p {difference.p:.2f})"

  rows = [(name, *(cell(each.get(other)) for other in others)) for name, each in found.items()]
  better = "below 0 is better" if figure == "example gap" else "above 0 is better"
  title = (
    f"{figure} minus that of another method ({better}), mean ± 95 % t over {seeds} seeds; p: sign "
    f"flips, at least {2 ** (1 - seeds):.2f}"
  )
  tables.show(title, ("method", *(f"− {other}" for other in others)), rows)


def proxy_figures(
  agreements: Sequence[proxies.Agreement], seconds: Sequence[float], truth_seconds: float
) -> list[Figure]:
  """Returns how well a proxy ranks examples as the ground truth does, and what it costs.

  Args:
    agreements: of each seed.
    seconds: of scoring, of each seed.
    truth_seconds: of the ground truth; NaN where they are not known.
  """
  cost = metrics.figures.over_seeds(seconds, name="seconds")
  return [
    *judge.rank_figures(agreements),
    judge.maybe_over_seeds([a.precision_at_k for a in agreements], name="precision at high group"),
    cost,
    Figure(name="speed-up", value=truth_seconds / cost.value),
  ]


def ranked(scores: np.ndarray, truth: np.ndarray, top_k: int) -> proxies.Agreement:
  """Returns the agreement of a proxy; NaN where it or the truth is constant, and orders nothing."""
  if np.ptp(scores) == 0 or np.ptp(truth) == 0:
    return proxies.Agreement(spearman=np.nan, low=np.nan, high=np.nan, precision_at_k=np.nan)
  return proxies.agreement(scores, truth, top_k=top_k)


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
  ranks = {name: find(each, "spearman", kind="").value for name, each in scored.items()}
  for name, found in figures.items():
    cost = next((each.value for each in found if each.name == "scoring"), np.nan)
    compared = np.isfinite([cost, truth_seconds]).all()  # not where the truth was read from a file
    scores = methods[name].scores
    rank = ranks.pop(scores, None) if scores is not None else None  # said once
    table.add_row(
      name,
      *(tables.with_half_width(find(found, each)) for each in shown),
      f"{find(found, 'accuracy', 'test').value:.3f}",
      f"{find(found, 'seconds').value:.2f}",
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
