"""Everything about unlearned models beside an ensemble of oracles, as one list of figures."""

import dataclasses
import types
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import numpy.typing as npt

from jaxmul import _article
from jaxmul._ids import check_ids
from jaxmul.data.split import Split
from jaxmul.metrics.attacks.rates_with_intervals import KINDS
from jaxmul.metrics.figures import EXAMPLES, RATE, Figure, find, over_seeds, with_interval
from jaxmul.metrics.game import Known, Scores, attack_all, known, nonmember_rate
from jaxmul.metrics.gaps import average_gap, example_gap, run_time_efficiency
from jaxmul.metrics.intervals import over_examples
from jaxmul.metrics.oracle.challenge_epsilon import challenge_score, quality_of_examples
from jaxmul.metrics.oracle.ensembles import Ensemble
from jaxmul.metrics.oracle.kl_of_margins import klom, klom_null, percentiles
from jaxmul.metrics.oracle.model_outputs import Outputs
from jaxmul.metrics.per_example import agreement_of_examples
from jaxmul.metrics.tug_of_war import tow, tow_by_group, tow_mia

_KLOM_ORACLES = 16


def beside_oracles(
  unlearned: Outputs,
  ensemble: Ensemble,
  split: Split,
  attack_ids: npt.ArrayLike,
  key: jax.Array,
  *,
  groups: Mapping[str, np.ndarray] | None = None,
  references: tuple[Outputs, np.ndarray] | None = None,
  seconds: Sequence[float] = (),
  retrained_seconds: float | None = None,
) -> list[Figure]:
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
    A list of `Figure`; `find` picks one, `table` shows them. Those that are measured of each seed
    have `seeds` (`compare` uses them). "retain" is R without the examples that fit attacks, as many
    as half of the attack ids. Attacks need 4 models of each kind and 2 other originals, and are
    left out below that; so is what KLoM's null is. The median of ε is inf where most examples are
    told apart entirely. "example gap" needs 2 oracles; that of "oracle" is each oracle beside the
    mean of the others, which no method can be expected to beat, and that of "original" is what
    doing nothing leaves. KLoM of groups needs 16 oracles.
    Churn, total variation and attacks by entropy and by all probabilities need logits, and are left
    out where outputs have none.

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

  on, grouped = ({name: sides(ids) for name, ids in some.items()} for some in (parts, groups))
  found = seed_figures(on, (unlearned, ensemble.oracles), split, fit, grouped)
  if len(ensemble.oracles) > 1:
    found += gap_figures({"forget": split.forget, **groups}, unlearned, ensemble)
  if len(seconds) and retrained_seconds:
    ratios = [run_time_efficiency(own, retrained_seconds) for own in seconds]
    found.append(over_seeds(ratios, name="run-time efficiency"))
  found += _attack_figures(attack_all(unlearned, ensemble, split.forget, fit, references))
  agreement = {name: agreement_of_examples(*both) for name, both in on.items()}
  for name, of_examples in agreement.items():
    found += _klom(of_examples["klom"], name, *on[name])
  if len(ensemble.oracles) >= _KLOM_ORACLES:
    for name, both in grouped.items():
      found += _klom(klom(both[0].log_odds, both[1].log_odds), name, *both)
  found += [
    with_interval(over_examples(of_examples[name]), EXAMPLES, name=name, part=part)
    for name in ("churn", "total variation")
    for part, of_examples in agreement.items()
    if name in of_examples
  ]
  return found + _epsilon(agreement["forget"]["epsilon"], found)


