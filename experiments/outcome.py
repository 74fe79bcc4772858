"""What the main job leaves behind: metrics with intervals over seeds, scores, plots, a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from experiments.judge import HEADLINE, METRICS, unseeing
from experiments.setting import TIES_RULE
from jaxmul import metrics, proxies, report, rum

Difference = metrics.intervals.Difference


def write(
  out: Path,
  problem: Any,
  seeds: Sequence[dict[str, Any]],
  record: dict,
  blind: Sequence[str] = (),
) -> None:
  """Writes metrics.json, the arrays and the plots, and prints the table.

  Args:
    out: the run directory.
    problem: `experiments.rum.Problem`.
    seeds: the result of each seed, see `experiments.rum.run_seed`.
    record: config and versions.
    blind: figures that the audit found blind here: in metrics.json, but in no table or plot.
  """
  truth = problem.truth
  methods = {
    name: {
      metric: metrics.intervals.t_interval([seed["methods"][name][metric] for seed in seeds])
      for metric in METRICS
    }
    for name in seeds[0]["methods"]
  }
  scored = {
    name: {
      "seconds": metrics.intervals.t_interval([seed["proxies"][name]["seconds"] for seed in seeds]),
      "scores": np.stack([seed["proxies"][name]["scores"] for seed in seeds]),
    }
    for name in seeds[0]["proxies"]
  }
  scoring = scoring_of(methods, scored, problem.seconds, record["config"].plan == "auto")
  differences = differences_of(seeds)
  known = np.isfinite(truth.memorization)
  high = len(problem.groups.high)
  first, agreements = {}, {}
  for name, found in scored.items():
    each = [ranked(scores[known], truth.memorization[known], high) for scores in found["scores"]]
    first[name], agreements[name] = (found["scores"][0][known], each)

  report.write_json(
    out / "metrics.json",
    {
      "methods": {
        name: _named(intervals) | {"scoring": scoring.get(name)}
        for name, intervals in methods.items()
      },
      "differences": {
        name: {other: _named(figures) for other, figures in others.items()}
        for name, others in differences.items()
      },
      "proxies": {
        name: {
          "spearman": over_seeds([each.spearman for each in agreements[name]])._asdict(),
          "precision_at_high_group": over_seeds(
            [each.precision_at_k for each in agreements[name]]
          )._asdict(),
          "spearman_each_seed": agreements[name],
          "seconds": found["seconds"]._asdict(),
          "speed_up": problem.seconds["ground truth"] / found["seconds"].mean,
        }
        for name, found in scored.items()
      },
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
      "intervals": f"95 % Student t over {len(seeds)} training seeds; "
      "spearman_each_seed: 95 % bootstrap over examples",
      "record": {"ground_truth_plan": problem.plan_hash, "ground_truth_digest": truth.digest},
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
      **{f"proxy_{name}": found["scores"] for name, found in scored.items()},
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
  blind = [*blind, *unseeing([seed["methods"] for seed in seeds])]
  shown = [name for name in HEADLINE if name not in blind]
  plots.method_intervals(out / "methods.png", methods, shown)
  plots.gallery(out / "gallery.png", data.inputs, data.labels, truth.memorization, truth.soft)
  print_table(methods, scoring, problem.seconds["ground truth"], agreements, shown)
  missing = [name for name in HEADLINE if name in blind]
  if missing:
    print(f"Blind here, left out of the table: {', '.join(missing)}.")
  if len(seeds) > 1:
    for figure in ("example gap", "ToW"):
      if figure not in blind:
        show_differences(differences, figure, len(seeds))


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
  methods: Mapping[str, Any],
  scored: Mapping[str, Mapping[str, Any]],
  seconds: Mapping[str, float],
  auto: bool,
) -> dict[str, float]:
  """Returns the seconds of what a method is told of examples, of those that are told anything.

  Learning events are charged the training run they ride in, the autopilot all of cross-fitting.
  """
  own = {f"RUM {name}": found["seconds"].mean for name, found in scored.items()}
  own["RUM ground truth"] = seconds["ground truth"]
  found = {}
  for name in methods:
    cost = own.get(name.removesuffix(", tuned"))
    if name.endswith(", tuned") or (auto and name.startswith("RUM ")):
      cost = (cost or 0.0) + seconds["cross-fit"]
    if cost is not None:
      found[name] = cost
  return found


def differences_of(
  seeds: Sequence[dict[str, Any]],
) -> dict[str, dict[str, dict[str, Difference]]]:
  """Returns {method: {other: {figure: …}}}: each RUM beside what it should not lose to.

  The others are the same plan on groups drawn at random, the plan's own algorithm on the whole
  forget set, the autopilot on it, and RUM with the ground truth. Methods of a seed share the
  original and the oracle.
  """
  methods = list(seeds[0]["methods"])
  vanilla = [name for name in methods if name.endswith("vanilla")][-1:]
  others = ["RUM shuffle", *vanilla, "vanilla, tuned", "RUM ground truth"]

  def values(name: str, figure: str) -> list[float]:
    return [seed["methods"][name][figure] for seed in seeds]

  return {
    name: {
      other: {
        figure: metrics.intervals.paired(values(name, figure), values(other, figure))
        for figure in HEADLINE
      }
      for other in others
      if other != name
    }
    for name in methods
    if name.startswith("RUM ") and name != "RUM shuffle"
  }


def show_differences(
  found: dict[str, dict[str, dict[str, Difference]]], figure: str, seeds: int
) -> None:
  """Prints one row for each method: its figure minus that of others, seed by seed."""
  others = list(dict.fromkeys(other for each in found.values() for other in each))
  rows = [
    (
      name,
      *(
        f"{tables.with_half_width(each[other][figure])} (p {each[other][figure].p:.2f})"
        if other in each
        else ""
        for other in others
      ),
    )
    for name, each in found.items()
  ]
  better = "below 0 is better" if figure == "example gap" else "above 0 is better"
  title = (
    f"{figure} minus that of another method ({better}), mean ± 95 % t over {seeds} seeds; p: sign "
    f"flips, at least {2 ** (1 - seeds):.2f}"
  )
  tables.show(title, ("method", *(f"− {other}" for other in others)), rows)


def ranked(scores: np.ndarray, truth: np.ndarray, top_k: int) -> proxies.Agreement:
  """Returns the agreement of a proxy; NaN where it or the truth is constant, and orders nothing."""
  if np.ptp(scores) == 0 or np.ptp(truth) == 0:
    return proxies.Agreement(np.nan, np.nan, np.nan, np.nan)
  return proxies.agreement(scores, truth, top_k=top_k)


def over_seeds(values: Sequence[float]) -> metrics.intervals.Interval:
  """Returns the t-interval over seeds; NaN where a seed has no value."""
  if not np.isfinite(values).all():
    return metrics.intervals.Interval(np.nan, np.nan, np.nan)
  return metrics.intervals.t_interval(values)


def print_table(
  methods: dict[str, dict[str, metrics.intervals.Interval]],
  scoring: Mapping[str, float],
  truth_seconds: float,
  agreements: dict[str, list[proxies.Agreement]],
  shown: Sequence[str],
) -> None:
  """Prints one row for each method: the shown figures, test accuracy, and what its scores cost."""
  from rich import box
  from rich.table import Table

  seeds = len(next(iter(agreements.values())))
  title = f"Unlearning beside models retrained from scratch, mean ± 95 % t over {seeds} seeds"
  if seeds == 1:
    title = "Unlearning beside models retrained from scratch; one seed gives no interval"
  table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for name in ("method", *shown, "test", "seconds", "scoring", "ρ", "speed-up"):
    table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
  for name, found in methods.items():
    cost, proxy = scoring.get(name), name.removeprefix("RUM ")
    known = cost is not None and np.isfinite(cost)
    compared = known and np.isfinite(truth_seconds)  # not where the truth was read from a file
    rank = np.mean([each.spearman for each in agreements[proxy]]) if proxy in agreements else None
    table.add_row(
      name,
      *(tables.with_half_width(found[figure]) for figure in shown),
      f"{found['test'].mean:.3f}",
      f"{found['seconds'].mean:.2f}",
      f"{cost:.1f}" if known else "",
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


def _named(intervals: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  return {name: interval._asdict() for name, interval in intervals.items()}
