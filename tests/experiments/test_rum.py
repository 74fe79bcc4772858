"""The main job as a user runs it, small: files, resuming, errors without traceback."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from experiments import judge
from jaxmul import metrics
from jaxmul.metrics import find
from jaxmul.metrics.figures import read

pytestmark = pytest.mark.xdist_group("rum")  # their runs are made once

ROOT = Path(__file__).parents[2]
SMALL = ["--dataset", "digits", "--num-models", "8", "--epochs", "4", "--group-size", "30"]
SMALL += ["--audit-models", "8"]


def one_device():
  """As on a user's machine: for eight simulated ones everything is compiled again, and larger."""
  flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  return os.environ | {"XLA_FLAGS": flags}


def rum(*arguments):
  command = [sys.executable, "-m", "experiments.rum", *arguments]
  return subprocess.run(
    command, cwd=ROOT, env=one_device(), capture_output=True, text=True, timeout=400
  )


def rum_on_a_terminal(*arguments):
  """Runs with stderr on a terminal, as a user does who waits for it."""
  ours, theirs = pty.openpty()
  environment = one_device() | {"TERM": "xterm", "COLUMNS": "120"}
  command = [sys.executable, "-m", "experiments.rum", *arguments]
  work = subprocess.Popen(
    command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True
  )
  os.close(theirs)
  shown = bytearray()

  def read():
    with contextlib.suppress(OSError):  # how a terminal ends
      while part := os.read(ours, 4096):
        shown.extend(part)

  reader = threading.Thread(target=read)
  reader.start()
  out, _ = work.communicate(timeout=400)
  reader.join()
  os.close(ours)
  return subprocess.CompletedProcess(command, work.returncode, out, shown.decode())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  out = tmp_path_factory.mktemp("run")
  options = [*SMALL, "--seeds", "2", "--proxy", "confidence", "curvature", "heldout_divergence"]
  return out, options, rum_on_a_terminal(*options, "--out", str(out))


def test_it_prints_the_table_and_writes_the_run_directory(first):
  out, _, done = first
  assert done.returncode == 0, done.stderr
  for row in (
    "original",
    "retrain",
    "fine-tune",
    "NegGrad+ vanilla",
    "RUM shuffle",
    "RUM curvature",
    "vanilla, tuned",
    "RUM confidence, tuned",
  ):
    assert row in done.stdout
  found = json.loads((out / "metrics.json").read_text())
  assert found["ground_truth"]["models"] == 8
  assert "RUM shuffle" not in found["differences"]
  beside = found["differences"]["RUM curvature"]
  assert list(beside) == ["RUM shuffle", "SalUn vanilla", "vanilla, tuned", "RUM ground truth"]
  figures = {name: read(method["figures"]) for name, method in found["methods"].items()}
  for name in ("example gap", "ToW by group", "ToW", "ToW-MIA"):
    ours, theirs = (find(figures[each], name) for each in ("RUM curvature", "RUM shuffle"))
    difference = find(read(beside["RUM shuffle"]), name)
    assert difference.value == pytest.approx(ours.value - theirs.value)
    assert difference.seeds == tuple(np.subtract(ours.seeds, theirs.seeds))
  for name, group in found["groups"].items():
    assert sum(group["classes"]) == group["size"] == 30
    assert f"forget group {name}: 30 examples" in done.stdout
  assert found["ties"].endswith("key 0")
  assert len(found["autopilot"]["chosen"]) == 2
  assert [len(each) for each in found["autopilot"]["chosen"][0].values()] == [1, 3]
  assert found["methods"]["RUM confidence, tuned"]["scores"] == "confidence"
  charged = find(figures["RUM confidence, tuned"], "scoring").value
  own = find(read(found["proxies"]["confidence"]), "seconds").value
  assert charged == pytest.approx(found["autopilot"]["seconds"] + own)
  audit = json.loads((out / "audit.json").read_text())
  assert f"audit {'passed' if audit['passed'] else 'failed'}: " in done.stdout
  controls = audit["audit"]["controls"]
  assert {*(f"attack {name}" for name in metrics.game.ATTACKS), "ToW", "ToW-MIA"} < {
    control["name"] for control in controls
  }
  assert audit["blind"] == [name for control in controls for name in control["blind"]]
  headline = set(judge.HEADLINE)
  line = re.search(r"^Blind here, left out of the table: (.*)\.$", done.stdout, re.MULTILINE)
  left_out = set(line.group(1).split(", ")) if line else set()
  unseen = judge.unseeing(figures["original"], figures["retrain"])
  assert left_out == headline & {*unseen, *(blind["name"] for blind in audit["blind"])}
  for name in ("example gap", "ToW"):
    assert (f"{name} minus that of another method" in done.stdout) == (name not in left_out)
  for method in figures.values():
    assert headline | {"accuracy", "attack rate"} < {figure.name for figure in method}
    for figure in method:
      assert figure.name in ("seconds", "scoring") or 0 <= figure.low <= figure.high <= 1
      assert figure.name == "scoring" or figure.low <= figure.value <= figure.high
      assert figure.name == "scoring" or len(figure.seeds) == 2
  config = json.loads((out / "config.json").read_text())
  assert config["config"]["batch_size"] == 64
  assert config["versions"]["jax"]
  with np.load(out / "scores.npz", allow_pickle=False) as scores:
    assert scores["proxies"].shape == (len(scores["proxy_names"]), 2, len(scores["ids"]))
    assert "curvature" in scores["proxy_names"]
    assert scores["group_names"].tolist() == ["low", "medium", "high"]
    assert np.bincount(scores["group"] + 1).tolist() == [len(scores["ids"]) - 90, 30, 30, 30]
  for name in ("memorization", "proxies", "methods", "gallery"):
    assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
  with np.load(out / "unlearned.npz", allow_pickle=False) as unlearned:
    confidence = unlearned["confidence"]
    assert confidence.shape == (len(found["methods"]), 2, 90)
    assert ((confidence >= 0) & (confidence <= 1)).all()
  page = (out / "report.html").read_text()
  assert "Deletion record" in page
  stages = json.loads((out / "seconds.json").read_text())
  assert list(stages) == [
    *("data", "ground truth", "cross-fit", "original", "oracles", "proxies", "unlearning"),
    *("judging", "audit", "report"),
  ]
  assert all(seconds > 0 for seconds in stages.values())
  assert stages["ground truth"] == found["ground_truth"]["seconds"]
  of_originals = sum(find(figures["original"], "seconds").seeds)
  assert stages["original"] == pytest.approx(of_originals)
  unlearned = (own for name, own in figures.items() if name not in ("original", "retrain"))
  assert stages["unlearning"] == pytest.approx(
    sum(sum(find(own, "seconds").seeds) for own in unlearned)
  )
  points = (
    find(read(found["proxies"][name]), "seconds") for name in ("curvature", "heldout_divergence")
  )
  assert stages["proxies"] == pytest.approx(sum(sum(figure.seeds) for figure in points))
  assert re.search(r"^seconds by stage: data \d+, .*; \d+ in all$", done.stdout, re.MULTILINE)
  row = page.split('<th scope="row">ground truth</th><td>')[1]
  assert row.startswith(f"{stages['ground truth']:,.1f}</td>")


