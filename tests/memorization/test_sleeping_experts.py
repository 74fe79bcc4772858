"""Sleeping experts: the update against the paper's products, one expert at a time, and limits."""

import math

import jax
import numpy as np
import pytest
import toys

from jaxmul import memorization, retraining
from jaxmul.memorization import adaptive, sleeping_experts
from jaxmul.memorization.sleeping_experts import choose, draw, start, update, weights


def rounds(seed, experts=7, count=12):
  """Losses in [0, 1] and who is awake; their scale grows, so that rates are cut on the way."""
  rng = np.random.default_rng(seed)
  for number in range(count):
    awake = rng.random(experts) < 0.7
    awake[rng.integers(experts)] = True
    yield rng.random(experts) * min(1, 0.02 * 2**number), awake


class Slow:
  """Adapt-ML-Prod as Gaillard et al. write it: products of weights, expert by expert.

  With 1 / (2 max |r|) in the place of their 1/2, to which a rate is lowered before it is used, the
  weight with it.
  """

  def __init__(self, count):
    self.count = count
    self.weight, self.rate = [1.0] * count, [math.sqrt(math.log(count))] * count
    self.seen = [[] for _ in range(count)]

  def shares(self, awake):
    total = sum(w * e for w, e, a in zip(self.weight, self.rate, awake, strict=True) if a)
    return [
      w * e / total if a else 0.0 for w, e, a in zip(self.weight, self.rate, awake, strict=True)
    ]

  def update(self, losses, awake):
    mixed = sum(p * loss for p, loss in zip(self.shares(awake), losses, strict=True))
    for i in range(self.count):
      if not awake[i]:
        continue
      excess = mixed - losses[i]
      self.seen[i].append(excess)
      limit = 1 / (2 * max(abs(r) for r in self.seen[i]))
      if self.rate[i] > limit:
        self.weight[i] **= limit / self.rate[i]
        self.rate[i] = limit
      squares = 1 + sum(r * r for r in self.seen[i])
      rate = min(limit, math.sqrt(math.log(self.count) / squares))
      self.weight[i] = (self.weight[i] * (1 + self.rate[i] * excess)) ** (rate / self.rate[i])
      self.rate[i] = rate


@pytest.mark.parametrize("seed", range(5))
def test_update_is_the_papers_product_expert_by_expert(seed):
  experts, slow, cut = start(7), Slow(7), 0
  for losses, awake in rounds(seed):
    before = experts.rate
    experts = update(experts, losses, awake)
    slow.update(losses.tolist(), awake.tolist())
    cut += (experts.rate < before).sum()
    np.testing.assert_allclose(np.exp(experts.regret), slow.weight, rtol=1e-9)
    np.testing.assert_allclose(experts.rate, slow.rate, rtol=1e-9)
    np.testing.assert_allclose(weights(experts, awake), slow.shares(awake), rtol=1e-9)
    assert weights(experts, awake).sum() == pytest.approx(1)
  assert cut > 10


def test_a_step_worked_by_hand():
  experts = update(start(2), np.array([0.0, 1.0]), np.array([True, True]))
  # ℓ̂ = 1/2, r = ±1/2, L = 5/4; η from √ln 2 to √(ln 2 / 1.25), both below 1/(2·1/2) = 1.
  first, rate = math.sqrt(math.log(2)), math.sqrt(math.log(2) / 1.25)
  np.testing.assert_allclose(experts.squares, 1.25)
  np.testing.assert_allclose(experts.rate, rate)
  expected = [rate / first * math.log(1 + first / 2), rate / first * math.log(1 - first / 2)]
  np.testing.assert_allclose(experts.regret, expected)


def test_who_sleeps_learns_nothing_and_has_no_share():
  awake = np.array([True, True, False, True])
  before = update(start(4), np.array([0.2, 0.9, 0.4, 0.5]), np.ones(4, bool))
  after = update(before, np.array([0.7, 0.1, 0.3, 0.2]), awake)
  for name in before._fields:
    assert getattr(after, name)[2] == getattr(before, name)[2], name
  assert weights(after, awake)[2] == 0
  # The loss of one that sleeps is not looked at.
  other = update(before, np.array([0.7, 0.1, 0.99, 0.2]), awake)
  np.testing.assert_array_equal(after.regret, other.regret)


def test_all_asleep_changes_nothing():
  before = update(start(5), np.linspace(0, 1, 5), np.ones(5, bool))
  asleep = np.zeros(5, bool)
  assert not weights(before, asleep).any()
  after = update(before, np.linspace(1, 0, 5), asleep)
  for name in before._fields:
    np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_equal_losses_keep_equal_weights():
  experts = start(6)
  for _ in range(5):
    experts = update(experts, np.full(6, 0.3), np.ones(6, bool))
  np.testing.assert_allclose(weights(experts, np.ones(6, bool)), 1 / 6)


