"""Which examples to leave out next, by experts of which some sleep: Adapt-ML-Prod.

Each example is an expert. It sleeps once its score is measured narrowly enough. The loss ℓᵢ of an
expert that is awake is one minus the width that its interval has still to lose: after each round
the loss of every expert is known, whether its example was chosen or not. With p ∝ η·exp(R) over the
experts that are awake, ℓ̂ = Σ pᵢℓᵢ and rᵢ = ℓ̂ − ℓᵢ, or 0 asleep,

  L ← L + r²,  η' = min(1 / (2 max|r|), √(ln N / L)),  R ← (η'/η)(R + log(1 + ηr)),

where L starts at 1, R at 0, and the maximum is over the rounds so far of the one expert. Where
max|r| grows, η is cut at its 1 / (2 max|r|) before, and R with it, so that the logarithm exists.

That one may choose examples by sleeping experts is of Baykal et al.; the update is the one that
they build on, of Gaillard et al., without Baykal et al.'s prediction of the next loss. Ours are the
loss, who sleeps, and that several examples are drawn at once, without repetition.

References:
  Baykal et al., [Low-Regret Active Learning](https://arxiv.org/abs/2104.02822), 2021;
  Gaillard et al., [A Second-order Bound with Excess Losses](https://arxiv.org/abs/1402.2044), 2014.
"""

from typing import NamedTuple

import jax
import numpy as np

_WIDEST = 2.0  # of an interval in [−1, 1]


class Experts(NamedTuple):
  """What N experts know, each float64 [N].

  Attributes:
    regret: R, the logarithm of an expert's weight before its rate.
    rate: η > 0.
    squares: L, 1 and the sum of r² so far.
    largest: the largest |r| so far, 0 at the start.
  """

  regret: np.ndarray
  rate: np.ndarray
  squares: np.ndarray
  largest: np.ndarray


def start(count: int) -> Experts:
  """Returns N experts, at least two, that know nothing."""
  zeros, ones = np.zeros(count), np.ones(count)
  return Experts(regret=zeros, rate=ones * np.sqrt(np.log(count)), squares=ones, largest=zeros)


def weights(experts: Experts, awake: np.ndarray) -> np.ndarray:
  """Returns the share p float64 [N] of each expert; 0 of those asleep, also where all are."""
  if not awake.any():
    return np.zeros(len(awake))
  highest = experts.regret[awake].max()
  unscaled = np.where(awake, experts.rate * np.exp(experts.regret - highest), 0)
  return unscaled / unscaled.sum()


def update(experts: Experts, losses: np.ndarray, awake: np.ndarray) -> Experts:
  """Returns the experts after a round.

  Args:
    experts: before the round.
    losses: float [N] in [0, 1]; those of experts asleep count for nothing.
    awake: bool [N].
  """
  mixed = weights(experts, awake) @ losses
  excess = np.where(awake, mixed - losses, 0)
  squares = experts.squares + excess**2
  largest = np.maximum(experts.largest, np.abs(excess))
  with np.errstate(divide="ignore"):  # an expert that never differed has no limit
    limit = 1 / (2 * largest)
  cut = np.minimum(experts.rate, limit)
  rate = np.minimum(limit, np.sqrt(np.log(len(losses)) / squares))
  regret = rate / experts.rate * experts.regret + rate / cut * np.log1p(cut * excess)
  return Experts(regret=regret, rate=rate, squares=squares, largest=largest)


def draw(shares: np.ndarray, count: int, key: jax.Array) -> np.ndarray:
  """Returns rows int [k] in the order in which they are drawn one by one, none twice.

  Args:
    shares: float [N], at least 0; each next row is drawn in proportion to what is left of them.
    count: how many to draw; k is less where fewer have a share.
    key: the same key gives the same rows on any machine.
  """
  uniform = (np.asarray(jax.random.bits(key, (len(shares),), "uint32")) + 0.5) / 2**32
  with np.errstate(divide="ignore"):
    arrival = -np.log(uniform) / shares  # the first of exponential clocks, again and again
  return np.argsort(arrival, kind="stable")[: min(count, np.count_nonzero(shares))]


def choose(
  experts: Experts, width: np.ndarray, narrow: float, count: int, key: jax.Array
) -> tuple[Experts, np.ndarray]:
  """Returns the experts after they saw the widths, and the rows int [count] to leave out next.

  Where fewer are awake than asked for, the widest of those asleep are taken too.

  Args:
    experts: before.
    width: float [N] in [0, 2], of each example's interval now.
    narrow: in [0, 2); an expert whose interval is no wider sleeps.
    count: at most N.
    key: of the draw.
  """
  awake = width > narrow
  losses = 1 - np.clip(width - narrow, 0, None) / _WIDEST
  experts = update(experts, losses, awake)
  drawn_key, rest_key = jax.random.split(key)
  drawn = draw(weights(experts, awake), count, drawn_key)
  order = draw(np.ones(len(width)), len(width), rest_key)
  order = order[np.argsort(-width[order], kind="stable")]
  asleep = order[~awake[order]]
  return experts, np.concatenate([drawn, asleep[: count - len(drawn)]])
