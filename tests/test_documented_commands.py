"""Every shell command that README, docs and CONTRIBUTING show is executed, small.

The commands run in the order of the pages, in one folder, as by a reader who types all of them.
`COMMANDS` says for each which flags make it small, or what is checked in its place. A command
without an entry fails, and so does an entry that no page has.
"""

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
import yaml
from markdown_it import MarkdownIt

from experiments import (
  attribution,
  exact_baselines,
  paper,
  rum_sequences,
  setting,
  texts,
  unlabelled,
  unlearn_sequences,
)
from experiments.evaluate import Config
from experiments.setting import cut
from jaxmul import checkpoint, metrics, models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
SHELL = ("", "bash", "sh")
OTHER = ("python", "toml", "yaml", "text")
PROGRAM = re.compile(
  r"([A-Z_]+=\S+ )*(\S*/)?(python3?|pip|make|bash|git|sbatch|sky|gcloud|apt-get) "
)

Check = Callable[[str, Path], None]


def commands(page: str) -> list[str]:
  """Returns the commands of a Markdown page: lines of shell blocks, and inline code."""
  found = []
  for token in MarkdownIt().parse(page):
    if token.type == "fence" and token.info in SHELL:
      lines = token.content.replace("\\\n", " ").splitlines()
      found += [re.sub(r"(^|\s)#\s.*", "", line) for line in lines]
    elif token.type == "fence" and not token.info.startswith(("{", *OTHER)):
      raise ValueError(f"a block in {token.info!r}: is it shell? Name it in SHELL or OTHER.")
    for child in token.children or ():
      if child.type == "code_inline" and PROGRAM.match(child.content):
        found.append(child.content)
  return [" ".join(each.split()) for each in found if each.strip()]


def bash(command: str, folder: Path) -> str:
  """Runs a command as a user does, on one device, and returns what it printed."""
  environment = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
  }
  done = subprocess.run(
    ["bash", "-c", command.replace(".venv/bin/", "")],
    cwd=folder,
    env=environment,
    capture_output=True,
    text=True,
    timeout=400,
  )
  assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
  return done.stdout


def small(flags: str = "") -> Check:
  """Runs the command itself; of a flag that stands there twice, the second counts."""

  def check(command: str, folder: Path) -> None:
    if "cifar10_small" in command:
      try:
        setting.cifar10("test")
      except FileNotFoundError as error:
        pytest.skip(str(error))
      if not (folder / "cifar10_small.npz").exists():
        bash("python -m experiments.cifar10_small cifar10_small.npz", folder)
    bash(f"{command} {flags}", folder)

  return check


def benchmark(command: str, folder: Path) -> None:
  """Runs it with short samples."""
  pytest.importorskip("torch", reason="the references are PyTorch's: extra `bench`")
  bash(f"{command} --quick", folder)


def target(command: str, folder: Path) -> None:
  """The Makefile has the target; CI runs it."""
  bash(f"{command} --dry-run --directory {ROOT}", folder)


def demo(command: str, folder: Path) -> None:
  """Runs what the target runs, small."""
  lines = bash(f"{command} --dry-run --directory {ROOT}", folder).splitlines()
  (job,) = (line for line in lines if " -m experiments." in line)
  bash(f"{job} {RUM}", folder)


def demo_text(command: str, folder: Path) -> None:
  """The target runs what stands on the page too, where it is run small."""
  lines = bash(f"{command} --dry-run --directory {ROOT}", folder).splitlines()
  assert any(line.endswith(f"/{TEXT_JOB}") for line in lines), lines


def flags_of_text(command: str, folder: Path) -> None:
  """Its flags are the script's, and there is so much prose; a slow test runs it small."""
  del folder
  config = tyro.cli(rum_sequences.Config, args=shlex.split(command)[3:])
  assert (config.dataset, config.clean) == ("prose", 400)
  assert (texts.strata_of(texts.sequences(config, config.dataset)) > 1).any()


def flags_of_unlabelled(command: str, folder: Path) -> None:
  """Its flags are the script's; a slow test runs it small."""
  config = tyro.cli(unlabelled.Config, args=shlex.split(command)[3:])
  assert (config.dataset, config.seeds, config.missing) == ("mnist5k", 3, (0.5, 0.9, 1.0))


