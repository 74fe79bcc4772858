"""How much each training example helps each test example, from the same models.

infl(i→j) = P[h(x'_j) = y'_j | i in the training subset] − P[h(x'_j) = y'_j | i left out].

What is kept is a bit for each model and example. Blocks of the matrix are computed on demand, so
that 50,000 × 10,000 differences never have to exist at once.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxmul import _check
from jaxmul._ids import rows_of
from jaxmul._proportions import newcombe
from jaxmul._ties import scattered

_BLOCK = 256


class Block(NamedTuple):
  """A part of the influence matrix: value, and Newcombe's 95 % interval, float64 [t', n'] each."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


class Pairs(NamedTuple):
  """The strongest pairs, strongest first: ids, test ids, value, low, high, [k] each."""

  ids: np.ndarray
  test_ids: np.ndarray
  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Influence:
  """Which of M models saw which training example, and got which test example right.

  References:
    Feldman & Zhang, [What Neural Networks Memorize](https://arxiv.org/abs/2008.03703), 2020.

  Attributes:
    ids: int64 [n], training examples.
    test_ids: int64 [t].
    member: uint8 [M, ⌈n/8⌉], a bit for each training example in the model's subset.
    correct: uint8 [M, ⌈t/8⌉], a bit for each test example predicted right.
  """

  ids: np.ndarray
  test_ids: np.ndarray
  member: np.ndarray
  correct: np.ndarray

  def block(self, test_ids: ArrayLike | None = None, ids: ArrayLike | None = None) -> Block:
    """Returns the influence of some training examples on some test examples.

    Args:
      test_ids: int [t'], all by default.
      ids: int [n'], training examples, all by default.

    Returns:
      A `Block` of [t', n'] arrays; NaN where an example was never in or never out.

    Raises:
      ValueError: an id is not there, or given twice.

    Example:
      >>> bits = np.packbits(np.array([[1, 0], [0, 1]]), axis=1)  # two models, two examples
      >>> ids = {"ids": np.array([5, 6]), "test_ids": np.array([8, 9])}
      >>> Influence(**ids, member=bits, correct=bits).block().value.tolist()
      [[1.0, -1.0], [-1.0, 1.0]]
    """
    tests = _positions(self.test_ids, test_ids, "test")
    trains = _positions(self.ids, ids, "training")
    correct = np.unpackbits(self.correct, axis=1, count=len(self.test_ids))[:, tests]
    member = np.unpackbits(self.member, axis=1, count=len(self.ids))[:, trains]
    counts = _counts(correct, member)
    return Block(_difference(*counts), *newcombe(*counts))

  def strongest(self, count: int) -> Pairs:
    """Returns the pairs with the largest influence, from blocks: memory grows with n, not n × t.

    Args:
      count: pairs to return, at least 1. Many values are equal: ties go by a random permutation of
        the pairs under a fixed key, never by position.
    """
    _check.count(count, "count", "Influence.strongest")
    none = np.zeros(0)
    best = Pairs(ids=none.astype(int), test_ids=none.astype(int), value=none, low=none, high=none)
    member = np.unpackbits(self.member, axis=1, count=len(self.ids))
    all_correct = np.unpackbits(self.correct, axis=1, count=len(self.test_ids))
    for start in range(0, len(self.test_ids), _BLOCK):
      counts = _counts(all_correct[:, start : start + _BLOCK], member)
      values = np.nan_to_num(_difference(*counts), nan=-np.inf).ravel()
      size = min(count, len(values))
      least = np.partition(values, -size)[-size]
      # With all that ties with the last of them.
      places = np.flatnonzero((values >= least) & np.isfinite(values))
      row, column = np.divmod(places, len(self.ids))
      low, high = newcombe(*(part[row, column] for part in counts))
      new = (self.ids[column], self.test_ids[start + row], values[places], low, high)
      joined = Pairs._make(np.concatenate(pair) for pair in zip(best, new, strict=True))
      random = scattered((scattered(joined.ids) + 2 * scattered(joined.test_ids)).view(np.int64))
      order = np.lexsort((random, -joined.value))[:count]
      best = Pairs._make(part[order] for part in joined)
    return best


def _counts(correct: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, ...]:
  """Returns k_in, n_in, k_out and n_out [t', n'] of bits correct [M, t'] and member [M, n']."""
  right = correct.astype(np.float32)
  inside = member.astype(np.float32)
  # Counts are exact in float32 up to 2²⁴ models.
  correct_in = np.rint(right.T @ inside)
  correct_out = right.sum(0)[:, None] - correct_in
  count_in = np.broadcast_to(inside.sum(0), correct_in.shape)
  return correct_in, count_in, correct_out, len(member) - count_in


def _difference(correct_in, count_in, correct_out, count_out) -> np.ndarray:
  with np.errstate(invalid="ignore", divide="ignore"):
    return correct_in / count_in.astype(float) - correct_out / count_out.astype(float)


def _positions(all_ids: np.ndarray, wanted: ArrayLike | None, kind: str) -> np.ndarray:
  if wanted is None:
    return np.arange(len(all_ids))
  lack = f"is not among the {len(all_ids)} {kind} examples of this influence"
  return rows_of(all_ids, wanted, "Influence.block", lack, "Give some of its ids.")
