"""What `experiments.unlabelled` takes away, what it puts in its place, and its tables."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import unlabelled
from experiments.rows import Row
from jaxmul import bind, data, report
from jaxmul.metrics import Figure

SHARES = (0.5, 1.0)


def seed_of():
  """A seed of eight examples, of which two are to be forgotten, and a network of one mistake."""
  inputs = np.eye(2)[[0, 0, 0, 0, 1, 1, 1, 1]] + np.arange(8)[:, None] / 100
  dataset = data.Dataset(inputs, np.array([0, 0, 0, 1, 1, 1, 1, 1]), np.arange(8) + 20)
  split = data.Split(forget=dataset.ids[:2], retain=dataset.ids[2:])
  seed = object.__new__(unlabelled.Seed)
  seed.problem = SimpleNamespace(training=dataset, dataset=dataset, split=split)
  seed.original = bind(lambda params, inputs: inputs @ params, jnp.eye(2))
  seed.given = SimpleNamespace(features=lambda network, inputs: inputs)
  seed.order, seed.label_key = dataset.ids[[3, 7, 5, 2, 6, 4]], jax.random.key(0)
  return seed, dataset


def test_more_labels_are_missing_of_the_same_examples():
  seed, _ = seed_of()
  assert seed.absent(0.5).tolist() == [23, 27, 25]
  assert sorted(seed.absent(1.0)) == seed.problem.split.retain.tolist()


def test_true_labels_that_are_missing_are_seen_by_no_source():
  seed, dataset = seed_of()
  absent = seed.absent(1.0)
  others = dataclasses.replace(dataset, labels=np.where(dataset.ids < 22, dataset.labels, 1))
  for source in unlabelled.LABELS:
    labelled = seed.labelled(source, dataset, absent)
    assert labelled.take(absent).labels.tolist() == [0, 1, 1, 0, 1, 1]  # 23 is a 1, in truth
    assert seed.labelled(source, others, absent).labels.tolist() == labelled.labels.tolist()
  assert seed.labelled("known", dataset, absent) is dataset


def test_nothing_is_left_of_a_retain_set_without_labels():
  config = unlabelled.Config(missing=SHARES)
  assert unlabelled.variants(config) == [
    ("known", 0.0),
    ("argmax", 0.5),
    ("self-training", 0.5),
    ("left out", 0.5),
    ("argmax", 1.0),
    ("self-training", 1.0),
  ]


@pytest.mark.parametrize(
  ("flags", "part"),
  [
    ({"algorithms": ("scrubs",)}, "--algorithms scrubs: choose among"),
    ({"algorithms": ("dmm",)}, "--algorithms dmm: choose among"),  # it has no influences
    ({"algorithms": ("ct",)}, "--algorithms ct: choose among"),  # an mlp has no convolution
    ({"missing": (0.5, 0.0)}, "--missing 0.0: must be in"),
    ({"seeds": 0}, "--seeds 0"),
  ],
)
def test_flags_that_cannot_be_are_refused(flags, part):
  with pytest.raises(ValueError, match=part):
    unlabelled.Config(**flags)


def test_the_tables_of_kept_rows(tmp_path):
  def row(value, more=()):
    names = ("ToW", "ToW by group", "example gap")
    parts = {"example gap": "forget"}
    path = tmp_path / "row.json"
    figures = [Figure(name=name, part=parts.get(name, "all"), value=value) for name in names]
    report.write_json(path, Row(figures=[*figures, *more]))
    return Row.read(path)

  right = [
    Figure(name=f"right labels, {source}, {share}", part=part, value=0.75)
    for source in unlabelled.LABELS
    for share in ("50 %", "100 %")
    for part in ("retain", "heldout")
  ]
  rows = {"original": [row(0.25, right), row(0.5, right)], "retrain": [row(0.5), row(0.5)]}
  for source, share in unlabelled.variants(unlabelled.Config(missing=SHARES)):
    worse = 0.25 if source == "left out" else 0.0
    name = unlabelled.name_of("scrub", source, share)
    rows[name] = [row(0.5 + worse), row(0.625 + worse)]
  rows["scrub, argmax, 100 %"] = [row(0.5), Row()]
  config = unlabelled.Config(algorithms=("scrub",), missing=SHARES, out=tmp_path)
  unlabelled.write(config, {"mixed": rows})
  lines = (tmp_path / "table.md").read_text().splitlines()
  half = "0.750\u00a0±\u00a00.000"
  assert lines[0] == "### mnist5k, `mlp` (2 seeds): labels that are right"
  assert f"| held-out examples | 100 % | {half} | {half} |" in lines
  assert "| scrub | argmax | 100 % | diverged |  |  |  |" in lines
  marked = [line for line in lines if "worse than known by example gap" in line]
  assert [line.startswith("| scrub | left out | 50 % | 0.812") for line in marked] == [True]
  for table in "\n".join(lines).split("###")[1:]:
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*their scores are NaN")
def test_the_script_from_its_flags_to_its_tables(tmp_path, capsys):
  config = unlabelled.Config(
    dataset="digits",
    num_models=8,
    epochs=1,
    algorithms=("neg_grad",),
    missing=(0.9,),
    seeds=1,
    group_size=30,
    out=tmp_path,
  )
  unlabelled.main(config)
  table = (tmp_path / "table.md").read_text()
  assert table in capsys.readouterr().out
  assert "| neg_grad | left out | 90 % |" in table
  unlabelled.main(config)
  assert "seed 1, original" not in capsys.readouterr().out  # read back