def flags_of_exact(command: str, folder: Path) -> None:
  """Its flags are the script's; the command without them is run small."""
  del folder
  config = tyro.cli(exact_baselines.Config, args=shlex.split(command)[3:])
  assert config.out != exact_baselines.Config.out


def flags_of_attribution(command: str, folder: Path) -> None:
  """Its flags are the script's; the command without them is run small."""
  del folder
  config = tyro.cli(attribution.Config, args=shlex.split(command)[3:])
  assert (config.dataset, config.models, config.heldout) == ("cifar10_small.npz", (50,), 50)


def flags_of_images(command: str, folder: Path) -> None:
  """Its flags are those of a script that runs small on other data, and the truth is there."""
  del folder
  _, _, module, *flags = shlex.split(command)
  config = tyro.cli(importlib.import_module(module).Config, args=flags)
  assert (config.dataset, config.model, config.epochs) == ("cifar10_small.npz", "cnn", 20)
  assert (ROOT / config.truth).exists()


def flags_of_texts(command: str, folder: Path) -> None:
  """Its flags are the script's, and all algorithms run; a slow test runs two of them small."""
  del folder
  config = tyro.cli(unlearn_sequences.Config, args=shlex.split(command)[3:])
  assert config.names == unlearn_sequences.names_of(config)


def slow_tests(command: str, folder: Path) -> None:
  """Lists those of one file, and none of its quick ones."""
  listed = bash(f"{command} --collect-only -q tests/experiments/test_bench.py", ROOT)
  assert re.findall(r"^tests/experiments/test_bench.py::(\S+)", listed, re.MULTILINE) == [
    "test_a_step_inside_scan_costs_about_what_it_costs_from_python",
    "test_the_battery_gives_the_same_twice",
  ]


def install(command: str, folder: Path) -> None:
  """The extra exists; the Makefile installs by the same command."""
  if command == "pip install grain":  # which the tests' own extra has
    assert importlib.util.find_spec("grain")
    return
  words = re.fullmatch(r"(?:\S*/)?pip install -e (\.|'\.\[(\w+)\]')(?: 'jax\[tpu\]')?", command)
  assert words, f"{command}: not an installation of this folder"
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  assert words[2] in (None, *project["optional-dependencies"])


def slurm(command: str, folder: Path) -> None:
  """Runs the script as a task of an array, small."""
  task = re.sub(r"^sbatch --array=1-(\d+)", r"export SLURM_ARRAY_TASK_ID=1 COUNT=\1; bash", command)
  bash(f"{task} {TRUTH} --model mlp --out runs/slurm", folder)


def sky(command: str, folder: Path) -> None:
  """Runs what the job runs, small; its setup parses."""
  path, part = re.findall(r"\S+\.yaml|PART=\S+", command)
  job = yaml.safe_load((ROOT / path).read_text())
  bash(f"set -n; {job['setup']}", folder)
  bash(f"{part}; {job['run'].strip()} {TRUTH} --model mlp --out runs/sky", folder)


def elsewhere(command: str, folder: Path) -> None:
  """Parses what is for another machine; the files of ours that it names exist."""
  bash(f"set -n; {command}", folder)
  for path in re.findall(r"experiments/\S+", command):
    assert (ROOT / path).is_file(), path


def preset(command: str, folder: Path) -> None:
  """The flags are there, and make a job; test_paper runs all presets with --smoke."""
  config = tyro.cli(paper.Config, args=shlex.split(command)[3:])
  job = paper.job_of(config, paper.PRESETS[config.preset]())
  assert job.out == config.out != Path("runs/paper")


RUM = "--dataset digits --num-models 8 --epochs 1 --seeds 1 --group-size 30 --audit-models 0 "
RUM += "--proxy confidence"
TEXT_JOB = "python -m experiments.rum_sequences --out runs/sequences"
PROSE_JOB = (
  "python -m experiments.rum_sequences --dataset prose --clean 400 --noisy 120 --out runs/prose"
)
TEXTS = "--num-models 4 --epochs 2 --seeds 1 --audit-models 0 --clean 200 --noisy 36 --trials 3"
TRUTH = "--dataset digits --num-models 8 --epochs 1"
SCORE = "--num-models 8 --epochs 1 --seeds 1 --planted 0 --proxy final_loss"

CHOICES = "python -m experiments.left_out_choices"
SPENT = "--epochs 1 --seeds 1 --repetitions 2 --budgets 16"

