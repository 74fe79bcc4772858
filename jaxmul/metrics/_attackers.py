"""How each attack of the game scores models.

Functions return {attack: function of no arguments}: an attack runs when its function is called.
A side is all models of one kind; sides are unlearned models and oracles, in this order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

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
  "loss": lambda given: -np.logaddexp(0, -given.log_odds),
  "entropy": lambda given: attacks.entropy(given.logits),
  "modified_entropy": lambda given: attacks.modified_entropy(given.logits, given.labels),
}
OF_LOGITS = {"svc_entropy", "svc_modified_entropy", "svc_probabilities"} | {
  "entropy",
  "modified_entropy",
}
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

  @property
  def auc_of_pairs(self) -> np.ndarray:
    """AUC [k] of each pair (unlearned model, oracle) over the examples, in [0, 1]."""
    found = []
    for a, b in zip(self.unlearned, np.sort(self.oracles, 1), strict=True):
      below = sum(np.searchsorted(b, a, side) for side in ("left", "right")) / 2  # ties count half
      found.append(np.mean(below) / len(b))
    return np.array(found)

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


def machines(sides: list[Outputs], scored: Any, fit: Known) -> Makers:
  """One machine for the models of both sides, fitted on what they say of known ids.

  The decision values of machines that were fitted on one model each have no common scale.
  """
  rows = known_rows(len(sides[0]), len(fit.members))

  def make(feature: str) -> Scores:
    def read(ids: np.ndarray) -> list[np.ndarray]:
      given = (side.take(ids) for side in sides)
      return [_feature(each, feature) for each in given]

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


def _feature(given: Outputs, name: str) -> np.ndarray:
  """One of `attacks.svc_features`, [K, n, F]."""
  if name == "correctness":
    return given.correct.astype(np.float64)[..., None]
  if name == "confidence":
    return given.probability[..., None]
  return FEATURES[name](given.logits, given.labels)


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


def thresholds(sides: list[Outputs], scored: Any, fit: Known) -> Makers:
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
  scored: Any,
  fit: Known,
) -> Makers:
  """The second half of the models is attacked, by what reference models say of each example."""
  half = len(sides[0]) // 2
  attacked = [each.models(slice(half, None)) for each in sides]
  inside, (unlearned, outside) = originals, (each.models(slice(half)) for each in sides)

  def also(models: Outputs, ids: Any, side: bool, read: Callable) -> np.ndarray:
    """Returns what models say, and references on this side of each example, NaN elsewhere."""
    said = read(models.take(ids))
    if references is None:
      return said
    kept, seen = references
    theirs = np.where(seen[:, kept.rows(ids)] == side, read(kept.take(ids)), np.nan)
    return np.concatenate([said, theirs])

  def lira(inside: np.ndarray | None) -> Scores:
    others = also(outside, scored, False, log_odds)
    fewest = min(np.isfinite(each).sum(0).min() for each in (others, inside) if each is not None)
    first, second = (
      attacks.lira(log_odds(each.take(scored)), others, inside, fixed_variance=fewest < _MANY)
      for each in attacked
    )
    return Scores(first, second, None if inside is None else 0.0)

  def reference(models: Outputs, side: bool) -> attacks.Reference:
    # No model has trained on the population: all references are outside of it.
    population = also(models, fit.population, False, probability)
    return attacks.Reference(also(models, scored, side, probability), population)

  def rmia(inside: attacks.Reference | None) -> Scores:
    first, second = (
      attacks.rmia(
        probability(each.take(scored)),
        probability(each.take(fit.population)),
        reference(outside, False),
        inside,
      )
      for each in attacked
    )
    return Scores(first, second, 0.5)

  return {
    "lira": lambda: lira(also(inside, scored, True, log_odds)),
    "lira_offline": lambda: lira(None),
    "u_lira": lambda: lira(log_odds(unlearned.take(scored))),
    "rmia": lambda: rmia(reference(inside, True)),
    "rmia_offline": lambda: rmia(None),
  }


def probability(given: Outputs) -> np.ndarray:
  """p [K, n]."""
  return given.probability


def log_odds(given: Outputs) -> np.ndarray:
  """φ [K, n]."""
  return given.log_odds
