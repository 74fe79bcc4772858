"""Memorization scores with intervals, from tallies of models trained without random subsets.

mem(i) = P[h(x_i) = y_i | i in the training subset] − P[h(x_i) = y_i | i left out], estimated by the
difference of two proportions over M models. Where a network has a loss ℓ of its own nothing is
right or wrong: there mem(i) is E[e^−ℓ(i) | in] − E[e^−ℓ(i) | out] alone, the column `soft`.

References:
  Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from jaxmul._files import npz, read_npz, read_sealed, write_sealed
from jaxmul._identity import hashed
from jaxmul._ids import check_ids, rows_of
from jaxmul._paths import local
from jaxmul._proportions import newcombe
from jaxmul.memorization.matrix import Influence
from jaxmul.memorization.welch_intervals import Sums, welch
from jaxmul.retraining.chunk import Chunk, add, has_classes
from jaxmul.retraining.leave_out_schedule import Schedule

_COUNTS = ("correct_in", "count_in", "correct_out", "count_out")
_MEANS = ("soft_low", "soft_high", "token_accuracy", "token_low", "token_high")
_SCORES = ("memorization", "low", "high", *_COUNTS, "soft", "log_odds", "confidence_out", *_MEANS)
_LATER = {"confidence_out", *_MEANS}  # which files of older versions lack
_MIN_SCORE, _MIN_EXAMPLES = 0.1, 50


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Estimate:
  """Memorization of n training examples.

  With a loss of the network's own, `soft` and `confidence_out` are of p = e^−ℓ, and memorization,
  low, high, log_odds, correct_in and correct_out are NaN. Then ℓ should be at least 0, as an error
  or a cross-entropy is, for p to be in [0, 1], and in a unit in which its differences are about 1.

  Attributes:
    ids: int64 [n], sorted.
    memorization: float64 [n] in [−1, 1]; NaN where the example was never in, or never out.
    low, high: float64 [n], Newcombe's 95 % interval; NaN as above.
    correct_in, count_in: int64 [n], correct predictions and models with the example in the subset.
    correct_out, count_out: int64 [n], the same for models without it.
    soft: float64 [n] in [−1, 1], the difference of mean p = e^−ℓ, of an image p_y: less variance,
      the same meaning.
    log_odds: float64 [n], the difference of mean φ = log p − log(1 − p).
    confidence_out: float64 [n] in [0, 1], the mean p under models without the example: what to
      expect of a retrained one. NaN where it was never out, or the file is of an older version.
    soft_low, soft_high: float64 [n], Welch's 95 % interval of `soft`; of no width where all models
      say the same. NaN where `soft` is, where one model saw the example or one did not, and in
      files of older versions.
    token_accuracy: float64 [n] in [−1, 1], the difference of the mean share of scored positions
      that are predicted right; NaN as `memorization`, where an example has one label, and in files
      of older versions.
    token_low, token_high: float64 [n], Welch's 95 % interval of `token_accuracy`; NaN as above.
    influence: of every training example on every test example, or None without test examples.
    design: one line on how the scores were made.

  References:
    Zhang et al., [Counterfactual Memorization](https://arxiv.org/abs/2112.12938), 2021, whose score
    of a text is `token_accuracy`, over 400 models of a quarter of the data each.
  """

  ids: np.ndarray
  memorization: np.ndarray
  low: np.ndarray
  high: np.ndarray
  correct_in: np.ndarray
  count_in: np.ndarray
  correct_out: np.ndarray
  count_out: np.ndarray
  soft: np.ndarray
  log_odds: np.ndarray
  confidence_out: np.ndarray
  soft_low: np.ndarray
  soft_high: np.ndarray
  token_accuracy: np.ndarray
  token_low: np.ndarray
  token_high: np.ndarray
  influence: Influence | None = None
  design: str = ""

  @property
  def digest(self) -> str:
    """SHA-256 of all arrays but intervals of means and `token_accuracy`, which came later.

    Equal where every bit of the others is, and for the same models what it has always been.
    """
    parts: list[str | bytes] = []
    for name, array in self._arrays().items():
      if name not in _MEANS:
        parts += [f"{name}{array.dtype.str}{array.shape}", array.tobytes()]
    return hashed(*parts)

  @property
  def median_width(self) -> float:
    """Median width of the interval over examples with |memorization| ≥ 0.1; NaN below 50 such."""
    some = np.abs(self.memorization) >= _MIN_SCORE
    if some.sum() < _MIN_EXAMPLES:
      return float("nan")
    return float(np.median(self.high[some] - self.low[some]))

  def take(self, ids: ArrayLike) -> "Estimate":
    """Returns the scores of some examples, without influence.

    Args:
      ids: int [k], unique; the result is sorted by id.

    Raises:
      ValueError: an id is not scored, or is given twice.
    """
    cure = "Estimate it with this data and key."
    rows = np.sort(rows_of(self.ids, ids, "Estimate.take", "has no score", cure))
    return dataclasses.replace(
      self, **{name: getattr(self, name)[rows] for name in ("ids", *_SCORES)}, influence=None
    )

  def _arrays(self) -> dict[str, np.ndarray]:
    arrays = {name: getattr(self, name) for name in ("ids", *_SCORES)}
    if self.influence is not None:
      arrays |= {f"influence_{name}": array for name, array in vars(self.influence).items()}
    return arrays

  def save(self, path: Path | str) -> None:
    """Writes a small `.npz` with one array for each attribute, whole or not at all.

    Its zip comment is a SHA-256 of all that is before it; `numpy.load` reads it as any other.
    """
    write_sealed(local(path), npz(self._arrays() | {"design": np.array(self.design)}), "zip")

  @classmethod
  def load(
    cls, path: Path | str, names: Mapping[str, str] | None = None, ids: ArrayLike | None = None
  ) -> "Estimate":
    """Reads what `save` wrote, or scores that others published.

    Args:
      path: an `.npz` file; nothing in it can execute.
      names: for a foreign file, {attribute: its key}, such as `{"memorization": "tr_mem"}`; needs
        "memorization". What is not named is NaN, and 0 for counts.
      ids: int [n] that the rows of a foreign file belong to, where it holds none.

    Returns:
      An `Estimate`, sorted by id.

    Raises:
      ValueError: the file is damaged, holds something else, or lacks a key.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "published.npz"
      >>> np.savez(path, tr_idx=np.array([7, 3]), tr_mem=np.array([0.5, 0.1]))
      >>> read = Estimate.load(path, {"memorization": "tr_mem", "ids": "tr_idx"})
      >>> read.ids.tolist(), read.memorization.tolist()
      ([3, 7], [0.1, 0.5])
    """
    path = local(path)
    arrays = _read(path, None if names is None else tuple(names.values()))
    if names is None:
      missing = [name for name in ("ids", *_SCORES) if name not in arrays and name not in _LATER]
      if missing:
        raise ValueError(
          f"{path} is not a saved Estimate: it has no {missing[0]}, but {', '.join(arrays)}. "
          'For a published file pass names={"memorization": its key}.'
        )
      bits = {k.removeprefix("influence_"): v for k, v in arrays.items() if k[:10] == "influence_"}
      influence = Influence(**bits) if bits else None
      unknown = np.full(len(arrays["ids"]), np.nan)
      scores = {name: arrays.get(name, unknown) for name in ("ids", *_SCORES)}
      return cls(**scores, influence=influence, design=str(arrays.get("design", "")))
    scores = _foreign(path, arrays, names, ids)
    return cls(**scores, influence=None, design=f"read from {path.name}")


def _read(path: Path, names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
  """Returns the named arrays of an `.npz`; without names all, and its own SHA-256 must fit."""
  try:
    content = read_sealed(path, "zip") if names is None else None
  except ValueError as error:
    raise ValueError(
      f"{path} is damaged or not a saved Estimate (SHA-256). Estimate it again; "
      'for a published file pass names={"memorization": its key}.'
    ) from error
  return read_npz(path, names, content)


def _foreign(
  path: Path, arrays: dict[str, np.ndarray], names: Mapping[str, str], ids: ArrayLike | None
) -> dict[str, np.ndarray]:
  """Returns the attributes of an `Estimate` from arrays of another program, sorted by id."""
  known = ("ids", *_SCORES)
  for attribute in names:
    if attribute not in known:
      raise ValueError(f"Estimate has no {attribute!r} to fill; it has {', '.join(known)}.")
  if "memorization" not in names or ("ids" in names) == (ids is not None):
    raise ValueError(
      f"reading {path} needs names={{'memorization': key, …}} and the ids once: as a key of the "
      "file or as ids=."
    )
  columns = {attribute: arrays[key].reshape(-1) for attribute, key in names.items()}
  given = columns.pop("ids") if ids is None else np.asarray(ids).reshape(-1)
  sizes = {name: len(column) for name, column in columns.items()} | {"ids": len(given)}
  if len(set(sizes.values())) != 1:
    raise ValueError(f"{path}: ids must be as many as the scores, got sizes {sizes}.")
  check_ids(given, len(given), "Estimate.load")
  if not np.nanmax(np.abs(columns["memorization"].astype(float))) <= 1:
    raise ValueError(f"{path}: {names['memorization']!r} is not within [−1, 1]; not memorization.")
  order = np.argsort(given)
  filled: dict[str, np.ndarray] = {"ids": given[order].astype(np.int64)}
  for name in _SCORES:
    is_count = name in _COUNTS
    column = columns.get(name, np.full(len(given), 0 if is_count else np.nan))
    filled[name] = column[order].astype(np.int64 if is_count else np.float64)
  return filled


def merge(schedule: Schedule, chunks: Iterable[Chunk]) -> Estimate:
  """Adds the tallies of chunks, in the given order, into scores.

  A candidate that was never in a subset, or never out of one, gets NaN and is counted in a warning.

  Args:
    schedule: what the chunks belong to, some or all of it.
    chunks: at least one; each is read once and dropped, but for a bit per model and example where
      the schedule has test examples.

  Returns:
    An `Estimate`.

  Raises:
    ValueError: there is no chunk, or a model twice.
  """
  return merged(schedule, chunks, lambda total: False)


def merged(
  schedule: Schedule, chunks: Iterable[Chunk], is_enough: Callable[[Chunk], bool]
) -> Estimate:
  """Returns what `merge` does, of the chunks up to that after which the tallies are enough."""
  total, member, correct = None, [], []
  for chunk in chunks:
    total = chunk if total is None else add(total, chunk)
    if schedule.target == "correct":
      member.append(chunk.member)
      correct.append(chunk.test)
    if is_enough(total):
      break
  if total is None:
    raise ValueError("merge got no chunks. Pass at least one.")
  models = len(total.models) + len(total.diverged)
  different = len(np.union1d(total.models, total.diverged))
  if different != models:
    raise ValueError(f"merge got {models - different} models twice. Pass each chunk once.")
  warn_of(schedule, total, stacklevel=4)
  influence = None
  if schedule.test and schedule.target == "correct":
    influence = Influence(
      ids=schedule.dataset.ids,
      test_ids=schedule.test.ids,
      member=np.concatenate(member),
      correct=np.concatenate(correct),
    )
  design = dataclasses.replace(schedule, num_models=models).design
  return dataclasses.replace(from_tallies(schedule, total), influence=influence, design=design)


def warn_of(schedule: Schedule, total: Chunk, stacklevel: int = 3) -> None:
  """Warns of models that diverged and of candidates without a score."""
  models = len(total.models) + len(total.diverged)
  if len(total.diverged):
    warnings.warn(
      f"{len(total.diverged)} of {models} models diverged and do not count.", stacklevel=stacklevel
    )
  if schedule.folds:
    return  # each was left out; with two folds of an odd number one was never in, which is no loss
  rows = schedule.dataset.rows(schedule.candidates)
  undefined = int(np.sum((total.count_in[rows] == 0) | (total.count_out[rows] == 0)))
  if undefined:
    cure = "Train more models."
    pairs = zip(schedule.families, schedule.kept, strict=True)
    fixed = sum(family.size for family, kept in pairs if kept in (0, len(family)))
    if fixed:
      cure = (
        f"More models do not help {fixed} of them: too few families have as many copies as theirs "
        "for some to be left out. Keep fewer copies: dataset.first_of_each(ids)."
      )
    warnings.warn(
      f"{undefined} of {len(rows)} examples were never in or never out of a subset; "
      f"their scores are NaN. {cure}",
      stacklevel=stacklevel,
    )


def from_tallies(schedule: Schedule, total: Chunk) -> Estimate:
  """Returns the scores of added tallies, with no word on what is undefined."""

  def difference(name: str) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
      inside = getattr(total, f"{name}_in") / total.count_in
      return inside - getattr(total, f"{name}_out") / total.count_out

  def interval(name: str) -> tuple[np.ndarray, np.ndarray]:
    names = [(f"count_{side}", f"{name}_{side}", f"{name}_sq_{side}") for side in ("in", "out")]
    inside, outside = (Sums(*(getattr(total, each) for each in part)) for part in names)
    return welch(inside, outside)

  tallies = {name: getattr(total, name) for name in _COUNTS}
  with np.errstate(invalid="ignore", divide="ignore"):
    confidence_out = total.p_out / total.count_out
  low, high = newcombe(*(tallies[name] for name in _COUNTS))
  soft_low, soft_high = interval("p")
  token_low, token_high = interval("accuracy")
  return Estimate(
    ids=schedule.dataset.ids,
    memorization=difference("correct"),
    low=low,
    high=high,
    soft=difference("p"),
    log_odds=difference("odds"),
    confidence_out=confidence_out,
    soft_low=soft_low,
    soft_high=soft_high,
    token_accuracy=difference("accuracy"),
    token_low=token_low,
    token_high=token_high,
    **tallies,
  )


def refuse_without_intervals(schedule: Schedule, caller: str) -> None:
  """Raises ValueError where networks cannot be right or wrong, and scores have no intervals."""
  if not has_classes(schedule):
    raise ValueError(
      f"{caller} goes by intervals, which networks with a loss of their own do not have. Use "
      "memorization.estimate(schedule), and its `soft`."
    )
