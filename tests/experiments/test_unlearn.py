"""What `experiments.unlearn` gives the algorithms."""

import contextlib
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments import algorithms, truth, unlearn
from experiments.judge import HEADLINE
from experiments.rows import Row, worse_than
from jaxmul import data, report
from jaxmul.metrics import Figure


class Stop(Exception):
  pass


def test_influences_come_from_models_that_did_not_select_the_forget_sets(monkeypatch):
  """With the ground truth's key they would be those very models, by whose luck S was chosen."""
  config = unlearn.Config(algorithms=("dmm",))
  keys = []

  def leave_out(recipe, training, key, **options):
    keys.append(key)
    raise Stop

  monkeypatch.setattr(unlearn.retraining, "leave_out", leave_out)
  problem = SimpleNamespace(
    config=config, key=jax.random.key(config.key), recipe=None, training=None, sets={"mixed": []}
  )
  with contextlib.suppress(Stop):
    unlearn.Problem.influence.func(problem)
  selecting = truth.truth_key(config)
  assert not np.array_equal(*(jax.random.key_data(key) for key in (keys[0], selecting)))


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ({"algorithms": ("dmm",), "influence_models": 0}, "--influence-models must be at least 2"),
    ({"algorithms": ("ct",), "model": "mlp"}, "--algorithms ct: choose among fine_tune"),
  ],
)
def test_what_cannot_run_is_refused_before_anything_is_trained(flags, said):
  with pytest.raises(ValueError, match=said):
    unlearn.Config(**flags)


def test_every_algorithm_gets_a_network_of_the_right_size():
  """Those of `experiments.unlabelled`, too: `boundary_expand` needs one class more."""
  digits = data.digits()
  given = algorithms.given_of(
    unlearn.Config(all=True), digits, *jax.random.split(jax.random.key(0))
  )
  sizes = [network(digits.example).shape[1] for network in (given.fresh, given.wide)]
  assert sizes == [10, 11]


def test_a_row_is_marked_where_it_is_worse_by_more_than_the_seeds_differ():
  def rows(gaps, tows):
    return [
      Row(
        figures=[
          Figure(name="example gap", part="forget", value=gap),
          Figure(name="ToW by group", value=tow),
        ]
      )
      for gap, tow in zip(gaps, tows, strict=True)
    ]

  original = rows([0.10, 0.20, 0.30], [0.9, 0.8, 0.7])
  further = rows([0.21, 0.30, 0.41], [0.9, 0.81, 0.69])
  assert worse_than(original, further) == ["example gap"]
  assert worse_than(original, rows([0.05, 0.1, 0.2], [0.7, 0.61, 0.5])) == ["ToW by group"]
  assert worse_than(original, rows([0.11, 0.19, 0.31], [0.9, 0.8, 0.7])) == []
  assert worse_than(original[:1], rows([0.9], [0.1])) == []


def test_the_table_of_kept_rows(tmp_path):
  """Figures, marks and rows that diverged, as they come back from their files."""

  def row(value, path=tmp_path / "row.json", **more):
    names = [("example gap", "forget"), *((name, "all") for name in HEADLINE[1:])]
    names += [("accuracy", part) for part in ("forget", "retain", "test")]
    figures = [Figure(name=name, part=part, value=value) for name, part in names]
    figures.append(Figure(name="seconds", value=8 * value))
    report.write_json(path, Row(figures=figures, **more))
    return Row.read(path)

  rows = {
    "original": [row(0.5), row(0.7)],
    "retrain": [row(0.25), row(0.25)],
    "scrub": [row(0.125), row(0.375)],
    "scrub, tuned": [row(0.5, chosen="3", first_call=9.0)],
    "salun": [row(0.5), Row()],
  }
  config = unlearn.Config(algorithms=("scrub",), out=tmp_path)
  unlearn.write(config, {"mixed": rows, "high": {}})
  lines = (tmp_path / "table.md").read_text().splitlines()
  assert lines[0] == "### mnist5k, `mlp`, mixed (2 seeds)"
  spread = "0.250\u00a0±\u00a01.588"
  worse = "worse than the original by ToW by group"
  columns = " | ".join([*4 * [spread], *3 * ["0.250"], "2.00", "1.0×"])
  assert f"| scrub | {columns} | {worse} |" in lines
  tuned = " | ".join(7 * ["0.500"])
  assert f"| scrub, tuned | {tuned} | 4.00 | 0.5× | rate × 3 |" in lines
  assert "| salun | diverged |" + 9 * " |" in lines
  cells = {line.count("|") for line in lines if line.startswith("|")}
  assert len(cells) == 1, "a table of rows with other numbers of cells is shown as text"
  assert lines[-1] == f"Not told apart here, original from retrain: {', '.join(HEADLINE)}."
  kept = json.loads((tmp_path / "results.json").read_text())
  assert kept["mixed"]["salun"][1]["figures"] == []
