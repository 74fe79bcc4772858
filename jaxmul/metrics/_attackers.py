"""The attacks of the game: functions of what they are given, which score models of both kinds.

A side is all models of one kind; sides are unlearned models and oracles, in this order.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jaxmul.metrics import attacks
from jaxmul.metrics.attacks.svc_attacks import FEATURES
from jaxmul.metrics.oracle.model_outputs import Outputs

_MANY = 64
_MOST = 250
_log_odds, _probability = operator.attrgetter("log_odds"), operator.attrgetter("probability")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
  """What an attack may look at.

  Attributes:
    sides: as many models of both.
    originals: models trained on S and R, none of them attacked.
    references: further models, and which of their examples each has seen; or None.
    scored: int [n], ids.
    fit: ids to fit with.
  """

  sides: tuple[Outputs, Outputs]
  originals: Outputs
  references: tuple[Outputs, np.ndarray] | None
  scored: npt.ArrayLike
  fit: Known

  @property
  def first_halves(self) -> list[Outputs]:
    """Models of both sides by which the others are judged where an attack needs references."""
    return [side.models(slice(len(side) // 2)) for side in self.sides]

  @property
  def attacked(self) -> list[Outputs]:
    """The other halves of both sides."""
    return [side.models(slice(len(side) // 2, None)) for side in self.sides]

  def and_references(
    self,
    models: Outputs,
    ids: npt.ArrayLike,
    read: Callable[[Outputs], np.ndarray],
    *,
    inside: bool,
  ) -> np.ndarray:
    """Returns what models say, and references on this side of each example, NaN elsewhere."""
    said = read(models.take(ids))
    if self.references is None:
      return said
    kept, seen = self.references
    theirs = np.where(seen[:, kept.rows(ids)] == inside, read(kept.take(ids)), np.nan)
    return np.concatenate([said, theirs])


def _machine(given: Given, *, feature: str) -> Scores:
  """One machine for the models of both sides, fitted on what they say of known ids.

  The decision values of machines that were fitted on one model each have no common scale.
  """
  rows = known_rows(len(given.sides[0]), len(given.fit.members))

  def read(ids: npt.ArrayLike) -> list[np.ndarray]:
    return [_feature(side.take(ids), feature) for side in given.sides]

  members, nonmembers = (
    np.concatenate([np.take_along_axis(values, rows[..., None], 1) for values in read(ids)])
    for ids in (given.fit.members, given.fit.nonmembers)
  )
  targets = np.stack(read(given.scored))
  columns = targets.shape[-1]
  scores = attacks.svc_scores(
    *(values.reshape(-1, columns) for values in (members, nonmembers, targets))
  )
  unlearned, oracles = scores.reshape(targets.shape[:-1])
  return Scores(unlearned, oracles, 0.0)


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


def _threshold(given: Given, *, score: Callable[[Outputs], np.ndarray]) -> Scores:
  """One score for all models and examples; its threshold comes from known ids."""
  known_in, known_out = (
    np.concatenate([score(side.take(ids)) for side in given.sides])
    for ids in (given.fit.members, given.fit.nonmembers)
  )
  unlearned, oracles = (score(side.take(given.scored)) for side in given.sides)
  return Scores(unlearned, oracles, attacks.best_threshold(known_in, known_out))


def _lira(given: Given, inside: np.ndarray | None) -> Scores:
  """LiRA of φ [M, n] of models that are inside; None: offline."""
  outside = given.and_references(given.first_halves[1], given.scored, _log_odds, inside=False)
  known = [outside] if inside is None else [outside, inside]
  fewest = min(np.isfinite(phi).sum(0).min() for phi in known)
  unlearned, oracles = (
    attacks.lira(models.take(given.scored).log_odds, outside, inside, fixed_variance=fewest < _MANY)
    for models in given.attacked
  )
  return Scores(unlearned, oracles, None if inside is None else 0.0)


def _rmia(given: Given, *, offline: bool) -> Scores:

  def reference(models: Outputs, inside: bool) -> attacks.Reference:
    # No model has trained on the population: all references are outside of it.
    population = given.and_references(models, given.fit.population, _probability, inside=False)
    examples = given.and_references(models, given.scored, _probability, inside=inside)
    return attacks.Reference(examples, population)

  outside = reference(given.first_halves[1], False)
  inside = None if offline else reference(given.originals, True)
  unlearned, oracles = (
    attacks.rmia(
      *(models.take(ids).probability for ids in (given.scored, given.fit.population)),
      outside,
      inside,
    )
    for models in given.attacked
  )
  return Scores(unlearned, oracles, 0.5)


ATTACKS: dict[str, Callable[[Given], Scores]] = {
  "svc": functools.partial(_machine, feature="confidence"),
  "svc_correctness": functools.partial(_machine, feature="correctness"),
  "svc_entropy": functools.partial(_machine, feature="entropy"),
  "svc_modified_entropy": functools.partial(_machine, feature="modified_entropy"),
  "svc_probabilities": functools.partial(_machine, feature="probabilities"),
  "loss": functools.partial(_threshold, score=lambda models: -np.logaddexp(0, -models.log_odds)),
  "entropy": functools.partial(_threshold, score=lambda models: attacks.entropy(models.logits)),
  "modified_entropy": functools.partial(
    _threshold, score=lambda models: attacks.modified_entropy(models.logits, models.labels)
  ),
  "lira": lambda given: _lira(
    given, given.and_references(given.originals, given.scored, _log_odds, inside=True)
  ),
  "lira_offline": lambda given: _lira(given, None),
  "u_lira": lambda given: _lira(given, given.first_halves[0].take(given.scored).log_odds),
  "rmia": functools.partial(_rmia, offline=False),
  "rmia_offline": functools.partial(_rmia, offline=True),
}
_OF_ENTROPY = {"entropy", "modified_entropy", "svc_entropy", "svc_modified_entropy"}
OF_LOGITS = {*_OF_ENTROPY, "svc_probabilities"}
"""Attacks that need the probabilities of all classes."""
