"""The evaluator's own examination: it must pass equal models and catch what is known to differ.

Every attack and every figure that a table prints has two controls. Oracles beside other oracles are
equal, and must look so. Originals beside oracles differ on the examples memorized most; what cannot
tell them apart even there is blind here, and says nothing of unlearned models. Further controls:
models with random outputs; models of which only BatchNorm statistics changed; and the group
memorized least, where there is less to see.
"""

import dataclasses
from collections.abc import Iterable

import jax
import numpy as np
import numpy.typing as npt

from jaxmul._ties import scattered
from jaxmul.data.split import Split
from jaxmul.metrics import _controls
from jaxmul.metrics._controls import Control
from jaxmul.metrics.figures import Blind, Figure
from jaxmul.metrics.game import Scores, attack, known
from jaxmul.metrics.oracle.ensembles import Ensemble
from jaxmul.metrics.oracle.kl_of_margins import klom, klom_null
from jaxmul.metrics.oracle.model_outputs import Outputs

__all__ = ["Audit", "Control", "audit", "contrast"]

# Of "all" a quantile of 99.6 % is needed, of the groups one of 97.5 %.
_PERMUTATIONS = {"all": 2000, "high": 500, "low": 500}


@dataclasses.dataclass(frozen=True)
class Audit:
  """All controls; `passed` only if none failed.

  Attributes:
    controls: in the order they were run.
  """

  controls: tuple[Control, ...]

  @property
  def passed(self) -> bool:
    """Whether no control failed."""
    return all(control.passed is not False for control in self.controls)

  @property
  def blind(self) -> tuple[Blind, ...]:
    """What saw nothing here, and has no place in a table: whole figures, parts or kinds of them."""
    return tuple(blind for control in self.controls for blind in control.blind)

  @property
  def line(self) -> str:
    """One line: "audit passed: …", or "audit failed: …" with the first control that did."""
    failed = [control for control in self.controls if control.passed is False]
    if failed:
      more = f" ({len(failed) - 1} more failed)" if len(failed) > 1 else ""
      return f"audit failed: {failed[0].name}: {failed[0].said}{more}"
    passed = sum(control.passed is True for control in self.controls)
    skipped = sum(control.passed is None and not control.blind for control in self.controls)
    rest = f" ({skipped} not run)" if skipped else ""
    nulls = [
      (control.name, control.equal.mean, control.detectable)
      for control in self.controls
      if control.equal is not None
    ]
    said = [f"audit passed: {passed} controls{rest}"]
    if nulls:
      name, auc, detectable = max(nulls, key=lambda null: abs(null[1] - 0.5))
      said.append(
        f"no attack tells oracles from other oracles: {name} comes nearest, with an AUC of "
        f"{auc:.3f} (0.5 is chance, {_controls.noticed(detectable)})"
      )
    blind = [str(blind) for blind in self.blind if blind.whole]
    parts = len(self.blind) - len(blind)
    if parts:
      blind.append(f"{parts} part{'s' * (parts > 1)} or kinds of other figures")
    if blind:
      said.append(f"blind here: {', '.join(blind)}")
    return "; ".join(said)

  def certify(self) -> None:
    """Raises ValueError where a control failed: figures of this evaluator prove nothing then."""
    if not self.passed:
      raise ValueError(f"{self.line}. Do not report figures; train more seeds and audit again.")

  def without_blind(self, figures: Iterable[Figure]) -> list[Figure]:
    """Returns figures of `beside_oracles` or `compare` without those that are blind here.

    As a figure of unlearned models goes, so does that of oracles and originals.

    Args:
      figures: of `beside_oracles` or `compare`.

    Example:
      >>> control = Control("attack svc", None, "", blind=(Blind("attack svc", kind="auc"),))
      >>> auc, tpr = (Figure(name="attack svc", kind=k, value=0.5) for k in ("auc", "tpr_at_1"))
      >>> [figure.kind for figure in Audit((control,)).without_blind([auc, tpr])]
      ['tpr_at_1']
    """
    blind = self.blind
    return [figure for figure in figures if not any(each.hides(figure) for each in blind)]


