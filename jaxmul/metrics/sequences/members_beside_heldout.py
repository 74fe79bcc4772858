"""PrivLeak: whether texts that were to be forgotten are still told from texts never seen.

AUC is that of the members: the chance that a forgotten text has a lower Min-K % loss than a
held-out one, ties half. It is near 1 where a network has memorized S, and what a retrained network
gives, AUC_r, is rarely ½: the two sets are not of exactly one kind.

MUSE's own code and tables count the held-out texts as members, so that theirs is 1 − AUC:
100 (AUC_r − AUC_u) / (1 − AUC_r). A network that still knows all of S is near −100 there and near
+100 here; both are 0 for the oracle. Both AUCs are among the figures, so that either can be had.

References:
  Shi et al., [MUSE](https://arxiv.org/abs/2407.06460), 2024, and its code. The intervals are ours.
"""

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _article
from jaxmul.metrics._given import of_models
from jaxmul.metrics.attacks.rates_with_intervals import Curve
from jaxmul.metrics.figures import EXAMPLES, RATE, Figure, over_seeds, with_interval
from jaxmul.metrics.intervals import Interval
from jaxmul.metrics.sequences.text_gaps import noting_over_forgetting

_RESAMPLES = 1000
Losses = tuple[ArrayLike, ArrayLike]
"""Of S, [n] or [K, n], and of held-out texts, [m] or [K, m], under K networks."""


def priv_leak(unlearned: Losses, retrained: Losses | None) -> list[Figure]:
  """Returns PrivLeak = 100 (AUC_u − AUC_r) / AUC_r in percent, 0 is best, and the two AUCs.

  Args:
    unlearned: Min-40 % losses `(forget, heldout)` of K unlearned networks, such as
      `proxies.score(proxies.min_k, network, dataset)` of each.
    retrained: the same under L networks retrained without S; AUC_r is their mean. Nothing takes its
      place: ½ would be a guess.

  Returns:
    "Min-K AUC" of "unlearned" and of "oracle", in [0, 1], and "PrivLeak". Above 0 S is told from
    held-out texts better than after retraining; below 0 worse, which the note calls
    over-forgetting. Of several networks the interval is over them, the oracles as they are; of one
    it is over texts, which are resampled for all networks alike. PrivLeak is NaN where AUC_r is 0.

  Raises:
    ValueError: there is no retrained network, the texts differ in number, or a loss is NaN.

  Example:
    >>> still_known, retrained = ([0.1, 0.2], [3.0, 1.0]), ([2.0, 1.0], [3.0, 1.5])
    >>> [round(figure.value, 2) for figure in priv_leak(still_known, retrained)]
    [1.0, 0.75, 33.33]
  """
  if retrained is None:
    raise ValueError(
      "priv_leak needs the losses of a retrained network: its AUC is no ½ that could be guessed. "
      "Train one: unlearn.retrain(recipe, dataset, split, key).network."
    )
  for networks, losses in (("unlearned", unlearned), ("retrained", retrained)):
    if not isinstance(losses, tuple | list) or len(losses) != 2:
      raise ValueError(
        f"priv_leak got {_article.of(losses)} as losses of {networks} networks, must be two arrays "
        "(forget, heldout)."
      )
  ours, theirs = ([_checked(side) for side in sides] for sides in (unlearned, retrained))
  for name, one, other in zip(("forget", "heldout"), ours, theirs, strict=True):
    if one.shape[1] != other.shape[1]:
      raise ValueError(
        f"priv_leak got losses of {one.shape[1]} and {other.shape[1]} {name} texts. Take both by "
        "the same ids."
      )
  rng = np.random.default_rng(0)
  drawn = [
    np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES)])
    for n in (ours[0].shape[1], ours[1].shape[1])
  ]
  # [K, 1 + resamples]: of all texts, then of those drawn.
  auc_u, auc_r = (
    np.stack([_curve(*losses)(*drawn)[:, 0] for losses in zip(*side, strict=True)])
    for side in (ours, theirs)
  )
  what = {"name": "Min-K AUC", "part": "forget"}
  aucs = [
    _figure(auc, RATE, of=of, **what) for auc, of in ((auc_u, "unlearned"), (auc_r, "oracle"))
  ]
  reference = auc_r.mean(0)
  if not reference[0]:
    note = "the oracles' AUC is 0: there is nothing to divide by"
    return [*aucs, Figure(name="PrivLeak", part="forget", value=float("nan"), note=note)]
  with np.errstate(divide="ignore", invalid="ignore"):  # a resample in which AUC_r is 0
    leak = 100 * (auc_u - reference) / reference
  figure = _figure(leak, (-100.0, np.inf), name="PrivLeak", part="forget")
  return [*aucs, noting_over_forgetting(figure)]


def _curve(members: np.ndarray, nonmembers: np.ndarray) -> Curve:
  """Returns how well losses [n] and [m] tell members, whose loss is lower, from the others."""
  return Curve(-members[None], -nonmembers[None], None)


def _figure(values: np.ndarray, within: tuple[float, float], **what: str) -> Figure:
  """Returns a figure of values [K, 1 + resamples]: over networks if there are several."""
  if len(values) > 1:
    return over_seeds(values[:, 0], within=within, **what)
  drawn = np.sort(values[0, 1:][~np.isnan(values[0, 1:])])
  # Not np.percentile: between two numbers it takes a difference, and some may be inf.
  ends = drawn[np.round(np.array([0.025, 0.975]) * (len(drawn) - 1)).astype(int)]
  return with_interval(Interval(*map(float, (values[0, 0], *ends))), EXAMPLES, **what)


def _checked(losses: ArrayLike) -> np.ndarray:
  return of_models(np.atleast_2d(np.asarray(losses, np.float64)), "priv_leak", "losses")
