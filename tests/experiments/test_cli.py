"""How scripts end: exit codes, one line for an error, none of them with a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUSY = """
import time
from experiments import cli
def work():
  {}
cli.run(work)
"""
SLEEPING = 'print("ready", flush=True); time.sleep(60)'
COMPUTING = """
  import jax
  def loop(x):
    return jax.lax.while_loop(lambda x: x >= 0, lambda x: x + 1e-30, x)
  forever = jax.jit(loop).lower(1.0).compile()
  print("ready", flush=True)
  forever(1.0).block_until_ready()
"""


def start(command):
  return subprocess.Popen(
    [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def stopped(work, number):
  assert work.stdout.readline() == "ready\n"
  time.sleep(0.5)
  os.kill(work.pid, number)
  try:
    _, error = work.communicate(timeout=60)
  finally:
    work.kill()
  return work.returncode, error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_says_that_the_same_command_goes_on(number, code):
  found, error = stopped(start(["-c", BUSY.format(SLEEPING)]), number)
  assert found == code
  assert error.strip() == ("stopped: finished work is kept; run the same command again to go on.")


BENCHMARK = """
import runpy, sys, time
from experiments.bench import scan_step
def measure(*_):
  print("ready", flush=True)
  time.sleep(60)
scan_step.measure = measure
sys.argv = ["bench", "scan_step"]
runpy.run_module("experiments.bench", run_name="__main__")
"""


def test_a_stopped_benchmark_does_not_promise_to_go_on():
  found, error = stopped(start(["-c", BENCHMARK]), signal.SIGINT)
  assert found == 130
  assert error.strip() == "stopped: a benchmark keeps nothing before it is done."


def test_it_stops_while_xla_computes_without_end():
  found, error = stopped(start(["-c", BUSY.format(COMPUTING.strip())]), signal.SIGINT)
  assert found == 130
  assert error.strip().startswith("stopped: ")


@pytest.mark.parametrize(
  "error", ["ValueError('a\\nb')", "OSError('a b')", "FloatingPointError('a b')"]
)
def test_what_a_user_can_cure_is_one_line(error):
  done = start(["-c", BUSY.format(f"raise {error}")])
  _, said = done.communicate(timeout=60)
  assert (done.returncode, said) == (1, "error: a b\n")


@pytest.mark.parametrize("encoding", ["cp1252", "cp936", "ascii"])
def test_a_console_without_greek_gets_everything_else(encoding):
  work = """
  import sys
  from experiments import tables
  tables.show("ρ ≥ ½ of 样", ("θ",), [("mean ± half",)])
  print("e^−ℓ", file=sys.stderr)"""
  command = [sys.executable, "-c", BUSY.format(work.strip())]
  environment = os.environ | {"PYTHONIOENCODING": encoding}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
  assert (done.returncode, b"Error" in done.stderr) == (0, False), done.stderr
  assert b"mean" in done.stdout


CONFIG = """
import dataclasses
from pathlib import Path
from experiments import cli

@dataclasses.dataclass
class Config:
  out: Path = Path("runs")
  truth: Path | None = None

cli.main(lambda config: print(config.out, config.truth), Config, "a script")
"""


@pytest.mark.parametrize(
  ("flags", "code", "said"),
  [
    (("--out=~/x",), 0, "/nowhere/x None"),
    (("--truth=~/t.npz",), 0, "runs /nowhere/t.npz"),
    (("--out", "gs://bucket/x"), 1, "error: gs:/bucket/x is a URL, must be a local path. Mount"),
  ],
)
def test_paths_are_of_this_machine(flags, code, said):
  command = [sys.executable, "-c", CONFIG, *flags]
  environment = os.environ | {"HOME": "/nowhere"}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == code, done.stderr
  assert (done.stdout + done.stderr).startswith(said)


def test_a_bug_keeps_its_traceback():
  done = start(["-c", BUSY.format("raise KeyError('a bug')")])
  _, said = done.communicate(timeout=60)
  assert done.returncode == 1
  assert "Traceback" in said


@pytest.mark.parametrize("name", ["rum", "memorize run", "score", "unlearn", "evaluate"])
def test_help_names_defaults_and_says_what_every_flag_is(name):
  script = start(["-m", *f"experiments.{name} --help".split()])
  said, _ = script.communicate(timeout=60)
  assert script.returncode == 0
  assert said.startswith(f"usage: python -m experiments.{name} [-h]")
  flags = [line for line in said.splitlines() if line.startswith("│ --")]
  assert len(flags) > 10
  assert said.count("(default:") + said.count("(required)") >= len(flags)
