"""The command `jaxmul` in a process of its own, in a folder that holds somebody's package."""

import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jaxmul import checkpoint, data, deletion, memorization, metrics, proxies, rum, train
from jaxmul._command import COMMANDS, inputs, main, saved_config

PACKAGE = """
import flax.linen as nn
from jaxmul import train

class Net(nn.Module):
  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.Dense(64)(x.reshape(len(x), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
    return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x))

def recipe():
  return train.Recipe(Net(), epochs=30, batch_size=64, learning_rate=0.1)
"""


def jaxmul(folder, *arguments, **variables):
  encoding = variables.get("PYTHONIOENCODING", "utf-8")
  environment = os.environ | variables | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
  return subprocess.run(
    [sys.executable, "-m", "jaxmul", *arguments],
    capture_output=True,
    text=True,
    encoding=encoding,
    cwd=folder,
    env=environment,
    check=False,
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("engineer")
  (folder / "mine.py").write_text(PACKAGE)
  digits, rng = data.digits(), np.random.default_rng(0)
  ids = rng.choice(10**12, len(digits), replace=False)
  dataset = data.Dataset(digits.inputs, digits.labels, ids)
  parts = data.holdout(dataset, jax.random.key(0), heldout=200, test=300)
  labels = digits.labels.copy()
  wrong = rng.choice(parts.train, 40, replace=False)
  rows = dataset.rows(wrong)
  labels[rows] = (labels[rows] + rng.integers(1, 10, 40)) % 10
  dataset = data.Dataset(digits.inputs, labels, ids)
  np.savez(folder / "arrays.npz", inputs=dataset.inputs, labels=labels, ids=ids)
  sys.path.insert(0, str(folder))
  try:
    fit = train.fit(inputs.recipe("mine:recipe"), dataset, jax.random.key(1), ids=parts.train)
  finally:
    sys.path.remove(str(folder))
  checkpoint.save(folder / "trained", fit.network)
  (folder / "ids.csv").write_text("id\n" + "\n".join(map(str, wrong[:37])))
  (folder / "heldout.json").write_text(json.dumps(parts.heldout.tolist()))
  (folder / "test.txt").write_text("\n".join(map(str, parts.test)))
  return folder


def test_one_command_from_ids_to_a_record_that_verifies(folder):
  ours = ("--network", "mine:recipe", "--data", "arrays.npz", "--checkpoint", "trained")
  sets = ("--ids", "ids.csv", "--heldout", "heldout.json", "--test", "test.txt")
  done = jaxmul(folder, "forget", *ours, *sets, "--out", "gone", "--oracles", "2")
  assert done.returncode == 0, done.stderr
  assert "change of the example gap" in done.stdout
  assert 'evidence "sample" costs 7 trainings' in done.stderr
  assert len(deletion.verify(folder / "gone")["forget"]) == 37
  done = jaxmul(folder, "verify", "gone")
  assert done.stdout.startswith("whole: request to delete 37 ids")
  page = folder / "gone" / "report.html"
  page.write_text(page.read_text() + " ")
  done = jaxmul(folder, "verify", "gone")
  assert (done.returncode, done.stderr.count("\n")) == (1, 1)
  assert "report.html is missing or damaged" in done.stderr


def trained(folder, dataset):
  sys.path.insert(0, str(folder))
  try:
    return inputs.network(inputs.recipe("mine:recipe"), dataset, folder / "trained")
  finally:
    sys.path.remove(str(folder))


def test_scores_are_those_of_the_library(folder):
  ours = ("--network", "mine:recipe", "--data", "arrays.npz", "--checkpoint", "trained")
  done = jaxmul(folder, "score", *ours, "--proxy", "loss", "--out", "loss")
  assert done.returncode == 0, done.stderr
  dataset = data.from_npz(folder / "arrays.npz")
  network = trained(folder, dataset)
  with np.load(folder / "loss" / "scores.npz") as found:
    np.testing.assert_array_equal(found["ids"], dataset.ids)
    expected = proxies.score(proxies.loss, network, dataset)
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-6)
    lines = (folder / "loss" / "scores.csv").read_text().splitlines()
    assert lines[0] == "ids,scores"
    assert [float(line.split(",")[1]) for line in lines[1:]] == found["scores"].tolist()


