"""Seconds of work that keeps its own parts: those that it took, not those of reading it back."""

import json
import types

import numpy as np
import pytest

from experiments import cache


@pytest.fixture
def clock(monkeypatch):
  """A clock that goes on only where work is done."""
  now = types.SimpleNamespace(seconds=0.0, perf_counter=lambda: now.seconds)
  monkeypatch.setattr(cache, "time", now)
  return now


def work(clock, seconds, stopped=False):
  def make():
    clock.seconds += seconds
    if stopped:
      raise KeyboardInterrupt
    return "done"

  return make


def test_read_back_it_keeps_what_the_work_took(tmp_path, clock):
  file, begun = tmp_path / "clock.json", tmp_path / "store"
  assert cache.clocked(file, begun, work(clock, 5)) == ("done", 5)
  begun.mkdir()
  assert cache.clocked(file, begun, work(clock, 1)) == ("done", 5)


def test_runs_that_were_stopped_count_too(tmp_path, clock):
  file, begun = tmp_path / "clock.json", tmp_path / "store"
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      cache.clocked(file, begun, work(clock, 3, stopped=True))
    begun.mkdir(exist_ok=True)
  assert cache.clocked(file, begun, work(clock, 4)) == ("done", 10)
  assert cache.clocked(file, begun, work(clock, 1)) == ("done", 10)


def test_nobody_knows_what_a_killed_run_took(tmp_path, clock):
  file, begun = tmp_path / "clock.json", tmp_path / "store"

  def make():
    assert json.loads(file.read_text()) == {"seconds": None, "done": False}  # kill -9 leaves this
    return "done"

  cache.clocked(file, begun, make)
  file.write_text(json.dumps({"seconds": None, "done": False}))
  for _ in range(2):
    _, seconds = cache.clocked(file, begun, work(clock, 4))
    assert np.isnan(seconds)


def test_nobody_knows_what_an_older_version_took(tmp_path, clock):
  begun = tmp_path / "store"
  begun.mkdir()
  assert np.isnan(cache.clocked(tmp_path / "clock.json", begun, work(clock, 4))[1])