def test_a_terminal_sees_each_stage_and_the_time_left(first):
  _, _, done = first
  shown = done.stderr
  for stage in ("seed 1: training original", "seed 2: scoring curvature", "seed 2: RUM shuffle"):
    assert stage in shown
  # Of each seed three trainings, two proxies of the trained network, ten methods.
  assert "30/30" in shown
  assert re.search(r"1?\d/30\S* \S*\d:\d\d:\d\d", shown)
  assert "8 of 8 models" in shown
  assert "originals and oracles" in shown


def test_training_runs_and_methods_are_logged(first):
  out, _, _ = first
  lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
  losses = [line["seed 2/oracle/loss"] for line in lines if "seed 2/oracle/loss" in line]
  assert len(losses) == 4
  assert losses[0] > losses[-1]
  logged = {line["step"]: line["RUM shuffle/ToW"] for line in lines if "RUM shuffle/ToW" in line}
  found = json.loads((out / "metrics.json").read_text())["methods"]["RUM shuffle"]["figures"]
  mean = find(read(found), "ToW").value
  assert sorted(logged) == [0, 1]
  assert np.mean(list(logged.values())) == pytest.approx(mean)


def test_the_same_command_again_reads_back_what_is_finished(first):
  out, options, _ = first
  before = json.loads((out / "metrics.json").read_text())
  seconds = json.loads((out / "seconds.json").read_text())
  again = rum(*options, "--out", str(out))
  assert again.returncode == 0, again.stderr
  assert again.stdout.count("read back") == 4  # ground truth, cross-fit and two seeds
  assert json.loads((out / "metrics.json").read_text()) == before
  after = json.loads((out / "seconds.json").read_text())
  for name in set(seconds) - {"data", "report"}:  # which are done anew
    assert after[name] == seconds[name], name


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--seed", "3"], "--seeds"),
    (["--seeds", "0"], "--seeds 0: must be at least 1"),
    (["--first-seed", "-1"], "--first-seed -1: must be at least 0"),
    (["--audit-models", "4"], "--audit-models 4: must be at least 8"),
    (["--dataset", "nothing.npz"], "nothing.npz"),
    (["--dataset", "mnist5k", "--fraction", "2"], "fraction=2"),
  ],
)
def test_user_errors_name_the_cure_without_a_traceback(tmp_path, arguments, said):
  done = rum(*arguments, "--out", str(tmp_path / "run"))
  assert done.returncode != 0
  assert said in done.stdout + done.stderr
  assert "Traceback" not in done.stdout + done.stderr


def test_a_constant_proxy_has_no_rank_and_does_not_end_the_run():
  assert judge.ranked(np.arange(9.0), np.arange(9.0) ** 2, 3).spearman == 1
  for scores, truth in ((np.ones(9), np.arange(9.0)), (np.arange(9.0), np.zeros(9))):
    assert np.isnan(judge.ranked(scores, truth, 3).spearman)
    assert np.isnan(judge.ranked(scores, truth, classes=np.arange(9) % 2).spearman)
  steps, kinds = np.arange(9.0) % 3, np.arange(9) % 3  # constant in each class
  assert np.isnan(judge.ranked(steps, np.arange(9.0), classes=kinds).spearman)
  assert judge.ranked(np.arange(9.0), np.arange(9.0), classes=kinds).spearman == 1
  what = {"within": judge.CORRELATION, "name": "spearman"}
  assert np.isnan(judge.maybe_over_seeds([0.5, np.nan, 0.6], **what).value)
  figure = judge.maybe_over_seeds([0.5, 0.6], **what)
  assert (figure.value, figure.high) == (0.55, 1)