def test_a_folder_of_images_is_scored_as_its_arrays(folder):
  digits = data.digits().take(range(60))
  for image, label, row in zip(digits.inputs, digits.labels, digits.ids, strict=True):
    path = folder / "images" / f"digit {label}" / f"{row:03}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
  done = jaxmul(folder, "score", *ARRAYS[:2], "--data", "images", *FOUR[:2], "--out", "of images")
  assert done.returncode == 0, done.stderr
  by_class = digits.take(np.lexsort((digits.ids, digits.labels)))
  expected = proxies.score(proxies.confidence, trained(folder, by_class), by_class)
  with np.load(folder / "of images" / "scores.npz") as found:
    assert found["ids"].tolist() == list(range(60))
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "content", "ids"),
  [
    ("a.txt", "3\n1 999999999999\n", [3, 1, 999999999999]),
    ("a.csv", "id,why\n4,gdpr\n7,other\n", [4, 7]),
    ("b.csv", "4\n7\n", [4, 7]),
    ("excel.csv", "\ufeff123\n456\n", [123, 456]),
    ("a.json", "[5, 2]", [5, 2]),
  ],
)
def test_ids_are_read_of_files_that_people_have(tmp_path, name, content, ids):
  (tmp_path / name).write_text(content)
  assert inputs.read_ids(tmp_path / name).tolist() == ids


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("a.txt", "x"),
    ("a.json", '{"a": 1}'),
    ("b.json", "["),
    ("c.json", "[18446744073709551615]"),
    ("a.csv", "12.0\n34\n"),
    ("b.csv", "12a\n3\n"),
  ],
)
def test_a_file_without_ids_is_refused(tmp_path, name, content):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match="holds no ids"):
    inputs.read_ids(tmp_path / name)


ARRAYS = ("--network", "mine:recipe", "--data", "arrays.npz")
UNSEEN = ("--heldout", "heldout.json", "--test", "test.txt")


@pytest.mark.slow  # docs/command.md runs it too
def test_the_truth_is_measured_with_intervals_and_again_read_back(folder):
  flags = ("memorize", *ARRAYS, *UNSEEN, "--num-models", "16", "--out", "~/truth")
  done = jaxmul(folder, *flags, "--executor", "serial", HOME=str(folder))
  assert done.returncode == 0, done.stderr
  estimate = memorization.Estimate.load(folder / "truth" / "estimate.npz")
  header, *rows = (folder / "truth" / "estimate.csv").read_text().splitlines()
  assert header == "ids,memorization,low,high,count_in,count_out"
  assert [int(row.split(",")[0]) for row in rows] == estimate.ids.tolist()
  assert {int(row.split(",")[4]) + int(row.split(",")[5]) for row in rows} == {16}
  unseen = np.concatenate([inputs.read_ids(folder / n) for n in ("heldout.json", "test.txt")])
  assert not np.isin(unseen, estimate.ids).any()
  stamps = {file: file.stat().st_mtime_ns for file in (folder / "truth" / "chunks").iterdir()}
  saved = ("--config", "truth/config.json", "--executor", "serial")
  done = jaxmul(folder, "memorize", *saved, HOME=str(folder))
  assert done.returncode == 0, done.stderr
  assert stamps == {file: file.stat().st_mtime_ns for file in stamps}
  assert memorization.Estimate.load(folder / "truth" / "estimate.npz").digest == estimate.digest
  done = jaxmul(folder, "memorize", *saved, "--key", "1", HOME=str(folder))
  assert (done.returncode, done.stderr) == (
    2,
    f"error: --out {folder}/truth holds estimate.npz of a run with another --key. Name another "
    "folder.\n",
  )


def rehearsed(network, change):
  """A rehearsal as `deletion.rehearse` returns it, that found this change of the example gap."""
  name, part = "change of the example gap", "forget"
  figure = metrics.Figure(name=name, part=part, value=change, low=change - 0.1, high=change + 0.1)
  figures = {"random": [figure], "memorized": [figure]}
  plan = rum.neg_grad_plus_plan(64)
  return deletion.Rehearsal(plan=plan, figures=figures, estimate=None, network=network)  # pyright: ignore[reportArgumentType]


