"""What a script keeps is named by everything that decides it, and by nothing else.

Each input that a script reads is changed in turn, in its own file: its results must get another
name, and be computed. What decides nothing must not change the name.
"""

import copy
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import (
  cache,
  evaluate,
  main_job,
  memorize,
  paper,
  score,
  setting,
  truth,
  unlabelled,
  unlearn,
)
from experiments.mixed_set import MixedSet
from jaxmul import _identity, data, metrics, retraining
from jaxmul.memorization import Estimate
from jaxmul.metrics.oracle import Outputs

ROOT = Path(__file__).parents[2]
SCRIPTS = {"rum": main_job, "score": score, "unlearn": unlearn, "unlabelled": unlabelled}
PROBLEMS = ("unlearn", "unlabelled")  # scripts whose rows are named by a Problem


def estimate(ids, seed=0):
  n, rng = len(ids), np.random.default_rng(seed)
  names = [f.name for f in dataclasses.fields(Estimate) if f.default is dataclasses.MISSING]
  arrays = {name: rng.random(n) for name in names}
  counts = {name: np.full(n, 5) for name in names if "count" in name or "correct" in name}
  return Estimate(**arrays | counts | {"ids": np.sort(ids)})


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch):
  """What the main job trains before its first seed is made up: it is told by its content."""

  def oracles(recipe, dataset, split, key, *, num_models, store):
    del recipe, key, num_models, store
    kept = dataset.take(split.train)
    logits = np.zeros((2, len(kept), dataset.num_classes), np.float32)
    return Outputs.of_logits(kept.ids, kept.labels, logits)

  monkeypatch.setattr(
    main_job, "cross_fitted", lambda *given: (estimate(given[2].ids, seed=2), 1.0)
  )
  monkeypatch.setattr(metrics.oracle, "oracles", oracles)


@pytest.fixture
def files(tmp_path):
  """A data set and a ground truth as files, and a config of each script that reads them."""
  digits = data.digits()
  digits = digits.take(digits.ids[:90])
  fields = {name: value for name, value in vars(digits).items() if value is not None}
  write(tmp_path / "digits.npz", fields)
  estimate(digits.ids).save(tmp_path / "truth.npz")
  return tmp_path


def write(path, arrays):
  np.savez(path, **arrays)


def config_of(script, folder, **flags):
  given = {"dataset": str(folder / "digits.npz"), "truth": folder / "truth.npz", "epochs": 1}
  given |= {"model": "mlp", "out": folder / "run"} | flags
  if script in PROBLEMS:
    given |= {"algorithms": ("fine_tune",), "group_size": 5}
  if script == "rum":
    given |= {"group_size": 5}
  return SCRIPTS[script].Config(**given)


def problem_of(script, config):
  """What the script itself reads and cuts."""
  if script == "rum":
    dataset, parts = setting.cut(config)
    return main_job.prepare(config, dataset, parts, setting.recipe_of(config, dataset.num_classes))
  if script == "unlabelled":
    return MixedSet(config, config.group_size)
  return score.prepare(config) if script == "score" else unlearn.Problem(config)


def name_of(script, config, problem=None):
  problem = problem_of(script, config) if problem is None else problem
  if script == "unlabelled":
    return unlabelled.name_of_rows(config, problem)
  if script == "unlearn":
    problem = copy.copy(problem)
    problem.config = config
    return unlearn.name_of_rows(problem)
  return SCRIPTS[script].name_of_seeds(config, problem)


def replace(folder, part):
  """Changes one thing in the file of the data: an image of a part, the labels, the ids, the mix."""
  path = folder / "digits.npz"
  with np.load(path) as file:
    arrays = dict(file)
  dataset, parts = setting.cut(config_of("rum", folder))
  cut = data.cut_heldout(parts.heldout, jax.random.fold_in(jax.random.key(0), 2))._asdict()
  ids = (parts._asdict() | {f"heldout for {use}": found for use, found in cut.items()}).get(part)
  if ids is not None:
    arrays["inputs"][dataset.rows(ids[-1:])] += 1
  elif part == "labels":
    arrays["labels"][:2] = arrays["labels"][1::-1]
  elif part == "ids":
    arrays["ids"][:2] = arrays["ids"][1::-1]
  elif part == "num_classes":
    arrays["num_classes"] = 11
  else:
    assert part == "order"
    arrays |= {name: arrays[name][::-1] for name in ("inputs", "labels", "ids")}
  write(path, arrays)


