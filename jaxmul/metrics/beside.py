"""Everything about unlearned models beside an ensemble of oracles: one dict, and one tidy table."""

import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmul.data.dataset import check_ids
from jaxmul.data.split import Split
from jaxmul.metrics.game import Known, attack_all, known, nonmember_rate
from jaxmul.metrics.gaps import average_gap, example_gap, run_time_efficiency
from jaxmul.metrics.intervals import Interval, over_examples, t_interval
from jaxmul.metrics.oracle.challenge_epsilon import challenge_score, forgetting_quality
from jaxmul.metrics.oracle.ensembles import Ensemble
from jaxmul.metrics.oracle.kl_of_margins import klom, klom_null, percentiles
from jaxmul.metrics.oracle.model_outputs import Outputs
from jaxmul.metrics.outputs import label_probability
from jaxmul.metrics.per_example import agreement_of_examples
from jaxmul.metrics.tug_of_war import tow, tow_by_group, tow_mia

SEEDS = "95 % t over training seeds"
EXAMPLES = "95 % bootstrap over examples"
_KLOM_ORACLES = 16
Figures = dict[str, dict[str, dict[str, Any]]]


def beside_oracles(
  unlearned: Outputs,
  ensemble: Ensemble,
  split: Split,
  attack_ids: Any,
  key: jax.Array,
  *,
  groups: Mapping[str, np.ndarray] | None = None,
  references: tuple[Outputs, np.ndarray] | None = None,
  seconds: Sequence[float] = (),
  retrained_seconds: float | None = None,
) -> Figures:
  """Returns every figure of unlearned models.

  Args:
    unlearned: K models on all ids of the split; ToW compares model k with oracle k. Where they come
      from originals of the ensemble, keep their order (and leave out those that diverged): no
      attack then has the original of a model among its references.
    ensemble: what they are compared with.
    split: forget, retain and test ids.
    attack_ids: held-out ids for attacks, `data.cut_heldout(split.heldout, key).attack`.
    key: of draws.
    groups: {name: ids} of S, disjoint, such as its low, medium and high memorization by the ground
      truth (`Selection._asdict()`): for ToW by group, and accuracy, example gap and KLoM of each.
      None leaves these out.
    references: leave-subset-out models for LiRA and RMIA, of `oracle.references`.
    seconds: that unlearning each model took, for the run-time efficiency, with
    retrained_seconds: those of retraining one on the same machine.

  Returns:
    {figure: {part: {"value", "low", "high", "interval", "note", "seeds"}}}; `interval` names what
    low and high are, and is None where there is none; `note` says why a value is NaN; `seeds` are
    the values of each seed, where there are any (`compare` uses them). "retain" is R without the
    examples that fit attacks, as many as half of the attack ids. Attacks need 4 models of each kind
    and 2 other originals, and are left out below that; so is what KLoM's null is. The median of ε
    is inf where most examples are told apart entirely. "example gap" needs 2 oracles; beside it
    "oracle example gap" has each oracle beside the mean of the others, which no method can be
    expected to beat, and "original example gap" what doing nothing leaves. KLoM of groups needs 16
    oracles.

  Raises:
    ValueError: an id has no outputs, there is no test set, attacks leave nothing of R, attack ids
      are of another part, a group is empty or not of S, or the seconds are not those of the models.
  """
  if not len(split.test):
    raise ValueError("beside_oracles needs test ids: ToW compares test accuracy. Set some apart.")
  if len(seconds) not in (0, len(unlearned)) or bool(len(seconds)) != bool(retrained_seconds):
    raise ValueError(
      f"beside_oracles got seconds of {len(seconds)} models for {len(unlearned)}, and "
      f"{retrained_seconds} of retraining. Give one for each model and that of a retrained one."
    )
  fit = known(split, attack_ids, key)
  retain = np.setdiff1d(split.retain, fit.members)
  if not len(retain):
    raise ValueError(
      f"beside_oracles: all {len(split.retain)} retain ids fit attacks. Give fewer attack ids."
    )
  groups = {} if groups is None else groups
  _refuse_groups(groups, split)
  parts = {"forget": split.forget, "retain": retain, "test": split.test}

  def sides(ids: np.ndarray) -> tuple[Outputs, Outputs]:
    return unlearned.take(ids), ensemble.oracles.take(ids)

  on, grouped = ({name: sides(ids) for name, ids in of.items()} for of in (parts, groups))
  found = of_seeds(on, (unlearned, ensemble.oracles), split, fit, grouped)
  if len(ensemble.oracles) > 1:
    found |= gaps({"forget": split.forget, **groups}, unlearned, ensemble)
  if len(seconds) and retrained_seconds:
    ratios = [run_time_efficiency(each, retrained_seconds) for each in seconds]
    found["run-time efficiency"] = {"all": _over_seeds(ratios)}
  game = attack_all(unlearned, ensemble, split.forget, fit, references)
  for name, scores in game.items():
    rates = scores.rates
    found[f"attack {name}"] = {
      figure: _named(value, EXAMPLES, note=rates.notes.get(figure, ""))
      for figure, value in rates._asdict().items()
      if figure != "notes"
    } | {"auc of each seed": _over_seeds(scores.auc_of_pairs)}
  agreement = {name: agreement_of_examples(*both) for name, both in on.items()}
  for name, each in agreement.items():
    found[f"KLoM {name}"] = _klom(each["klom"], *on[name])
    for figure in ("churn", "total variation"):
      found.setdefault(figure, {})[name] = _named(over_examples(each[figure]), EXAMPLES)
  if len(ensemble.oracles) >= _KLOM_ORACLES:
    for name, both in grouped.items():
      found[f"KLoM {name}"] = _klom(klom(both[0].log_odds, both[1].log_odds), *both)
  found["epsilon"] = _challenge(agreement["forget"]["epsilon"], found)
  return found


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Any:
  """Returns one row for each figure and part: a pandas DataFrame if pandas is there, else a list.

  Args:
    found: of `beside_oracles`; the values of each seed are left out.

  Example:
    >>> rows = table({"ToW": {"all": {"value": 0.9, "low": 0.8, "high": 1.0, "interval": "t"}}})
    >>> len(rows)
    1
  """
  rows = [
    {"figure": figure, "part": part, **{k: v for k, v in values.items() if k != "seeds"}}
    for figure, parts in found.items()
    for part, values in parts.items()
  ]
  try:
    import pandas as pd  # pyright: ignore[reportMissingImports]
  except ImportError:
    return rows
  return pd.DataFrame(rows)


