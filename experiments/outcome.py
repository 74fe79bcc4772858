"""What the main job leaves behind: metrics with intervals over seeds, scores, plots, a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import tables
from jaxmul import metrics, proxies, report

METRICS = ("ToW", "ToW-MIA", "forget", "retain", "test", "attack", "seconds")


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
      "methods": {name: _named(intervals) for name, intervals in methods.items()},
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
          "speed_up": problem.truth_seconds / found["seconds"].mean,
        }
        for name, found in scored.items()
      },
      "ground_truth": {
        "seconds": problem.truth_seconds,
        "models": int(truth.count_in[0] + truth.count_out[0]),
        "examples": len(truth.ids),
        "undefined": int(np.sum(~known)),
        "exactly_zero": float(np.mean(truth.memorization == 0)),
        "above_one_half": int(np.sum(truth.memorization > 0.5)),
        "median_interval_width": float(np.nanmedian(truth.high - truth.low)),
      },
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
    out / "images.npz", {"ids": data.ids, "images": data.images, "labels": data.labels}
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
  shown = [name for name in ("ToW", "ToW-MIA") if name not in blind]
  plots.method_intervals(out / "methods.png", methods, shown)
  plots.gallery(out / "gallery.png", data.images, data.labels, truth.memorization, truth.soft)
  print_table(methods, scored, problem.truth_seconds, agreements, shown)
  if "ToW-MIA" in blind:
    print("Blind here, left out of the table: ToW-MIA.")
  if len(seeds) > 1:
    show_differences(differences, len(seeds))


def differences_of(
  seeds: Sequence[dict[str, Any]],
) -> dict[str, dict[str, dict[str, metrics.intervals.Difference]]]:
  """Returns {method: {other: {"ToW", "ToW-MIA"}}}: each RUM beside what it should not lose to.

  The others are the same plan on groups drawn at random, the plan's own algorithm on the whole
  forget set, and RUM with the ground truth. Methods of a seed share the original and the oracle.
  """
  methods = list(seeds[0]["methods"])
  vanilla = [name for name in methods if name.endswith("vanilla")][-1:]
  others = ["RUM shuffle", *vanilla, "RUM ground truth"]

  def values(name: str, figure: str) -> list[float]:
    return [seed["methods"][name][figure] for seed in seeds]

  return {
    name: {
      other: {
        figure: metrics.intervals.paired(values(name, figure), values(other, figure))
        for figure in ("ToW", "ToW-MIA")
      }
      for other in others
      if other != name
    }
    for name in methods
    if name.startswith("RUM ") and name != "RUM shuffle"
  }


def show_differences(
  found: dict[str, dict[str, dict[str, metrics.intervals.Difference]]], seeds: int
) -> None:
  """Prints one row for each method: its ToW minus that of others, seed by seed."""
  others = list(dict.fromkeys(other for each in found.values() for other in each))
  rows = [
    (
      name,
      *(
        f"{with_half_width(each[other]['ToW'])} (p {each[other]['ToW'].p:.2f})"
        if other in each
        else ""
        for other in others
      ),
    )
    for name, each in found.items()
  ]
  title = (
    f"ToW minus that of another method, mean ± 95 % t over {seeds} seeds; p: sign flips, "
    f"at least {2 ** (1 - seeds):.2f}"
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
  scored: dict[str, dict[str, Any]],
  truth_seconds: float,
  agreements: dict[str, list[proxies.Agreement]],
  shown: Sequence[str],
) -> None:
  """Prints one row for each method: the shown of ToW and ToW-MIA, seconds, costs of its scores."""
  from rich.table import Table

  seeds = len(next(iter(agreements.values())))
  table = Table(
    title=f"Unlearning beside a model retrained from scratch, mean ± 95 % t over {seeds} seeds"
    if seeds > 1
    else "Unlearning beside a model retrained from scratch; one seed gives no interval"
  )
  for name in ("method", *shown, "forget", "test"):
    table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
  for name in ("seconds", "scoring", "ρ", "speed-up"):
    table.add_column(name, justify="right", no_wrap=True)
  for name, found in methods.items():
    score, rank, gain = "", "", ""
    timed = np.isfinite(truth_seconds)  # not where the ground truth was read from a file
    if name == "RUM ground truth" and timed:
      score, gain = f"{truth_seconds:.1f}", "1×"
    proxy = name.removeprefix("RUM ")
    if proxy in scored:
      cost = scored[proxy]["seconds"].mean
      score, gain = f"{cost:.2f}", f"{truth_seconds / cost:.0f}×" if timed else ""
      rank = f"{np.mean([each.spearman for each in agreements[proxy]]):.2f}"
    table.add_row(
      name,
      *(with_half_width(found[figure]) for figure in shown),
      f"{found['forget'].mean:.3f}",
      f"{found['test'].mean:.3f}",
      f"{found['seconds'].mean:.2f}",
      score,
      rank,
      gain,
    )
  console = tables.console()
  console.print(table)
  console.print(
    "ToW, ToW-MIA: 1 = as the model retrained without the forget set; “retrain” is another.\n"
    "forget, test: accuracy. scoring: seconds to score memorization; learning events ride along\n"
    "in training and are charged all of it. ρ: Spearman with the ground truth. speed-up: scoring\n"
    "against the ground truth's seconds. The first call of each method includes its compilation."
  )


def with_half_width(interval: metrics.intervals.Interval | metrics.intervals.Difference) -> str:
  """Returns "mean ± half width", or the mean alone where one seed gives no interval."""
  if not np.isfinite(interval.low):
    return f"{interval.mean:.3f}"
  return f"{interval.mean:.3f} ± {interval.high - interval.mean:.3f}"


def _named(intervals: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  return {name: interval._asdict() for name, interval in intervals.items()}
