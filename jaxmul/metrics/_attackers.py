"""How each attack of the game scores models.

Functions return {attack: function of no arguments}: an attack runs when its function is called.
A side is all models of one kind; sides are unlearned models and oracles, in this order.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxmul.metrics import attacks
from jaxmul.metrics.attacks.svc_attacks import FEATURES
from jaxmul.metrics.oracle.model_outputs import Outputs

MACHINES = {
  "svc": "confidence",
  "svc_correctness": "correctness",
  "svc_entropy": "entropy",
  "svc_modified_entropy": "modified_entropy",
  "svc_probabilities": "probabilities",
}
POPULATION = {
  "loss": lambda models: -np.logaddexp(0, -models.log_odds),
  "entropy": lambda models: attacks.entropy(models.logits),
  "modified_entropy": lambda models: attacks.modified_entropy(models.logits, models.labels),
}
_REFERENCED = ("lira", "lira_offline", "u_lira", "rmia", "rmia_offline")
ATTACKS = (*MACHINES, *POPULATION, *_REFERENCED)
"""All attacks, by name."""
_OF_ENTROPY = {"entropy", "modified_entropy", "svc_entropy", "svc_modified_entropy"}
OF_LOGITS = {*_OF_ENTROPY, "svc_probabilities"}
"""Attacks that need the probabilities of all classes."""
_MANY = 64
_MOST = 250


class Known(NamedTuple):
  """Ids that fit attacks and are never scored: int64 [k], [k] and [z]."""

  members: np.ndarray
  nonmembers: np.ndarray
  population: np.ndarray


class Scores(NamedTuple):
  """An attack's scores [k, n] of unlearned models and of oracles, higher = unlearned.

  `threshold` is where "unlearned" is called; None where none can be chosen without a scored
  example.
  """

  unlearned: np.ndarray
  oracles: np.ndarray
  threshold: float | None

  def of(self, examples: np.ndarray) -> "Scores":
    """Returns the scores of some of the examples, by position."""
    return Scores(self.unlearned[:, examples], self.oracles[:, examples], self.threshold)

  @property
  def auc_of_pairs(self) -> np.ndarray:
    """AUC [k] of each pair (unlearned model, oracle) over the examples, in [0, 1]."""
    aucs = []
    for ours, theirs in zip(self.unlearned, np.sort(self.oracles, 1), strict=True):
      # Ties count half.
      below = sum(np.searchsorted(theirs, ours, side) for side in ("left", "right")) / 2
      aucs.append(np.mean(below) / len(theirs))
    return np.array(aucs)

  @property
  def auc_of_examples(self) -> np.ndarray:
    """AUC [n] of each example over the models: the share of pairs told apart, ties half."""
    above = self.unlearned[:, None] - self.oracles[None]
    return np.mean((np.sign(above) + 1) / 2, (0, 1))

  @property
  def rates(self) -> attacks.Rates:
    """AUC, balanced accuracy and TPR over examples and models, with bootstraps over examples."""
    return attacks.rates(self.unlearned, self.oracles, threshold=self.threshold, paired=True)


Makers = dict[str, Callable[[], Scores]]
_Read = Callable[[Outputs], np.ndarray]
_log_odds, _probability = operator.attrgetter("log_odds"), operator.attrgetter("probability")


def machines(sides: list[Outputs], scored: npt.ArrayLike, fit: Known) -> Makers:
  """One machine for the models of both sides, fitted on what they say of known ids.

  The decision values of machines that were fitted on one model each have no common scale.
  """
  rows = known_rows(len(sides[0]), len(fit.members))

  def make(feature: str) -> Scores:
    def read(ids: npt.ArrayLike) -> list[np.ndarray]:
      return [_feature(side.take(ids), feature) for side in sides]

    members, nonmembers = (
      np.concatenate([np.take_along_axis(values, rows[..., None], 1) for values in read(ids)])
      for ids in (fit.members, fit.nonmembers)
    )
    targets = np.stack(read(scored))
    columns = targets.shape[-1]
    scores = attacks.svc_scores(
      *(values.reshape(-1, columns) for values in (members, nonmembers, targets))
    )
    unlearned, oracles = scores.reshape(targets.shape[:-1])
    return Scores(unlearned, oracles, 0.0)

  return {name: lambda feature=feature: make(feature) for name, feature in MACHINES.items()}


def _feature(models: Outputs, name: str) -> np.ndarray:
  """One of `attacks.svc_features`, [K, n, F]."""
  if name == "correctness":
    return models.correct.astype(np.float64)[..., None]
  if name == "confidence":
    return models.probability[..., None]
  assert models.logits is not None  # `game` has left the others out
  assert models.labels is not None
  return FEATURES[name](models.logits, models.labels)


def known_rows(models: int, known: int) -> np.ndarray:
  """Returns which known examples each model of a side contributes to a common machine.

  A machine costs more than the square of its examples. So a model gives a part of them and the
  next model the part that follows, round and round: every model and every example counts alike.
  `game.known` has put the examples in a random order. Model k of both sides gives the same.

  Args:
    models: K of one side.
    known: k known members, and as many non-members.

  Returns:
    int [K, p], about 250 of each side and kind in all, but p is at least 1 and at most k.

  Example:
    >>> known_rows(200, 83).tolist()[82:84]
    [[82], [0]]
  """
  part = min(known, max(1, _MOST // models))
  return (np.arange(models)[:, None] * part + np.arange(part)) % known


def thresholds(sides: list[Outputs], scored: npt.ArrayLike, fit: Known) -> Makers:
  """One score for all models and examples; its threshold comes from known ids."""

  def make(score: Callable[[Outputs], np.ndarray]) -> Scores:
    known_in, known_out = (
      np.concatenate([score(side.take(ids)) for side in sides])
      for ids in (fit.members, fit.nonmembers)
    )
    unlearned, oracles = (score(side.take(scored)) for side in sides)
    return Scores(unlearned, oracles, attacks.best_threshold(known_in, known_out))

  return {name: lambda score=score: make(score) for name, score in POPULATION.items()}


def referenced(
  sides: list[Outputs],
  originals: Outputs,
  references: tuple[Outputs, np.ndarray] | None,
  scored: npt.ArrayLike,
  fit: Known,
) -> Makers:
  """The second half of the models is attacked, by what reference models say of each example."""
  half = len(sides[0]) // 2
  attacked = [side.models(slice(half, None)) for side in sides]
  unlearned, outside = (side.models(slice(half)) for side in sides)

  def also(models: Outputs, ids: npt.ArrayLike, side: bool, read: _Read) -> np.ndarray:
    """Returns what models say, and references on this side of each example, NaN elsewhere."""
    said = read(models.take(ids))
    if references is None:
      return said
    kept, seen = references
    theirs = np.where(seen[:, kept.rows(ids)] == side, read(kept.take(ids)), np.nan)
    return np.concatenate([said, theirs])

  def lira(inside: np.ndarray | None) -> Scores:
    others = also(outside, scored, False, _log_odds)
    sides = [others] if inside is None else [others, inside]
    fewest = min(np.isfinite(phi).sum(0).min() for phi in sides)
    ours, theirs = (
      attacks.lira(models.take(scored).log_odds, others, inside, fixed_variance=fewest < _MANY)
      for models in attacked
    )
    return Scores(ours, theirs, None if inside is None else 0.0)

  def reference(models: Outputs, side: bool) -> attacks.Reference:
    # No model has trained on the population: all references are outside of it.
    population = also(models, fit.population, False, _probability)
    return attacks.Reference(also(models, scored, side, _probability), population)

  def rmia(inside: attacks.Reference | None) -> Scores:
    others = reference(outside, False)
    ours, theirs = (
      attacks.rmia(
        models.take(scored).probability, models.take(fit.population).probability, others, inside
      )
      for models in attacked
    )
    return Scores(ours, theirs, 0.5)

  return {
    "lira": lambda: lira(also(originals, scored, True, _log_odds)),
    "lira_offline": lambda: lira(None),
    "u_lira": lambda: lira(unlearned.take(scored).log_odds),
    "rmia": lambda: rmia(reference(originals, True)),
    "rmia_offline": lambda: rmia(None),
  }
