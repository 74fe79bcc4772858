"""What benchmarks share, and a step inside a scan, where a slow convolution costs 30 times more."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest

from experiments.bench import __main__ as command
from experiments.bench import digests, machine, scan_step


def test_figures_come_with_the_processor_and_the_flags(tmp_path, monkeypatch):
  monkeypatch.setattr(scan_step, "measure", lambda *_: {"scan_over_python": 1.0})
  monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
  monkeypatch.setattr("sys.argv", ["bench", "scan_step", "--json", str(tmp_path / "told.json")])
  command.main()
  told = json.loads((tmp_path / "told.json").read_text())["environment"]
  assert told["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=false"
  assert told["cores"] >= 1
  for line in Path("/proc/cpuinfo").read_text().splitlines():
    name, _, value = line.partition(":")
    if name.strip() in ("vendor_id", "cpu family", "model name"):
      assert value.strip() in told["cpu"]


def test_a_processor_without_a_name_is_told_by_its_numbers(monkeypatch, tmp_path):
  """As ARM's are."""
  file = tmp_path / "cpuinfo"
  file.write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
  monkeypatch.setattr(machine, "Path", lambda _: file)
  assert machine.cpu() == f"{platform.machine()} 0x41 0xd0c"


@pytest.mark.slow
def test_a_step_inside_scan_costs_about_what_it_costs_from_python():
  assert scan_step.measure(pairs=1, seconds=0.5)["scan_over_python"] < 3


def test_a_digest_is_of_values_and_not_of_names():
  one, other = np.arange(3.0), np.ones((2, 2))
  found = digests.digest({"params": {"a": one}, "b": other})
  assert digests.digest([other, one]) == found
  for changed in (
    [other, np.nextafter(one, 9)],
    [other, one.astype(np.float32)],
    [other.reshape(4), one],
    [other, one, one],
  ):
    assert digests.digest(changed) != found
  assert digests.digest(["said"]) != digests.digest(["sand"])


@pytest.mark.slow
def test_the_battery_gives_the_same_twice(tmp_path, monkeypatch):
  first = digests.measure(pairs=2, seconds=0.5)
  kept = tmp_path / "digests.json"
  kept.write_text(digests.json.dumps(first | {"digests": first["digests"] | {"mlp: fit": "0"}}))
  monkeypatch.setattr(digests, "KEPT", kept)
  assert digests.measure(pairs=2, seconds=0.5)["different"] == ["mlp: fit"]
