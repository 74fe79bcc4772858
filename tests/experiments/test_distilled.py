"""What `experiments.distilled` compares, and its attack on sets of which the answer is known."""

import types

import jax
import numpy as np
import pytest

from experiments import distilled
from experiments.rows import Row
from jaxmul import data, models, train
from jaxmul.metrics import Figure


def test_the_attack_is_blind_to_noise_and_sees_what_raises_the_own_score():
  rng = np.random.default_rng(0)
  own = rng.integers(0, 4, 400)
  noise = rng.normal(size=(4, 400)) + 10 * rng.normal(size=400)  # most is of the example alone
  blind = distilled.leak(noise, own, "nearest", "train")
  assert blind.low < 0.5 < blind.high
  assert blind.high - blind.low < 0.12
  # Of two shards the scores of an example mirror one another: deviations of 1/√12 add up.
  two = distilled.leak(noise[:2], own % 2, "nearest", "train")
  assert two.high - two.low == pytest.approx(2 * 1.96 * 2 / np.sqrt(12 * 400), rel=0.15)
  seeing = distilled.leak(noise + 2 * (np.arange(4)[:, None] == own), own, "nearest", "train")
  assert seeing.low > 0.85
  assert (seeing.name, seeing.kind, seeing.part) == ("AUC", "nearest", "train")


class Stub(distilled.Problem):
  """Two features, three classes; a set is distilled to one of its own examples a class."""

  def __init__(self):
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 3
    training = data.Dataset(rng.normal(size=(60, 2)), labels, rng.permutation(60) * 3)
    forget = training.ids[:15]
    mixed = {
      "training": training,
      "dataset": training,
      "split": data.Split(forget, training.ids[15:]),
      "key": jax.random.key(0),
      "recipe": train.Recipe(models.mlp((3,), 3), epochs=1),
      "heldout": data.Heldout(forget[:1], forget[1:2], forget[2:3]),
      "judge": lambda *_: lambda *_: [],
    }
    self.config, self.mixed = distilled.Config(shards=3), types.SimpleNamespace(**mixed)
    self.asked, self.compiled = [], set()

  def distilled(self, name, ids, key):
    self.asked.append((name, ids, key))
    own = self.mixed.training.take(ids)
    rows = [np.flatnonzero(own.labels == label)[0] for label in range(3)]
    return data.Dataset(own.inputs[rows], own.labels[rows], [1, 2, 4], num_classes=3), 0.0


def test_each_shard_is_distilled_and_attacked_on_its_own(monkeypatch):
  problem, given = Stub(), []
  monkeypatch.setattr(distilled, "leak", lambda *what: given.append(what))
  assert list(distilled.attacked(problem)) == ["distilled", "as many real", "the whole shard"]
  training, forget = problem.mixed.training, problem.mixed.split.forget
  names, shards, keys = zip(*problem.asked, strict=True)
  assert sorted(np.concatenate(shards)) == sorted(training.ids)
  assert len(set(names)) == len({str(jax.random.key_data(key)) for key in keys}) == 3
  parts, copies = {"train": np.sort(training.ids), "forget": np.sort(forget)}, []
  for scores, own, attack, part in given:
    assert all(one in shards[shard] for one, shard in zip(parts[part], own, strict=True))
    if attack == "nearest":
      shard, place = np.nonzero(np.isclose(scores, 0, atol=1e-6))
      np.testing.assert_array_equal(shard, own[place])
      copies.append(len(place))
  assert copies[::2] == [9, 9, 60]  # one a class and shard, one a class and shard, all
  assert copies[5] == len(forget)


def test_as_many_real_are_of_the_retain_set_and_of_each_class():
  problem = Stub()
  ids = problem.as_many(0)
  (_, retain, _), split = problem.asked[0], problem.mixed.split
  assert sorted(retain) == sorted(split.retain)
  assert np.isin(ids, split.retain).all()
  assert sorted(problem.mixed.training.take(ids).labels) == [0, 1, 2]


def test_a_seed_works_on_what_its_row_says(monkeypatch):
  problem, given = Stub(), []
  seed, training = distilled.Seed(problem, 0), problem.mixed.training

  def run(chosen, original, dataset, split, key, **_):
    given.append((dataset, split))
    return original

  monkeypatch.setattr(distilled.unlearn, "run", run)
  real = training.take(problem.as_many(0))
  retain = (training.take(problem.mixed.split.retain), seed.small, real)
  for name, expected in zip(distilled.RETAIN, retain, strict=True):
    seed.row("fine_tune", name)
    dataset, split = given[-1]
    np.testing.assert_array_equal(dataset.take(split.retain).inputs, expected.inputs)
    forget = training.take(problem.mixed.split.forget)
    np.testing.assert_array_equal(dataset.take(split.forget).inputs, forget.inputs)
  monkeypatch.setattr(distilled.train, "fit", lambda recipe, dataset, key: given.append(dataset))
  with pytest.raises(AttributeError):  # it has no network
    seed.trained_row()
  assert given[-1] is seed.small


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
