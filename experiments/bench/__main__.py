"""Runs one benchmark and prints or writes its figures, goals and environment as JSON."""

import argparse
import importlib
import json
from pathlib import Path

from experiments import cli
from experiments.bench import machine
from jaxmul import report

NAMES = (
  "scan_step",
  "models_per_second",
  "proxies",
  "unlearn_epoch",
  "kill_resume",
  "corruption",
  "forget",
  "linear_cost",
  "sequences",
  "gpt2_size",
  "digests",
  "readiness",
  "accelerator",
  "streaming",
  "growth",
)


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=__doc__)
  parser.add_argument("name", choices=NAMES, help="what to measure")
  parser.add_argument("--json", type=Path, help="file to write; standard output by default")
  parser.add_argument("--quick", action="store_true", help="short samples: a check, not a figure")
  given = parser.parse_args()
  module = importlib.import_module(f"experiments.bench.{given.name}")
  pairs, seconds = (2, 0.5) if given.quick else (5, 10.0)
  result = {
    "benchmark": given.name,
    "figures": module.measure(pairs, seconds),
    "goals": module.GOALS,
    "environment": report.versions()
    | machine.facts()
    | {"pairs": pairs, "seconds_per_sample": seconds},
  }
  if given.json:
    report.write_json(given.json, result)
  else:
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
  cli.run(main, "a benchmark keeps nothing before it is done.")