PARTS = ("train", "labels", "ids", "num_classes", "heldout for proxy")
MORE = ("heldout for tune", "heldout for attack", "test")


@pytest.mark.parametrize(
  ("script", "part"),
  [(script, part) for script in SCRIPTS for part in PARTS]
  + [(script, part) for script in ("rum", *PROBLEMS) for part in MORE],
)
def test_data_that_were_changed_in_place_are_other_data(files, script, part):
  config = config_of(script, files)
  before = name_of(script, config)
  replace(files, part)
  assert name_of(script, config) != before


@pytest.mark.parametrize("script", ["rum", *PROBLEMS])
def test_a_truth_that_was_overwritten_is_another_truth(files, script):
  config = config_of(script, files)
  before = name_of(script, config)
  kept = Estimate.load(files / "truth.npz")
  # The last bit of one number, by which no set is selected differently.
  soft = kept.soft.copy()
  soft[0] = np.nextafter(soft[0], 2)
  dataclasses.replace(kept, soft=soft).save(files / "truth.npz")
  assert name_of(script, config) != before


def test_what_was_trained_for_all_seeds_is_told_by_its_content(files):
  config = config_of("rum", files)
  problem = problem_of("rum", config)
  cross_fit = dataclasses.replace(problem, cross_fit=estimate(problem.training.ids, seed=3))
  logits = problem.oracles.logits + np.float32(1e-7)
  oracles = Outputs.of_logits(problem.oracles.ids, problem.oracles.labels, logits)
  others = (problem, cross_fit, dataclasses.replace(problem, oracles=oracles))
  assert len({name_of("rum", config, each) for each in others}) == 3


def test_scores_do_not_depend_on_a_truth_that_they_are_compared_with(files):
  config = config_of("score", files)
  before = name_of("score", config)
  estimate(data.from_npz(config.dataset).ids, seed=1).save(files / "truth.npz")
  assert name_of("score", config) == before


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_same_contents_elsewhere_and_in_another_order_are_the_same(files, script, tmp_path):
  before = name_of(script, config_of(script, files))
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  for file in ("digits.npz", "truth.npz"):
    shutil.move(files / file, elsewhere / file)
  replace(elsewhere, "order")
  assert name_of(script, config_of(script, elsewhere)) == before


def other(value):
  """A value that is not this one, of the same kind."""
  if isinstance(value, bool):
    return not value
  if isinstance(value, int | float):
    return value + 1
  if isinstance(value, tuple):
    return (*value, "more") if value else ("more",)
  return "another" if isinstance(value, str) else Path("another")


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_told_but_those_that_are_named_as_others(files, script):
  config = config_of(script, files)
  problem = problem_of(script, config)
  before = name_of(script, config, problem)
  fields = {field.name for field in dataclasses.fields(config)}
  assert fields >= set(SCRIPTS[script].OTHERS)
  for field in fields:
    changed = copy.copy(config)
    object.__setattr__(changed, field, other(getattr(config, field)))
    same = name_of(script, changed, problem) == before
    assert same == (field in SCRIPTS[script].OTHERS), field


@pytest.mark.parametrize(
  ("script", "idle"),
  [
    ("rum", {"seeds", "first_seed", "audit_models", "checkpoints", "log", "out", "export"}),
    ("score", {"seeds", "log", "out", "truth", "num_models", "fraction", "sample"}),
    ("unlearn", {"all", "algorithms", "sets", "seeds", "log", "out"}),
    ("unlabelled", {"algorithms", "seeds", "log", "out"}),
  ],
)
def test_what_is_not_told_decides_nothing_or_is_told_by_its_content(script, idle):
  read = {"dataset", "data_dir"} | ({"truth"} - idle)
  read |= {"cross_fit"} if script == "rum" else set()
  assert set(SCRIPTS[script].OTHERS) == idle | read


@pytest.mark.parametrize("script", SCRIPTS)
def test_versions_settings_and_the_number_of_the_results_are_told(files, script, monkeypatch):
  config = config_of(script, files)
  problem = problem_of(script, config)
  names = {name_of(script, config, problem)}
  for package in ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-learn"):
    with monkeypatch.context() as patch:
      patch.setattr(
        _identity, "_installed", lambda name, package=package: "0" if name == package else "1"
      )
      names.add(name_of(script, config, problem))
  with monkeypatch.context() as patch:
    patch.setattr(_identity, "RESULTS", _identity.RESULTS + 1)
    names.add(name_of(script, config, problem))
  with jax.default_matmul_precision("float32"):
    names.add(name_of(script, config, problem))
  assert len(names) == 10
  assert name_of(script, config, problem) in names


