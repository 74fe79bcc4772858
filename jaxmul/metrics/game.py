"""The game "unlearned or oracle": can outputs on forgotten examples tell the two kinds apart?

Members are outputs of unlearned models on the scored examples, non-members those of oracles on the
same examples. Everything else that an attack needs comes from other ids (of R and of the held-out
attack part) and, for the per-example attacks, from other models: the first half of the models are
references, the second half are attacked.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmul.data.split import Split
from jaxmul.metrics import attacks
from jaxmul.metrics.intervals import Interval, t_interval
from jaxmul.metrics.oracle.kept import Outputs
from jaxmul.metrics.outputs import label_probability

ATTACKS = ("svc", "svc_features", "loss", "entropy", "modified_entropy", "lira", "rmia")


class Known(NamedTuple):
  """Ids that fit attacks and are never scored: int64 [k], [k] and [z]."""

  members: np.ndarray
  nonmembers: np.ndarray
  population: np.ndarray


class Attacked(NamedTuple):
  """What an attack reaches: rates with bootstraps over examples, AUC of pairs over seeds."""

  rates: attacks.Rates
  auc_over_seeds: Interval


def known(split: Split, attack_ids: Any, key: jax.Array) -> Known:
  """Returns ids to fit attacks with: half of the held-out attack ids, and as many of R; z the rest.

  Args:
    split: whose retain set gives the members.
    attack_ids: int [h], `data.cut_heldout(split.heldout, key).attack`.
    key: of the draw.

  Raises:
    ValueError: fewer than 4 ids, or one that is in the forget, retain or test set.
  """
  ids = np.sort(np.asarray(attack_ids))
  if len(ids) < 4:
    raise ValueError(f"attacks got {len(ids)} held-out ids, need at least 4. Hold out more.")
  parts = {"forget": split.forget, "retain": split.retain, "test": split.test}
  attacks.refuse_overlap({"attack_ids": ids} | parts, "metrics.game")
  keys = jax.random.split(key)
  ids = ids[np.asarray(jax.random.permutation(keys[0], len(ids)))]
  cut = min(len(ids) // 2, len(split.retain))
  order = np.asarray(jax.random.permutation(keys[1], len(split.retain)))
  return Known(np.sort(split.retain)[order[:cut]], ids[:cut], ids[cut:])


def attack(
  unlearned: Outputs, oracles: Outputs, scored: Any, fit: Known, *, level: float = 0.95
) -> dict[str, Attacked]:
  """Runs every attack.

  Args:
    unlearned: K models.
    oracles: L models; as many of both are used, at least 4.
    scored: int [n], ids to score, such as the forget set or a group of it.
    fit: ids to fit with.
    level: of the interval over seeds.

  Returns:
    {name: Attacked} for SVC on p_y and on five features, loss, entropy, modified entropy, U-LiRA
    with a fixed variance, and RMIA. The interval over seeds is that of the AUC of pairs (unlearned
    model, oracle).

  Raises:
    ValueError: a scored id is also one to fit with, an id has no outputs, or too few models.
  """
  count = min(len(unlearned), len(oracles))
  if count < 4:
    raise ValueError(f"attacks need 4 models of each kind, got {count}. Train more seeds.")
  attacks.refuse_overlap({"scored": scored} | fit._asdict(), "metrics.game")
  sides = [each.models(slice(count)) for each in (unlearned, oracles)]
  found = {}
  for name, (positive, negative, threshold) in _scores(sides, scored, fit).items():
    pairs = [
      attacks.rates(a, b, resamples=0).auc.mean for a, b in zip(positive, negative, strict=True)
    ]
    found[name] = Attacked(
      attacks.rates(positive, negative, threshold=threshold, paired=True),
      t_interval(pairs, level=level),
    )
  return found


def nonmember_rate(models: Outputs, scored: Any, fit: Known) -> np.ndarray:
  """Returns the share [K] of scored examples that RUM's SVC on p_y calls non-members."""
  attacks.refuse_overlap({"scored": scored} | fit._asdict(), "metrics.game")
  parts = [_p(models.take(ids)) for ids in (fit.members, fit.nonmembers, scored)]
  return np.array([attacks.svc(*each) for each in zip(*parts, strict=True)])


def _scores(sides: list[Outputs], scored: Any, fit: Known) -> dict[str, tuple[Any, Any, float]]:
  """Returns {name: (scores [k, n] of unlearned models, of oracles, threshold)}."""
  on = [each.take(scored) for each in sides]
  members, nonmembers = ([each.take(ids) for each in sides] for ids in fit[:2])
  found = {}
  population = {
    "loss": lambda given: attacks.loss(given.logits, given.labels),
    "entropy": lambda given: attacks.entropy(given.logits),
    "modified_entropy": lambda given: attacks.modified_entropy(given.logits, given.labels),
  }
  for name, score in population.items():
    cut = attacks.best_threshold(
      *(np.concatenate(list(map(score, k))) for k in (members, nonmembers))
    )
    found[name] = (*map(score, on), cut)
  features = {"svc": lambda given: _p(given)[..., None], "svc_features": _features}
  for name, of in features.items():
    found[name] = (
      *(
        np.stack([attacks.svc_scores(*each) for each in zip(*map(of, three), strict=True)])
        for three in zip(members, nonmembers, on, strict=True)
      ),
      0.0,
    )
  half = len(sides[0]) // 2
  inside, outside = (each.models(slice(half)) for each in on)
  attacked = [each.models(slice(half, None)) for each in on]
  lira = [
    attacks.lira(each.log_odds, outside.log_odds, inside.log_odds, fixed_variance=True)
    for each in attacked
  ]
  z = [each.take(fit.population) for each in sides]
  reference = [
    attacks.Reference(_p(x), _p(others.models(slice(half))))
    for x, others in zip((inside, outside), z, strict=True)
  ]
  rmia = [
    attacks.rmia(_p(x), _p(others.models(slice(half, None))), reference[1], reference[0])
    for x, others in zip(attacked, z, strict=True)
  ]
  found |= {"lira": (*lira, 0.0), "rmia": (*rmia, 0.5)}
  return {name: found[name] for name in ATTACKS}


def _p(given: Outputs) -> np.ndarray:
  return label_probability(given.logits, given.labels)


def _features(given: Outputs) -> np.ndarray:
  return attacks.svc_features(given.logits, given.labels)