OWN_TRUTH = "--truth None --model mlp"  # of the digits, and not of cifar10_small
OF_IMAGES = "--dataset cifar10_small.npz --model cnn --epochs 20 "
OF_IMAGES += "--truth experiments/truths/cifar10_small_cnn.npz"
CIFAR10 = f"python -m experiments.rum {OF_IMAGES}"

PAPER = "python -m experiments.paper"
CIFAR, TINY = "--data-dir ~/tensorflow_datasets", "--data-dir ~/tiny-imagenet-200"

MEMORIZE = "python -m experiments.memorize run --out runs/truth --num-models 400"


def on_truth(flags: str = "") -> Check:
  """Runs it on the store that the command above it on the page makes."""

  def check(command: str, folder: Path) -> None:
    if not (folder / "runs" / "truth" / "estimate.npz").exists():
      bash(f"{MEMORIZE} {TRUTH}", folder)
    bash(f"{command} {flags}", folder)

  return check


def mynet(command: str, folder: Path) -> None:
  """Runs the file that the page of the command shows."""
  tokens = MarkdownIt().parse((ROOT / "docs" / "command.md").read_text())
  code = next(token.content for token in tokens if token.info == "python")
  (folder / "mynet.py").write_text(code)
  bash(command, folder)


def on_mynet(flags: str = "") -> Check:
  """Runs the command on what `mynet.py` left, and on what the commands above it made."""

  def check(command: str, folder: Path) -> None:
    if not (folder / "flags.json").exists():
      mynet("python mynet.py", folder)
    if "runs/deletion" in command and not (folder / "runs" / "deletion" / "network").exists():
      bash("jaxmul forget --config flags.json --checkpoint trained --ids ids.txt", folder)
    bash(f"{command} {flags}", folder)

  return check


def rehearsed(command: str, folder: Path) -> None:
  """Serves, or shows what was rehearsed and refuses, which depends on the CPU."""
  on_mynet("> served.log 2>&1 || grep 'error: serve: the rehearsal did not find' served.log")(
    command, folder
  )


NET = "--config flags.json --checkpoint"
EXACT = "python -m experiments.exact_baselines"