def _refuse_groups(groups: Any, split: Split) -> None:
  """Raises ValueError where groups are not named, disjoint parts of the forget set."""
  if not isinstance(groups, Mapping):
    raise ValueError(
      f"beside_oracles got groups as a {type(groups).__name__}, must be {{name: ids}}. Name them: "
      'dict(zip(("low", "medium", "high"), rum.refine(scores, split.forget))).'
    )
  taken = {"forget", "retain", "test", "attack"} & set(groups)
  if taken:
    raise ValueError(
      f"beside_oracles got a group called {min(taken)!r}, which is a part of every table. Give it "
      "another name, such as 'low'."
    )
  for name, ids in groups.items():
    if not len(ids) or not np.isin(ids, split.forget).all():
      raise ValueError(
        f"beside_oracles: group {name!r} has {len(ids)} ids, must be some of the forget set. "
        "Refine the forget set: rum.refine(scores, split.forget)."
      )
  if groups:
    check_ids(np.concatenate(list(groups.values())), sum(map(len, groups.values())), "groups")


def gaps(parts: Mapping[str, np.ndarray], unlearned: Outputs, ensemble: Ensemble) -> Figures:
  """The example gap of S and its groups, and on S that of oracles and of originals."""
  oracles = label_probability(ensemble.oracles.logits, ensemble.oracles.labels)
  rows = {name: ensemble.oracles.rows(ids) for name, ids in parts.items()}

  def of(models: Outputs, ids: np.ndarray, at: np.ndarray) -> dict[str, Any]:
    taken = models.take(ids)
    p = label_probability(taken.logits, taken.labels)
    return _over_seeds([example_gap(each, oracles[:, at]) for each in p])

  forget, at = parts["forget"], rows["forget"]
  found = {"example gap": {name: of(unlearned, ids, rows[name]) for name, ids in parts.items()}}
  if len(oracles) > 2:
    others = [np.delete(oracles[:, at], k, 0) for k in range(len(oracles))]
    values = [example_gap(oracles[k, at], rest) for k, rest in enumerate(others)]
    found["oracle example gap"] = {"forget": _over_seeds(values)}
  found["original example gap"] = {"forget": of(ensemble.originals, forget, at)}
  return found