def test_the_weight_goes_to_the_expert_with_the_least_loss():
  experts, losses = start(10), np.r_[0.2, np.full(9, 0.8)]
  shares = []
  for _ in range(200):
    experts = update(experts, losses, np.ones(10, bool))
    shares.append(weights(experts, np.ones(10, bool))[0])
  assert (np.diff(shares) > -1e-12).all()
  assert shares[-1] > 0.99
  # What the mixture loses more than the best expert stays bounded.
  assert sum(0.6 * (1 - share) for share in shares) < 10


def test_a_larger_loss_than_ever_before_has_a_logarithm():
  experts = start(1000)
  for _ in range(20):
    experts = update(experts, np.r_[0.5001, np.full(999, 0.5)], np.ones(1000, bool))
  experts = update(experts, np.r_[1.0, np.zeros(999)], np.ones(1000, bool))
  assert np.isfinite(experts.regret).all()


def test_rows_are_drawn_in_proportion_and_none_twice():
  shares = np.array([0.5, 0.0, 0.3, 0.2])
  drawn = np.array([draw(shares, 3, key) for key in jax.random.split(jax.random.key(0), 2000)])
  assert (np.sort(drawn, axis=1) == [0, 2, 3]).all()
  first = np.bincount(drawn[:, 0], minlength=4) / len(drawn)
  np.testing.assert_allclose(first, shares, atol=0.04)  # 3.6 standard errors
  # After the first was drawn the others go by what is left of the shares.
  second = drawn[drawn[:, 0] == 0, 1]
  np.testing.assert_allclose((second == 2).mean(), 0.3 / 0.5, atol=0.06)
  assert len(draw(np.zeros(4), 3, jax.random.key(0))) == 0


def test_choice_follows_the_key_and_fills_up_with_the_widest_asleep():
  width = np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.05])
  key = jax.random.key(3)
  experts, rows = choose(start(6), width, 0.5, 4, key)
  assert sorted(rows[:2]) == [1, 3]
  assert rows[2:].tolist() == [4, 2]
  again, same = choose(start(6), width, 0.5, 4, key)
  np.testing.assert_array_equal(rows, same)
  np.testing.assert_array_equal(experts.regret, again.regret)
  assert experts.regret[1] > 0 > experts.regret[3]  # more to gain, less loss
  many = np.full(200, 0.9)
  picks = [choose(start(200), many, 0.5, 10, jax.random.key(seed))[1] for seed in (0, 0, 1)]
  assert picks[0].tolist() == picks[1].tolist() != picks[2].tolist()


def test_narrow_enough_is_the_widest_of_all_intervals_of_random_subsets():
  correct_in, correct_out = np.meshgrid(np.arange(71), np.arange(31))
  low, high = memorization.newcombe(correct_in, 70, correct_out, 30)
  assert adaptive.narrow_enough(100, 0.7) == pytest.approx((high - low).max())


def test_active_spends_models_on_those_that_the_experts_draw(tmp_path, monkeypatch):
  toy, seen = toys.two_classes(), []

  def watched(experts, width, narrow, count, key):
    experts, rows = choose(experts, width, narrow, count, key)
    seen.append((experts, jax.random.key_data(key).tolist(), narrow, rows))
    return experts, rows

  schedule = retraining.leave_out(toys.RECIPE, toy, jax.random.key(0), num_models=32)

  def spent():
    return memorization.active(
      schedule,
      strategy="sleeping_experts",
      rounds=2,
      share=0.25,
      store=tmp_path,
      executor=retraining.serial,
    )

  monkeypatch.setattr(sleeping_experts, "choose", watched)
  result = spent()
  models = result.count_in + result.count_out
  expected = np.full(24, 16)
  for _, _, narrow, rows in seen:
    assert narrow == adaptive.narrow_enough(32, 17 / 24)
    expected[rows] += 8
  np.testing.assert_array_equal(models, expected)
  assert result.count_out.sum() == 16 * 7 + 2 * 8 * 3
  assert len(seen) == 2
  assert seen[0][1] != seen[1][1]  # each round draws with a key of its own
  assert (seen[1][0].squares >= seen[0][0].squares).all()  # what the first round taught is kept
  assert result.design.endswith("then 2 rounds of 8 on 6 examples drawn by sleeping experts")
  assert spent().digest == result.digest
  with pytest.raises(ValueError, match="strategy 'best': use one of widest, sleeping_experts"):
    memorization.active(schedule, strategy="best")