COMMANDS: dict[str, Check] = {
  "python mynet.py": mynet,
  "jaxmul score --network mynet:recipe --data digits.npz --checkpoint trained": on_mynet(),
  "jaxmul memorize --config flags.json --num-models 100": on_mynet("--num-models 8"),
  f"jaxmul forget {NET} trained --ids ids.txt": on_mynet(),
  "jaxmul verify runs/deletion": on_mynet(),
  f"jaxmul evaluate {NET} runs/deletion/network --ids ids.txt": on_mynet("--oracles 2"),
  f"jaxmul serve {NET} trained --requests requests.txt": rehearsed,
  "make demo": demo,
  "make demo-text": demo_text,
  "make test": target,
  "make lint": target,
  "make types": target,
  "make docs": target,
  "make lock": target,
  "pip install -e .": install,
  "pip install -e '.[demo]'": install,
  "pip install -e '.[cli]'": install,
  "pip install -e '.[plots]'": install,
  "pip install -e '.[evaluate]'": install,
  "pip install -e '.[test]'": install,
  "pip install -e '.[docs]'": install,
  "pip install -e '.[grain]'": install,
  "pip install -e '.[ray]'": install,
  "pip install -e '.[rouge]'": install,
  "pip install -e '.[hub]'": install,
  "pip install grain": install,
  "pip install -e '.[gpu]'": install,
  "pip install -e '.[tfds]'": install,
  "pip install -e '.[tpu]'": install,
  "pip install -e '.[bench]'": install,
  "python -m experiments.rum --out runs/mine": small(RUM),
  TEXT_JOB: small(TEXTS),
  PROSE_JOB: flags_of_text,
  "python -m experiments.rum --key 17 --seeds 5": small(f"{RUM} --out runs/new"),
  "python -m experiments.rum --forget random --out runs/random": small(RUM),
  "python -m experiments.rum --forget 3 --out runs/class": small(RUM),
  MEMORIZE: small(TRUTH),
  "python -m experiments.memorize status runs/truth": on_truth(),
  "python -m experiments.memorize verify runs/truth": on_truth(),
  f"{CHOICES} --truth runs/truth/estimate.npz --out runs/choices": on_truth(
    f"--dataset digits {SPENT}"
  ),
  f"{CHOICES} --dataset cifar10_small.npz --model cnn --epochs 20 "
  "--truth experiments/truths/cifar10_small_cnn.npz --budgets 16 32 50 "
  "--out runs/choices_cifar10_small": small(f"--model mlp {SPENT}"),
  "python -m experiments.attribution --out runs/attribution": small(
    "--dataset digits --epochs 1 --models 20 --heldout 10 --fraction 0.5 --networks 1 --dims 16 "
    "--num-test 10"
  ),
  "python -m experiments.attribution --dataset cifar10_small.npz --model cnn --epochs 20 "
  "--models 50 --heldout 50 --num-test 300 --networks 3 --out runs/attribution_images": (
    flags_of_attribution
  ),
  "python -m experiments.score --model mlp --epochs 10 --out runs/score_mnist5k": small(
    f"--dataset digits {SCORE}"
  ),
  "python -m experiments.cifar10_small cifar10_small.npz": small(),
  "python -m experiments.memorize run --dataset cifar10_small.npz --model cnn --epochs 20 "
  "--num-models 200 --out runs/truth_cifar10_small": small(
    "--num-models 2 --fraction 0.02 --epochs 1"
  ),
  "python -m experiments.score --dataset cifar10_small.npz --epochs 20 "
  "--truth experiments/truths/cifar10_small_cnn.npz --out runs/score_cifar10_small": small(SCORE),
  f"{CIFAR10} --audit-models 16 --first-seed 3 --out runs/cifar": small(f"{RUM} {OWN_TRUTH}"),
  f"{CIFAR10} --plan neg_grad_plus --proxy confidence --audit-models 0 "
  "--out runs/cifar_plus": small(f"{RUM} {OWN_TRUTH}"),
  "python -m experiments.unlearn --all --out runs/unlearn": small(
    f"{TRUTH} --no-all --algorithms ssd --sets high --seeds 1 --trials 0 --group-size 30"
  ),
  "python -m experiments.unlearn_sequences --all --sets noise duplicated backdoor "
  "--out runs/unlearn_sequences": flags_of_texts,
  "python -m experiments.unlearn_sequences --all --sets prose --clean 400 --noisy 120 "
  "--out runs/unlearn_prose": flags_of_texts,
  "python -m experiments.unlabelled --out runs/unlabelled": flags_of_unlabelled,
  "python -m experiments.distilled --truth experiments/truths/mnist5k_mlp.npz": small(
    f"{TRUTH} --truth None --seeds 1 --algorithms fine_tune --per-class 1 --steps 2 --shards 3 "
    "--group-size 30"
  ),
  f"python -m experiments.distilled {OF_IMAGES} --out runs/distilled_images": flags_of_images,
  f"python -m experiments.unlabelled {OF_IMAGES} --out runs/unlabelled_images": flags_of_images,
  "python -m experiments.evaluate --unlearned unlearned/scrub/seed* --forget forget.txt "
  "--out runs/judged": small("--dataset digits --originals originals.npz --oracles oracles.npz"),
  "python -m experiments.evaluate --unlearned unlearned/salun/seed* --forget forget.txt "
  "--originals runs/judged/originals.npz --oracles runs/judged/oracles.npz "
  "--against runs/judged/evaluation.json --out runs/judged_other": small("--dataset digits"),
  f"{EXACT} --out runs/exact": small(
    "--dataset digits --epochs 1 --hidden 8 --seeds 1 --sizes 4 --shards 2 --slices 1 --draws 5 "
    "--timed 1"
  ),
  f"{EXACT} --hidden 512 512 --out runs/exact_large": flags_of_exact,
  f"{EXACT} --dataset cifar10_small.npz --model cnn --epochs 20 --timed 1 "
  "--out runs/exact_cifar": flags_of_exact,
  "python -m experiments.bench models_per_second": benchmark,
  "python -m experiments.bench proxies": benchmark,
  "python -m experiments.bench sequences": benchmark,
  "python -m experiments.bench gpt2_size": benchmark,
  "python -m experiments.bench readiness": small("--quick"),
  "python -m experiments.bench accelerator --json accelerator.json": small("--quick"),
  "python -m experiments.bench growth --json growth.json": small("--quick"),
  ".venv/bin/python -m pytest -m slow": slow_tests,
  "python -m experiments.cifar10_small cifar10.npz --whole": small(),
  f"{PAPER} cifar10 --data-dir cifar10.npz --out runs/cifar10": preset,
  f"{PAPER} cifar10_resnet8 --data-dir cifar10.npz --plan both --out runs/cifar10_resnet8": preset,
  f"{PAPER} cifar10 {CIFAR} --out runs/cifar10": preset,
  f"{PAPER} cifar100 {CIFAR} --out runs/cifar100": preset,
  f"{PAPER} tiny_imagenet {TINY} --out runs/tiny": preset,
  f"{PAPER} tiny_imagenet_vit {TINY} --out runs/vit": preset,
  f"{PAPER} cifar10 {CIFAR} --out runs/cifar10 --part 1/4": preset,
  f"{PAPER} cifar10 {CIFAR} --out runs/cifar10 --distributed": preset,
  f"{PAPER} cifar10 --smoke --out runs/smoke": preset,
  "apt-get install chromium": elsewhere,
  "gcloud compute tpus queued-resources create truth --node-id truth --zone us-central1-a "
  "--accelerator-type v5litepod-8 --runtime-version v2-alpha-tpuv5-lite --spot": elsewhere,
  "gcloud compute tpus queued-resources describe truth --zone us-central1-a": elsewhere,
  "gcloud compute tpus tpu-vm ssh truth --zone us-central1-a": elsewhere,
  "python3 -m venv .venv": elsewhere,
  ".venv/bin/pip install -e '.[demo]' 'jax[tpu]'": install,
  ".venv/bin/python -m experiments.memorize run --model cnn --out runs/truth_tpu": small(
    f"{TRUTH} --model mlp"
  ),
  "sky jobs launch experiments/launch/tpu.yaml --env BUCKET=my-bucket --env PART=1/4": sky,
  "sbatch --array=1-16 experiments/launch/slurm.sh --dataset cifar10 --model resnet18 "
  "--out /shared/truth": slurm,
  "gcloud compute tpus tpu-vm ssh truth --zone us-central1-a --worker all --command "
  '"cd jaxmul && .venv/bin/python -m experiments.memorize run --model cnn --distributed '
  '--out /shared/truth"': elsewhere,
}

