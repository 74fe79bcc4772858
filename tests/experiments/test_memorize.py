"""The ground-truth script as a user runs it: stopped, resumed, in parts, looked at."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import memorize as script
from jaxmul import memorization, retraining

pytestmark = pytest.mark.xdist_group("memorize")  # their runs are made once

ROOT = Path(__file__).parents[2]
SMALL = ["--dataset", "digits", "--num-models", "32", "--epochs", "3", "--executor", "serial"]


def command(*arguments):
  return [sys.executable, "-m", "experiments.memorize", *map(str, arguments)]


def memorize(*arguments):
  return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  out = tmp_path_factory.mktemp("truth")
  return out, memorize("run", *SMALL, "--out", out)


def digest(out):
  return memorization.Estimate.load(out / "estimate.npz").digest


def test_it_writes_an_estimate_and_says_what_it_holds(whole):
  out, done = whole
  assert done.returncode == 0, done.stderr
  assert "32 models, each without 378 of all of 1259 examples" in done.stdout
  assert "examples scored" in done.stdout
  assert digest(out)[:16] in done.stdout
  assert "FLOP" not in done.stdout  # it takes less than a minute
  assert sorted(path.name for path in out.iterdir()) == [
    "chunks",
    "config.json",
    "estimate.npz",
    "log.jsonl",
  ]
  assert len((out / "log.jsonl").read_text().splitlines()) == 4  # chunks of 8 models


def test_status_and_verify(whole, capsys):
  out, _ = whole
  script.status(out)
  script.verify(out)
  found = capsys.readouterr().out
  assert "32 of 32 models done" in found
  assert "every file is whole and there" in found
  file = out / "chunks" / "chunk-000002.jaxmul"
  content = file.read_bytes()
  file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  for name in ("status", "verify"):
    found = memorize(name, out)
    assert "damaged: " in found.stdout
    assert "chunk-000002.jaxmul" in found.stdout
    assert found.returncode == (1 if name == "verify" else 0)
  file.write_bytes(content)


def test_verify_reads_all_that_a_run_of_the_main_job_has(whole, tmp_path, capsys):
  cache = tmp_path / "cache"
  shutil.copytree(whole[0] / "chunks", cache / "chunks-0123")
  shutil.copytree(whole[0] / "chunks", cache / "ensemble-0123" / "oracles")
  estimate = cache / "ground_truth-0123-32.npz"
  shutil.copy(whole[0] / "estimate.npz", estimate)
  script.verify(tmp_path)
  assert "every file is whole and there: 64 models in 2 store(s)" in capsys.readouterr().out
  content = estimate.read_bytes()
  estimate.write_bytes(content[: len(content) // 2])
  (cache / "ensemble-0123" / "oracles" / "chunk-000001.jaxmul").unlink()
  with pytest.raises(SystemExit, match="damaged or missing"):
    script.verify(tmp_path)
  said = capsys.readouterr().out
  assert f"damaged: {estimate}" in said
  assert f"missing: 8 of 32 models of {cache / 'ensemble-0123' / 'oracles'}" in said


@pytest.mark.parametrize(
  ("number", "code"),
  [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_stopped_it_says_how_to_go_on_and_does(whole, tmp_path, number, code):
  work = subprocess.Popen(
    command("run", *SMALL, "--out", tmp_path), cwd=ROOT, stderr=subprocess.PIPE, text=True
  )
  deadline = time.monotonic() + 120
  while not list(tmp_path.glob("chunks/chunk-*")) and time.monotonic() < deadline:
    time.sleep(0.02)
  os.kill(work.pid, number)
  _, error = work.communicate(timeout=60)
  assert work.returncode == code, error
  assert "finished work is kept; run the same command again to go on." in error
  assert "Traceback" not in error
  assert not (tmp_path / "estimate.npz").exists()
  assert memorize("run", *SMALL, "--out", tmp_path).returncode == 0
  assert digest(tmp_path) == digest(whole[0])


def test_parts_make_a_whole(whole, tmp_path, capsys, monkeypatch):
  config = script.Config(dataset="digits", num_models=32, epochs=3, executor="serial", out=tmp_path)
  for part in ("1/2", "2/2"):
    script.run(dataclasses.replace(config, part=part))
    assert "2 of 2 chunks" in capsys.readouterr().out

  def never(*_):
    raise AssertionError("nothing was left to compute")

  monkeypatch.setattr(retraining, "serial", never)
  script.run(config)
  assert digest(tmp_path) == digest(whole[0])


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"part": "3/2"}, "--part 3/2: write the part and their number, such as 3/16."),
    ({"active": True, "part": "1/2"}, "--active chooses its own models"),
    ({"strategy": "sleeping_experts"}, "--strategy sleeping_experts chooses for --active"),
    ({"part": "1/2", "until_width": 0.2}, "--until-width needs all chunks"),
    ({"part": "1/2", "distributed": True}, "--part and --distributed both"),
  ],
)
def test_options_that_do_not_fit_are_refused(options, said):
  with pytest.raises(ValueError, match=said) as caught:
    script.Config(**options)
  assert "\n" not in str(caught.value)


def test_errors_take_one_line(tmp_path):
  done = memorize("run", *SMALL, "--out", tmp_path, "--fraction", "1")
  assert done.returncode == 1
  assert "fraction=1.0, must be in (0, 1)" in done.stderr
  assert "Traceback" not in done.stderr


def test_a_missing_store_is_said_in_one_line(tmp_path):
  done = memorize("status", tmp_path)
  assert done.returncode == 1
  assert done.stderr.startswith("error: there are no stored models in")
