"""How one unlearned network is judged: beside a network retrained without the forget set."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmul import data, metrics, proxies
from jaxmul.binding import Network
from jaxmul.metrics import Figure, find

# What tables show first; the gap is best at 0, the others at 1.
HEADLINE = ("example gap", "ToW by group", "ToW", "ToW-MIA")
_PARTS = ("forget", "retain", "test")


def over_seeds(seeds: Sequence[Sequence[Figure]]) -> list[Figure]:
  """Returns the means of what one network of each seed scored, with t-intervals.

  Args:
    seeds: of each, the figures of a `Judge`.
  """
  found = []
  for figure in seeds[0]:
    values = [find(each, figure.name, figure.part).value for each in seeds]
    found.append(metrics.figures.over_seeds(values, name=figure.name, part=figure.part))
  return found


def maybe_over_seeds(values: Sequence[float | None], *, name: str) -> Figure:
  """Returns the mean over seeds with its t-interval; NaN where a seed has no value."""
  numbers = np.array(values, float)
  if not np.isfinite(numbers).all():
    return Figure(name=name, value=np.nan, note="a seed has no value")
  return metrics.figures.over_seeds(numbers, name=name)


def rank_figures(agreements: Sequence[proxies.Agreement]) -> list[Figure]:
  """Returns Spearman's ρ of a proxy with the ground truth: the mean, and that of each seed.

  Args:
    agreements: of each seed, with its bootstrap over examples.
  """
  return [
    maybe_over_seeds([each.spearman for each in agreements], name="spearman"),
    *(
      metrics.figures.with_interval(
        metrics.intervals.Interval(each.spearman, each.low, each.high),
        metrics.figures.EXAMPLES,
        name="spearman",
        kind=f"seed {number}",
      )
      for number, each in enumerate(agreements, 1)
    ),
  ]


def unseeing(original: Sequence[Figure], retrain: Sequence[Figure]) -> list[str]:
  """Returns the headline figures that do not tell the originals from retrained models.

  Those whose paired difference over seeds does not have its 95 % interval on the right side of 0;
  none where there is one seed.

  Args:
    original, retrain: figures of several seeds, of `over_seeds`.
  """
  found = []
  for name in HEADLINE if len(find(original, "ToW").seeds) > 1 else ():
    ours, theirs = find(original, name), find(retrain, name)
    sides = (ours, theirs) if name == "example gap" else (theirs, ours)
    if not metrics.figures.difference(*sides).low > 0:
      found.append(name)
  return found


class Judge:
  """Compares a network with the oracle of its seed, and its p_y with the mean of several oracles.

  The attack is fitted on as many retain examples as there are held-out ones set aside for it; ToW
  uses the other retain examples.

  Args:
    dataset: where all ids are.
    split: forget, retain and test ids.
    attack_ids: held-out ids, the non-members that the attack is fitted on.
    groups: {name: ids} of the forget set, for ToW by group.
    oracles: outputs of several oracles, none of them of a seed that is judged.
    oracle: of this seed.
    key: of the draw of members.
  """

  def __init__(
    self,
    dataset: data.Dataset,
    split: data.Split,
    *,
    attack_ids: np.ndarray,
    groups: Mapping[str, np.ndarray],
    oracles: metrics.oracle.Outputs,
    oracle: Network,
    key: jax.Array,
  ):
    order = np.asarray(jax.random.permutation(key, len(split.retain)))
    cut = len(attack_ids)
    self._dataset, self._groups = dataset, dict(groups)
    self._split = dataclasses.replace(split, retain=split.retain[order[cut:]])
    self._attack: dict[str, Any] = {
      "members": split.retain[order[:cut]],
      "nonmembers": attack_ids,
      "targets": split.forget,
    }
    self._oracles = oracles.take(split.forget).probability
    self._forget = dataset.take(split.forget)
    self._oracle = self._rates(oracle)

  def _rates(self, params: Network) -> dict[str, Any]:
    found = metrics.evaluate(params, self._dataset, self._split)
    attack = metrics.attacks.svc_on_split(params, self._dataset, **self._attack)
    groups = [metrics.accuracy(params, self._dataset.take(ids)) for ids in self._groups.values()]
    kept = {name: found[name] for name in _PARTS}
    return kept | {"attack": attack, "groups": groups}

  def __call__(self, params: Network, seconds: float) -> list[Figure]:
    """Returns the figures of one network: accuracies, rates, what is made of them, the seconds."""
    ours, theirs = self._rates(params), self._oracle

    def triples(entry: str) -> list[Any]:
      return [(each[entry], each["retain"], each["test"]) for each in (ours, theirs)]

    confidence = metrics.attacks.label_confidence(params, self._forget)
    gap = metrics.example_gap(confidence, self._oracles)
    return [
      Figure(name="example gap", part="forget", value=gap),
      Figure(name="ToW by group", value=metrics.tow_by_group(*triples("groups"))),
      Figure(name="ToW", value=metrics.tow(*triples("forget"))),
      Figure(name="ToW-MIA", value=metrics.tow_mia(*triples("attack"))),
      *(
        Figure(name="accuracy", part=part, value=ours[part])
        for part in ("forget", "retain", "test")
      ),
      Figure(name="attack rate", part="forget", value=ours["attack"]),
      Figure(name="seconds", value=seconds),
    ]