NAME = """
import sys
from pathlib import Path
from experiments import score
assert Path(score.__file__).is_relative_to(sys.argv[1]), score.__file__
config = score.Config(dataset=sys.argv[2], model="mlp")
print(score.name_of_seeds(config, score.prepare(config)))
"""


def test_the_text_of_the_source_is_not_told(files):
  """A copy of the whole source with a comment at the end of every file names its results alike."""
  code = files / "code"
  for package in ("jaxmul", "experiments"):
    shutil.copytree(ROOT / package, code / package)
  for file in code.rglob("*.py"):
    file.write_text(file.read_text() + "\n# A remark.\n")
  command = [sys.executable, "-c", NAME, code, files / "digits.npz"]
  done = subprocess.run(command, cwd=code, capture_output=True, text=True, timeout=120)
  assert done.returncode == 0, done.stderr
  config = score.Config(dataset=str(files / "digits.npz"), model="mlp")
  assert done.stdout.split() == [score.name_of_seeds(config, score.prepare(config))]


def test_a_path_is_never_told(files):
  with pytest.raises(ValueError, match="does not tell what is there"):
    cache.name_of({"truth": files / "truth.npz"})


def test_the_preset_of_a_paper_is_told_by_its_recipe_and_its_images(files):
  small = paper.Config(preset="cifar10", smoke=True, seeds=1, out=files)
  names = set()
  for config in (small, dataclasses.replace(small, bfloat16=True)):
    preset = paper.PRESETS[config.preset]()
    job = dataclasses.replace(paper.job_of(config, preset), truth=files / "truth.npz")
    dataset, parts = paper.cut(preset, *paper.made_up(preset), jax.random.key(0))
    estimate(parts.train).save(files / "truth.npz")
    problem = main_job.prepare(job, dataset, parts, paper.recipe_of(config, preset, job))
    names.add(main_job.name_of_seeds(job, problem))
  assert len(names) == 2


def folder_of_ensemble(folder, forget):
  config = evaluate.Config(
    unlearned=(), forget=folder / "forget.npy", dataset=str(folder / "digits.npz")
  )
  np.save(config.forget, forget)
  dataset, parts = setting.cut(config)
  split = evaluate.split_of(config, dataset, parts)
  recipe = setting.recipe_of(config, dataset.num_classes)
  key = jax.random.key(0)
  return cache.ensemble_store(folder, recipe, dataset, split, key, config.num_models)


@pytest.mark.parametrize("part", [*PARTS, *MORE])
def test_an_ensemble_is_kept_by_its_data(files, part):
  forget = setting.cut(config_of("rum", files))[1].train[:5]
  before = folder_of_ensemble(files, forget)
  replace(files, part)
  # Other labels or ids are cut otherwise: the forget set must be in the training part.
  forget = np.intersect1d(forget, setting.cut(config_of("rum", files))[1].train)
  assert folder_of_ensemble(files, forget) != before


def test_an_ensemble_is_kept_by_its_forget_set(files):
  training = setting.cut(config_of("rum", files))[1].train
  assert folder_of_ensemble(files, training[:5]) != folder_of_ensemble(files, training[1:6])


def counted(monkeypatch, script):
  """Replaces the work on one seed by a count of it."""
  seeds = []

  def run_seed(config, problem, seed, *_, **__):
    seeds.append(seed)
    return {"proxies": {}, "methods": {}} if script == "rum" else {"scores": np.zeros(1)}

  monkeypatch.setattr(SCRIPTS[script], "run_seed", run_seed)
  return seeds


@pytest.mark.parametrize("script", ["rum", "score"])
def test_a_seed_is_computed_where_its_inputs_changed_and_read_back_where_not(
  files, script, monkeypatch
):
  seeds = counted(monkeypatch, script)

  def run(**flags):
    config = config_of(script, files, **flags)
    seeds.clear()
    SCRIPTS[script].resumed(config, problem_of(script, config), lambda *_: None)
    return seeds

  assert run(seeds=2) == [0, 1]
  assert run(seeds=3) == [2]
  replace(files, "heldout for proxy")
  assert run(seeds=2) == [0, 1]
  assert run(seeds=2, log=("wandb",)) == []
  assert run(seeds=1, batch_size=32) == [0]