SHOWN = list(dict.fromkeys(each for page in PAGES for each in commands(page.read_text())))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Where all of them run: with the files that they name, and with models to be judged."""
  folder = tmp_path_factory.mktemp("reader")
  (folder / "experiments").mkdir()
  for name in ("truths", "launch"):
    (folder / "experiments" / name).symlink_to(ROOT / "experiments" / name)
  digits, parts = cut(Config(unlearned=(), forget=Path(), dataset="digits"))
  rng = np.random.default_rng(0)
  forget = rng.choice(parts.train, 60, replace=False)
  (folder / "forget.txt").write_text("\n".join(map(str, forget)))
  # Oracles are less sure of hard examples; originals are sure of those that they were trained on.
  hard = rng.uniform(size=len(digits))
  for name, shift in (("oracles", 0), ("originals", np.isin(digits.ids, forget))):
    margin = 5 - 6 * hard * (1 - shift) + rng.normal(size=(16, len(digits)))
    logits = margin[..., None] * np.eye(10)[digits.labels]
    metrics.oracle.Outputs.of_logits(digits.ids, digits.labels, logits).save(folder / f"{name}.npz")
  inputs, _ = digits.take(digits.ids[:1]).batch()
  for seed in range(2):
    for at, method in enumerate(("scrub", "salun")):
      fresh = models.init(models.mlp(), jax.random.key(2 * seed + at), inputs)
      checkpoint.save(folder / "unlearned" / method / f"seed{seed}", fresh)
  return folder


@pytest.mark.xdist_group("documented commands")  # one reads what another has written
@pytest.mark.parametrize(
  "command",
  [
    pytest.param(each, marks=pytest.mark.slow if COMMANDS.get(each) is benchmark else ())
    for each in SHOWN
  ],
)
def test_command(command, folder):
  assert command in COMMANDS, "say in COMMANDS how to run it small"
  COMMANDS[command](command, folder)


def test_every_entry_is_shown_somewhere():
  assert set(COMMANDS) == set(SHOWN)