def test_requests_are_served_after_a_rehearsal_each_with_its_record(folder, monkeypatch, capsys):
  monkeypatch.chdir(folder)
  monkeypatch.syspath_prepend(folder)
  wrong = inputs.read_ids(folder / "ids.csv")
  (folder / "requests").mkdir()
  (folder / "requests" / "monday.txt").write_text("\n".join(map(str, wrong[:6])))
  flags = ("serve", *ARRAYS, *UNSEEN, "--checkpoint", "trained", "--requests", "requests")
  dataset = data.from_npz(folder / "arrays.npz")
  network = inputs.network(inputs.recipe("mine:recipe"), dataset, folder / "trained")
  asked = []

  def rehearse(change, *given, **settings):
    asked.append((given, settings))
    return rehearsed(network, change)

  monkeypatch.setattr(deletion, "rehearse", functools.partial(rehearse, 0.3))
  with pytest.raises(SystemExit) as end:
    main([*flags, "--out", "served"])
  said = capsys.readouterr()
  assert end.value.code == 1
  assert said.err.startswith("error: serve: the rehearsal did not find its plan better")
  assert said.err.count("\n") == 1
  assert "change of the example gap" in said.out
  monkeypatch.setattr(deletion, "rehearse", functools.partial(rehearse, -0.3))
  main([*flags, "--out", "served"])
  monday = (folder / "served" / "record0" / "record.json").read_bytes()
  (folder / "requests" / "tuesday.json").write_text(str(wrong[6:12].tolist()))
  main([*flags, "--out", "served", "--store", "kept"])
  assert [str(settings["store"]) for _, settings in asked] == [
    "served/rehearsal",
    "served/rehearsal",
    "kept",
  ]
  assert (folder / "served" / "record0" / "record.json").read_bytes() == monday
  records = [deletion.verify(folder / "served" / f"record{number}") for number in (0, 1)]
  capsys.readouterr()
  main(["verify", "served/record1"])
  assert capsys.readouterr().out.startswith("whole: request to delete 6 ids")
  assert sorted(records[1]["forget"]) == sorted(wrong[6:12].tolist())
  networks = [record["network"] for record in records]
  assert networks[0]["after"] == networks[1]["before"]
  last = inputs.network(inputs.recipe("mine:recipe"), dataset, folder / "served" / "network")
  assert rum.params_hash(last) == networks[1]["after"] != rum.params_hash(network)


@pytest.mark.slow  # docs/command.md runs it too
def test_a_network_is_judged_beside_oracles_with_intervals(folder):
  flags = ("evaluate", *ARRAYS, *UNSEEN, "--checkpoint", "trained", "--ids", "ids.csv")
  done = jaxmul(folder, *flags, "--oracles", "3", "--out", "judged", PYTHONIOENCODING="cp1252")
  assert done.returncode == 0, done.stderr
  rows = json.loads((folder / "judged" / "evaluation.json").read_text())["figures"]
  found = metrics.figures.read(rows)
  gap = metrics.find(found, "example gap", "forget")
  assert gap.low < gap.value < gap.high
  assert f"{gap.value:.3f}" in done.stdout
  # Nothing was unlearned: the network is as an original is, and farther than any oracle.
  assert gap.low > metrics.find(found, "example gap", of="oracle").high
  assert metrics.find(found, "ToW").high < 0.9
  assert len(metrics.find(found, "ToW").seeds) == 3


def test_flags_come_from_a_file_and_the_line_overrides_them(folder):
  given = {"network": "mine:recipe", "data": "arrays.npz", "checkpoint": "trained"}
  (folder / "flags.json").write_text(json.dumps(given | {"proxy": "entropy", "out": "entropy"}))
  done = jaxmul(folder, "score", "--config", "flags.json", "--proxy", "margin")
  assert done.returncode == 0, done.stderr
  saved = json.loads((folder / "entropy" / "config.json").read_text())
  assert saved["command"] == "score"
  assert saved["config"] == given | {"proxy": "margin", "out": "entropy"}


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"chekpoint": "trained"}, "jaxmul forget has no 'chekpoint'"),
    ({"oracles": "3"}, "oracles is '3', must be a whole number"),
    ({"oracles": True}, "oracles is True, must be a whole number"),
    ({"evidence": "much"}, "evidence is 'much', must be one of 'sample', 'full'"),
    ({"ids": None}, "ids is None, must be a path"),
    ([1], "is no object of flags"),
  ],
)
def test_a_config_of_unknown_keys_or_wrong_types_is_refused(tmp_path, content, message):
  path = tmp_path / "config.json"
  path.write_text(json.dumps(content))
  with pytest.raises(ValueError, match=message):
    saved_config.defaults(COMMANDS, ["forget", "--config", str(path)])


