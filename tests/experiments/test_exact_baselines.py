"""What the table of exact baselines counts, beside counts by hand."""

import json

import numpy as np
import pytest

from experiments import exact_baselines
from experiments.exact_baselines import Config, Seed, Served, figures_of, passes_of, table_of
from jaxmul import rum, unlearn

CONFIG = Config(dataset="digits", epochs=4, sizes=(1, 3), draws=4000)
SERVED = Served(before=0.9, again=[1.0, 1.0], seconds=[2.0, 4.0], after=[0.8, 0.7])


def test_passes_of_a_plan_are_those_of_its_steps():
  """SalUn passes over both sets, fine-tuning over what is retained then; none over nothing."""
  plan = rum.salun_plan()
  assert passes_of(plan, [2, 3, 4], 100) == 10 * (100 - 5) + 5 * (4 + 100 - 9)
  assert passes_of(plan, [1, 0, 0], 100) == 0
  assert passes_of(plan, [0, 1, 0], 100) == 10 * 99
  assert passes_of(rum.Plan([rum.Step(unlearn.neg_grad(), 3)]), [7], 100) == 3 * 7


def test_the_first_of_k_examples_is_seen_after_a_k_plus_first_of_an_epoch(monkeypatch):
  monkeypatch.setattr(exact_baselines, "kept", lambda *given: SERVED)
  seed = Seed(CONFIG, 0)
  served = exact_baselines.from_checkpoint(seed)
  for share, seconds, size, whole in zip(served.again, served.seconds, (1, 3), (2, 4), strict=True):
    # A step of 64 of 1,258 is done again from its start: half a step more, on average.
    saved = (1 / (size + 1) - 32 / len(seed.training)) / CONFIG.epochs
    assert share == pytest.approx(1 - saved, abs=0.006)
    assert seconds == share * whole


def test_requests_are_random_and_of_the_seed():
  seed = Seed(CONFIG, 0)
  one, two = seed.requests(50, 2)
  assert len(np.intersect1d(one, two)) < 50 == len(set(one))
  assert np.array_equal(seed.requests(50, 1)[0], one)
  assert not np.array_equal(Seed(CONFIG, 1).requests(50, 1)[0], one)
  assert np.array_equal(np.sort(np.append(seed.left(one), one)), np.sort(seed.training.ids))


def test_the_table_has_a_row_for_each_method(tmp_path):
  other = Served(before=0.7, again=[0.2, 0.4], seconds=[1.0, 1.0], after=[0.6, 0.5], vote=0.65)
  results = {"retrain": figures_of([SERVED], (1, 3)), "SISA": figures_of([other, other], (1, 3))}
  lines = table_of(results, (1, 3)).splitlines()
  assert lines[2] == "| retrain | 1.000 | 1.000 | 2.000 | 4.000 | 0.900 |  | 0.800 | 0.700 |"
  assert "| 0.650 ± 0.000 | 0.600 ± 0.000 |" in lines[3]
  assert len({line.count("|") for line in lines}) == 1


def test_what_is_kept_is_read_back(tmp_path):
  config = Config(dataset="digits", out=tmp_path)
  assert exact_baselines.kept(config, 0, "SISA, 4 × 5", lambda: SERVED) == SERVED
  assert exact_baselines.kept(config, 0, "SISA, 4 × 5", lambda: 1 / 0) == SERVED
  (path,) = (tmp_path / "cache").rglob("*.json")
  assert json.loads(path.read_text())["before"] == 0.9
  with pytest.raises(ValueError, match="only the mlp has hidden widths"):
    Config(model="cnn", hidden=(8,))
  with pytest.raises(ValueError, match="must be at least 1"):
    Config(shards=(0,))
