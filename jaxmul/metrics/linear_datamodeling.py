"""Linear datamodeling score: do sums of attribution scores foretell what retraining does?

A model that was trained on a random subset S has an output f on a test example. An attribution says
of it Σ_{i ∈ S} τ_i, the sum of the scores of what it was trained on. Over many such models, the
score is Spearman's ρ between the two, and its mean over test examples. Only the order counts: an
attribution may have any unit.

References:
  Park et al., [TRAK: Attributing Model Behavior at Scale](https://arxiv.org/abs/2303.14186), 2023;
  Ilyas et al., [Datamodels: Predicting Predictions from Training
  Data](https://arxiv.org/abs/2202.00622), 2022.
"""

import dataclasses

import numpy as np

from jaxmul import _article, _check
from jaxmul._attribution import Attribution, SubsetModels
from jaxmul._ids import rows_of
from jaxmul._ranks import spearman

_LEAST_MODELS = 10


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DatamodelingScore:
  """How well an attribution foretells the outputs of held-out models.

  Attributes:
    value: mean ρ over test examples, in [−1, 1].
    low, high: its 95 % bootstrap interval over test examples and over models.
    test_ids: int64 [t].
    by_example: float64 [t], ρ of each test example.
    num_models: held-out models.
  """

  value: float
  low: float
  high: float
  test_ids: np.ndarray
  by_example: np.ndarray
  num_models: int


def lds(
  attribution: Attribution, heldout: SubsetModels, *, resamples: int = 1000, seed: int = 0
) -> DatamodelingScore:
  """Scores an attribution by leave-subset-out models that it has not seen.

  ρ is limited by chance: two trainings on the same subset differ, so that no attribution reaches 1.

  Args:
    attribution: of the same training and test examples, in any order. An example that is in all of
      the held-out subsets, or in none, needs no score.
    heldout: at least 10 models, such as `memorization.subset_models(schedule).take(slice(400,
      500))`.
    resamples: of the percentile bootstrap, which draws test examples and models anew, both with
      replacement. Its mean is moved to the score: models that are drawn twice lower ρ.
    seed: of the resampling.

  Returns:
    A `DatamodelingScore`.

  Raises:
    ValueError: there are fewer than 10 models, one of them made the attribution, a score is missing
      or NaN, or all scores, or all outputs, of a test example are equal.

  References:
    Park et al., [TRAK: Attributing Model Behavior at Scale](https://arxiv.org/abs/2303.14186),
    2023.

  Example:
    >>> from jaxmul.memorization import Attribution, SubsetModels
    >>> member = np.random.default_rng(0).random((20, 5)) < 0.5
    >>> scores = np.array([[0.1, 0.2, 0.4, 0.8, 1.6]])
    >>> heldout = SubsetModels(ids=np.arange(5), test_ids=np.array([9]), numbers=np.arange(20),
    ...   member=member, outputs=member @ scores.T)
    >>> lds(Attribution(ids=np.arange(5), test_ids=[9], value=scores), heldout).value
    1.0
  """
  if not isinstance(attribution, Attribution) or not isinstance(heldout, SubsetModels):
    raise ValueError(
      f"lds got {_article.of(attribution)} and {_article.of(heldout)}, must be an Attribution and "
      "SubsetModels. Of an array: memorization.Attribution(ids=, test_ids=, value=)."
    )
  _check.count(resamples, "resamples", "lds")
  if len(heldout) < _LEAST_MODELS:
    raise ValueError(
      f"lds got {len(heldout)} held-out models, must be at least {_LEAST_MODELS}. Schedule more."
    )
  predicted, outputs = _sums(attribution, heldout), heldout.outputs.T.astype(float)
  _refuse_constant(outputs, heldout.test_ids, "outputs", "Keep target='log_odds'")
  by_example = spearman(predicted, outputs)
  rng = np.random.default_rng(seed)
  tests, count = outputs.shape
  orders = _order(predicted), _order(outputs)
  resampled = []
  with np.errstate(invalid="ignore"):  # of one value alone a draw of models has no ρ
    for _ in range(resamples):
      rows, models = rng.integers(tests, size=tests), rng.integers(count, size=count)
      rho = _rho_of_drawn(*orders, np.bincount(models, minlength=count))[rows]
      known = np.isfinite(rho)
      if known.any():
        resampled.append(rho[known].mean())
  value = by_example.mean()
  # A draw holds some models twice; its ρ is nearer to 0 than that of as many different ones.
  shifted = np.percentile(resampled, [2.5, 97.5]) + value - np.mean(resampled)
  low, high = np.clip(shifted, -1, 1)
  return DatamodelingScore(
    value=float(value),
    low=float(low),
    high=float(high),
    test_ids=heldout.test_ids,
    by_example=by_example,
    num_models=count,
  )


def _order(values: np.ndarray) -> np.ndarray:
  """Returns the place int [t, M] of each model among all, from 0; equal values have one place."""
  from scipy.stats import rankdata

  return rankdata(values, method="dense", axis=1).astype(int) - 1


def _rho_of_drawn(a: np.ndarray, b: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Returns Spearman's ρ [t] of a draw that holds model m `times[m]` times, without sorting it."""
  a, b = _ranks_of_drawn(a, times), _ranks_of_drawn(b, times)
  return (a * b) @ times / np.sqrt((a * a) @ times * ((b * b) @ times))


def _ranks_of_drawn(places: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Returns the rank of each model's value in a draw, less their mean; equal ones share theirs."""
  tests, count = places.shape
  flat = (places + count * np.arange(tests)[:, None]).ravel()
  held = np.bincount(flat, np.tile(times, tests), tests * count).reshape(tests, count)
  middle = held.cumsum(1) - held / 2
  return np.take_along_axis(middle, places, axis=1) - count / 2


def _sums(attribution: Attribution, heldout: SubsetModels) -> np.ndarray:
  """Returns Σ_{i ∈ S} τ_i [t, M] of each test example and model, in the order of the models'."""
  varies = heldout.member.any(0) & ~heldout.member.all(0)
  ids, cure = heldout.ids[varies], "Make it of the schedule's data and test examples."
  columns = rows_of(attribution.ids, ids, "lds", "has no score in the attribution", cure)
  lack = "is no test example of the attribution"
  rows = rows_of(attribution.test_ids, heldout.test_ids, "lds", lack, cure)
  member = heldout.member[:, varies]
  seen = {row.tobytes() for row in np.packbits(attribution.member[:, columns], axis=1)}
  own = [row.tobytes() in seen for row in np.packbits(member, axis=1)]
  if any(own):
    raise ValueError(
      f"lds: {sum(own)} of {len(own)} held-out models made the attribution, such as number "
      f"{heldout.numbers[own.index(True)]}. Make it of others: models.take(rows).influence()."
    )
  value = attribution.value[np.ix_(rows, columns)]
  bad = np.argwhere(~np.isfinite(value))
  if len(bad):
    row, column = bad[0]
    raise ValueError(
      f"lds: the score of id {ids[column]} for test id {heldout.test_ids[row]} is "
      f"{value[row, column]} ({len(bad)} such). Give every example a score, by more models."
    )
  _refuse_constant(value, heldout.test_ids, "scores", "A constant orders nothing: leave it out")
  return value @ member.T


def _refuse_constant(values: np.ndarray, test_ids: np.ndarray, what: str, cure: str) -> None:
  constant = np.flatnonzero((values == values[:, :1]).all(1))
  if len(constant):
    raise ValueError(
      f"lds: all {what} of test id {test_ids[constant[0]]} are {values[constant[0], 0]:g} "
      f"({len(constant)} such test examples). {cure}."
    )
