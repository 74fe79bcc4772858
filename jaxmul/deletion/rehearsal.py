"""Rehearse once, then serve: a plan is chosen and validated before any request comes.

A network is trained by the recipe. The plan is chosen on a forget set that is half random and half
what was learned last, and validated beside oracles on two others: one random, one learned last.

A request is cut into thirds, as the three forget sets were. One of fewer than three ids cannot be:
there the scores between the thirds of the first forget set say which step unlearns an example.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import _check, _settings, memorization, models, rum, train
from jaxmul._dataset import Dataset
from jaxmul._identity import digest, versions
from jaxmul._paths import local
from jaxmul._progress import duration
from jaxmul._ties import scattered
from jaxmul.binding import Network
from jaxmul.data.split import Split
from jaxmul.deletion import evidence_and_cost as evidence
from jaxmul.deletion.forgetting import affordable, chosen
from jaxmul.deletion.given import ids_of, refuse_other
from jaxmul.deletion.refusal import CHANGE, refuse_idle
from jaxmul.deletion.request import Request, cross_fitted, request_of, scores_of, split_of
from jaxmul.deletion.trained import Clock, kept
from jaxmul.metrics.figures import Figure, find
from jaxmul.proxies import trackers

GROUPS = ("low", "medium", "high")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Rehearsal:
  """A plan with its evidence.

  Attributes:
    plan: chosen on a forget set of its own: steps for examples of low, medium and high scores.
    figures: {"random": …, "memorized": …}, of the plan on two other forget sets.
    estimate: what cross-fit networks said, for `forget` and `rum.tune`.
    network: the one that was trained; a request may be served on it.
    cuts: the two scores between the steps, for requests too small to be cut into thirds, which are
      refused without them.
    recipe: by which the network was trained; None where nobody knows.
  """

  plan: rum.Plan
  figures: dict[str, list[Figure]]
  estimate: memorization.Estimate
  network: Network
  cuts: tuple[float, float] | None = None
  recipe: train.Recipe | None = None

  @property
  def is_better_than_nothing(self) -> bool:
    """Whether the example gap is clearly smaller on what is memorized, and at random not larger.

    Both are told by the 95 % interval of its change over examples: the first is below 0, and the
    second holds 0 or is below it. A change that has no interval tells nothing.
    """
    change = {name: find(figures, CHANGE) for name, figures in self.figures.items()}
    return change["memorized"].high < 0 and change["random"].low <= 0


def rehearse(
  dataset: Dataset,
  recipe: train.Recipe,
  key: jax.Array,
  *,
  heldout: Any,
  test: Any,
  size: int | None = None,
  oracles: int = 3,
  store: Path | str | None = None,
  progress: bool = True,
) -> Rehearsal:
  """Chooses a plan for requests to come, and validates it beside oracles.

  It costs 6 trainings, and the oracles of two forget sets: 12 by default, and the time of at most
  3 more for choosing the plan.

  Args:
    dataset, recipe, heldout, test: as `forget`.
    key: of all random choices.
    size: ids of each of the three forget sets; by default a twentieth of what is trained on, at
      least 30. Below 6 there is nothing to cut in three.
    oracles: networks retrained without each of the two forget sets of the validation, at least 3.
    store: a folder for what is trained and unlearned: the same call goes on after a kill, and gives
      the same `Rehearsal` later, in another process too, without a training.
    progress: whether stderr shows what is done.

  Returns:
    A `Rehearsal`. What is memorized is what was learned last by the confidence over epochs.

  Raises:
    Refused: as `forget`, of the forget set that the plan is chosen on.
    ValueError: there are fewer than five times `size` examples to train on, or as `forget`.
  """
  refuse_other(dataset, recipe, key, "rehearse")
  _check.count(oracles, "oracles", "rehearse")
  _check.at_least("rehearse", 3, oracles=oracles)
  heldout, test = ids_of(heldout, "heldout", "rehearse"), ids_of(test, "test", "rehearse")
  ids = np.setdiff1d(dataset.ids, np.concatenate([heldout, test]))
  split_of(dataset, ids[:1], heldout, test, caller="rehearse")
  size = max(30, len(ids) // 20) if size is None else size
  _check.count(size, "size", "rehearse")
  _check.at_least("rehearse", 2 * len(GROUPS), size=size)
  if len(ids) < 5 * size:
    raise ValueError(
      f"rehearse needs 5 × size = {5 * size} examples to train on, got {len(ids)}. Lower size."
    )
  keys = jax.random.split(key, 6)
  fit = _original(recipe, dataset.take(ids), keys[0], None if store is None else local(store))
  requests = {
    name: request_of(
      fit.network,  # grouped by what the network says, as every request is that is served
      dataset,
      Split(forget=forget, retain=np.setdiff1d(ids, forget), heldout=heldout, test=test),
      recipe,
      keys[2],
      score="confidence",
      num_groups=len(GROUPS),
      store=None if store is None else local(store) / name,
      progress=progress,
    )
    for name, forget in forget_sets(fit, size, keys[1]).items()
  }
  mixed = requests.pop("mixed")
  steps, clock = affordable(mixed), Clock()
  estimate = cross_fitted(mixed, keys[3], evidence.FOLDS, clock)
  if progress and clock.seconds is not None:
    left = duration(2 * oracles * clock.seconds)
    print(f"rehearse: {2 * oracles} oracles to come, about {left}", file=sys.stderr)
  tuned = chosen(steps, mixed, estimate, keys[4])
  refuse_idle(tuned)
  figures = {}
  for number, name in enumerate(("random", "memorized")):
    request = requests[name]
    unlearn_key, judge_key = jax.random.split(jax.random.fold_in(keys[5], number))
    after = rum.meta_unlearn(
      tuned.plan,
      fit.network,
      request.training,
      list(request.groups.values()),
      unlearn_key,
      store=request.folder("unlearned"),
    )
    figures[name] = evidence.beside_a_few(request, after, judge_key, oracles)
  return Rehearsal(
    plan=tuned.plan,
    cuts=_cuts(mixed),
    figures=figures,
    estimate=estimate,
    network=fit.network,
    recipe=recipe,
  )


def _original(
  recipe: train.Recipe, training: Dataset, key: jax.Array, store: Path | None
) -> train.Fit:
  """Trains the network of the rehearsal, or reads it back."""
  folder = None
  if store is not None:
    name = digest(recipe, training, key, versions(), _settings.current())[:16]
    folder = store / "original" / name
  events = {"events": trackers.learning_events()}
  like = models.shapes(recipe.model, training.example)
  return kept(folder, like, lambda: train.fit(recipe, training, key, trackers=events))


def _cuts(request: Request) -> tuple[float, float]:
  """Returns the scores half-way between the groups of a forget set, copies left out."""
  training = request.training
  alone = training.first_of_each(request.split.forget)  # whose scores made the groups
  low, medium, high = (
    scores_of(request.network, training, np.intersect1d(ids, alone), "confidence")
    for ids in request.groups.values()
  )
  return float(low.max() + medium.min()) / 2, float(medium.max() + high.min()) / 2


def forget_sets(fit: train.Fit, size: int, key: jax.Array) -> dict[str, np.ndarray]:
  """Returns three disjoint forget sets: "mixed", "memorized" and "random"."""
  order = fit.ids[np.lexsort((scattered(fit.ids), -fit.scores["confidence"]))]
  half = size // 2
  late, rest = order[: half + size], order[half + size :]
  rest = rest[np.asarray(jax.random.permutation(key, len(rest)))]  # JAX would cut ids to 32 bits
  turn = np.arange(len(late)) % 3 == 0  # every third, so that both sets are about as hard
  mixed, memorized = late[turn][:half], np.setdiff1d(late, late[turn][:half])[:size]
  return {
    "mixed": np.concatenate([mixed, rest[: size - half]]),
    "memorized": memorized,
    "random": rest[size - half : 2 * size - half],
  }
