"""The papers' presets: their numbers, their cost as computed, and every stage of each, small."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import main_job_results, paper, setting
from jaxmul import data, metrics, models, proxies, retraining, train, unlearn

ROOT = Path(__file__).parents[2]
PUBLISHED = train.Recipe(models.mlp())  # its defaults are the papers'
PAPERS = {name: make for name, make in paper.PRESETS.items() if name != "cifar10_resnet8"}


def config(preset, **options):
  return paper.Config(preset=preset, **options)


def test_the_numbers_are_the_published_ones():
  for name, make in PAPERS.items():
    preset, given = make(), config(name)
    job = paper.job_of(given, preset)
    recipe = paper.recipe_of(given, preset, job)
    rate = 0.01 if name == "tiny_imagenet_vit" else 0.1
    assert recipe == dataclasses.replace(PUBLISHED, model=recipe.model, learning_rate=rate)
    assert (recipe.epochs, recipe.batch_size, recipe.momentum) == (30, 256, 0.9)
    assert (job.group_size, job.num_models, job.fraction) == (1000, 400, 0.7)
    assert job.checkpoints
    low = paper.recipe_of(dataclasses.replace(given, bfloat16=True), preset, job)
    assert low.model == recipe.model.clone(dtype=jnp.bfloat16)


def forward_flops(model, side):
  """2mnk of every product that one image takes."""
  products = []

  def count(call, args, kwargs, context):
    y = call(*args, **kwargs)
    if context.method_name == "__call__" and isinstance(context.module, nn.Dense | models.Conv):
      kernel = context.module.variables["params"]["kernel"]
      products.append(2 * math.prod(y.shape[:-1]) * kernel.size)
    return y

  def forward(x):
    with nn.intercept_methods(count):
      return model.init_with_output(jax.random.key(0), x)[0]

  jax.eval_shape(forward, jnp.zeros((1, side, side, 3)))
  if isinstance(model, models.ViT):
    tokens = (side // model.patch) ** 2
    products.append(model.depth * 2 * (2 * tokens**2 * model.width))  # attention
  return sum(products)


@pytest.mark.parametrize("name", PAPERS)
def test_the_costs_in_the_docstrings_are_the_computed_ones(name):
  make = paper.PRESETS[name]
  job = paper.job_of(config(name), make())
  model = paper.recipe_of(config(name), make(), job).model
  tiny = name.startswith("tiny")
  an_image = 3 * forward_flops(model, 64 if tiny else 32)  # backward costs twice as much
  images = job.num_models * job.fraction * (100_000 if tiny else 45_000) * job.epochs
  hours = [an_image * images / (0.1 * peak * 1e12) / 3600 for peak in (989, 8 * 197)]
  said = re.search(
    r"(\S+) GFLOP an image, (\S+) EFLOP .*: (\S+) hours on an H100, (\S+) on a v5e-8\.",
    make.__doc__,
  )
  assert said, make.__doc__
  want = (an_image / 1e9, an_image * images / 1e18, *hours)
  places = (2, 2, 1, 1)
  assert said.groups() == tuple(f"{v:.{p}f}" for v, p in zip(want, places, strict=True))


def test_the_network_for_two_cores_takes_what_is_said():
  preset = paper.cifar10_resnet8()
  given = config("cifar10_resnet8", num_models=8, audit_models=0)
  job = paper.job_of(given, preset)
  assert (job.num_models, job.audit_models) == (8, 0)
  job = paper.job_of(config("cifar10_resnet8"), preset)
  assert (job.num_models, job.audit_models, job.group_size) == (32, 8, 1000)
  assert set(job.proxy) == {"confidence", "correctness", "curvature", "heldout_divergence"}
  assert job.rank == ("max_confidence", "entropy", "cumulative_loss")
  whole = paper.work_of(job, preset).plain
  epochs = {name: [step.epochs for step in steps.values()] for name, steps in whole.items()}
  assert list(epochs)[-1] == "SalUn vanilla"
  published = {"SCRUB": [5], "L1-sparse": [10], "fine-tune": [10], "NegGrad+ vanilla": [5]}
  assert epochs == published | {"SalUn vanilla": [10]}
  assert {step.batch_size for steps in whole.values() for step in steps.values()} == {64}
  recipe = paper.recipe_of(given, preset, job)
  ours = {"epochs": 14, "batch_size": 64, "augment": setting.mirrored_and_shifted}
  assert recipe == dataclasses.replace(PUBLISHED, model=recipe.model, **ours)
  assert recipe.model == models.resnet8(mean=preset.mean, std=preset.std)
  said = re.search(r"of (\S+) MFLOP forward", paper.cifar10_resnet8.__doc__)
  assert said
  assert said.group(1) == f"{forward_flops(recipe.model, 32) / 1e6:.0f}"
  assert float(said.group(1)) <= 40


def test_images_are_mirrored_and_shifted_by_a_pixel():
  images = np.asarray(jax.random.normal(jax.random.key(1), (512, 4, 5, 3)))
  seen = np.asarray(setting.mirrored_and_shifted(jax.random.key(0), images))
  mirror = [images, images[:, :, ::-1]]
  around = [np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect") for x in mirror]
  views = [x[:, i : i + 4, j : j + 5] for x in around for i in range(3) for j in range(3)]
  which = np.array([(seen == view).all((1, 2, 3)) for view in views])
  assert (which.sum(0) == 1).all()  # each is one of the eighteen
  counts = which.sum(1)
  assert counts.min() > 10  # 28 are expected of each, with a deviation of 5
  assert counts.max() < 50


def images_of(n, classes, first=0):
  labels = np.arange(n) % classes
  return data.Dataset(np.zeros((n, 2, 2, 3), np.uint8), labels, first + np.arange(n), classes)


@pytest.mark.parametrize(
  ("name", "sizes"), [("cifar10", (90, 10, 40)), ("tiny_imagenet", (100, 20, 20))]
)
def test_the_parts_are_cut_as_in_the_papers(name, sizes):
  preset = dataclasses.replace(paper.PRESETS[name](), num_classes=10)
  training, test = images_of(100, 10), images_of(40, 10, first=1000)
  dataset, parts = paper.cut(preset, training, test, jax.random.key(0))
  assert tuple(map(len, parts)) == sizes
  assert len(np.unique(np.concatenate(parts))) == 140 == len(dataset)
  assert set(parts.train) <= set(training.ids)
  assert set(parts.test) <= set(test.ids)
  assert set(parts.heldout) <= set(training.ids if name == "cifar10" else test.ids)
  for part in parts:  # each class in its proportion
    assert np.ptp(np.bincount(dataset.take(part).labels)) == 0


def test_cifar_is_read_from_a_file_too(tmp_path):
  path, ids = tmp_path / "cifar10.npz", np.random.default_rng(0).permutation(60_000)
  images, labels = ids.astype(np.uint8).reshape(-1, 1, 1, 1), ids % 10
  np.savez(path, images=images, labels=labels, ids=ids)
  training, test = paper.cifar10().read(path)
  assert (len(training), len(test)) == (50_000, 10_000)
  assert training.ids.max() == 49_999
  assert test.ids.min() == 50_000
  np.testing.assert_array_equal(test.inputs.ravel(), test.ids.astype(np.uint8))
  np.savez(path, images=images[:100], labels=labels[:100], ids=ids[:100])
  with pytest.raises(ValueError, match="must be 50,000 and 10,000") as said:
    paper.cifar10().read(path)
  assert "--whole" in str(said.value)
  assert "\n" not in str(said.value)


def test_test_images_of_tfds_get_ids_of_their_own(monkeypatch):
  def prepared(name, split, data_dir):
    assert (name, data_dir) == ("cifar100", Path("here"))
    return images_of({"train": 6, "test": 4}[split], 2)

  monkeypatch.setattr(data, "from_tfds", prepared)
  training, test = paper.cifar100().read(Path("here"))
  assert training.ids.tolist() == [0, 1, 2, 3, 4, 5]
  assert test.ids.tolist() == [6, 7, 8, 9]


def check_whole(out):
  """Every stage left what it should."""
  scored = {"confidence", "curvature", "heldout_divergence"}
  found = json.loads((out / "metrics.json").read_text())
  assert found["ground_truth"]["models"] == 4
  assert set(found["proxies"]) == scored
  ranks = {"spearman", "spearman within class"}
  for rows in found["proxies"].values():
    assert ranks <= {figure.name for figure in metrics.figures.read(rows)}
  rows = {"original", "retrain", "fine-tune", "NegGrad+ vanilla", "RUM shuffle", "RUM ground truth"}
  assert rows | {f"RUM {name}" for name in scored} <= set(found["methods"])
  for method in found["methods"].values():
    figures = metrics.figures.read(method["figures"])
    assert {"ToW", "ToW-MIA", "accuracy", "attack rate"} < {figure.name for figure in figures}
    assert all(0 <= each.value <= 1 for each in figures if each.name not in ("seconds", "scoring"))
  assert "made up" in json.loads((out / "config.json").read_text())["config"]["dataset"]
  assert "Deletion record" in (out / "report.html").read_text()
  networks = {path.parent.name for path in out.glob("cache/seed0-*/*/manifest.json")}
  methods = {name.replace(" ", "-") for name in found["methods"]} - {"retrain"}
  assert networks == methods | {"oracle", "second-oracle"}
  return found


def never(*_, **__):
  raise AssertionError("it was there already")


@pytest.mark.filterwarnings("ignore:.*never in or never out")  # four models are few
def test_machines_share_the_ground_truth_and_a_stopped_run_goes_on(tmp_path, monkeypatch, capsys):
  # A ResNet-18 takes minutes to compile; the same stages with a network that takes seconds.
  small = dataclasses.replace(paper.cifar10(), network="mlp")
  monkeypatch.setitem(paper.PRESETS, "cifar10", lambda: small)
  given = config("cifar10", smoke=True, bfloat16=True, out=tmp_path)
  monkeypatch.setattr(retraining, "default", lambda: retraining.serial)
  paper.main(dataclasses.replace(given, part="1/1"))
  assert "now run it without --part" in capsys.readouterr().out
  (chunk,) = tmp_path.glob("cache/chunks-*/chunk-*")
  made = chunk.stat().st_mtime_ns
  paper.main(given)
  assert chunk.stat().st_mtime_ns == made
  before = check_whole(tmp_path)
  (seed,) = tmp_path.glob("cache/seed0-*.json")
  (choice,) = tmp_path.glob("cache/seed0-*/RUM-confidence,-tuned-choice.json")
  kept = seed.read_text()
  for file in (seed, choice):
    file.unlink()  # as if it had been killed between a tuned network and its choice
  paper.main(given)
  assert json.loads(seed.read_text())["tuned"] == json.loads(kept)["tuned"]
  seed.unlink()  # as if it had been killed before its last line
  for module, name in ((train, "fit"), (unlearn, "run"), (proxies, "heldout_retrain")):
    monkeypatch.setattr(module, name, never)
  again = []

  def write(*given, **options):
    again.extend(given[3])
    return [], {}

  monkeypatch.setattr(main_job_results, "write", write)
  paper.main(given)
  for name, figures in again[0]["methods"].items():
    kept = metrics.figures.read(before["methods"][name]["figures"])
    for figure in figures:
      assert metrics.find(kept, figure.name, figure.part).value == figure.value


def command(*arguments):
  return [sys.executable, "-m", "experiments.paper", *map(str, arguments)]


def environment(**variables):
  """One device: eight simulated ones would share the work of a few images."""
  one = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
  return os.environ | {"XLA_FLAGS": one, **variables}


@pytest.mark.slow
@pytest.mark.parametrize("preset", paper.PRESETS)
def test_every_stage_of_a_preset_runs(preset, tmp_path):
  done = subprocess.run(
    command(preset, "--smoke", "--out", tmp_path),
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  check_whole(tmp_path)


@pytest.mark.slow
def test_a_job_of_two_processes_computes_the_ground_truth(tmp_path):
  arguments = ("tiny_imagenet_vit", "--smoke", "--distributed", "--out", tmp_path)
  # What Open MPI tells each process, for jax.distributed.
  shared = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
  }
  jobs = [
    subprocess.Popen(
      command(*arguments),
      cwd=ROOT,
      env=environment(
        OMPI_COMM_WORLD_RANK=str(rank), OMPI_COMM_WORLD_LOCAL_RANK=str(rank), **shared
      ),
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in range(2)
  ]
  said = [job.communicate()[1] for job in jobs]
  assert [job.returncode for job in jobs] == [0, 0], said
  (store,) = tmp_path.glob("cache/chunks-*")
  found = retraining.status(store)
  assert (found.done, found.num_models, found.damaged) == (4, 4, ())


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"part": "3/2"}, "--part 3/2: write the part and their number"),
    ({"part": "1/2", "distributed": True}, "--part and --distributed both"),
    ({"part": "1/2", "truth": Path("x.npz")}, "--truth takes the place"),
    ({"seeds": 0}, "--seeds 0: must be at least 1"),
    ({"audit_models": 3}, "--audit-models 3: must be at least 8"),
    ({}, "Tiny-ImageNet is not in TFDS: pass --data-dir"),
    ({"data_dir": Path("nowhere")}, "there is no nowhere/wnids.txt"),
  ],
)
def test_user_errors_take_one_line(options, said):
  with pytest.raises((ValueError, OSError), match=said) as caught:
    paper.main(config("tiny_imagenet", **options))
  assert "\n" not in str(caught.value)
