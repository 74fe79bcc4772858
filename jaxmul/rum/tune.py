"""Autopilot: each group's algorithm and settings, chosen without an oracle and without test data.

A network that never saw S treats it like other unseen data. So the surrogate of ToW compares the
probabilities p_y of S with those of held-out examples of the same classes, under the same network:

  (1 − W₁(p_y on S, p_y on H)) · (1 − loss of accuracy on R) · (1 − loss of accuracy on H)

W₁ is the distance between the two distributions, in [0, 1]; H is weighted to S's mix of classes.

Memorized examples are harder than held-out ones. Where ground truth is at hand, even of a dozen
models, it says how often models without an example get it right, and that takes the place of H:

  (1 − |accuracy on S − mean P[right | left out] over S|) · …
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxmul import metrics, unlearn
from jaxmul.binding import Bound, as_bound
from jaxmul.data.dataset import Dataset
from jaxmul.data.split import Split
from jaxmul.memorization import Estimate
from jaxmul.rum.meta import shrinking
from jaxmul.rum.plan import Plan, Step, refuse_no_step


class Trial(NamedTuple):
  """One candidate tried on one group: its name and surrogate in [0, 1], 0 where it diverged."""

  group: int
  name: str
  surrogate: float


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
  """The plan that was chosen, its result, and all that was tried."""

  plan: Plan
  params: Bound
  trials: tuple[Trial, ...]


def tune(
  candidates: Mapping[str, Step],
  params: Bound,
  dataset: Dataset,
  groups: Sequence[np.ndarray],
  heldout: Dataset,
  key: jax.Array,
  *,
  budget: int = 15,
  estimate: Estimate | None = None,
) -> Tuned:
  """Chooses a step for each group, one group after another, by a surrogate on held-out data.

  Leaving a group as it is counts as a candidate of its own, and costs nothing. The first candidates
  of the mapping are tried: as many for each group as the budget allows.

  Args:
    candidates: {name: step}, in the order in which they are tried; `candidates()` is a start.
    params: the trained network.
    dataset: D, exactly what it was trained on.
    groups: ids of S₁, S₂, …, disjoint, from `refine`; one group is plain unlearning.
    heldout: examples never trained on and used for nothing else, such as the `tune` part of
      `data.cut_heldout`. Never the test set.
    key: group i is unlearned with `fold_in(key, i)`, as `meta_unlearn` does.
    budget: at most so many trials in all.
    estimate: ground truth that covers the groups. Give it for groups of high memorization, on which
      held-out data mislead: without it the choice stops too early there, or leaves them be. Only
      means over a group are used, so a dozen models do.

  Returns:
    A `Tuned`; `meta_unlearn(tuned.plan, params, dataset, groups, key)` gives `tuned.params` again.

  Raises:
    ValueError: no candidates, or one that is no `Step`; a budget below one trial a group; held-out
      ids that are in D; groups that overlap, or hold an id that is not in the data; or a group of
      which no example was ever left out.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import models, rum, unlearn
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(8, dtype=np.float32), np.arange(8) % 2)
    >>> params = models.init(models.mlp((8,), 2), jax.random.key(0), toy.images)
    >>> tried = {"ascent": rum.Step(unlearn.neg_grad(0.1), epochs=1)}
    >>> tuned = rum.tune(
    ...   tried, params, toy.take(range(6)), [np.array([0, 1])], toy.take([6, 7]), jax.random.key(0)
    ... )
    >>> [trial.name for trial in tuned.trials]
    ['none', 'ascent']
  """
  for step in candidates.values():
    refuse_no_step(step, "tune")
  tried = {name: step for name, step in candidates.items() if step.unlearner is not None}
  each = min(len(tried), budget // max(len(groups), 1))
  if each < 1:
    raise ValueError(
      f"tune got {len(tried)} candidates and budget={budget} for {len(groups)} groups; "
      f"give at least one candidate, and a budget of at least {len(groups)}."
    )
  params, splits = as_bound(params, None, "tune"), shrinking(dataset, groups)
  shared = np.intersect1d(dataset.ids, heldout.ids)
  if len(shared):
    raise ValueError(
      f"tune: id {shared[0]} is held out and in the data; held-out examples are never trained on."
    )
  original, steps, trials = params, [], []
  for number, split in enumerate(splits):
    value = surrogate(params, original, dataset, split, heldout, estimate)
    best = (value, Step(None), params)
    trials.append(Trial(number, "none", value))
    for name, step in list(tried.items())[:each]:
      try:
        after = step.run(params, dataset, split, jax.random.fold_in(key, number))
        value = surrogate(after, original, dataset, split, heldout, estimate)
      except FloatingPointError:
        after, value = params, 0.0
      trials.append(Trial(number, name, value))
      if value > best[0]:
        best = (value, step, after)
    steps.append(best[1])
    params = best[2]
  return Tuned(Plan(steps), params, tuple(trials))


def surrogate(
  params: Bound,
  original: Bound,
  dataset: Dataset,
  split: Split,
  heldout: Dataset,
  estimate: Estimate | None = None,
) -> float:
  """How much S looks never seen while R and H are kept: a stand-in for ToW without an oracle.

  (1 − W₁(p_y on S, p_y on H)) · (1 − loss of accuracy on R) · (1 − loss of accuracy on H), with H
  weighted to the classes of S. A gain of accuracy counts as no loss.

  Args:
    params: the unlearned network.
    original: the network before.
    dataset: D, with S and R.
    split: only `forget` and `retain` are used.
    heldout: H. A class of S without held-out examples is compared with all of H.
    estimate: of S; with it the accuracy on S is compared with that of models that left it out.

  Returns:
    A float in [0, 1]; 1 where S looks never seen and no accuracy was lost.

  Raises:
    ValueError: an id is not in the data, H is empty, a logit is NaN, or no example of S was ever
      left out.

  References:
    ToW: Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024. The
    surrogate is ours.

  Example:
    >>> import numpy as np
    >>> from jaxmul import bind
    >>> from jaxmul.data import Dataset, Split
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
    >>> split = Split(forget=np.array([0]), retain=np.array([1, 2]))
    >>> odds = np.array([[9.0, 1], [1, 9], [9, 1], [1, 1]], np.float32)  # p_y 0.9, 0.9, 0.9; 0.5
    >>> params = bind(lambda w, x: x @ w, np.log(odds))
    >>> data, heldout = toy.take([0, 1, 2]), toy.take([3])
    >>> round(surrogate(params, params, data, split, heldout), 3)  # S at 0.9, H at 0.5
    0.6
  """

  def lost(data: Dataset) -> float:
    return max(0.0, metrics.accuracy(original, data) - metrics.accuracy(params, data))

  forget = dataset.take(split.forget)
  if estimate is None:
    distance = _from_heldout(params, forget, heldout)
  else:
    distance = abs(metrics.accuracy(params, forget) - left_out_accuracy(estimate, split.forget))
  return float((1 - distance) * (1 - lost(dataset.take(split.retain))) * (1 - lost(heldout)))


def left_out_accuracy(estimate: Estimate, ids: np.ndarray) -> float:
  """Returns the accuracy to expect on these ids of a model without them, in [0, 1].

  The mean of P[right | left out] over those that were ever left out. Such models saw a share
  `fraction` of the data, an oracle nearly all of it: expect the oracle's to be slightly higher.

  Raises:
    ValueError: none of the ids was ever left out.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import memorization, models, train
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(8, dtype=np.float32), np.arange(8) % 2)
    >>> recipe = train.Recipe(models.mlp((4,)), epochs=2, batch_size=4)
    >>> estimate = memorization.estimate(
    ...   recipe, toy, jax.random.key(0), num_models=16, fraction=0.5, executor=memorization.serial)
    >>> 0 <= left_out_accuracy(estimate, np.array([1, 2])) <= 1
    True
  """
  rows = np.isin(estimate.ids, ids) & (estimate.count_out > 0)
  if not rows.any():
    raise ValueError(
      f"the estimate has no model that left out any of the {len(ids)} forget ids, such as "
      f"{ids[0]}. Estimate more models of this data set, or leave estimate= away."
    )
  return float(np.mean(estimate.correct_out[rows] / estimate.count_out[rows]))


def _from_heldout(params: Bound, forget: Dataset, heldout: Dataset) -> float:
  """W₁ between p_y on S and on H, H weighted to the classes of S."""
  from scipy.stats import wasserstein_distance

  share = np.bincount(forget.labels, minlength=int(heldout.labels.max(initial=0)) + 1)
  count = np.bincount(heldout.labels, minlength=len(share))
  weights = (share / np.maximum(count, 1))[heldout.labels]
  weights = weights + share[count == 0].sum() / len(heldout)
  return wasserstein_distance(
    metrics.attacks.label_confidence(params, forget),
    metrics.attacks.label_confidence(params, heldout),
    v_weights=weights,
  )


def candidates(batch_size: int = 256) -> dict[str, Step]:
  """Returns settings to start from, the likeliest first, around those of the papers.

  Example:
    >>> list(candidates())[:2]
    ['SalUn 0.1', 'NegGrad+ 0.97']
  """
  return {
    "SalUn 0.1": Step(unlearn.salun(0.1), 5, batch_size),
    "NegGrad+ 0.97": Step(unlearn.neg_grad_plus(0.01, alpha=0.97), 5, batch_size),
    "NegGrad+ 0.9": Step(unlearn.neg_grad_plus(0.01, alpha=0.9), 5, batch_size),
    "SalUn 0.03": Step(unlearn.salun(0.03), 5, batch_size),
    "fine-tune 0.1": Step(unlearn.fine_tune(0.1), 10, batch_size),
    "SCRUB": Step(unlearn.scrub(), 5, batch_size),
    "NegGrad+ 0.8": Step(unlearn.neg_grad_plus(0.01, alpha=0.8), 5, batch_size),
  }
