"""Judges unlearned models, wherever they were unlearned, beside an ensemble of retrained oracles.

    python -m experiments.evaluate --unlearned scrub/seed* --forget forget.txt --out runs/judged

An unlearned model is a checkpoint folder of `checkpoint.save`, or an .npz with ids [n], labels [n]
and logits [K, n, C] of K models on all examples of the data set. Originals and oracles are trained
by the recipe of the flags, or read from such files. The evaluator is audited first, and refuses to
report where its audit fails; figures that saw nothing there are left out of the tables.

A second method is judged by the same command with its own --unlearned and --out; with --against the
first one's evaluation.json, differences seed by seed are shown, model k beside model k.
"""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cli, logs, setting, tables
from experiments.cache import ensemble_store
from experiments.setting import TIES_RULE, cut, recipe_of, soft_of
from jaxmul import checkpoint, data, memorization, metrics, models, report, rum, train
from jaxmul._command.inputs import read_ids
from jaxmul._command.tables import show
from jaxmul.metrics import Figure
from jaxmul.metrics.oracle import Ensemble, Outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(setting.Flags):
  """Evaluates unlearned models.

  Attributes:
    unlearned: checkpoint folders, one for each seed, or .npz files of outputs.
    forget: file of ids, text with one a line, .csv, .json or .npy: what was unlearned.
    heldout: ids never trained on, not for test; by default those of experiments.rum with this key.
    test: ids of the test set, likewise; all other ids were trained on.
    originals: the same kind of files, of models before unlearning; trained where none is given.
    oracles: of models retrained without the forget set; trained where none is given.
    truth: .npz of an Estimate of the memorization of the forget set, whose low, medium and high
      thirds are also judged apart, with ToW by group; without it only the example gap says where.
    seconds: that unlearning each model took, for the run-time efficiency.
    retrained_seconds: that retraining one took on the same machine.
    against: evaluation.json of another method beside the same oracles, to compare with.
    model: network to train, and of the checkpoints; gpt is for text, tokens [n, T] with T ≤ 128.
    num_models: originals and oracles (each) to train, at least 8.
  """

  unlearned: tuple[Path, ...]
  forget: Path
  heldout: Path | None = None
  test: Path | None = None
  originals: tuple[Path, ...] = ()
  oracles: tuple[Path, ...] = ()
  truth: Path | None = None
  seconds: tuple[float, ...] = ()
  retrained_seconds: float | None = None
  against: Path | None = None
  model: Literal["mlp", "cnn", "resnet8", "resnet18", "gpt"] = "mlp"
  num_models: int = 16
  out: Path = Path("runs/evaluation")

  def __post_init__(self):
    if bool(self.seconds) != (self.retrained_seconds is not None):
      raise ValueError("give both --seconds and --retrained-seconds, or neither.")
    if bool(self.originals) != bool(self.oracles):
      raise ValueError("give both --originals and --oracles, or neither to have them trained.")
    if bool(self.heldout) != bool(self.test):
      raise ValueError("give both --heldout and --test, or neither to have them cut.")
    if not self.oracles and self.num_models < 8:
      raise ValueError(f"--num-models {self.num_models}: the audit needs at least 8.")


def split_of(config: Config, dataset: data.Dataset, parts: data.Holdout) -> data.Split:
  """Returns the split that the files name, or the cut of the config around the forget set."""
  forget, heldout, test = read_ids(config.forget), parts.heldout, parts.test
  if config.heldout and config.test:
    heldout, test = read_ids(config.heldout), read_ids(config.test)
  retain = np.setdiff1d(dataset.ids, np.concatenate([forget, heldout, test]))
  split = data.Split(forget, retain, heldout, test)
  split.check(dataset)
  return split


def groups_of(config: Config, split: data.Split) -> dict[str, np.ndarray]:
  """Returns the forget set in three groups by the ground truth, none where there is none."""
  if config.truth is None:
    return {}
  truth = memorization.Estimate.load(config.truth).take(split.forget)
  unknown = np.isnan(truth.memorization)
  if unknown.any():
    raise ValueError(
      f"--truth {config.truth}: {unknown.sum()} of {len(unknown)} forget ids have no score, such "
      f"as {truth.ids[unknown][0]}. Estimate more models, or leave --truth away."
    )
  groups = rum.refine(truth.memorization, truth.ids, soft=soft_of(truth))
  return dict(zip(rum.Selection._fields, groups, strict=True))


def read_figures(path: Path) -> list[Figure]:
  """Returns the figures of an evaluation.json."""
  try:
    return metrics.figures.read(json.loads(path.read_text())["figures"])
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is no evaluation.json of this experiments.evaluate.") from error


