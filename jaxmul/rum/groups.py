"""Who is unlearned together: groups of a forget set S by score, by features, or at random.

Scores are the ground truth or any proxy, higher = more memorized; φ are penultimate features [n,
F], such as `models.features` returns. Groups are arrays of ids, disjoint, each sorted.

Many scores are equal: most of the ground truth is exactly 0, and a mean of ten zeros and ones has
eleven values. Equal scores go by `soft`, where there is one, and then by a random permutation of
all ids under a fixed key: never by the ids themselves, which often follow the classes.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check
from jaxmul._dataset import Dataset
from jaxmul._ids import check_ids, find
from jaxmul._kmeans import kmeans
from jaxmul._ties import SOFT_DECIMALS, TIES, scattered


class Selection(NamedTuple):
  """RUM's experimental forget sets: disjoint ids int64 [size] each, sorted."""

  low: np.ndarray
  medium: np.ndarray
  high: np.ndarray


def refine(
  scores: ArrayLike,
  ids: ArrayLike,
  *,
  num_groups: int = 3,
  quantiles: Sequence[float] | None = None,
  thresholds: Sequence[float] | None = None,
  soft: ArrayLike | None = None,
  ties: int = TIES,
) -> list[np.ndarray]:
  """Partitions a given forget set by its scores, low to high.

  Args:
    scores: [k], higher = more memorized; NaN refused.
    ids: int [k], the forget set, unique.
    num_groups: K groups whose sizes differ by at most one, unless one of the next two is given.
    quantiles: K − 1 increasing shares in (0, 1) at which to cut.
    thresholds: K − 1 increasing scores at which to cut; a score equal to one goes above it.
    soft: [k], orders examples of equal scores, such as `Estimate.soft`; as `select`.
    ties: key of the permutation of ids by which the rest of the ties are broken.

  Returns:
    K arrays of ids int64, sorted within. The order given does not matter, nor what ids stand for.

  Raises:
    ValueError: lengths differ, ids are no integers or repeat, scores are not finite, cuts are not
      increasing, or a group would be empty.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> [group.tolist() for group in refine([0.9, 0.1, 0.5], [7, 8, 9])]
    [[8], [9], [7]]
    >>> [group.tolist() for group in refine([0.9, 0.1, 0.5], [7, 8, 9], thresholds=[0.5])]
    [[8], [7, 9]]
  """
  scores, ids = _checked(scores, ids, "refine")
  if quantiles is not None and thresholds is not None:
    raise ValueError("refine got quantiles and thresholds; give one of them.")
  order = np.lexsort((*_tie_breakers(soft, ids, ties, "refine"), scores))
  if thresholds is not None:
    _refuse_unordered("thresholds", thresholds, -np.inf, np.inf)
    cuts = np.searchsorted(scores[order], thresholds, side="left")
  elif quantiles is not None:
    _refuse_unordered("quantiles", quantiles, 0, 1)
    cuts = np.round(np.asarray(quantiles) * len(ids)).astype(int)
  else:
    _refuse_groups(num_groups, len(ids), "refine")
    return [np.sort(group) for group in np.array_split(ids[order], num_groups)]
  groups = np.split(ids[order], cuts)
  for number, group in enumerate(groups):
    if not len(group):
      raise ValueError(
        f"refine: group {number} of {len(groups)} is empty; scores go from {scores.min():.3g} to "
        f"{scores.max():.3g}. Move the cuts, or give fewer."
      )
  return [np.sort(group) for group in groups]


def by_cuts(scores: ArrayLike, ids: ArrayLike, cuts: Sequence[float]) -> list[np.ndarray]:
  """Returns K groups of ids by K − 1 scores that were fixed before; a group may be empty.

  `refine` cuts a forget set by its own scores. Here an example's group depends on its score alone,
  so that a forget set of one example has a group too.

  Args:
    scores: [k], higher = more memorized; NaN refused.
    ids: int [k], the forget set, unique.
    cuts: K − 1 scores, none below the one before; a score equal to one goes above it.

  Raises:
    ValueError: as `refine`, or a cut is below the one before.

  Example:
    >>> [group.tolist() for group in by_cuts([0.9, 0.1], [7, 8], [0.2, 0.5])]
    [[8], [], [7]]
  """
  scores, ids = _checked(scores, ids, "by_cuts")
  if not (np.diff(np.asarray(cuts, float)) >= 0).all():
    raise ValueError(f"by_cuts got cuts={list(cuts)}, none may be below the one before.")
  place = np.searchsorted(cuts, scores, side="right")
  return [np.sort(ids[place == number]) for number in range(len(cuts) + 1)]


