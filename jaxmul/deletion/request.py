"""What a request is made of, checked: whose network, which ids, in which groups."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxmul import memorization, proxies, retraining, rum, train
from jaxmul._dataset import Dataset
from jaxmul._ids import rows_of
from jaxmul.binding import Network, as_network, refuse_own_loss
from jaxmul.data.documents import SHINGLE, near_duplicates
from jaxmul.data.split import Heldout, Split, cut_heldout
from jaxmul.deletion.given import ids_of, refuse_other_network
from jaxmul.deletion.trained import Clock
from jaxmul.rum.ledger import plan_words

POINT_PROXIES = (
  "confidence",
  "max_confidence",
  "entropy",
  "correctness",
  "loss",
  "margin",
  "el2n",
  "grand",
  "input_gradient",
  "curvature",
)
_LEAST_OF_GROUPS = 30  # ids; below, thirds are too few to differ


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Request:
  """One request.

  Attributes:
    network: before it.
    dataset: everything: S, R, held-out and test examples.
    split: their ids.
    heldout: the held-out ids, cut for proxies, tuning and attacks.
    groups: {name: ids} of S, low to high.
    scored_by: the score that made the groups.
    recipe: how the network was trained.
    store: where what is trained is kept, or None.
    progress: whether stderr shows what is done.
    devices: that batches are split over, as of `unlearn.run`.
  """

  network: Network
  dataset: Dataset
  split: Split
  heldout: Heldout
  groups: dict[str, np.ndarray]
  scored_by: str
  recipe: train.Recipe
  store: Path | None
  progress: bool
  devices: Sequence[Any] | None

  @property
  def training(self) -> Dataset:
    """S and R."""
    return self.dataset.take(self.split.train)

  def folder(self, name: str) -> Path | None:
    """Returns a folder of the store, or None."""
    return None if self.store is None else self.store / "work" / name

  def steps_of(self, plan: rum.Plan) -> Path | None:
    """Returns the folder of a plan's steps; None also where one holds a lambda: none finds it."""
    try:
      plan_words(plan)
    except ValueError:
      return None
    return self.folder("unlearned")


def split_of(
  dataset: Dataset, ids: Any, heldout: Any, test: Any, least: int = 3, caller: str = "forget"
) -> Split:
  """Returns S, R, held-out and test ids; R is what the other three leave.

  Raises:
    ValueError: an id is not in the data, in two parts or no integer; there are too few
      held-out examples, no test examples, or nothing is retained.
  """
  parts = {"forget": ids, "heldout": heldout, "test": test}
  arrays = {name: ids_of(part, name, caller) for name, part in parts.items()}
  for name, part in arrays.items():
    rows_of(dataset.ids, part, f"{caller}: {name}", "is not in the data", "Ids are Dataset.ids.")
  for name, needed in (("heldout", least), ("test", 1)):
    if len(arrays[name]) < needed:
      raise ValueError(
        f"{caller} got {len(arrays[name])} {name} ids, must be at least {needed}, never trained "
        "on. Cut them off before training: data.holdout."
      )
  retain = np.setdiff1d(dataset.ids, np.concatenate(list(arrays.values())))
  return Split(retain=retain, **arrays)


def copies_left(dataset: Dataset, split: Split) -> np.ndarray:
  """Returns the ids of R, sorted, that are copies of what is to be deleted, or nearly repeat it.

  Copies are those of one family of the data set; of text, other sequences are looked at too.
  """
  left, inputs = dataset.with_copies(split.forget), dataset.inputs
  is_text = isinstance(inputs, np.ndarray) and np.issubdtype(inputs.dtype, np.signedinteger)
  if is_text and inputs.shape[1] >= SHINGLE:
    left = np.union1d(left, near_duplicates(dataset, split.forget))
  return np.intersect1d(left, split.retain)


def scores_of(
  network: Any,
  training: Dataset,
  ids: np.ndarray,
  score: str,
  devices: Sequence[Any] | None = None,
) -> np.ndarray:
  """Returns how memorized each of the ids seems [k]: by the events of training, or by a proxy.

  Args:
    network: a `train.Fit` whose scores have this name, or anything that point proxies take.
    training: what the network was trained on.
    ids: int [k].
    score: name of a tracker's score, or of a point proxy.
    devices: of a proxy, as of `proxies.score`.

  Raises:
    ValueError: there is no such proxy.
  """
  if isinstance(network, train.Fit):
    if score in network.scores:
      cure = "Train on the same data set."
      return network.scores[score][rows_of(network.ids, ids, "forget", "has no score", cure)]
    network = network.network
  proxy = getattr(proxies, score, None)
  if proxy is None or score not in POINT_PROXIES:
    raise ValueError(f"forget got score={score!r}, must be one of {', '.join(POINT_PROXIES)}.")
  return proxies.score(proxy, network, training.take(ids), devices=devices)


def grouped(
  training: Dataset, scores: np.ndarray, ids: np.ndarray, num_groups: int | None
) -> dict[str, np.ndarray]:
  """Returns {name: ids}, low to high: thirds, or one group of a small request.

  Copies of an example are in one group.
  """
  alone = len(training.first_of_each(ids))
  count = num_groups or (3 if alone >= _LEAST_OF_GROUPS else 1)
  names = {1: ("all",), 2: ("low", "high"), 3: ("low", "medium", "high")}.get(
    count, tuple(f"group {number}" for number in range(count))
  )

  def cut(some, places):
    return rum.refine(scores[places], some, num_groups=count)

  return dict(zip(names, rum.copies_together(training, ids, cut), strict=True))


def request_of(
  network: Any,
  dataset: Dataset,
  split: Split,
  recipe: train.Recipe,
  key: jax.Array,
  *,
  score: str,
  num_groups: int | None,
  store: Path | None,
  progress: bool,
  devices: Sequence[Any] | None = None,
) -> Request:
  """Returns a request whose forget set is refined by a score."""
  if isinstance(network, train.Fit) and not np.array_equal(network.ids, split.train):
    odd = np.setxor1d(network.ids, split.train)[0]
    how = "was trained on, and is held out or a test id" if odd in network.ids else "was not seen"
    raise ValueError(
      f"forget: id {odd} {how}: what is neither held out nor test must be what the Fit saw. "
      "Pass the data set and the parts that it was trained with."
    )
  own = network.network if isinstance(network, train.Fit) else network
  own = as_network(own, None, "forget")
  refuse_own_loss(own, "forget", "Choose a plan by hand, for rum.meta_unlearn")
  refuse_other_network(own, recipe, dataset, "forget")
  training = dataset.take(split.train)
  scores = scores_of(network, training, split.forget, score, devices)
  rides_along = isinstance(network, train.Fit) and score in network.scores
  return Request(
    network=own,
    dataset=dataset,
    split=split,
    heldout=cut_heldout(split.heldout, key),
    groups=grouped(training, scores, split.forget, num_groups),
    scored_by=f"{score}, {'of the epochs of training' if rides_along else 'of the network'}",
    recipe=recipe,
    store=store,
    progress=progress,
    devices=devices,
  )


def cross_fitted(
  request: Request, key: jax.Array, folds: int, clock: Clock
) -> memorization.Estimate:
  """Trains the cross-fit networks of a request's data, or reads them back."""
  schedule = retraining.cross_fit(request.recipe, request.training, key, folds=folds)
  return memorization.estimate(
    schedule,
    store=request.folder("cross_fit"),
    executor=clock.timed,
    progress=request.progress,
  )
