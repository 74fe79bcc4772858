"""The measurement on accelerators keeps its budget, names what it leaves out, and counts right."""

import json
import sys
import time

import pytest

from experiments.bench import accelerator
from experiments.bench.within import Case, measured


def case(family, name, *, seconds=0.0, units=1.0, error=None):
  def make():
    if error:
      raise error

    return lambda: time.sleep(seconds), units

  return Case(family, name, make, "things/s")


def run(*cases, repeats=3, seconds=0.0, budget=10.0):
  return dict(measured(cases, repeats=repeats, seconds=seconds, budget=budget))


def test_a_figure_is_units_a_second_with_its_spread():
  (figure,) = run(case("a", "1", seconds=0.02, units=100), repeats=5).values()
  assert figure["lowest"] <= figure["median"] <= figure["highest"] <= 100 / 0.02
  assert figure["lowest"] > 1 / 0.02
  assert (figure["repeats"], figure["unit"]) == (5, "things/s")
  assert figure["first_call_seconds"] >= 0.02


def test_what_would_exceed_the_budget_is_skipped_and_says_so():
  start = time.perf_counter()
  slow = [case("slow", str(width), seconds=0.1) for width in range(9)]
  found = run(*slow, case("other", "1"), budget=1.0, repeats=1)
  assert time.perf_counter() - start < 1.5
  skipped = [name for name, figure in found.items() if "skipped" in figure]
  assert 0 < len(skipped) < 9
  assert all("s are left" in found[name]["skipped"] for name in skipped)
  assert found["slow, 0"]["median"] > 0
  assert found["other, 1"]["median"] > 0


def test_after_an_error_the_wider_ones_of_a_family_are_skipped():
  found = run(
    case("a", "1"),
    case("a", "2", error=RuntimeError("RESOURCE_EXHAUSTED: out of memory\nand more")),
    case("b", "1"),
    case("a", "4"),
  )
  assert found["a, 2"] == {"skipped": "RESOURCE_EXHAUSTED: out of memory"}
  assert found["a, 4"] == {"skipped": "after an error of 2"}
  assert "median" in found["a, 1"]
  assert "median" in found["b, 1"]


def test_a_process_that_hangs_is_ended_and_what_it_said_is_kept():
  lines = "print('[\"a\", 1]', flush=True); print('[\"b', end='', flush=True)"
  command = [sys.executable, "-c", f"import time; {lines}; time.sleep(60)"]
  start = time.perf_counter()
  assert list(accelerator.until(command, 2.0)) == [("a", 1)]
  assert time.perf_counter() - start < 20


def test_what_was_not_reached_is_named(monkeypatch):
  figure = {"median": 1.0}
  said = [("machine", {"device_kind": "cpu"}), ("mlp models, width 1", figure)]
  monkeypatch.setattr(accelerator, "until", lambda command, seconds: iter(said))
  found = accelerator.measure(pairs=2, seconds=0.5)
  assert found["measured"] == {"mlp models, width 1": figure}
  assert found["machine"] == {"device_kind": "cpu"}
  assert found["skipped"]["mlp models, width 2"] == "the 160 s were over"
  names = {f"{one.family}, {one.name}" for one in accelerator.cases(quick=True)}
  assert {*found["measured"], *found["skipped"]} == names
  assert found["seconds"] < found["budget_seconds"]
  assert accelerator.GOALS.keys() <= found.keys()
  json.dumps(found)


def test_every_family_comes_before_the_second_of_any():
  families = [one.family for one in accelerator.cases(quick=False)]
  count = len(set(families))
  assert len(set(families[:count])) == count
  widths = [one.name for one in accelerator.cases(quick=False) if one.family == "mlp models"]
  assert widths == [f"width {2**i}" for i in range(7)]


def test_a_chunk_of_the_executor_counts_as_its_share_of_whole_models():
  task = accelerator.tasks(quick=True)["mlp"]
  steps = 3 * 179  # three passes over 70 % of 256 examples
  assert task.share() == pytest.approx((steps + 256) / (10 * steps + 256))
  work, units = accelerator.many_models(task, 2)
  number, chunk = work()
  assert (number, len(chunk.models)) == (0, units / task.share())
  assert work()[0] == 1