def shuffle(ids: ArrayLike, key: jax.Array, *, num_groups: int = 3) -> list[np.ndarray]:
  """Partitions a forget set at random: RUM's ablation. The order given does not matter.

  Args:
    ids: int [k], the forget set, unique.
    key: decides who goes where.
    num_groups: K groups whose sizes differ by at most one, in [1, k].

  Returns:
    K arrays of ids int64, sorted within, disjoint, the larger ones first.

  Raises:
    ValueError: no ids, ids are no integers or repeat, or num_groups is outside [1, k].

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> import jax
    >>> sorted(len(group) for group in shuffle([1, 2, 3, 4], jax.random.key(0)))
    [1, 1, 2]
  """
  ids = np.sort(_checked_ids(ids, "shuffle"))
  _check.key(key, "shuffle")
  scores = np.asarray(jax.random.permutation(key, len(ids)))
  return refine(scores, ids, num_groups=num_groups)


def copies_together(
  dataset: Dataset,
  ids: ArrayLike,
  cut: Callable[[np.ndarray, np.ndarray], list[np.ndarray]],
) -> list[np.ndarray]:
  """Cuts a forget set so that copies of an example, a family of the data set, are in one group.

  Otherwise a copy would be retained while another is unlearned.

  Args:
    dataset: where the ids are.
    ids: int [k], the forget set, unique.
    cut: `(some ids [m], their places among the ids [m]) -> groups`, by `refine` or `shuffle`; it
      gets one id of each family.

  Returns:
    The groups, with the copies that are among the ids; as `cut` returns them without families.

  Raises:
    ValueError: an id is not in the data, or as `cut`.

  Example:
    >>> toy = Dataset(np.eye(4), np.arange(4) % 2, families=[0, 1, 0, 2])
    >>> scores = np.array([0.9, 0.1, 0.9])
    >>> halves = lambda some, places: refine(scores[places], some, num_groups=2)
    >>> [group.tolist() for group in copies_together(toy, [0, 1, 2], halves)]
    [[1], [0, 2]]
  """
  ids = _checked_ids(ids, "copies_together")
  first = dataset.first_of_each(ids)
  groups = cut(first, find(ids, first))
  if dataset.families is None:
    return groups
  return [np.intersect1d(dataset.with_copies(group), ids) for group in groups]


def clusters(
  features: ArrayLike, ids: ArrayLike, key: jax.Array, *, num_groups: int = 3
) -> list[np.ndarray]:
  """Partitions a forget set by k-means on its features; the order given does not matter.

  Args:
    features: φ [k, F]; NaN refused.
    ids: int [k], the forget set, unique.
    key: for the first centres, spread out as k-means++ does.
    num_groups: K, in [1, number of different features].

  Returns:
    K arrays of ids int64, the largest cluster first; equal sizes go by their centres. Fewer where
    a cluster ends up empty, which SciPy warns of; another key may have none.

  Raises:
    ValueError: lengths differ, ids are no integers or repeat, features are not finite, or there are
      too few.

  Example:
    >>> import jax, numpy as np
    >>> features = np.array([[0.0], [9.0], [0.1]])
    >>> [g.tolist() for g in clusters(features, [1, 2, 3], jax.random.key(0), num_groups=2)]
    [[1, 3], [2]]
  """
  features = np.asarray(features, float)
  if features.ndim != 2 or not features.shape[1]:
    raise ValueError(f"clusters needs features [k, F], got {list(features.shape)}.")
  _, ids = _checked(features[:, 0], ids, "clusters")
  _check.finite(features, "clusters: features")
  _check.key(key, "clusters")
  different = len(np.unique(features, axis=0))
  _refuse_groups(num_groups, different, "clusters")
  centres, cluster_of = kmeans(features, ids, key, num_groups)
  members = [ids[cluster_of == cluster] for cluster in range(num_groups)]
  order = sorted(range(num_groups), key=lambda k: (-len(members[k]), centres[k].tolist()))
  return [np.sort(members[cluster]) for cluster in order if len(members[cluster])]


