"""Autopilot: each group's algorithm and settings, chosen without an oracle and without test data.

A plan is good if the network then treats S as networks do that never saw S, and nothing else is
lost: `surrogate` says how good. `retraining.cross_fit` trains such networks, once for all requests.
The square in it is a proper score: in expectation noise of t adds the same to every candidate, so
that one network an example is enough to tell them apart. It is least where p_y is the mean of what
such networks say, which a single oracle is not. S is all that was to be forgotten so far.

Of a text p_y is e^−ℓ, the geometric mean of its tokens' probabilities, and it is right where all of
its scored positions are. Its class is its stratum in the data set; without strata nothing is known
of classes, and nothing is said of them.

Without an estimate held-out examples take the place of networks without S. That serves random
requests. What is memorized is harder than what is held out, and is then left as it is.

A class of which R holds nothing, or hardly anything, is another matter: networks without S do not
know it. Where S is most of a class and R holds some of it, no target is known without retraining,
and a warning says so.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmul import _article, _check, metrics, unlearn
from jaxmul._dataset import Dataset, refuse_no_dataset
from jaxmul._ids import find
from jaxmul._progress import stages
from jaxmul.binding import Network, as_network, refuse_own_loss
from jaxmul.data.split import Split
from jaxmul.memorization import Estimate
from jaxmul.rum.groups import class_counts
from jaxmul.rum.meta import meta_unlearn, shrinking
from jaxmul.rum.plan import Plan, Step, refuse_no_step, refuse_uneven
from jaxmul.train import Recipe

_HARDLY = 0.05
_OWN = 20  # rate of SGD over that of AdamW, and its like


class Trial(NamedTuple):
  """One candidate tried on one group: its name and surrogate in [0, 1], 0 where it diverged."""

  group: int
  name: str
  surrogate: float


@dataclasses.dataclass(frozen=True, eq=False)
class Tuned:
  """The plan that was chosen, its result, and all that was tried."""

  plan: Plan
  network: Network
  trials: tuple[Trial, ...]


def tune(
  candidates: Mapping[str, Step],
  network: Network,
  dataset: Dataset,
  groups: Sequence[np.ndarray],
  heldout: Dataset,
  key: jax.Array,
  *,
  budget: int = 15,
  estimate: Estimate | None = None,
  store: str | os.PathLike[str] | None = None,
  progress: bool = True,
  devices: Sequence[Any] | None = None,
) -> Tuned:
  """Chooses a step for each group, one group after another, by a surrogate on held-out data.

  Leaving a group as it is counts as a candidate of its own, and costs nothing. The first candidates
  of the mapping are tried: as many for each group as the budget allows.

  Args:
    candidates: {name: step}, in the order in which they are tried; `candidates()` is a start.
    network: the trained network.
    dataset: D, exactly what it was trained on.
    groups: ids of S₁, S₂, …, disjoint, from `refine`; one group is plain unlearning.
    heldout: examples never trained on and used for nothing else, such as the `tune` part of
      `data.cut_heldout`. Never the test set.
    key: group i is unlearned with `fold_in(key, i)`, as `meta_unlearn` does.
    budget: at most so many trials in all.
    estimate: what networks without them say of the groups, from `retraining.cross_fit` (or a
      ground truth), of models that chose neither the forget set nor the groups: what was chosen for
      being hard looks harder than it is to those that chose it. Without it memorized groups are
      left as they are, and a warning says so.
    store: folder that gets the params after each trial, as of `meta_unlearn`: the same call again,
      after a kill, makes no finished trial again, with the same bits. One that diverged left none.
    progress: whether stderr shows which trial is made, and the time left.
    devices: of every trial, as of `meta_unlearn`. What a surrogate needs is computed on all.

  Returns:
    A `Tuned`; `meta_unlearn(tuned.plan, network, dataset, groups, key)` gives its `network` again.

  Raises:
    ValueError: no candidates, or one that is no `Step`; a budget below one trial a group; a network
      with a loss of its own; held-out ids that are in D; groups that overlap, or hold an id that is
      not in the data; a group of which no example was ever left out; or no devices, or such as do
      not divide the batch of a candidate.

  Example:
    >>> import jax, numpy as np
    >>> from jaxmul import data, memorization, models, retraining, rum, train, unlearn
    >>> toy = data.Dataset(np.eye(8, dtype=np.float32), np.arange(8) % 2)
    >>> seen, heldout = toy.take(range(6)), toy.take([6, 7])
    >>> recipe = train.Recipe(models.mlp((8,), 2), epochs=2, batch_size=4)
    >>> key = jax.random.key(0)
    >>> schedule = retraining.cross_fit(recipe, seen, key, folds=3)
    >>> said = memorization.estimate(schedule, executor=retraining.serial)
    >>> tried = {"ascent": rum.Step(unlearn.neg_grad(0.1), epochs=1)}
    >>> original = train.fit(recipe, seen, key).network
    >>> tuned = rum.tune(tried, original, seen, [np.array([0, 1])], heldout, key, estimate=said)
    >>> [trial.name for trial in tuned.trials]
    ['none', 'ascent']
  """
  for step in candidates.values():
    refuse_no_step(step, "tune")
  refuse_uneven(candidates, devices, "rum.tune")
  tried = {name: step for name, step in candidates.items() if step.unlearner is not None}
  count = min(len(tried), budget // max(len(groups), 1))
  if count < 1:
    raise ValueError(
      f"tune got {len(tried)} candidates and budget={budget} for {len(groups)} groups; "
      f"give at least one candidate, and a budget of at least {len(groups)}."
    )
  refuse_no_dataset(dataset, "rum.tune")
  _refuse_other("rum.tune", "heldout", heldout, Dataset, "dataset.take(ids)")
  if estimate is not None:
    cure = "memorization.estimate(retraining.cross_fit(recipe, dataset, key))"
    _refuse_other("rum.tune", "estimate", estimate, Estimate, cure)
  _check.key(key, "tune")
  network, splits = _with_classes(network, "tune"), shrinking(dataset, groups)
  shared = np.intersect1d(dataset.ids, heldout.ids)
  if len(shared):
    raise ValueError(
      f"tune: id {shared[0]} is held out and in the data; held-out examples are never trained on."
    )
  if estimate is None:
    warnings.warn(
      "rum.tune got no estimate: held-out examples stand in for networks without the groups, and "
      "memorized groups are left as they are. Pass "
      "estimate=memorization.estimate(retraining.cross_fit(recipe, …)).",
      stacklevel=2,
    )
  _warn_of_shares(dataset, splits)
  original, steps, trials = network, [], []
  with stages(len(splits) * count if progress else 0) as begin:
    for number, split in enumerate(splits):
      gone = dataclasses.replace(split, forget=np.concatenate(groups[: number + 1]))
      value_of = _judge(original, dataset, gone, heldout, estimate)
      before, best_value, best_step = network, value_of(network), Step(None)
      trials.append(Trial(number, "none", best_value))
      for name, step in list(tried.items())[:count]:
        begin(f"tuning, group {number + 1} of {len(splits)}: {name}")
        try:
          if store is None:
            step_key = jax.random.fold_in(key, number)
            after = step.run(before, dataset, split, step_key, devices=devices)
          else:  # steps are named by all before them: those that were chosen are read back
            plan, so_far = Plan([*steps, step]), groups[: number + 1]
            after = meta_unlearn(plan, original, dataset, so_far, key, store=store, devices=devices)
          value = value_of(after)
        except FloatingPointError:
          after, value = before, 0.0
        trials.append(Trial(number, name, value))
        if value > best_value:
          network, best_value, best_step = after, value, step
      steps.append(best_step)
  return Tuned(Plan(steps), network, tuple(trials))


def surrogate(
  network: Network,
  original: Network,
  dataset: Dataset,
  split: Split,
  heldout: Dataset,
  estimate: Estimate | None = None,
) -> float:
  """How much S looks never seen while R and H are kept: a stand-in for ToW without an oracle.

  (1 − mean_S (p_y − t)²) · (1 − loss of accuracy on R) · (1 − loss of accuracy on H), t the mean
  p_y under networks without the example; or, without an estimate, 1 − W₁(p_y on S, p_y on H) in the
  first factor's place, the distance of the two distributions, in [0, 1]. A gain of accuracy counts
  as no loss. A class of which R holds less than a twentieth of what S and R hold counts as unknown
  to such networks: t is 0, and H is without it.

  Args:
    network: the unlearned network.
    original: the network before.
    dataset: D, with S and R.
    split: only `forget` and `retain` are used.
    heldout: H. Without an estimate it is weighted to the classes of S; a class of S without
      held-out examples is compared with all of H.
    estimate: of S, such as one of `retraining.cross_fit`. Where a file of an older version lacks
      `confidence_out`, t is the share of such networks that are right.

  Returns:
    A float in [0, 1]. With an estimate of few networks even an oracle stays below 1, by the
    variance of t: compare values of one estimate only.

  Raises:
    ValueError: an id is not in the data, H is empty, only one of D and H has strata, a logit is
      NaN, the network is bound with a loss of its own, or no example of S was ever left out.

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
    >>> network = bind(lambda w, x: x @ w, np.log(odds))
    >>> data, heldout = toy.take([0, 1, 2]), toy.take([3])
    >>> round(surrogate(network, network, data, split, heldout), 3)  # S at 0.9, H at 0.5
    0.6
  """
  original = _with_classes(original, "surrogate")
  return _judge(original, dataset, split, heldout, estimate)(network)


def _with_classes(network: Network, caller: str) -> Network:
  network = as_network(network, None, caller)
  refuse_own_loss(network, caller, "Choose a plan by hand, for rum.meta_unlearn")
  return network


def _judge(
  original: Network, dataset: Dataset, split: Split, heldout: Dataset, estimate: Estimate | None
) -> Callable[[Network], float]:
  """Returns the surrogate as a function of the network; what the original says is asked once."""
  if not len(heldout):
    raise ValueError("surrogate got no held-out examples. Hold some out: data.holdout.")
  if (dataset.strata is None) != (heldout.strata is None):
    raise ValueError(
      "surrogate got strata of the data or of the held-out examples alone: they cannot be told to "
      "be of one kind. Give both, or neither."
    )
  forget, retain = dataset.take(split.forget), dataset.take(split.retain)
  unknown = _unknown_classes(*_shares(dataset, split))
  known = heldout.take(heldout.ids[~np.isin(_kinds(heldout), unknown)])
  kept = [(data, metrics.accuracy(original, data)) for data in (retain, known) if len(data)]
  gone = np.isin(_kinds(forget), unknown)

  def value(network: Network) -> float:
    confidence = metrics.attacks.label_confidence(network, forget)
    if estimate is None:
      distance = _from_heldout(network, forget, confidence, gone, known)
    else:
      distance = _from_estimate(confidence, gone, split.forget, estimate)
    losses = [max(0.0, before - metrics.accuracy(network, data)) for data, before in kept]
    return float((1 - distance) * np.prod([1 - loss for loss in losses]))

  return value


def _warn_of_shares(dataset: Dataset, splits: Sequence[Split]) -> None:
  """Warns where S is most of a class, of which R still holds some."""
  forget = np.concatenate([split.forget for split in splits])
  gone, left = _shares(dataset, Split(forget=forget, retain=splits[-1].retain))
  most = gone > left
  most[_unknown_classes(gone, left)] = False
  if most.any():
    label = int(np.argmax(most * gone / np.maximum(gone + left, 1)))
    warnings.warn(
      f"rum.tune: the groups hold {gone[label]} of {gone[label] + left[label]} examples of class "
      f"{label}. How well networks without them still know the class cannot be told from networks "
      "without single examples: the choice may be none. Retrain once without them and compare.",
      stacklevel=3,
    )


def _has_kinds(dataset: Dataset) -> bool:
  """Whether the data say which examples are of one class: labels do, of text only strata."""
  return dataset.strata is not None or dataset.labels.ndim == 1


def _kinds(dataset: Dataset) -> np.ndarray:
  """Returns int [n], the class of each example; 0 where nothing says which it is."""
  return dataset.kinds("rum.tune") if _has_kinds(dataset) else np.zeros(len(dataset), int)


def _shares(dataset: Dataset, split: Split) -> tuple[np.ndarray, np.ndarray]:
  """Returns int [C] each, how many of each class are in S and in R; [0] without classes."""
  if not _has_kinds(dataset):
    return np.zeros(0, int), np.zeros(0, int)
  gone, left = class_counts((split.forget, split.retain), dataset)
  return gone, left


def _unknown_classes(gone: np.ndarray, left: np.ndarray) -> np.ndarray:
  """Returns the classes of S of which R holds hardly anything."""
  return np.flatnonzero((gone > 0) & (left < _HARDLY * (gone + left)))


def _from_estimate(
  confidence: np.ndarray, gone: np.ndarray, ids: np.ndarray, estimate: Estimate
) -> float:
  """The mean over S of (p_y − t)²; examples that were never left out do not count."""
  rows = find(estimate.ids, ids)
  left_out = (rows >= 0) & (estimate.count_out[rows] > 0)
  if not (left_out | gone).any():
    raise ValueError(
      f"the estimate has no model that left out any of the {len(ids)} forget ids, such as "
      f"{ids[0]}. Estimate this data set: "
      "memorization.estimate(retraining.cross_fit(recipe, dataset, key))."
    )
  with np.errstate(invalid="ignore", divide="ignore"):
    right = estimate.correct_out[rows] / estimate.count_out[rows]
  said = estimate.confidence_out[rows]
  target = np.where(gone, 0.0, np.where(np.isnan(said), right, said))
  return float(np.mean((confidence - target)[left_out | gone] ** 2))


def _from_heldout(
  network: Network, forget: Dataset, confidence: np.ndarray, gone: np.ndarray, heldout: Dataset
) -> float:
  """W₁ between p_y on S and on H, H weighted to the classes of S; 0 stands for unknown ones."""
  from scipy.stats import wasserstein_distance

  ours, theirs = _kinds(forget), _kinds(heldout)
  share = np.bincount(ours[~gone], minlength=int(theirs.max(initial=0)) + 1)
  count = np.bincount(theirs, minlength=len(share))
  if not len(heldout) or not share.any():
    return float(np.mean(confidence))
  weights = (share / np.maximum(count, 1))[theirs]
  weights = weights + share[count == 0].sum() / len(heldout)
  return wasserstein_distance(
    confidence,
    np.append(metrics.attacks.label_confidence(network, heldout), 0.0),
    v_weights=np.append(weights, gone.sum()),
  )


def _refuse_other(caller: str, name: str, given: object, wanted: type, cure: str) -> None:
  if not isinstance(given, wanted):
    raise ValueError(
      f"{caller} got {name} as {_article.of(given)}, must be a {wanted.__name__}. Pass {cure}."
    )


def candidates(recipe: Recipe, heldout: Dataset | None = None) -> dict[str, Step]:
  """Returns settings to start from, the likeliest first, in units of a recipe's own learning rate.

  Rates are published for a ResNet-18 on CIFAR-10 that was trained at 0.1; on another network they
  may wreck it, or do nothing. Relative to the rate of training, which suits the network, they carry
  over. None takes more than half of the epochs of training: retraining from scratch is exact. The
  list and its order were chosen on two training seeds of an MLP on `mnist5k`. They are of SGD: for
  a recipe with an optimizer of its own its rate counts twentyfold, which suited AdamW on a third.

  Args:
    recipe: that of the network which is unlearned: its learning rate, batch size and epochs are
      used.
    heldout: examples never trained on, such as the `proxy` part of `data.cut_heldout`, not those
      that `tune` judges by; for `unlearn.regun`, which is left out where they lack a class, or
      are text.

  Example:
    >>> from jaxmul import models, train
    >>> list(candidates(train.Recipe(models.mlp())))[:2]
    ['SalUn', 'SalUn × 0.3']
  """
  _refuse_other("rum.candidates", "recipe", recipe, Recipe, "train.Recipe(model, …)")
  rate = recipe.learning_rate * (1 if recipe.optimizer is None else _OWN)
  half = max(1, recipe.epochs // 2)
  algorithms = {"SalUn": unlearn.salun(rate), "SalUn × 0.3": unlearn.salun(0.3 * rate)}
  if heldout is not None:
    refuse_no_dataset(heldout, "rum.candidates")
  of_text = heldout is not None and heldout.labels.ndim > 1
  if heldout is not None and not of_text and len(np.unique(heldout.labels)) == heldout.num_classes:
    algorithms["ReGUn"] = unlearn.regun(heldout, rate)
  algorithms |= {
    "SCRUB": unlearn.scrub(rate),
    "fine-tune × 2": unlearn.fine_tune(2 * rate),
    "NegGrad+ × 0.3": unlearn.neg_grad_plus(0.3 * rate, alpha=0.97),
    "NegGrad+ 0.99": unlearn.neg_grad_plus(rate, alpha=0.99),
  }
  return {
    name: Step(unlearner, half if name == "fine-tune × 2" else min(5, half), recipe.batch_size)
    for name, unlearner in algorithms.items()
  }
