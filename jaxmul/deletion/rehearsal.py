"""Rehearse once, then serve: a plan that was chosen and validated before any request comes.

A network is trained by the recipe. The plan is chosen on a forget set that is half random and half
what was learned last, and validated beside oracles on two others: one random, one learned last.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import _check, memorization, proxies, rum, train
from jaxmul._ties import scattered
from jaxmul.binding import Network
from jaxmul.data.dataset import Dataset
from jaxmul.data.split import Split
from jaxmul.deletion import evidence
from jaxmul.deletion.forgetting import affordable, chosen
from jaxmul.deletion.refusal import Refused
from jaxmul.deletion.request import cross_fitted, request_of, split_of
from jaxmul.metrics.figures import Figure, find
from jaxmul.proxies import trackers


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Rehearsal:
  """A plan with its evidence.

  Attributes:
    plan: chosen on a forget set of its own.
    figures: {"random": …, "memorized": …}, of the plan on two other forget sets.
    estimate: what cross-fit networks said, for `forget` and `rum.tune`.
    network: the one that was trained; a request may be served on it.
  """

  plan: rum.Plan
  figures: dict[str, list[Figure]]
  estimate: memorization.Estimate
  network: Network

  @property
  def is_better_than_nothing(self) -> bool:
    """Whether the example gap is smaller on what is memorized, and not clearly larger at random.

    "Clearly" is by the interval of the change over examples.
    """
    change = {
      name: find(figures, "change of the example gap") for name, figures in self.figures.items()
    }
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
      least 30.
    oracles: networks retrained without each of the two forget sets of the validation.
    store: a folder for what is trained, so that the same call goes on after a kill.
    progress: whether stderr shows what is done.

  Returns:
    A `Rehearsal`. What is memorized is what was learned last by the confidence over epochs.

  Raises:
    Refused: as `forget`, of the forget set that the plan is chosen on.
    ValueError: there are fewer than five times `size` examples to train on, or as `forget`.
  """
  _check.at_least("rehearse", 3, oracles=oracles)
  ids = np.setdiff1d(dataset.ids, [*np.asarray(heldout), *np.asarray(test)])
  split_of(dataset, ids[:1], heldout, test)
  size = max(30, len(ids) // 20) if size is None else size
  if len(ids) < 5 * size:
    raise ValueError(
      f"rehearse needs 5 × size = {5 * size} examples to train on, got {len(ids)}. Lower size."
    )
  keys = jax.random.split(key, 6)
  events = {"events": trackers.learning_events()}
  fit = train.fit(recipe, dataset, keys[0], ids=ids, trackers=events)
  sets = forget_sets(fit, size, keys[1])
  requests = {
    name: request_of(
      fit.network,  # grouped by what the network says, as every request is that is served
      dataset,
      Split(
        forget=forget,
        retain=np.setdiff1d(ids, forget),
        heldout=np.asarray(heldout),
        test=np.asarray(test),
      ),
      recipe,
      keys[2],
      score="confidence",
      num_groups=3,
      store=None if store is None else Path(store) / name,
      progress=progress,
    )
    for name, forget in sets.items()
  }
  estimate = cross_fitted(requests["mixed"], keys[3], evidence.FOLDS)
  tuned = chosen(affordable(requests["mixed"]), requests["mixed"], estimate, keys[4])
  figures = {}
  for number, name in enumerate(("random", "memorized")):
    request, key = requests[name], jax.random.fold_in(keys[5], number)
    unlearn_key, judge_key = jax.random.split(key)
    groups = list(request.groups.values())
    after = rum.meta_unlearn(tuned.plan, fit.network, request.training, groups, unlearn_key)
    figures[name] = evidence.beside_a_few(request, after, judge_key, oracles)
  return Rehearsal(plan=tuned.plan, figures=figures, estimate=estimate, network=fit.network)


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


def serve(
  rehearsal: Rehearsal,
  network: Any,
  dataset: Dataset,
  requests: Iterable[Any],
  key: jax.Array,
  *,
  store: Path | str | None = None,
) -> Iterator[rum.Deletion]:
  """Serves requests one after another by the plan of a rehearsal.

  Args:
    rehearsal: of the recipe that the network was trained by.
    network, dataset, requests, key, store: as `rum.stream`; a request has at least three ids.

  Yields:
    A `rum.Deletion` after each request, with its line of the ledger.

  Raises:
    Refused: the rehearsal found the plan no better than doing nothing.
    ValueError: as `rum.stream`.
  """
  if not rehearsal.is_better_than_nothing:
    raise Refused(
      "serve: the rehearsal did not find its plan better than doing nothing. Look at its figures; "
      "retrain instead, or serve a plan of your own with rum.stream.",
      [figure for figures in rehearsal.figures.values() for figure in figures],
    )
  return rum.stream(rehearsal.plan, network, dataset, requests, key, score=_unsure, store=store)


def _unsure(network: Network, data: Dataset) -> np.ndarray:
  return proxies.score(proxies.confidence, network, data)
