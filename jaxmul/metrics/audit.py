"""The evaluator's own examination: it must pass equal models and catch what is known to differ.

Controls: oracles beside other oracles, by attacks, KLoM and ToW; originals beside oracles on the
examples memorized most; models with random outputs; models of which only BatchNorm statistics
changed; and, as the negative control, the group memorized least, where there is less to see.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxmul.data.split import Split
from jaxmul.metrics.game import ATTACKS, attack, known
from jaxmul.metrics.intervals import paired, t_interval
from jaxmul.metrics.oracle.ensemble import Ensemble
from jaxmul.metrics.oracle.kept import Outputs
from jaxmul.metrics.oracle.klom import klom, klom_null
from jaxmul.metrics.outputs import label_probability
from jaxmul.metrics.tow import tow

_QUANTILE = 0.975


@dataclasses.dataclass(frozen=True)
class Control:
  """One control.

  Attributes:
    name: what was examined.
    passed: whether the evaluator said what is known; None where it was not run.
    said: the figures, one line.
  """

  name: str
  passed: bool | None
  said: str


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
  def line(self) -> str:
    """One line: "audit passed: …", or "audit failed: …" with the first control that did."""
    for control in self.controls:
      if control.passed is False:
        return f"audit failed: {control.name}: {control.said}"
    ran = [control for control in self.controls if control.passed]
    skipped = len(self.controls) - len(ran)
    rest = f" ({skipped} not run)" if skipped else ""
    return f"audit passed: {len(ran)} controls{rest}; {ran[0].said}"

  def certify(self) -> None:
    """Raises ValueError where a control failed: figures of this evaluator prove nothing then."""
    if not self.passed:
      raise ValueError(f"{self.line}. Do not report figures; train more seeds and audit again.")


def audit(
  ensemble: Ensemble,
  split: Split,
  attack_ids: Any,
  key: jax.Array,
  *,
  high: Any = None,
  low: Any = None,
  batch_norm: Outputs | None = None,
) -> Audit:
  """Examines the evaluator on models whose answers are known.

  Args:
    ensemble: originals and oracles, at least 8 of each; with fewer than 16, sound evaluators often
      fail, for LiRA then has two pairs of models to go by and KLoM's null is wide.
    split: whose forget set is scored.
    attack_ids: held-out ids for attacks, `data.cut_heldout(split.heldout, key).attack`.
    key: of draws.
    high, low: int [h] and [l], forgotten ids that were memorized most and least; by default the
      outer thirds of the forget set by `contrast`, from the second half of the originals and the
      first of the oracles. KLoM and LiRA compare the other halves on them, KLoM's null is of all
      oracles. ToW has only this first half to put in the place of unlearned models: they are worse
      on what they chose than other oracles, so that ToW comes out lower.
    batch_norm: originals of which only BatchNorm statistics changed (`batch_stats_changed`), as
      outputs on all ids of the split; None where the network has none.

  Returns:
    An `Audit`. Attacks pass where the t-interval over pairs of models of their AUC holds 0.5, at
    95 % for all attacks together (Bonferroni); KLoM where its mean is at most the 97.5 % quantile
    of `klom_null`, of as many models; ToW on the high group, R and T where the paired t-interval
    of oracles minus originals is above 0.

  Raises:
    ValueError: too few models, or an id would fit an attack and be scored.
  """
  originals, oracles = ensemble
  half = len(oracles) // 2
  if half < 4 or len(originals) < 2 * half:
    raise ValueError(
      f"audit got {len(originals)} originals and {len(oracles)} oracles, needs 8 of each. "
      "Raise num_models."
    )
  fit = known(split, attack_ids, key)
  first, second = oracles.models(slice(half)), oracles.models(slice(half, 2 * half))
  level = 1 - 0.05 / len(ATTACKS)
  if high is None or low is None:
    rest = Ensemble(originals.models(slice(half, None)), first)
    order = split.forget[np.argsort(contrast(rest, split.forget), kind="stable")]
    third = max(1, len(order) // 3)
    high, low = order[-third:], order[:third]

  def distance(some: Outputs, ids: Any) -> float:
    return float(klom(some.take(ids).log_odds, second.take(ids).log_odds).mean())

  def null(ids: Any) -> float:
    return float(np.quantile(klom_null(oracles.take(ids).log_odds), _QUANTILE))

  some, others = originals.models(slice(half)), originals.models(slice(half, None))
  controls = []
  equal = {
    name: t_interval(scores.auc_of_pairs, level=level)
    for name, scores in attack(first, second, others, split.forget, fit).items()
  }
  off = [name for name, auc in equal.items() if not auc.low <= 0.5 <= auc.high]
  worst = max(off or equal, key=lambda name: abs(equal[name].mean - 0.5))
  told = "told from 0.5" if off else "farthest from 0.5"
  said = f"oracle beside oracle: AUC {equal[worst].mean:.3f} {told} ({worst})"
  controls.append(Control("oracle beside oracle, attacks", not off, said))
  on_all, on_high, on_low = map(null, (split.forget, high, low))
  controls.append(_below("oracle beside oracle, KLoM", distance(first, split.forget), on_all))

  retain = np.setdiff1d(split.retain, fit.members)
  controls.append(_tow_control(first, some, second, (high, retain, split.test)))
  far, near = distance(some, high), distance(some, low)
  controls.append(_above("original beside oracle, high group, KLoM", far, on_high))
  auc_high, auc_low = (
    t_interval(attack(some, second, others, ids, fit, names=["lira"])["lira"].auc_of_pairs)
    for ids in (high, low)
  )
  said = f"LiRA AUC {auc_high.mean:.3f} [{auc_high.low:.3f}, {auc_high.high:.3f}]"
  controls.append(Control("original beside oracle, high group, LiRA", auc_high.low > 0.5, said))

  noise = jax.random.normal(key, second.logits.shape)
  random = dataclasses.replace(second, logits=np.asarray(noise))
  controls.append(_above("random outputs, KLoM", distance(random, split.forget), on_all))
  if batch_norm is None:
    controls.append(Control("BatchNorm statistics changed", None, "no such models were given"))
  else:
    value = distance(batch_norm.models(slice(half)), split.forget)
    controls.append(_above("BatchNorm statistics changed, KLoM", value, on_all))
  said = (
    f"LiRA AUC {auc_low.mean:.3f} and KLoM over its null {near / on_low:.2f}; "
    f"high group {auc_high.mean:.3f} and {far / on_high:.2f}"
  )
  less = auc_low.mean < auc_high.mean and near / on_low < far / on_high
  controls.append(Control("low group, less to see than in the high group", less, said))
  return Audit(tuple(controls))


def contrast(ensemble: Ensemble, ids: Any) -> np.ndarray:
  """Returns mean p_y of originals − mean p_y of oracles [n] in [−1, 1]: what leaving S out did.

  Args:
    ensemble: both kinds of model.
    ids: int [n].
  """
  p = (label_probability(kept.logits, kept.labels) for kept in (x.take(ids) for x in ensemble))
  first, second = (each.mean(0) for each in p)
  return first - second


def _tow_control(first: Outputs, some: Outputs, second: Outputs, parts: Any) -> Control:
  """An oracle as if it were unlearned: its ToW is above that of an original."""
  name = "oracle as if unlearned, high group, ToW"
  if not all(map(len, parts)):
    return Control(name, None, "there are no test ids, or no retain ids but those of attacks")

  def tows(models: Outputs) -> list[float]:
    ours, theirs = (
      np.stack([each.take(ids).accuracy for ids in parts], 1) for each in (models, second)
    )
    return [tow(*each) for each in zip(ours, theirs, strict=True)]

  same, other = tows(first), tows(some)
  found = t_interval(same)
  said = f"ToW {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}], originals {np.mean(other):.3f}"
  return Control(name, paired(same, other).low > 0, said)


def _below(name: str, value: float, limit: float) -> Control:
  return Control(name, value <= limit, f"mean KLoM {value:.2f}, null reaches {limit:.2f}")


def _above(name: str, value: float, limit: float) -> Control:
  return Control(name, value > limit, f"mean KLoM {value:.2f}, null reaches {limit:.2f}")
