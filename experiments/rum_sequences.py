"""The main job on text: memorization, proxies and RUM on a tiny language model.

Clean sequences follow a rule; noisy ones do not, and only memory can go on with them. Some stand in
the data once, some three and some ten times. Half of the noisy ones are to be forgotten. For each
seed a GPT is trained, memorization is scored by cheap proxies, and the noise is unlearned by every
method, beside networks that were retrained without it. Copies are left out, forgotten and grouped
together.

    python -m experiments.rum_sequences --out runs/sequences

With --dataset prose it is real English, the help on the language that every Python carries: copies
of some windows of it are planted, and half of these are to be forgotten. Re-running the same
command resumes.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import numpy as np

from experiments import cache, cli, main_job, main_job_flags, setting, tables, texts
from experiments.judge import CORRELATION, maybe_over_seeds, ranked
from experiments.main_job_results import Problem, Work
from experiments.texts import COPIES
from jaxmul import data, report, rum, unlearn
from jaxmul._command import own
from jaxmul.metrics import figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(texts.TextFlags, main_job_flags.Config):
  """RUM on sequences, end to end.

  Attributes:
    dataset: math, sequences of numbers; or prose, windows of real English.
  """

  dataset: Literal["math", "prose"] = "math"  # pyright: ignore[reportIncompatibleVariableOverride]
  proxy: tuple[str, ...] = ("confidence", "cumulative_loss")
  rank: tuple[str, ...] = (
    *("entropy", "correctness", "curvature"),
    *("jaxmul.proxies:grand", "jaxmul.proxies:min_k", "jaxmul.proxies:min_k_plus"),
  )
  plan: Literal["salun", "neg_grad_plus", "auto"] = "auto"
  trials: int = 6
  audit_models: int = 8
  out: Path = Path("runs/sequences")


def work_of(config: Config, dataset: data.Dataset, parts: data.Holdout) -> Work:
  """Returns what is done: half of the planted texts, with all of their copies, is forgotten."""
  training = dataset.take(parts.train)
  few = max(1, min(5, config.epochs // 2))
  algorithms = {
    "fine-tune": unlearn.fine_tune,
    "NegGrad+": unlearn.neg_grad_plus,
    "random label": unlearn.random_label,
    "SalUn": unlearn.salun,
    "SCRUB": unlearn.scrub,
    "NPO": unlearn.npo,
  }
  # Published rates are of SGD on images, and of AdamW for NPO; here it is the recipe's that fits.
  plain = {
    name: {
      f"{share} of the rate": rum.Step(
        algorithm(share * (1 if name == "NPO" else 20) * config.learning_rate),
        few,
        config.batch_size,
      )
      for share in (0.3, 0.03, 0.003)
    }
    for name, algorithm in algorithms.items()
  }
  forget = texts.half_of_each(config, training, COPIES)
  first = {
    copies: training.first_of_each(training.ids[training.strata == number])
    for number, copies in enumerate(COPIES, 1)
  }

  def choose(training, truth, key):
    del key
    return rum.Selection(*setting.refined(training, forget, *setting.order_of(truth)))

  kept = {f"kept, {copies}×": np.setdiff1d(first[copies], forget) for copies in COPIES}
  early, half, late = texts.prompts_of(dataset)
  gone = {f"forget, {copies}×": np.intersect1d(first[copies], forget) for copies in COPIES}
  told = {name: data.after_prompt(training.take(ids), half) for name, ids in (gone | kept).items()}
  told["test after a prompt"] = data.after_prompt(dataset.take(parts.test), half)
  whole = training.take(forget)
  told |= {f"forget after {prompt}": data.after_prompt(whole, prompt) for prompt in (early, late)}
  return Work(
    plain=plain,
    choose=choose,
    parts=told,
    decode=texts.decoded(config.dataset),
    class_names=texts.CLASS_NAMES,
    watched=training.take(training.first_of_each(forget)),
  )


def show_extraction(config: Config, prompts: tuple[int, int, int]) -> None:
  """Prints the share of texts that networks go on with exactly: by copies, and by the prompt.

  What the rule alone, or a network that never saw a text, goes on with is not memorized: the row of
  the retrained network tells.
  """
  told = json.loads((config.out / "metrics.json").read_text())["methods"]
  early, half, late = prompts
  by_copies = [f"{name}, {copies}×" for name in ("forget", "kept") for copies in COPIES]
  columns = {
    f"Share that greedy decoding goes on with exactly after {half} tokens, by copies": [
      *by_copies,
      "test after a prompt",
    ],
    "Share of the texts to be forgotten that it goes on with exactly, by the prompt": [
      *("forget", f"forget after {early}", f"forget after {late}"),
    ],
  }
  for title, parts in columns.items():
    rows = []
    for name, method in told.items():
      found = {f.part: f for f in figures.read(method["figures"]) if f.name == "accuracy"}
      rows.append((name, *(tables.with_half_width(found[part]) for part in parts)))
    tables.show(title, ("method", *parts), rows)


def draw(config: Config, problem: Problem) -> None:
  """Draws memorization by copies, and what networks say of each token of the forgotten texts."""
  training, truth, out = problem.training, problem.truth, config.out
  of_each = np.isin(training.ids, training.first_of_each(training.ids))
  kinds = {
    name: of_each & (training.strata == number)
    for number, name in enumerate(problem.work.class_names)
  }
  scores = {"exact": truth.memorization, "e^−ℓ": truth.soft}
  report.plots.by_kind(
    out / "copies.png",
    {
      name: {kind: values[rows & np.isfinite(values)] for kind, rows in kinds.items()}
      for name, values in scores.items()
    },
    "counterfactual memorization",
  )
  with np.load(out / "tokens.npz") as file:
    said = dict(zip(file["methods"].tolist(), file["probability"], strict=True))
    pieces = file["tokens"]
  first = f"RUM {own.label(config.proxy[0])}"
  shown = {name: said[name] for name in ("original", "retrain", "RUM ground truth", first)}
  report.token_plots.by_position(out / "positions.png", shown)
  report.token_plots.token_heat_map(
    out / "tokens.png", pieces[:12], {name: p.mean(axis=0)[:12] for name, p in shown.items()}
  )


def show_ranks(config: Config, problem: Problem) -> None:
  """Prints and writes each proxy's rank correlation with the truth, by kind and by score."""
  truth, training = problem.truth, problem.training
  with np.load(config.out / "scores.npz") as file:
    scores = dict(zip(file["proxy_names"].tolist(), file["proxies"], strict=True))
  of_each = np.isin(training.ids, training.first_of_each(training.ids))
  kinds = {"all": of_each, "clean": of_each & (training.strata == 0)}
  kinds["planted"] = of_each & ~kinds["clean"]
  written, rows = {}, []
  for name, of_seeds in scores.items():
    cells = []
    for kind, rows_of in kinds.items():
      for score, values in (("exact", truth.memorization), ("e^−ℓ", truth.soft)):
        known = rows_of & np.isfinite(values)
        found = [ranked(row[known], values[known], resamples=1) for row in of_seeds]
        ranks = [each.spearman for each in found]
        mean = maybe_over_seeds(ranks, within=CORRELATION, name="spearman")
        written.setdefault(name, {})[f"{kind}, {score}"] = mean
        cells.append(tables.with_half_width(mean))
    rows.append((name, *cells))
  report.write_json(config.out / "ranks.json", written)
  columns = [f"{kind}, {score}" for kind in kinds for score in ("exact", "e^−ℓ")]
  seeds = len(next(iter(scores.values())))
  title = f"Spearman's ρ with counterfactual memorization, one copy of each, {seeds} seeds"
  tables.show(title, ("proxy", *columns), rows)


def main(config: Config) -> None:
  """Runs everything on the texts of a config."""
  dataset, seconds = cache.timed(lambda: texts.sequences(config, config.dataset))
  parts = texts.cut(config, dataset)
  work = work_of(config, dataset, parts)
  recipe = texts.recipe_of(config, dataset)
  problem = main_job.run(config, dataset, parts, recipe, work, data_seconds=seconds)
  show_extraction(config, texts.prompts_of(dataset))
  show_ranks(config, problem)
  draw(config, problem)


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