def test_scores_of_replaced_images_are_computed_again(files, capsys):
  """As a user runs it, with all that it reads and writes."""
  flags = {"truth": None, "num_models": 0, "planted": 0.0, "seeds": 1}
  config = config_of("score", files, proxy=("final_loss", "heldout_divergence"), **flags)

  def run():
    score.main(config)
    with np.load(config.out / "scores.npz") as found:
      return dict(found), "read back" in capsys.readouterr().out

  first, kept = run()
  assert not kept
  again, kept = run()
  assert kept
  replace(files, "heldout for proxy")
  changed, kept = run()
  assert not kept
  for name, scores in first.items():
    np.testing.assert_array_equal(again[name], scores)
    assert np.array_equal(changed[name], scores) == (name != "proxies"), name
  for name, one, other in zip(
    first["proxy_names"], first["proxies"], changed["proxies"], strict=True
  ):
    assert np.array_equal(one, other) == (name != "heldout_divergence"), name


def test_rows_of_replaced_test_images_and_of_an_overwritten_truth_are_computed_again(files, capsys):
  flags = {"sets": ("high",), "trials": 0, "seeds": 1}
  config = config_of("unlearn", files, **flags)

  def run():
    unlearn.main(config)
    return capsys.readouterr().out.count("high, seed 1, ")

  assert run() == 3  # original, retrain, fine_tune
  assert run() == 0
  replace(files, "test")
  assert run() == 3
  estimate(data.from_npz(config.dataset).ids, seed=1).save(files / "truth.npz")
  assert run() == 3
  assert run() == 0


def test_a_ground_truth_is_refused_where_its_data_changed(files):
  given = {"dataset": str(files / "digits.npz"), "num_models": 2, "epochs": 1, "out": files / "out"}
  config = memorize.Config(**given, executor="serial")
  with pytest.warns(UserWarning, match="their scores are NaN"):
    memorize.run(config)
  kept = {file: file.stat().st_mtime_ns for file in (config.out / "chunks").glob("chunk-*")}
  with pytest.warns(UserWarning, match="their scores are NaN"):
    memorize.run(dataclasses.replace(config, log=()))
  assert {file: file.stat().st_mtime_ns for file in kept} == kept
  replace(files, "train")
  with pytest.raises(ValueError, match="was made by another schedule"):
    memorize.run(config)


def test_a_scheduled_truth_is_kept_by_its_schedule(files):
  config = config_of("rum", files)
  dataset, parts = setting.cut(config)
  recipe = setting.recipe_of(config, dataset.num_classes)
  training = dataset.take(parts.train)

  def chunks(config):
    schedule, folder = truth.scheduled_truth(config, recipe, training)
    assert isinstance(schedule, retraining.Schedule)
    return folder

  before = chunks(config)
  assert chunks(dataclasses.replace(config, num_models=8)) == before  # more models of the same
  assert chunks(dataclasses.replace(config, fraction=0.5)) != before
  assert chunks(dataclasses.replace(config, key=1)) != before


def test_cross_fitting_can_be_handed_in_and_is_told_by_its_content(files, capsys):
  config = config_of("rum", files)
  made = problem_of("rum", config)
  path = files / "cross_fit.npz"
  made.cross_fit.save(path)
  handed = dataclasses.replace(config, cross_fit=path)
  read = problem_of("rum", handed)
  assert f"cross-fit: read from {path}" in capsys.readouterr().out
  assert read.cross_fit.digest == made.cross_fit.digest
  assert np.isnan(read.seconds["cross-fit"])
  assert name_of("rum", handed, read) == name_of("rum", config, made)
  estimate(made.training.ids, seed=3).save(path)
  assert name_of("rum", handed) != name_of("rum", config, made)
  made.truth.save(path)
  with pytest.raises(ValueError, match="is the ground truth, which the autopilot must not know"):
    problem_of("rum", handed)
  made.cross_fit.take(made.training.ids[1:]).save(path)
  with pytest.raises(ValueError, match="the cross-fit lacks 1 of"):
    problem_of("rum", handed)