def audit(
  ensemble: Ensemble,
  split: Split,
  attack_ids: npt.ArrayLike,
  key: jax.Array,
  *,
  high: npt.ArrayLike | None = None,
  low: npt.ArrayLike | None = None,
  batch_norm: Outputs | None = None,
) -> Audit:
  """Examines the evaluator on models whose answers are known.

  Args:
    ensemble: originals and oracles, at least 8 of each; with fewer than 16, sound evaluators often
      fail or are blind, for LiRA then has two pairs of models to go by and KLoM's null is wide.
    split: whose forget set is scored.
    attack_ids: held-out ids for attacks, `data.cut_heldout(split.heldout, key).attack`.
    key: of draws.
    high, low: int [h] and [l], forgotten ids that were memorized most and least; by default the
      outer thirds of the forget set by `contrast`, from the second half of the originals and the
      first of the oracles. KLoM and attacks compare the other halves on them, nulls are of all
      oracles. ToW has only this first half to put in the place of unlearned models: they are worse
      on what they chose than other oracles, so that ToW comes out lower.
    batch_norm: originals of which only BatchNorm statistics changed (`batch_stats_changed`), as
      outputs on all ids of the split; None where the network has none.

  Returns:
    An `Audit`. It fails where

    - an attack's AUC of oracles beside oracles, or their KLoM, is not that of equal models: the
      t-interval over pairs of models must hold 0.5, and KLoM be within what random halves of the
      oracles give. All of these together fail a sound evaluator in 5 % of audits (Bonferroni);
    - ToW or KLoM does not tell originals from oracles on the high group, or no attack does;
    - an attack whose score grows with the probability of the label points the wrong way there: its
      interval, at the same level as of equal models, is wholly below 0.5;
    - random outputs, or changed BatchNorm statistics, are not told from oracles by KLoM;
    - there is as much to see in the low group as in the high one, by KLoM and, unless blind, LiRA.
      Not run where the outer thirds of the forget set by |`contrast`| differ by less than half, as
      when a whole class goes: then no group has less to see.

    Any other attack or figure is blind where the lower end of its 95 % interval is not in the right
    direction; see `Audit.blind`. Chance makes one that sees nothing pass for one that sees in 2.5 %
    of audits.

  Raises:
    ValueError: too few models, an id would fit an attack and be scored, or an id of high or low is
      not in the forget set.
  """
  originals, oracles = ensemble
  half = len(oracles) // 2
  if half < 4 or len(originals) < 2 * half:
    raise ValueError(
      f"audit got {len(originals)} originals and {len(oracles)} oracles, needs 8 of each. "
      "Raise num_models."
    )
  fit = known(split, attack_ids, key)
  some, others = originals.models(slice(half)), originals.models(slice(half, None))
  first, second = oracles.models(slice(half)), oracles.models(slice(half, 2 * half))
  apart = contrast(Ensemble(others, first), split.forget)
  if high is None or low is None:
    order = split.forget[np.lexsort((scattered(split.forget), apart))]
    third = max(1, len(order) // 3)
    high, low = order[-third:], order[:third]
  on_high, on_low = (_places(split.forget, ids) for ids in (high, low))
  equal = attack(first, second, others, split.forget, fit)
  different = attack(some, second, others, split.forget, fit)

  controls = _controls.of_attacks(equal, different, on_high)
  group = dataclasses.replace(split, forget=split.forget[on_high])
  retain = np.setdiff1d(split.retain, fit.members)
  controls += _controls.of_figures(some, (first, second), group, retain, fit)
  controls.append(_controls.of_epsilon(*(models.take(high) for models in (some, second, oracles))))
  controls.append(_controls.of_percentiles(some.take(high), (first.take(high), second.take(high))))
  null = {
    name: klom_null(oracles.take(ids).log_odds, permutations=_PERMUTATIONS[name])
    for name, ids in (("all", split.forget), ("high", high), ("low", low))
  }
  limit = {name: float(np.quantile(means, 0.975)) for name, means in null.items()}

  def distance(models: Outputs, ids: npt.ArrayLike) -> float:
    return float(klom(models.take(ids).log_odds, second.take(ids).log_odds).mean())

  value, most = distance(first, split.forget), float(np.quantile(null["all"], _controls.NULL_LEVEL))
  controls.append(Control("oracle beside oracle, KLoM", value <= most, _said(value, most)))
  far, near = distance(some, high), distance(some, low)
  controls.append(_above("original beside oracle, high group, KLoM", far, limit["high"]))
  value = distance(_random(second.take(split.forget), key), split.forget)
  controls.append(_above("random outputs, KLoM", value, limit["all"]))
  if batch_norm is None:
    controls.append(Control("BatchNorm statistics changed", None, "no such models were given"))
  else:
    value = distance(batch_norm.models(slice(half)), split.forget)
    controls.append(_above("BatchNorm statistics changed, KLoM", value, limit["all"]))
  ratios = near / max(limit["low"], 1e-9), far / max(limit["high"], 1e-9)
  lira = None if Blind("attack lira") in Audit(tuple(controls)).blind else different["lira"]
  controls.append(_low_group(apart, ratios, lira, on_low, on_high))
  return Audit(tuple(controls))


def contrast(ensemble: Ensemble, ids: npt.ArrayLike) -> np.ndarray:
  """Returns mean p_y of originals − mean p_y of oracles [n] in [−1, 1]: what leaving S out did.

  Args:
    ensemble: both kinds of model.
    ids: int [n].
  """
  originals, oracles = (models.take(ids).probability.mean(0) for models in ensemble)
  return originals - oracles


def _random(like: Outputs, key: jax.Array) -> Outputs:
  """Returns models that say anything: normal logits, or log-odds where there are no logits."""
  if like.logits is None or like.labels is None:
    phi = np.asarray(jax.random.normal(key, like.log_odds.shape), np.float64)
    return Outputs(like.ids, phi, phi > 0)
  noise = np.asarray(jax.random.normal(key, like.logits.shape))
  return Outputs.of_logits(like.ids, like.labels, noise)


def _places(forget: np.ndarray, ids: npt.ArrayLike) -> np.ndarray:
  """Returns where the forget set holds the ids."""
  outside = np.setdiff1d(ids, forget)
  if len(outside):
    raise ValueError(f"audit: id {outside[0]} of high or low is not in the forget set.")
  return np.flatnonzero(np.isin(forget, ids))


def _low_group(
  apart: np.ndarray,
  ratios: tuple[float, float],
  lira: Scores | None,
  low: np.ndarray,
  high: np.ndarray,
) -> Control:
  """There is less to see in the low group: by KLoM over its null, and by LiRA unless it is blind.

  `apart` is the contrast of each forgotten example, of models that neither the ratios (KLoM of
  originals over its null, in the low and in the high group) nor LiRA see.
  """
  name = "low group, less to see than in the high group"
  # Not of the given groups: wrong ones would look alike, and must fail.
  ordered, third = np.sort(np.abs(apart)), max(1, len(apart) // 3)
  least, most = ordered[:third].mean(), ordered[-third:].mean()
  if 2 * (most - least) < most:
    return Control(name, None, f"p moved alike, by {least:.2f} to {most:.2f} in thirds of S")
  less = ratios[0] < ratios[1]
  said = f"KLoM over its null {ratios[0]:.2f}, high group {ratios[1]:.2f}"
  if lira is not None:
    of_low, of_high = (float(lira.of(group).auc_of_pairs.mean()) for group in (low, high))
    less = less and of_low < of_high
    said += f"; LiRA AUC {of_low:.3f}, high group {of_high:.3f}"
  return Control(name, less, said)


def _above(name: str, value: float, limit: float) -> Control:
  return Control(name, value > limit, _said(value, limit))


def _said(value: float, limit: float) -> str:
  return f"mean KLoM {value:.2f}, that of equal oracles reaches {limit:.2f}"