def read_models(
  paths: tuple[Path, ...], recipe: train.Recipe, dataset: data.Dataset, ids: np.ndarray
) -> Outputs:
  """Returns the outputs of all saved models on the given ids; of text they have no logits."""
  like = models.shapes(recipe.model, dataset.example)
  labels = dataset.take(ids).labels
  files = []
  for path in paths:
    if path.suffix != ".npz":
      files.append(metrics.oracle.outputs([checkpoint.load(path, like)], dataset, ids))
      continue
    outputs = Outputs.load(path).take(ids)
    if (outputs.labels is None) != (labels.ndim > 1):
      kind = "log-odds, as of text" if outputs.labels is None else "logits, of one label each"
      raise ValueError(f"{path} holds {kind}, but labels of this data set are {labels.shape}.")
    if outputs.labels is not None and not np.array_equal(outputs.labels, labels):
      raise ValueError(f"{path} has other labels than {len(labels)} examples of the data set.")
    files.append(outputs)
  if labels.ndim > 1:
    log_odds = np.concatenate([outputs.log_odds for outputs in files])
    return Outputs(ids, log_odds, np.concatenate([outputs.correct for outputs in files]))
  return Outputs.of_logits(ids, labels, np.concatenate([outputs.logits for outputs in files]))


def batch_norm_changed(
  paths: tuple[Path, ...], recipe: train.Recipe, dataset: data.Dataset, ids: np.ndarray
) -> Outputs | None:
  """Returns originals of which only BatchNorm statistics changed; None where there are none."""
  like = models.shapes(recipe.model, dataset.example)
  if "batch_stats" not in (like.state or {}) or any(path.suffix == ".npz" for path in paths):
    return None
  saved = (checkpoint.load(path, like) for path in paths)
  return metrics.oracle.outputs(list(map(metrics.batch_stats_changed, saved)), dataset, ids)


def main(config: Config) -> None:
  """Trains what is missing, audits, evaluates, writes evaluation.json and prints the table."""
  other = None if config.against is None else read_figures(config.against)
  log = logs.start(config.out, config.log, vars(config))
  dataset, parts = cut(config)
  split = split_of(config, dataset, parts)
  recipe = recipe_of(config, dataset.num_classes)
  base = jax.random.key(config.key)
  key, audit_key = jax.random.split(jax.random.fold_in(base, 4))
  ids = np.concatenate([split.forget, split.retain, split.heldout, split.test])
  unlearned = read_models(config.unlearned, recipe, dataset, ids)
  if len(config.seconds) not in (0, len(unlearned)):
    raise ValueError(f"--seconds has {len(config.seconds)} numbers for {len(unlearned)} models.")
  if config.oracles:
    originals = read_models(config.originals, recipe, dataset, ids)
    ensemble = Ensemble(originals, read_models(config.oracles, recipe, dataset, ids))
    batch_norm = batch_norm_changed(config.originals, recipe, dataset, ids)
  else:
    count = config.num_models
    store = ensemble_store(config.out, recipe, dataset, split, key, count)
    ensemble = metrics.oracle.ensemble(recipe, dataset, split, key, num_models=count, store=store)
    batch_norm = metrics.batch_norm_control(recipe, dataset, split, key, num_models=count // 2)
  # The cut of experiments.rum and unlearn: what tuned a method or a proxy there attacks nothing.
  attack_ids = data.cut_heldout(split.heldout, jax.random.fold_in(base, 2)).attack
  for name, kept in ensemble._asdict().items():
    kept.save(config.out / f"{name}.npz")
  audit = metrics.audit(ensemble, split, attack_ids, audit_key, batch_norm=batch_norm)
  print(audit.line)
  audit.certify()
  groups = groups_of(config, split)
  figures = metrics.beside_oracles(
    unlearned,
    ensemble,
    split,
    attack_ids,
    audit_key,
    groups=groups,
    seconds=config.seconds,
    retrained_seconds=config.retrained_seconds,
  )
  groups = groups or {"forget": split.forget}
  counts = rum.class_counts(list(groups.values()), dataset).tolist()
  for name, classes in zip(groups, counts, strict=True):
    print(f"{name}: {sum(classes)} examples, of each class {' '.join(map(str, classes))}")
  record = {"config": config, "versions": report.versions(), "audit": audit}
  record |= {"classes": dict(zip(groups, counts, strict=True)), "ties": TIES_RULE}
  report.write_json(config.out / "evaluation.json", {"figures": figures, **record})
  log(0, logs.named(figures))
  unlearned.save(config.out / "outputs.npz")
  by_example = metrics.by_example(unlearned, ensemble, split, attack_ids, audit_key)
  report.write_arrays(config.out / "examples.npz", by_example)
  print(f"{len(unlearned)} unlearned models beside {len(ensemble.oracles)} oracles:")
  show(audit.without_blind(figures))
  if audit.blind:
    print(f"Blind here, left out of the tables: {', '.join(map(str, audit.blind))}.")
  print(f"written: {config.out}/evaluation.json, and outputs, examples, originals and oracles .npz")
  if other is not None:
    rows = [
      (figure.title, figure.part, figure.kind, figure.value, figure.low, figure.high, figure.p)
      for figure in audit.without_blind(metrics.compare(figures, other))
    ]
    names = ("figure", "part", "kind", "difference", "low", "high", "p (sign flip)")
    tables.show(f"Minus {config.against}, seed by seed, 95 % t", names, rows)


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
