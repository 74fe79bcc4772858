"""What `experiments.distilled` compares, and its attack on sets of which the answer is known."""

import numpy as np
import pytest

from experiments import distilled
from experiments.rows import Row
from jaxmul.metrics import Figure


def test_the_attack_is_blind_to_noise_and_sees_what_raises_the_own_score():
  rng = np.random.default_rng(0)
  own = rng.integers(0, 4, 400)
  noise = rng.normal(size=(4, 400)) + 10 * rng.normal(size=400)  # most is of the example alone
  blind = distilled.leak(noise, own, "nearest", "train")
  assert blind.low < 0.5 < blind.high
  assert blind.high - blind.low < 0.12
  seeing = distilled.leak(noise + 2 * (np.arange(4)[:, None] == own), own, "nearest", "train")
  assert seeing.low > 0.85
  assert (seeing.name, seeing.kind, seeing.part) == ("AUC", "nearest", "train")


def test_the_tables():
  names = [("example gap", "forget"), *((name, "all") for name in distilled.HEADLINE[1:])]
  names += [("accuracy", part) for part in distilled.PARTS]
  figures = [Figure(name=name, part=part, value=0.25) for name, part in names]
  row = Row(figures=[*figures, Figure(name="seconds", value=1.5)])
  methods = {"original": [row], "scrub, R": [row], "scrub, distilled": [Row()]}
  lines = distilled.table(distilled.Config(), methods)
  assert lines[0] == "### mnist5k, `mlp`, 10 a class (1 seed)"
  assert f"| scrub, R | {' | '.join(7 * ['0.250'])} | 1.50 |" in lines
  assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
  attack = Figure(name="AUC", kind="nearest", part="train", value=0.5, low=0.4, high=0.6)
  table = distilled.attack_table({"distilled": [attack]})
  assert table[0] == "| AUC of | nearest, train |"
  assert table[2] == "| distilled | 0.500 (0.400–0.600) |"


def test_flags_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match="--shards 2"):
    distilled.Config(shards=2)
  with pytest.raises(ValueError, match="--algorithms dmm"):
    distilled.Config(algorithms=("dmm",))
