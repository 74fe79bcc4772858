"""What models said of each example, put in an order and spent: an estimate, simulated from another.

An `Estimate` of random subsets tells how often the models with an example were right on it, and how
often those without. In a random order these are outcomes of models to come: whoever asks for three
more models without an example gets its next three outcomes without it. One half may be spent, and
the other half is a truth that no strategy has seen.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxmul import memorization


class Counts(NamedTuple):
  """How many models with and without each example were asked for, int [n] each."""

  inside: np.ndarray
  outside: np.ndarray

  def plus(self, other: "Counts") -> "Counts":
    """Returns the sums."""
    return Counts(self.inside + other.inside, self.outside + other.outside)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Outcomes:
  """Outcomes of n examples, in the order in which they are spent.

  Attributes:
    right_in, right_out: int [n, c + 1], how many of the first 0 … c outcomes were right.
    limit: how many may be spent.
    truth: float [n], memorization by the others, NaN where there are none.
  """

  right_in: np.ndarray
  right_out: np.ndarray
  limit: Counts
  truth: np.ndarray

  def seen(self, asked_for: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Returns memorization and interval width, float64 [n]; NaN and 2 where nothing was asked.

    An example whose outcomes are all spent gets no more.
    """
    inside, outside = map(np.minimum, asked_for, self.limit)
    rows = np.arange(len(inside))
    right_in, right_out = self.right_in[rows, inside], self.right_out[rows, outside]
    low, high = memorization.newcombe(right_in, inside, right_out, outside)
    with np.errstate(invalid="ignore", divide="ignore"):
      score = right_in / inside - right_out / outside
    return score, np.where(np.isnan(high), 2.0, high - low)


def outcomes_of(estimate: memorization.Estimate, rng: np.random.Generator) -> Outcomes:
  """Returns the outcomes of the models of an estimate, of each example in a random order."""
  right_in = _running(estimate.correct_in, estimate.count_in, rng)
  right_out = _running(estimate.correct_out, estimate.count_out, rng)
  limit, rows = Counts(estimate.count_in // 2, estimate.count_out // 2), np.arange(len(right_in))
  with np.errstate(invalid="ignore", divide="ignore"):
    others_in = estimate.correct_in - right_in[rows, limit.inside]
    others_out = estimate.correct_out - right_out[rows, limit.outside]
    truth = others_in / (estimate.count_in - limit.inside)
    truth -= others_out / (estimate.count_out - limit.outside)
  return Outcomes(right_in=right_in, right_out=right_out, limit=limit, truth=truth)


def _running(correct: np.ndarray, count: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns the right ones among the first 0 … c of `count` outcomes, of which `correct` are."""
  places = np.arange(count.max())
  numbers = np.where(places < count[:, None], rng.random((len(count), len(places))), 2)
  order = np.argsort(numbers, axis=1)  # places beyond the count stay last
  right = np.take_along_axis(places < correct[:, None], order, axis=1)
  return np.pad(np.cumsum(right, axis=1), ((0, 0), (1, 0)))


def asked(rng: np.random.Generator, n: int, models: int, rows: np.ndarray, left: int) -> Counts:
  """Returns the counts of models that each leave out `left` of these rows; of others, none."""
  outside = np.zeros(n, int)
  for _ in range(models):
    outside[rng.permutation(rows)[:left]] += 1
  inside = np.where(np.isin(np.arange(n), rows), models - outside, 0)
  return Counts(inside, outside)