def _refuse_groups(groups: Mapping[str, np.ndarray], split: Split) -> None:
  """Raises ValueError where groups are not named, disjoint parts of the forget set."""
  if not isinstance(groups, Mapping):
    raise ValueError(
      f"beside_oracles got groups as {_article.of(groups)}, must be {{name: ids}}. Name them: "
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


def gap_figures(
  parts: Mapping[str, np.ndarray], unlearned: Outputs, ensemble: Ensemble
) -> list[Figure]:
  """The example gap of S and its groups, and on S that of oracles and of originals."""
  oracles = ensemble.oracles.probability

  def gaps(models: Outputs, part: str) -> list[float]:
    taken, rows = models.take(parts[part]), ensemble.oracles.rows(parts[part])
    return [example_gap(p, oracles[:, rows]) for p in taken.probability]

  found = [
    over_seeds(gaps(unlearned, part), within=RATE, name="example gap", part=part) for part in parts
  ]
  on_forget = {"name": "example gap", "part": "forget"}
  if len(oracles) > 2:
    p = oracles[:, ensemble.oracles.rows(parts["forget"])]
    values = [example_gap(p[k], np.delete(p, k, 0)) for k in range(len(p))]
    found.append(over_seeds(values, within=RATE, of="oracle", **on_forget))
  return [
    *found,
    over_seeds(gaps(ensemble.originals, "forget"), within=RATE, of="original", **on_forget),
  ]


def seed_figures(
  on: Mapping[str, tuple[Outputs, Outputs]],
  models: tuple[Outputs, Outputs],
  split: Split,
  fit: Known,
  grouped: Mapping[str, tuple[Outputs, Outputs]] = types.MappingProxyType({}),
) -> list[Figure]:
  """Accuracies, attack rates and what is made of both, each with one value a seed."""
  found: list[Figure] = []
  sides = []
  for side, of in enumerate(("unlearned", "oracle")):
    accuracy = {name: both[side].accuracy for name, both in (*on.items(), *grouped.items())}
    rate = nonmember_rate(models[side], split.forget, fit)
    found += [
      over_seeds(values, within=RATE, name="accuracy", of=of, part=part)
      for part, values in accuracy.items()
    ]
    found.append(over_seeds(rate, within=RATE, name="attack rate", of=of, part="forget"))
    sides.append(accuracy | {"attack": rate})
  count = min(map(len, models))
  pairs = [
    [{name: float(values[k]) for name, values in side.items()} for side in sides]
    for k in range(count)
  ]

  def rates(pair: list[dict[str, float]], entry: str) -> list[tuple[float, float, float]]:
    return [(model[entry], model["retain"], model["test"]) for model in pair]

  of_pairs = {
    "ToW": [tow(*rates(pair, "forget")) for pair in pairs],
    "ToW-MIA": [tow_mia(*rates(pair, "attack")) for pair in pairs],
    "average gap": [average_gap(*pair) for pair in pairs],
  }
  if grouped:
    of_pairs["ToW by group"] = [
      tow_by_group(*(([m[name] for name in grouped], m["retain"], m["test"]) for m in pair))
      for pair in pairs
    ]
  return found + [over_seeds(values, within=RATE, name=name) for name, values in of_pairs.items()]


def _attack_figures(game: Mapping[str, Scores]) -> list[Figure]:
  """How well each attack tells unlearned models from oracles on the forget set."""
  found = []
  for attack, scores in game.items():
    what = {"name": f"attack {attack}", "part": "forget"}
    rates = scores.rates
    for kind in KINDS:
      figure = with_interval(getattr(rates, kind), EXAMPLES, kind=kind, **what)
      note = rates.notes.get(kind, "")
      found.append(dataclasses.replace(figure, note=note) if note else figure)
    found.append(over_seeds(scores.auc_of_pairs, within=RATE, kind="auc of each seed", **what))
  return found


def _klom(distance: np.ndarray, part: str, ours: Outputs, theirs: Outputs) -> list[Figure]:
  """KLoM's percentiles, and its mean over as many models a side as its null has."""
  values = percentiles(distance)
  half = len(theirs) // 2
  if half >= 2 and len(ours) >= half:
    halves = ours.log_odds[:half], theirs.log_odds[half : 2 * half]
    values["mean of halves"] = float(klom(*halves).mean())
    null = klom_null(theirs.log_odds, permutations=100)
    values["null of halves, 97.5 %"] = float(np.quantile(null, 0.975))
  return [Figure(name="KLoM", part=part, kind=kind, value=value) for kind, value in values.items()]


def _epsilon(of_examples: np.ndarray, found: list[Figure]) -> list[Figure]:
  median = float(np.median(of_examples))
  note = "" if np.isfinite(median) else "inf: half of the examples or more are told apart entirely"
  quality = over_examples(quality_of_examples(of_examples))
  ours, theirs = (
    [find(found, "accuracy", part, of=of).value for part in ("retain", "test")]
    for of in ("unlearned", "oracle")
  )
  # Whole texts that are right word by word may be none, and a ratio to 0 is no number.
  score = challenge_score(quality.mean, ours, theirs) if all(theirs) else float("nan")
  why = "" if all(theirs) else "the oracles are right on nothing"
  return [
    Figure(name="epsilon", part="forget", kind="median", value=median, note=note),
    with_interval(quality, EXAMPLES, name="epsilon", part="forget", kind="forgetting quality"),
    Figure(name="epsilon", kind="challenge score", value=score, note=why),
  ]
