"""How one unlearned network is judged: beside a network retrained without the forget set."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxmul import data, metrics, proxies
from jaxmul.binding import Network
from jaxmul.metrics import Figure, find
from jaxmul.proxies.rank_agreement import rows_by_class

# What tables show first; the gap is best at 0, the others at 1.
HEADLINE = ("example gap", "ToW by group", "ToW", "ToW-MIA")
CORRELATION = (-1.0, 1.0)
BOUNDS = {
  "seconds": (0.0, np.inf),
  "VerbMem gap": (-1.0, 1.0),
  "KnowMem gap": (-1.0, 1.0),
  "PrivLeak": metrics.figures.ANYWHERE,
  "relearning steps": (0.0, np.inf),
}
"""Of figures of a judge that are no rates."""
PARTS = ("forget", "retain", "test")  # of which tables show accuracies


def over_seeds(seeds: Sequence[Sequence[Figure]]) -> list[Figure]:
  """Returns the means of what one network of each seed scored, with t-intervals.

  Args:
    seeds: of each, the figures of a `Judge`.
  """
  means = []
  for figure in seeds[0]:
    values = [find(figures, figure.name, figure.part).value for figures in seeds]
    what = {"name": figure.name, "part": figure.part}
    if np.isnan(values).any():
      none = Figure(name=figure.name, part=figure.part, value=np.nan, note="a seed has no value")
      means.append(none)
      continue
    within = BOUNDS.get(figure.name, metrics.figures.RATE)
    means.append(metrics.figures.over_seeds(values, within=within, **what))
  return means


def maybe_over_seeds(
  values: Sequence[float | None], *, within: tuple[float, float], name: str
) -> Figure:
  """Returns the mean over seeds with its t-interval; NaN where a seed has no value."""
  numbers = np.array(values, float)
  if not np.isfinite(numbers).all():
    return Figure(name=name, value=np.nan, note="a seed has no value")
  return metrics.figures.over_seeds(numbers, within=within, name=name)


def ranked(
  scores: np.ndarray,
  truth: np.ndarray,
  top_k: int | None = None,
  *,
  classes: np.ndarray | None = None,
  resamples: int = 1000,
) -> proxies.Agreement:
  """Returns the agreement of a proxy, overall or within classes; NaN where there is none.

  There is none where the proxy or the truth is constant; within classes, where one of them is in
  each class.
  """
  ordered = np.ptp(scores) > 0 and np.ptp(truth) > 0
  if ordered and classes is not None:
    ordered = bool(rows_by_class(scores, truth, classes))
  if not ordered:
    return proxies.Agreement(spearman=np.nan, low=np.nan, high=np.nan, precision_at_k=np.nan)
  return proxies.agreement(scores, truth, top_k=top_k, classes=classes, resamples=resamples)


def rank_figures(agreements: Sequence[proxies.Agreement], name: str = "spearman") -> list[Figure]:
  """Returns Spearman's ρ of a proxy with the ground truth: the mean, and that of each seed.

  Args:
    agreements: of each seed, with its bootstrap over examples.
    name: of the figures.
  """
  return [
    maybe_over_seeds([a.spearman for a in agreements], within=CORRELATION, name=name),
    *(
      metrics.figures.with_interval(
        metrics.intervals.Interval(agreement.spearman, agreement.low, agreement.high),
        metrics.figures.EXAMPLES,
        name=name,
        kind=f"seed {number}",
      )
      for number, agreement in enumerate(agreements, 1)
    ),
  ]


def unseeing(original: Sequence[Figure], retrain: Sequence[Figure]) -> list[str]:
  """Returns the headline figures that do not tell the originals from retrained models.

  Those whose paired difference over seeds does not have its 95 % interval on the right side of 0;
  none where there is one seed.

  Args:
    original, retrain: figures of several seeds, of `over_seeds`.
  """
  unseen = []
  for name in HEADLINE if len(find(original, "ToW").seeds) > 1 else ():
    ours, theirs = find(original, name), find(retrain, name)
    sides = (ours, theirs) if name == "example gap" else (theirs, ours)
    if not metrics.figures.difference(*sides).low > 0:
      unseen.append(name)
  return unseen


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Judge:
  """Compares a network with the oracle of its seed, and its p_y with the mean of several oracles.

  The attack is fitted on as many retain examples as there are held-out ones set aside for it; ToW
  uses the other retain examples.

  Attributes:
    dataset: where all ids are.
    split: forget, retain and test ids.
    attack_ids: held-out ids, the non-members that the attack is fitted on.
    groups: {name: ids} of the forget set, for ToW by group.
    oracles: outputs of several oracles, none of them of a seed that is judged.
    oracle: of this seed.
    key: of the draw of members.
    parts: {name: examples} of anything whose accuracy is told too.
  """

  dataset: data.Dataset
  split: data.Split
  attack_ids: np.ndarray
  groups: Mapping[str, np.ndarray]
  oracles: metrics.oracle.Outputs
  oracle: Network
  key: jax.Array
  parts: Mapping[str, data.Dataset] = dataclasses.field(default_factory=dict)

  def _rates(self, network: Network) -> tuple[dict[str, float], list[float]]:
    """Returns {part: accuracy} with the attack's rate, and the accuracy [G] on each group."""
    order = np.asarray(jax.random.permutation(self.key, len(self.split.retain)))
    members, retain = np.split(self.split.retain[order], [len(self.attack_ids)])
    split = dataclasses.replace(self.split, retain=retain)
    rates = metrics.evaluate(network, self.dataset, split)
    rates["attack"] = self._attack_rate(network, members)
    return rates, [metrics.accuracy(network, self.dataset.take(i)) for i in self.groups.values()]

  def _attack_rate(self, network: Network, members: np.ndarray) -> float:
    """Returns the rate of the attack; NaN where one p_y for all leaves nothing to fit."""
    fitted_on = self.dataset.take(np.concatenate([members, self.attack_ids]))
    if np.ptp(metrics.attacks.label_confidence(network, fitted_on)) == 0:
      return np.nan
    return metrics.attacks.svc_on_split(
      network,
      self.dataset,
      members=members,
      nonmembers=self.attack_ids,
      targets=self.split.forget,
    )

  @functools.cached_property
  def _of_oracle(self) -> tuple[dict[str, float], list[float]]:
    return self._rates(self.oracle)

  def __call__(self, network: Network, seconds: float) -> list[Figure]:
    """Returns the figures of one network: accuracies, rates, what is made of them, the seconds."""
    ours, theirs = self._rates(network), self._of_oracle
    forget = self.split.forget
    confidence = metrics.attacks.label_confidence(network, self.dataset.take(forget))
    gap = metrics.example_gap(confidence, self.oracles.take(forget).probability)

    def pair(name: str) -> list[tuple[float, float, float]]:
      return [(rates[name], rates["retain"], rates["test"]) for rates, _ in (ours, theirs)]

    attacked = [rates["attack"] for rates, _ in (ours, theirs)]
    tow_mia = np.nan if np.isnan(attacked).any() else metrics.tow_mia(*pair("attack"))
    groups = [(accuracies, rates["retain"], rates["test"]) for rates, accuracies in (ours, theirs)]
    return [
      Figure(name="example gap", part="forget", value=gap),
      Figure(name="ToW by group", value=metrics.tow_by_group(*groups)),
      Figure(name="ToW", value=metrics.tow(*pair("forget"))),
      Figure(name="ToW-MIA", value=tow_mia),
      *(Figure(name="accuracy", part=part, value=ours[0][part]) for part in PARTS),
      *(
        Figure(name="accuracy", part=part, value=metrics.accuracy(network, examples))
        for part, examples in self.parts.items()
      ),
      Figure(name="attack rate", part="forget", value=ours[0]["attack"]),
      Figure(name="seconds", value=seconds),
    ]