def entanglement(forget: ArrayLike, retain: ArrayLike) -> float:
  """How entangled S and R are in feature space: spread within them over distance between them.

  (mean_R ‖φ − μ_R‖² + mean_S ‖φ − μ_S‖²) / (½ (‖μ_R − μ‖² + ‖μ_S − μ‖²)), μ = (μ_R + μ_S) / 2.

  Args:
    forget: φ [|S|, F] of the original network.
    retain: φ [|R|, F].

  Returns:
    The score, at least 0; higher = more entangled, harder to unlearn. inf where the means agree.

  Raises:
    ValueError: not two axes each, different F, or NaN or inf.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> entanglement([[1.0], [3.0]], [[-1.0], [-3.0]])
    0.5
  """
  forget, retain = _features(forget, retain, "entanglement")
  mean_f, mean_r = forget.mean(0), retain.mean(0)
  mean = (mean_f + mean_r) / 2
  within = ((retain - mean_r) ** 2).sum(1).mean() + ((forget - mean_f) ** 2).sum(1).mean()
  between = (((mean_r - mean) ** 2).sum() + ((mean_f - mean) ** 2).sum()) / 2
  return float(within / between) if between else float("inf")


def entanglement_scores(forget: ArrayLike, retain: ArrayLike) -> np.ndarray:
  """Scores [|S|] to refine S by entanglement with: −‖φ − μ_R‖, near to the retain set is high.

  Args:
    forget: φ [|S|, F] of the original network.
    retain: φ [|R|, F].

  Returns:
    Scores [|S|], float64, at most 0, which is an example at the mean of the retain set.

  Raises:
    ValueError: as `entanglement`.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024.

  Example:
    >>> entanglement_scores([[1.0], [3.0]], [[0.0], [0.0]]).tolist()
    [-1.0, -3.0]
  """
  forget, retain = _features(forget, retain, "entanglement_scores")
  return -np.linalg.norm(forget - retain.mean(0), axis=1)


def select(
  scores: ArrayLike,
  ids: ArrayLike,
  *,
  size: int,
  centre: float | Literal["median", "midrange"] = 0.5,
  soft: ArrayLike | None = None,
  ties: int = TIES,
) -> Selection:
  """Selects RUM's experimental forget sets from a whole training set.

  High is the `size` largest scores, low the `size` smallest of the rest, medium the `size` nearest
  to `centre` among what is left: disjoint by construction.

  Args:
    scores: [n], higher = more memorized; NaN refused.
    ids: int [n], unique.
    size: examples a group; 3 · size at most n.
    centre: a number (ground truth: 0.5), "median" or "midrange" of all scores (proxies, as RUM's
      two scripts do).
    soft: [n], orders examples of equal scores, such as `Estimate.soft`, in steps of 0.01. Finer
      differences are there, but among examples that no network gets wrong they follow the classes:
      the 80 least of `mnist5k` would hold 24 ones and 2 twos.
    ties: key of the permutation of ids by which the rest of the ties are broken; record it.

  Returns:
    A `Selection`. `class_counts` says which classes are in it.

  Raises:
    ValueError: lengths differ, ids are no integers or repeat, scores are not finite, or there are
      too few examples.

  References:
    Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024; with proxies,
    [Scalability of memorization-based unlearning](https://arxiv.org/abs/2410.16516).

  Example:
    >>> [group.tolist() for group in select([0.1, 0.0, 0.4, 1.0], [1, 2, 3, 4], size=1)]
    [[2], [3], [4]]
  """
  scores, ids = _checked(scores, ids, "select")
  if size < 1 or 3 * size > len(ids):
    raise ValueError(
      f"select got size={size}: three groups need {3 * size} of {len(ids)} examples. "
      f"Use a size in [1, {len(ids) // 3}]."
    )
  if centre == "median":
    centre = float(np.median(scores))
  elif centre == "midrange":
    centre = float((scores.min() + scores.max()) / 2)
  elif isinstance(centre, str) or not np.isfinite(centre):
    raise ValueError(f"select got centre={centre!r}: use a number, 'median' or 'midrange'.")
  place, *by_soft = _tie_breakers(soft, ids, ties, "select")
  left = np.arange(len(ids))
  groups = {}
  for name, sign, rank in (
    ("high", -1, -scores),
    ("low", 1, scores),
    ("medium", 0, np.abs(scores - centre)),
  ):
    keys = (place, *(sign * steps for steps in by_soft), rank)
    order = left[np.lexsort([key[left] for key in keys])]
    groups[name], left = np.sort(ids[order[:size]]), order[size:]
  return Selection(**groups)