def of_seeds(
  on: Mapping[str, tuple[Outputs, Outputs]],
  models: tuple[Outputs, Outputs],
  split: Split,
  fit: Known,
  grouped: Mapping[str, tuple[Outputs, Outputs]] = types.MappingProxyType({}),
) -> Figures:
  """Accuracies, attack rates and what is made of both, each with one value a seed."""
  found: Figures = {}
  sides = []
  for at, prefix in enumerate(("", "oracle ")):
    accuracy = {name: both[at].accuracy for name, both in (*on.items(), *grouped.items())}
    rate = nonmember_rate(models[at], split.forget, fit)
    found[f"{prefix}accuracy"] = {name: _over_seeds(each) for name, each in accuracy.items()}
    found[f"{prefix}attack rate"] = {"forget": _over_seeds(rate)}
    sides.append(accuracy | {"attack": rate})
  count = min(map(len, models))
  pairs = [[{n: float(v[k]) for n, v in side.items()} for side in sides] for k in range(count)]
  figures = {
    "ToW": lambda a, b: tow(*(_triple(each, "forget") for each in (a, b))),
    "ToW-MIA": lambda a, b: tow_mia(*(_triple(each, "attack") for each in (a, b))),
    "average gap": average_gap,
  }
  if grouped:
    figures["ToW by group"] = lambda a, b: tow_by_group(
      *(([each[name] for name in grouped], each["retain"], each["test"]) for each in (a, b))
    )
  for name, figure in figures.items():
    found[name] = {"all": _over_seeds([figure(*each) for each in pairs])}
  return found


def _klom(distance: np.ndarray, ours: Outputs, theirs: Outputs) -> dict[str, dict[str, Any]]:
  """KLoM's percentiles, and its mean over as many models a side as its null has."""
  found = {name: _named(value) for name, value in percentiles(distance).items()}
  half = len(theirs) // 2
  if half >= 2 and len(ours) >= half:
    a, b = ours.models(slice(half)), theirs.models(slice(half, 2 * half))
    found["mean of halves"] = _named(float(klom(a.log_odds, b.log_odds).mean()))
    null = klom_null(theirs.log_odds, permutations=100)
    found["null of halves, 97.5 %"] = _named(float(np.quantile(null, 0.975)))
  return found


def _challenge(each: np.ndarray, found: Figures) -> dict[str, dict[str, Any]]:
  ours, theirs = (
    (found[figure]["retain"]["value"], found[figure]["test"]["value"])
    for figure in ("accuracy", "oracle accuracy")
  )
  median = float(np.median(each))
  note = "" if np.isfinite(median) else "inf: half of the examples or more are told apart entirely"
  return {
    "median": _named(median, note=note),
    "forgetting quality": _named(over_examples(np.exp2(-np.floor(each / 0.5))), EXAMPLES),
    "challenge score": _named(challenge_score(forgetting_quality(each), ours, theirs)),
  }


def _triple(rates: Mapping[str, float], entry: str) -> tuple[float, float, float]:
  return rates[entry], rates["retain"], rates["test"]


def _over_seeds(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
  seeds = [float(value) for value in values]
  return _named(t_interval(seeds), SEEDS) | {"seeds": seeds}


def _named(value: Interval | float, kind: str | None = None, note: str = "") -> dict[str, Any]:
  if isinstance(value, Interval):
    mean, low, high = value
    kind = kind if np.isfinite(low) else None
    return {"value": mean, "low": low, "high": high, "interval": kind, "note": note}
  nan = float("nan")
  return {"value": value, "low": nan, "high": nan, "interval": None, "note": note}
