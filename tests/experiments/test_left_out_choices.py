"""Choices of examples, compared without training: outcomes are spent as they are, and once."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import left_out_choices, setting
from experiments.spent_outcomes import Counts, asked, outcomes_of
from jaxmul import memorization


def made_up(n=60, models=400, seed=0):
  """An estimate whose memorization is known: `p` is how often models without it are right."""
  rng = np.random.default_rng(seed)
  p = np.linspace(0, 1, n)
  count_out = rng.binomial(models, 0.3, n)
  count_in = models - count_out
  fields = {f.name: np.zeros(n) for f in dataclasses.fields(memorization.Estimate)}
  fields |= {"ids": np.arange(n), "count_in": count_in, "count_out": count_out}
  fields |= {"correct_in": count_in, "correct_out": rng.binomial(count_out, p)}
  fields |= {"memorization": 1 - fields["correct_out"] / count_out, "influence": None, "design": ""}
  return memorization.Estimate(**fields), p


def test_two_halves_are_all_there_is():
  estimate, _ = made_up()
  outcomes = outcomes_of(estimate, np.random.default_rng(0))
  most = Counts(estimate.count_in, estimate.count_out)
  spent, width = outcomes.seen(most)  # no more than the limit
  inside, outside = outcomes.limit
  np.testing.assert_array_equal(inside, estimate.count_in // 2)
  # Halves weighted by their models give the whole.
  others = estimate.count_out - outside
  whole = (outside * (1 - spent) + others * (1 - outcomes.truth)) / estimate.count_out
  np.testing.assert_allclose(whole, estimate.correct_out / estimate.count_out)
  rows, right = np.arange(60), outcomes.right_out
  low, high = memorization.newcombe(inside, inside, right[rows, outside], outside)
  np.testing.assert_allclose(width, high - low)
  assert set(np.unique(np.diff(right, axis=1))) <= {0, 1}
  np.testing.assert_array_equal(right[rows, estimate.count_out], estimate.correct_out)
  nothing = outcomes.seen(Counts(np.zeros(60, int), np.zeros(60, int)))
  assert np.isnan(nothing[0]).all()
  assert (nothing[1] == 2).all()


def test_orders_are_random_and_what_is_spent_is_unbiased():
  estimate, _ = made_up()
  few = Counts(np.full(60, 5), np.full(60, 5))
  scores = [outcomes_of(estimate, np.random.default_rng(seed)).seen(few)[0] for seed in range(400)]
  assert np.std(scores, axis=0)[20:40].min() > 0.1
  np.testing.assert_allclose(np.mean(scores, axis=0), estimate.memorization, atol=0.05)


def test_counts_are_those_of_models_that_leave_out_some_rows():
  inside, outside = asked(np.random.default_rng(0), 10, 6, np.array([1, 4, 5, 8]), 2)
  assert outside.sum() == 6 * 2
  assert not (inside + outside)[[0, 2, 3, 6, 7, 9]].any()
  np.testing.assert_array_equal((inside + outside)[[1, 4, 5, 8]], 6)


def test_each_strategy_spends_as_many_models():
  estimate, p = made_up(n=200)
  config = left_out_choices.Config(budgets=(40,), share=0.2, top=(20,), repetitions=2)
  outcomes = outcomes_of(estimate, np.random.default_rng(0))
  spent = {}

  class Recorded:
    truth = outcomes.truth

    def seen(self, counts):
      spent["counts"] = counts
      return outcomes.seen(counts)

  drawn = left_out_choices.Drawn(repetition=0, ids=estimate.ids, outcomes=Recorded(), proxy=-p)
  total = {}
  for name in config.strategies:
    score, _ = left_out_choices.spend(config, name, 40, drawn)
    models = spent["counts"].inside + spent["counts"].outside
    total[name] = (models.sum(), models.min(), models.max())
    measured = ~np.isnan(score)
    assert measured.sum() == (40 if name.startswith("candidates") else 200)
  assert total["uniform"] == (40 * 200, 40, 40)
  assert total["candidates of a proxy"] == (40 * 40, 0, 40)
  for name in ("widest, 4 rounds", "sleeping experts, rounds of 2"):
    assert total[name][0] == 20 * 200 + 20 * 40
    assert total[name][1] == 20
    assert total[name][2] <= 40
  figures = left_out_choices.scored(config, "candidates of a proxy", 40, drawn)
  assert figures["precision at 20"] > 0.6  # the proxy is right
  assert figures["widest hundredth"] == 2


def test_a_run_reads_back_its_networks_and_writes_the_same(tmp_path, capsys):
  config = left_out_choices.Config(
    dataset="digits",
    truth=tmp_path / "truth.npz",
    epochs=1,
    seeds=1,
    repetitions=2,
    budgets=(16,),
    top=(50,),
    out=tmp_path / "out",
  )
  training = setting.cut(config)[1].train
  made, _ = made_up(n=len(training))
  dataclasses.replace(made, ids=np.sort(training)).save(tmp_path / "truth.npz")
  left_out_choices.main(config)
  assert "sleeping experts, rounds of 2" in capsys.readouterr().out
  first = json.loads((tmp_path / "out" / "metrics.json").read_text())
  left_out_choices.main(config)
  assert "read back" in capsys.readouterr().out
  assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == first
  assert set(first["strategies"]["16"]) == set(config.strategies)
  assert set(first["strategies"]["16"]) - set(first["less_the_default"]["16"]) == {
    "widest, 4 rounds"
  }
  with pytest.raises(ValueError, match="--budgets 15 --rounds 4: half of the models must give"):
    left_out_choices.Config(budgets=(100, 15))
