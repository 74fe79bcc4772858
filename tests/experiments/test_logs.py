"""What a run logs: lines of JSON always, services where asked for, nothing half."""

import json
import sys

import numpy as np
import pytest

from experiments import logs


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_call_is_a_line_and_a_second_run_adds_to_it(tmp_path):
  for _ in range(2):
    log = logs.start(tmp_path)
    log(1, {"loss": np.float32(0.5), "ToW": None})
    log(2, {"loss": float("nan")})
  found = lines(tmp_path / "log.jsonl")
  assert [line.pop("time") > 0 for line in found] == [True] * 4
  once = [{"step": 1, "loss": 0.5, "ToW": None}, {"step": 2, "loss": None}]
  assert found == 2 * once


def test_a_history_is_logged_by_epoch(tmp_path):
  loss, accuracy = np.array([2.0, 1.0]), np.array([0.1, 0.4])
  logs.history(logs.start(tmp_path), "seed 1", loss, accuracy)
  assert [(line["step"], line["seed 1/loss"]) for line in lines(tmp_path / "log.jsonl")] == [
    (1, 2.0),
    (2, 1.0),
  ]


@pytest.mark.parametrize("service", ["tensorboard", "wandb", "trackio"])
def test_a_service_that_is_not_installed_is_named_with_its_cure(tmp_path, monkeypatch, service):
  for name in (service, f"{service}.summary"):
    monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(ImportError) as caught:
    logs.start(tmp_path, (service,))
  assert str(caught.value) == f"--log {service} needs it: pip install {service}."


def test_no_service_is_imported_unasked(tmp_path):
  before = set(sys.modules)
  logs.start(tmp_path)(1, {"loss": 1.0})
  assert not {"tensorboard", "wandb", "trackio"} & (set(sys.modules) - before)


def test_tensorboard_reads_what_was_logged(tmp_path):
  pytest.importorskip("tensorboard")
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  log = logs.start(tmp_path, ("tensorboard",))
  log(1, {"loss": 0.5, "ToW": None})
  log(2, {"loss": 0.25})
  events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
  (tag,) = events.Tags()["tensors"]
  values = [(each.step, each.tensor_proto.float_val[0]) for each in events.Tensors(tag)]
  assert (tag, values) == ("loss", [(1, 0.5), (2, 0.25)])
  assert len(lines(tmp_path / "log.jsonl")) == 2
