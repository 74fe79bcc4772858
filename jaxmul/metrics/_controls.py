"""The controls of an audit: what attacks and figures say of models whose answers are known.

Oracles beside other oracles are equal: nothing may tell them apart. Originals beside oracles differ
on the examples that were memorized most: what does not tell them apart there is blind here.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxmul._ties import scattered
from jaxmul.data.split import Split
from jaxmul.metrics import attacks
from jaxmul.metrics.figures import RATE, SHARED, Blind, Figure, find, over_seeds
from jaxmul.metrics.figures_beside_oracles import gap_figures, seed_figures
from jaxmul.metrics.game import ATTACKS, Known, Scores
from jaxmul.metrics.intervals import Interval, t_interval
from jaxmul.metrics.oracle.challenge_epsilon import challenge_score, epsilon, forgetting_quality
from jaxmul.metrics.oracle.ensembles import Ensemble
from jaxmul.metrics.oracle.kl_of_margins import klom, percentiles
from jaxmul.metrics.oracle.model_outputs import Outputs
from jaxmul.metrics.per_example import agreement_of_examples

# Bonferroni: all attacks and KLoM together say of equal models that they differ in 5 % of audits.
NULL_LEVEL = 1 - 0.05 / (len(ATTACKS) + 1)
_PERMUTATIONS = 40
# Their score grows with the probability of the label, so that it must be higher for originals. The
# others learn a direction from other examples, or do not look at the label: on hard examples even
# sound ones can point the other way.
_DIRECTED = ("loss", "modified_entropy", "lira", "lira_offline", "u_lira", "rmia", "rmia_offline")
_CHANCE = {"auc": 0.5, "balanced_accuracy": 0.5, "tpr_at_1": 0.01, "tpr_at_01": 0.001}
_CALLED = {
  "auc": "AUC of all pairs together",
  "balanced_accuracy": "balanced accuracy",
  "tpr_at_1": "TPR at 1 % FPR",
  "tpr_at_01": "TPR at 0.1 % FPR",
}
# Where originals are higher (1) or lower (−1) than oracles on what was memorized most.
_SIGNS = {
  **{"accuracy": 1, "attack rate": -1, "ToW": -1, "ToW-MIA": -1, "average gap": 1},
  **{"ToW by group": -1, "example gap": 1, "churn": 1, "total variation": 1},
}
_OF_LOGITS = ("churn", "total variation")


@dataclasses.dataclass(frozen=True)
class Control:
  """One control.

  Attributes:
    name: what was examined; of an attack or a figure its name in `beside_oracles`.
    passed: whether the evaluator said what is known; None where it was not run or is blind.
    said: the figures, one line.
    blind: what told nothing apart and does not belong into a table: whole figures of
      `beside_oracles`, or parts or kinds of them.
    equal: of an attack, the mean AUC of oracles beside other oracles with its interval, which must
      hold 0.5; at a level at which a sound evaluator fails in 5 % of audits, by all of them.
    different: the same of originals beside oracles on the high group, 95 %; of a figure, how much
      originals differ, above 0 in the right direction.
    detectable: the smallest mean AUC above 0.5 that would have failed there: 0.5 plus half the
      width of the interval. A true AUC of this size is noticed in about half of all audits.
  """

  name: str
  passed: bool | None
  said: str
  _: dataclasses.KW_ONLY
  blind: tuple[Blind, ...] = ()
  equal: Interval | None = None
  different: Interval | None = None
  detectable: float | None = None


def of_attacks(
  equal: Mapping[str, Scores], different: Mapping[str, Scores], high: np.ndarray
) -> list[Control]:
  """Returns a control of each attack, and one that says whether any of them sees anything.

  Scores are of oracles as unlearned models, and of originals, beside the same oracles; `high` are
  positions among the scored examples of those that were memorized most.
  """
  controls = [_of_attack(name, equal[name], different[name], high) for name in equal]
  seen = {name: t_interval(different[name].of(high).auc_of_pairs) for name in equal}
  best = max(seen, key=lambda name: seen[name].low)
  seeing = sum(auc.low > 0.5 for auc in seen.values())
  said = f"{seeing} of {len(controls)} tell originals from oracles on the high group"
  said += f"; the surest is {best}: AUC {_range(seen[best])}"
  return [*controls, Control("attacks, not all blind", seeing > 0, said)]


def _of_attack(name: str, equal: Scores, different: Scores, high: np.ndarray) -> Control:
  null = t_interval(equal.auc_of_pairs, level=NULL_LEVEL)
  detectable = 0.5 + (null.high - null.low) / 2
  on_high = different.of(high)
  apart = t_interval(on_high.auc_of_pairs)
  said = [
    f"oracles beside oracles: AUC {_range(null)}, {noticed(detectable)}",
    f"originals beside oracles, high group: {_range(apart)}",
  ]
  figure = f"attack {name}"
  passed, blind = True, ()
  if apart.low > 0.5:
    kinds = _blind_rates(on_high, different)
    blind = tuple(Blind(figure, kind=kind) for kind in kinds)
    if kinds:
      said.append(f"blind here: its {', '.join(_CALLED[kind] for kind in kinds)}")
  elif t_interval(on_high.auc_of_pairs, level=NULL_LEVEL).high < 0.5:
    passed, blind = False if name in _DIRECTED else None, (Blind(figure),)
    said.append("the wrong way round, so blind here")
  else:
    passed, blind = None, (Blind(figure),)
    said.append("blind here")
  if not null.low <= 0.5 <= null.high:
    passed = False
    said.append("it tells equal models apart")
  intervals = {"equal": null, "different": apart, "detectable": detectable}
  return Control(figure, passed, "; ".join(said), blind=blind, **intervals)


def _blind_rates(high: Scores, everything: Scores) -> list[str]:
  """Returns the rates that are not above chance: of the high group, or of all where it is small."""
  of_high, of_all = (
    attacks.rates(*scores[:2], threshold=scores.threshold, paired=True, resamples=200)
    for scores in (high, everything)
  )
  blind = []
  for kind, chance in _CHANCE.items():
    low = getattr(of_high, kind).low
    low = low if np.isfinite(low) else getattr(of_all, kind).low
    if low <= chance:  # not where it is NaN in both: it was not examined
      blind.append(kind)
  return blind


def of_figures(
  originals: Outputs, oracles: tuple[Outputs, Outputs], split: Split, retain: np.ndarray, fit: Known
) -> list[Control]:
  """Returns a control of each figure of `beside_oracles` that has a value for each model.

  The first of the oracles take the place of unlearned ones, the others are what all is compared
  with. The forget set of `split` is the high group, `retain` are ids of R that fit no attack.
  """
  first, second = oracles
  parts = {"forget": split.forget, "retain": retain, "test": split.test}
  # Two groups of the one that is examined, in no order, so that a product over groups is taken.
  order = np.argsort(scattered(split.forget))
  halves = {"group 0": split.forget[order[::2]], "group 1": split.forget[order[1::2]]}
  groups = {name: ids for name, ids in halves.items() if len(ids)}

  def beside_second(
    models: Outputs, parts: Mapping[str, np.ndarray]
  ) -> dict[str, tuple[Outputs, Outputs]]:
    return {name: (models.take(ids), second.take(ids)) for name, ids in parts.items()}

  def figures(models: Outputs) -> list[Figure]:
    """Those of models as if they were unlearned."""
    of_forget, compared = models.take(split.forget), second.take(split.forget)
    found = gap_figures({"forget": split.forget}, of_forget, Ensemble(of_forget, compared))
    one_by_one = (of_forget.models([k]) for k in range(len(models)))
    agreements = [agreement_of_examples(model, compared) for model in one_by_one]
    for name in agreements[0].keys() & _OF_LOGITS:
      found.append(over_seeds([each[name].mean() for each in agreements], within=RATE, name=name))
    if all(map(len, parts.values())):
      on, grouped = beside_second(models, parts), beside_second(models, groups)
      found += seed_figures(on, (models, second), split, fit, grouped)
    return found

  ours, theirs = figures(originals), figures(first)
  there = {figure.name for figure in ours}
  controls = []
  for name, sign in _SIGNS.items():
    if name in SHARED and name in there:  # these stand beside the oracles' own in a table
      own, beside = (find(ours, name, "forget", of=of).seeds for of in ("unlearned", "oracle"))
      controls.append(_of_figure(name, own, beside, sign))
    elif name in there:
      controls.append(_of_figure(name, find(ours, name).seeds, find(theirs, name).seeds, sign))
    elif name not in _OF_LOGITS:
      said = "there are no test ids, or no retain ids but those of attacks"
      controls.append(Control(name, None, said))
  return controls


def of_epsilon(originals: Outputs, oracles: Outputs, null: Outputs) -> Control:
  """Returns the control of ε: originals' forgetting quality is below that of equal oracles.

  All are on the high group; `null` are all oracles, random halves of which are equal.
  """

  def quality(ours: np.ndarray, theirs: np.ndarray) -> float:
    alike = (1.0, 1.0)  # as accurate as the oracles: the challenge's score is the quality then
    return challenge_score(forgetting_quality(epsilon(ours, theirs)), alike, alike)

  phi, half, rng = null.log_odds, len(null) // 2, np.random.default_rng(0)
  orders = (rng.permutation(len(phi)) for _ in range(_PERMUTATIONS))
  equal = [quality(phi[order[:half]], phi[order[half : 2 * half]]) for order in orders]
  limit = float(np.quantile(equal, 0.025))
  seen = quality(originals.log_odds, oracles.log_odds)
  said = f"high group: forgetting quality of originals {seen:.3f}, "
  said += f"of equal oracles {np.mean(equal):.3f} and hardly below {limit:.3f}"
  if seen < limit:
    return Control("epsilon", True, said)
  return Control("epsilon", None, f"{said}; blind here", blind=(Blind("epsilon"),))


def of_percentiles(originals: Outputs, oracles: tuple[Outputs, Outputs]) -> Control:
  """Returns the control of KLoM's percentiles: originals' are above those of equal oracles."""
  first, second = (half.log_odds for half in oracles)
  ours, theirs = (percentiles(klom(phi, second)) for phi in (originals.log_odds, first))
  unseen = [kind for kind in ours if not ours[kind] > theirs[kind]]
  listed = ", ".join(f"{kind} {ours[kind]:.2f} and {theirs[kind]:.2f}" for kind in ours)
  said = f"high group: of originals and of equal oracles, {listed}"
  if unseen:
    said += f"; blind here: {', '.join(unseen)}"
  blind = tuple(Blind("KLoM", "forget", kind) for kind in unseen)
  return Control("KLoM, percentiles", True if len(blind) < len(ours) else None, said, blind=blind)


def _of_figure(
  name: str, originals: Sequence[float], oracles: Sequence[float], sign: int
) -> Control:
  """Returns the control of a figure: originals must differ from oracles as the sign says."""
  ours, theirs = np.asarray(originals), np.asarray(oracles)
  apart = t_interval(sign * (ours - theirs))
  said = f"high group: originals {ours.mean():.3f}, oracles {theirs.mean():.3f}, apart by "
  said += _range(apart)
  if apart.low > 0:
    return Control(name, True, said, different=apart)
  said += "; the wrong way round, so blind here" if apart.high < 0 else "; blind here"
  if name == "ToW":  # without it there is nothing to report
    return Control(name, False, said, different=apart)
  # Accuracies on R and T stand beside that on S, which alone was examined.
  blind = Blind(name, "forget" if name == "accuracy" else None)
  return Control(name, None, said, blind=(blind,), different=apart)


def noticed(detectable: float | None) -> str:
  """Says in words which AUC a null would have noticed."""
  if detectable is None or detectable >= 1:
    return "with so few models none would have been noticed"
  return f"{detectable:.3f} would have been noticed"


def _range(interval: Interval) -> str:
  return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
