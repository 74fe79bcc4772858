"""The benchmark `growth` sees costs that rise and memory that is taken, on lines that all run."""

import json
import time

import numpy as np
import pytest

from experiments.bench import growing, growth
from experiments.bench.growing import Work

SIZES = (100, 400, 1600)


def facts(seconds=lambda size: 1e-3 * size, taken=lambda size: 1e6 * size):
  return [{"bytes": taken(size), "seconds": seconds(size)} for size in SIZES]


def axis(sizes=SIZES, rows=growth.OF_EXAMPLES):
  return growth.Axis(sizes, ("made up",), rows)


def marks(told):
  return {cost: row["mark"] for cost, row in growth.rows_of(axis(), told).items()}


def test_what_a_unit_costs_is_by_hand():
  told = facts(seconds=lambda size: 0.5 + 0.01 * size, taken=lambda size: 3e7 + 2e5 * size)
  rows = growth.rows_of(axis(), told)
  assert rows["µs an example"]["costs"] == pytest.approx([15_000, 11_250, 10_312.5])
  assert rows["µs an example"]["ratio"] == pytest.approx(15_000 / 10_312.5)
  first, *further = rows["µs a further example"]["costs"]
  assert first is None
  assert further == pytest.approx([10_000, 10_000])
  assert rows["kB a further example"]["costs"][1:] == pytest.approx([200, 200])
  of_all = growth.rows_of(axis(rows=growth.OF_DEVICES), told)
  assert of_all["s, whole work"]["costs"] == pytest.approx([1.5, 4.5, 16.5])
  assert of_all["MiB, whole work"]["costs"][0] == pytest.approx(5e7 / 2**20)


def test_flat_costs_have_no_mark_and_others_do():
  assert set(marks(facts()).values()) == {""}
  fixed = marks(facts(seconds=lambda size: 0.5 + 0.01 * size))
  assert (fixed["µs an example"], fixed["µs a further example"]) == ("falls", "")
  square = marks(facts(seconds=lambda size: 1e-3 * size + 1e-6 * size**2))
  assert square["µs an example"] == square["µs a further example"] == "rises"
  assert marks(facts(taken=lambda size: 1e3 * size**2))["kB a further example"] == "rises"


def test_memory_that_cannot_be_told_from_noise_is_not_told():
  little = growth.rows_of(axis(), facts(taken=lambda size: 1e3 * size))
  assert little["kB a further example"]["costs"] == [None] * 3
  assert little["kB a further example"]["ratio"] is None


def test_what_rises_is_measured_twice_and_the_lower_counts(monkeypatch, capsys):
  asked = []

  def told(name, line, size, seconds, cache):
    asked.append(size)
    slow = 2.0 if asked.count(size) == 2 and size == SIZES[-1] else 1.0
    return {"bytes": 1e6 * size, "seconds": slow * 1e-3 * size}

  monkeypatch.setattr(growth, "in_process", told)
  rows = growth.line_of(axis(), "examples", "made up", 1.0, "")
  assert asked == 3 * [*SIZES]  # first to compile
  assert {row["mark"] for row in rows.values()} == {""}
  printed = capsys.readouterr().err.splitlines()
  assert len(printed) == 3
  assert printed[0] == "| made up | µs an example | 1e+03 | 1e+03 | 1e+03 | 1.00 |  |"


def test_seconds_and_memory_are_those_of_the_work_once_it_is_warm():
  calls = []

  def call():
    calls.append(len(calls))
    if len(calls) == 1:
      time.sleep(0.01)
      np.ones(2**27)  # 1 GiB, that only the first call takes
    total, start = np.ones(2**25), time.process_time()  # 256 MiB
    while time.process_time() - start < 0.1:
      total.sum()
    time.sleep(0.5)  # not the processor's

  before = [np.ones(2**10) for _ in range(2**16)]  # 512 MiB in small pieces, free when it begins
  del before
  told = growing.measured(lambda: Work(call, facts=lambda: {"more": 1.0}), seconds=0.15)
  assert len(calls) in (2, 3)
  assert 0.1 <= told["seconds"] < 0.5
  assert 0.9 * 2**28 < told["bytes"] < 2**29
  assert told["more"] == 1


def test_what_can_be_done_once_is_done_once():
  calls = []
  work = Work(lambda: calls.append("work"), warm=lambda: calls.append("warm"), once=True)
  growing.measured(lambda: work, seconds=5.0)
  assert calls == ["warm", "work"]


def test_every_line_has_its_work_and_none_is_left_out():
  lines = [line for one in growth.AXES.values() for line in one.lines]
  assert sorted(lines) == sorted(growing.WORKS)
  assert all(set(growth.QUICK[name].lines) <= set(one.lines) for name, one in growth.AXES.items())


@pytest.mark.filterwarnings("ignore:.*never in or never out of a subset")
def test_a_store_tells_its_bytes_and_is_not_computed_again(monkeypatch):
  work = growing.WORKS["ground truth from its store"](24)
  monkeypatch.setattr(growing.retraining, "run_chunk", None)
  monkeypatch.setattr("jaxmul.retraining.executors.run_chunk", None)
  result = work.call()
  assert (result.count_in + result.count_out == 24).all()
  assert len(result.influence.member) == 24
  assert 1e3 < work.facts()["stored"] / 24 < 1e4


@pytest.mark.slow
@pytest.mark.parametrize("name", growing.WORKS)
def test_every_line_runs(name):
  devices = name.endswith("over devices")
  told = growing.measured(lambda: growing.WORKS[name](2 if devices else 400), seconds=0.0)
  assert told["seconds"] > 0
  json.dumps(told)