FOUR = ("--checkpoint", "trained", "--ids", "ids.csv")


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (
      ("forget", *ARRAYS, *UNSEEN, *FOUR[:2], "--ids", "far.txt"),
      "id 7 of --ids far.txt is not in",
    ),
    (("forget", *ARRAYS, *UNSEEN, *FOUR[:2], "--ids", "no.txt"), "--ids no.txt: there is no such"),
    (("score", *ARRAYS[:2], "--data", "no.npz", *FOUR[:2]), "there is no file no.npz"),
    (("score", *ARRAYS[:2], "--data", "mine.py", *FOUR[:2]), "--data mine.py: is no .npz"),
    (("score", *ARRAYS, "--checkpoint", "~/nothing"), "no checkpoint at /nowhere/nothing"),
    (("score", *ARRAYS, *FOUR[:2], "--proxy", "hope"), "--proxy hope: must be one of confidence"),
    (("score", *ARRAYS, *FOUR[:2], "--out", "arrays.npz"), "--out arrays.npz is a file"),
    (("score", *ARRAYS, *FOUR[:2], "--config", "no.json"), "--config no.json: there is no such"),
    (("evaluate", *ARRAYS, *UNSEEN, *FOUR, "--oracles", "1"), "--oracles 1: must be at least 2"),
    (("verify", "nothing"), "no record.json in nothing"),
    ((), "name a command: score, memorize, forget"),
    (("skore",), "there is no command skore: score, memorize, forget"),
    (("score", "--netwrk", "mine:recipe"), "has no --netwrk. Did you mean --network?"),
    (
      ("forget", *ARRAYS, *UNSEEN, *FOUR, "--orackles=3"),
      "Did you mean --oracles?",
    ),
    (("verify", "nothing", "--zzz"), "jaxmul verify has no --zzz. jaxmul verify --help lists all"),
    (("score", *ARRAYS[:2], "--data", "gs://b/x.npz", *FOUR[:2]), "Mount the bucket"),
  ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, arguments, said):
  (folder / "far.txt").write_text("7")
  done = jaxmul(folder, *arguments, PYTHONIOENCODING="cp1252", HOME="/nowhere")
  assert done.returncode == 2
  assert done.stderr.startswith("error: ")
  assert done.stderr.count("\n") == 1
  assert said in done.stderr


@pytest.mark.parametrize(
  ("name", "content", "requests"),
  [
    ("a.txt", "3 1\n\n7\n", [[3, 1], [7]]),
    ("a.json", "[[5], [2, 9]]", [[5], [2, 9]]),
  ],
)
def test_requests_are_read_of_files(tmp_path, name, content, requests):
  (tmp_path / name).write_text(content)
  found = inputs.read_requests(tmp_path / name)
  assert [ids.tolist() for ids in found.values()] == requests


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.txt", "\n", "holds no request"),
    ("a.txt", "1 b", "holds no requests"),
    ("a.json", "[1, 2]", "holds no requests"),
    ("a.csv", "1\n2", "must be a folder"),
  ],
)
def test_a_file_without_requests_is_refused(tmp_path, name, content, message):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=message):
    inputs.read_requests(tmp_path / name)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("mine", "name it as package.module:name"),
    ("no_such_package:recipe", "No module named 'no_such_package'"),
    ("json:dumps_it", "has no attribute 'dumps_it'"),
    ("os:getcwd", "gives a str, must give a train.Recipe"),
    ("broken:recipe", r"SyntaxError: .*broken.py, line 1"),
    ("boom:recipe", r"KeyError: 'k' \(.*boom.py, line 2\)"),
  ],
)
def test_a_network_that_is_no_recipe_is_refused(tmp_path, monkeypatch, name, message):
  (tmp_path / "broken.py").write_text("x = (")
  (tmp_path / "boom.py").write_text("def recipe():\n  return {}['k']\n")
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ValueError, match=message):
    inputs.recipe(name)