def class_counts(groups: Sequence[ArrayLike], dataset: Dataset) -> np.ndarray:
  """Returns how many examples of each class, or stratum, are in each group, int64 [K, C].

  A forget set of one class is another problem than one of many: look before you compare.

  Args:
    groups: K arrays of ids, such as a `Selection`.
    dataset: where the ids are.

  Raises:
    ValueError: an id is not in the data, or is twice in a group.

  Example:
    >>> from jaxmul.data import Dataset
    >>> toy = Dataset(np.eye(4, dtype=np.float32), np.array([0, 1, 1, 2]))
    >>> class_counts([np.array([0, 2]), np.array([1])], toy).tolist()
    [[1, 1, 0], [0, 1, 0]]
  """
  kinds = dataset.kinds("class_counts")
  count = dataset.num_classes if dataset.strata is None else int(kinds.max(initial=0)) + 1
  return np.stack([np.bincount(kinds[dataset.rows(ids)], minlength=count) for ids in groups])


def _tie_breakers(
  soft: ArrayLike | None, ids: np.ndarray, ties: int, caller: str
) -> list[np.ndarray]:
  """Returns what orders equal scores, for lexsort: the last array decides first."""
  if soft is None:
    return [scattered(ids, ties)]
  values = np.asarray(soft, float)
  if values.shape != ids.shape:
    raise ValueError(f"{caller} got soft {values.shape} for ids {ids.shape}; join them by id.")
  _check.finite(values, f"{caller}: soft scores")
  return [scattered(ids, ties), np.round(values, SOFT_DECIMALS)]


def _checked(scores: ArrayLike, ids: ArrayLike, caller: str) -> tuple[np.ndarray, np.ndarray]:
  scores, ids = np.asarray(scores, float), _checked_ids(ids, caller)
  if scores.shape != ids.shape:
    raise ValueError(f"{caller} got scores {scores.shape} for ids {ids.shape}; join them by id.")
  if not len(ids):
    raise ValueError(f"{caller} got no ids: the forget set is empty.")
  _check.finite(scores, f"{caller}: scores")
  return scores, ids


def _checked_ids(ids: ArrayLike, caller: str) -> np.ndarray:
  ids = np.asarray(ids)
  check_ids(ids, ids.size, caller)
  return ids.astype(np.int64)


def _refuse_groups(num_groups: int, most: int, caller: str) -> None:
  if not isinstance(num_groups, int | np.integer) or not 1 <= num_groups <= most:
    raise ValueError(f"{caller} got num_groups={num_groups!r}, must be an integer in [1, {most}].")


def _features(forget: ArrayLike, retain: ArrayLike, caller: str) -> tuple[np.ndarray, np.ndarray]:
  forget, retain = np.asarray(forget, float), np.asarray(retain, float)
  for name, value in (("forget", forget), ("retain", retain)):
    if value.ndim != 2 or not len(value) or value.shape[1] != forget.shape[-1]:
      raise ValueError(
        f"{caller} needs features [n, F] of both sets, got {name} {list(value.shape)}."
      )
    _check.finite(value, f"{caller}: {name} features")
  return forget, retain


def _refuse_unordered(name: str, cuts: Sequence[float], low: float, high: float) -> None:
  values = np.asarray(cuts, float)
  inside = ((values > low) & (values < high)).all()
  if values.ndim != 1 or not inside or (np.diff(values) <= 0).any():
    raise ValueError(f"refine got {name}={list(cuts)}, must increase within ({low}, {high}).")
