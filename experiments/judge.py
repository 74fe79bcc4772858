"""How one unlearned network is judged: beside a network retrained without the forget set."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxmul import data, metrics
from jaxmul.binding import Network

# What tables show first; the gap is best at 0, the others at 1.
HEADLINE = ("example gap", "ToW by group", "ToW", "ToW-MIA")
METRICS = (*HEADLINE, "forget", "retain", "test", "attack", "seconds")


def unseeing(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
  """Returns the headline figures that do not tell the originals from retrained models.

  Those whose paired difference over seeds does not have its 95 % interval on the right side of 0;
  none where there is one seed.

  Args:
    seeds: of each, {method: {figure: value}} with "original" and "retrain".
  """
  found = []
  for figure in HEADLINE if len(seeds) > 1 else ():
    ours, theirs = ([seed[name][figure] for seed in seeds] for name in ("original", "retrain"))
    sides = (ours, theirs) if figure == "example gap" else (theirs, ours)
    if not metrics.intervals.paired(*sides).low > 0:
      found.append(figure)
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
    kept = oracles.take(split.forget)
    self._oracles = metrics.outputs.label_probability(kept.logits, kept.labels)
    self._forget = dataset.take(split.forget)
    self._oracle = self._rates(oracle)

  def _rates(self, params: Network) -> dict[str, Any]:
    found = metrics.evaluate(params, self._dataset, self._split)
    attack = metrics.attacks.svc_on_split(params, self._dataset, **self._attack)
    groups = [metrics.accuracy(params, self._dataset.take(ids)) for ids in self._groups.values()]
    kept = {name: found[name] for name in ("forget", "retain", "test")}
    return kept | {"attack": attack, "groups": groups}

  def __call__(self, params: Network, seconds: float) -> dict[str, float]:
    """Returns every one of `METRICS`: accuracies, rates and figures in [0, 1], and the seconds."""
    ours, theirs = self._rates(params), self._oracle

    def triples(entry: str) -> list[Any]:
      return [(each[entry], each["retain"], each["test"]) for each in (ours, theirs)]

    confidence = metrics.attacks.label_confidence(params, self._forget)
    return {
      "example gap": metrics.example_gap(confidence, self._oracles),
      "ToW by group": metrics.tow_by_group(*triples("groups")),
      "ToW": metrics.tow(*triples("forget")),
      "ToW-MIA": metrics.tow_mia(*triples("attack")),
      **{name: ours[name] for name in ("forget", "retain", "test", "attack")},
      "seconds": seconds,
    }
