"""RUM on all of CIFAR-10, CIFAR-100 and Tiny-ImageNet: the papers' experiments, and two of ours.

    python -m experiments.paper cifar10 --data-dir ~/tensorflow_datasets --out runs/cifar10
    python -m experiments.paper cifar10 --smoke --out runs/smoke

It is `experiments.rum` with the published numbers: SGD with momentum 0.9 and weight decay 5e-4,
batches of 256, rate 0.1 along a cosine, 30 epochs, no augmentation; 400 models for the ground
truth, each on 70 % of the images; 1,000 examples each of high, medium and low memorization to
forget; RUM's published plans. What has no published number is named in docs/paper.md; the preset
`cifar10_resnet8` has numbers of its own, for two CPU cores.

Several machines share the ground truth, nearly all of the cost, through a folder that all of them
see: each runs `--part 1/16`, `--part 2/16` …, or `--distributed` as one JAX job; then the command
without it, on one machine with all its devices, goes on from their chunks. Networks are kept as
Orbax checkpoints: the same command again goes on where it was stopped. `--smoke` runs every stage
but the audit with the real networks on a few made-up images.

The costs in docs/paper.md are computed from the products of the networks, and not measured: the
hours of the ground truth at 10 % of the bfloat16 peak, 989 TFLOP/s of an H100 and 8 × 197 of a TPU
v5e-8. Three seeds, on one device, and the audit add a quarter to it.

References:
  Zhao et al., [What makes unlearning hard](https://arxiv.org/abs/2406.01257), 2024;
  with proxies, [Scalability of memorization-based unlearning](https://arxiv.org/abs/2410.16516).
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import cli, logs, main_job, main_job_flags, main_job_results, setting
from experiments.truth import check_part, compute_part, scheduled_truth
from jaxmul import data, models, retraining, rum, train, unlearn

Name = Literal["cifar10", "cifar10_resnet8", "cifar100", "tiny_imagenet", "tiny_imagenet_vit"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
  """What a preset sets.

  Attributes:
    network: of `jaxmul.models`.
    num_classes: C.
    mean, std: of the input channels, as in RUM's code.
    read: folder -> (training images, test images), no id in both.
    heldout_of_test: hold out half of the test images, and not a tenth of the training images.
    smoke_side: pixels a side of the images with which the network is cheap.
    learning_rate: of the first epoch.
    epochs, batch_size: of every training run.
    augment: of `train.Recipe`.
    num_models: models of the ground truth.
    proxy, rank, audit_models: as the flags of `experiments.rum`.
    whole: what is done to the whole forget set besides the published methods, by name.
  """

  network: main_job_flags.ModelName
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  read: Callable[[Path | None], tuple[data.Dataset, data.Dataset]]
  heldout_of_test: bool = False
  smoke_side: int = 8
  learning_rate: float = 0.1
  epochs: int = 30
  batch_size: int = 256
  augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  num_models: int = 400
  proxy: tuple[str, ...] = main_job_flags.PROXIES
  rank: tuple[str, ...] = ()
  audit_models: int = 16
  whole: dict[str, rum.Step] = dataclasses.field(default_factory=dict)


def cifar10() -> Preset:
  """CIFAR-10 and ResNet-18: 45,000 images to train on, 5,000 held out, 10,000 to test with.

  3.33 GFLOP an image, 1.26 EFLOP for the ground truth: 3.5 hours on an H100, 2.2 on a v5e-8.
  """
  return Preset(
    network="resnet18",
    num_classes=10,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    read=_tfds("cifar10"),
  )


def cifar10_resnet8() -> Preset:
  """CIFAR-10, cut as above, and a ResNet-8 of 23 MFLOP forward, for two CPU cores. Ours.

  docs/cifar10.md tells how it was chosen, on held-out images. 14 epochs in batches of 64, images
  mirrored and shifted by a pixel; 32 models for the ground truth, 8 for the audit.
  """
  return dataclasses.replace(
    cifar10(),
    network="resnet8",
    epochs=14,
    batch_size=64,
    augment=setting.mirrored_and_shifted,
    num_models=32,
    proxy=("confidence", "correctness", "curvature", "heldout_divergence"),
    rank=("max_confidence", "entropy", "cumulative_loss"),
    audit_models=8,
    whole={
      "SCRUB": rum.Step(unlearn.scrub(), 5, 64),
      "L1-sparse": rum.Step(unlearn.l1_sparse(), 10, 64),
    },
  )


def cifar100() -> Preset:
  """CIFAR-100 and ResNet-50, cut as CIFAR-10.

  7.79 GFLOP an image, 2.94 EFLOP for the ground truth: 8.3 hours on an H100, 5.2 on a v5e-8.

  RUM took its ground truth from Feldman & Zhang's 2,000 models; 400 is ours. RUM's code retrains
  with steps of × 0.2 in the rate; here it is the cosine of the original.
  """
  return Preset(
    network="resnet50",
    num_classes=100,
    mean=(0.5071, 0.4866, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    read=_tfds("cifar100"),
  )


def tiny_imagenet() -> Preset:
  """Tiny-ImageNet and VGG-16: 100,000 images to train on, 5,000 held out, 5,000 to test with.

  7.52 GFLOP an image, 6.32 EFLOP for the ground truth: 17.7 hours on an H100, 11.1 on a v5e-8.

  We know of no published number of ground-truth models: 400 is ours. RUM's code tests on half of
  val/, 25 images a class, and so does this; the other half is held out.
  """
  return Preset(
    network="vgg16",
    num_classes=200,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    read=_tiny_imagenet,
    heldout_of_test=True,
    smoke_side=32,
  )


def tiny_imagenet_vit() -> Preset:
  """Tiny-ImageNet and ViT-S with patches of 8 × 8, cut as for VGG-16. Not in the papers.

  8.41 GFLOP an image, 7.06 EFLOP for the ground truth: 19.8 hours on an H100, 12.4 on a v5e-8.

  All numbers are those of VGG-16, but for the rate, 0.01, which is ours and was never tried.
  """
  return dataclasses.replace(tiny_imagenet(), network="vit", smoke_side=16, learning_rate=0.01)


_MAKERS = (cifar10, cifar10_resnet8, cifar100, tiny_imagenet, tiny_imagenet_vit)
PRESETS = {make.__name__: make for make in _MAKERS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A preset.

  Attributes:
    preset: which.
    data_dir: folder of prepared TFDS data sets, or tiny-imagenet-200 itself; of CIFAR also an .npz
      file as experiments.cifar10_small --whole writes it, with ids of test images from 50,000 on.
    plan: RUM's published plan: salun (none, fine-tune, SalUn), neg_grad_plus (three times) or both.
    seeds: training seeds; one gives no intervals.
    num_models: models of the ground truth; None are as many as the preset has.
    truth: .npz of an Estimate of this data, which takes their place.
    cross_fit: .npz of the Estimate that the autopilot knows, in the place of its networks.
    audit_models: originals and oracles (each) that the evaluator is audited with; None are as many
      as the preset has, and 0 leaves it out.
    bfloat16: compute in bfloat16; params and statistics stay float32.
    part: compute only this part of the ground truth, such as 3/16, into the shared folder.
    distributed: compute only the ground truth, in one JAX job of several processes; on Slurm, MPI
      and TPU pods it finds the others.
    smoke: every stage but the audit on a few made-up images, with the real network, one seed and 4
      models whatever the other flags say.
    key: number from which all randomness follows.
    log: services that get the log too; `log.jsonl` in the run directory is always written.
    out: run directory to write.
  """

  preset: tyro.conf.Positional[Name]
  data_dir: Path | None = None
  plan: Literal["salun", "neg_grad_plus", "both"] = "salun"
  seeds: int = 3
  num_models: int | None = None
  truth: Path | None = None
  cross_fit: Path | None = None
  audit_models: int | None = None
  bfloat16: bool = False
  part: str | None = None
  distributed: bool = False
  smoke: bool = False
  key: int = 0
  log: tuple[logs.Service, ...] = ()
  out: Path = Path("runs/paper")

  def __post_init__(self):
    if self.truth and (self.part or self.distributed):
      raise ValueError("--truth takes the place of what --part and --distributed compute.")
    check_part(self.part, self.distributed)


def job_of(config: Config, preset: Preset) -> main_job_flags.Config:
  """Returns the main job of a preset, at its own size or small enough to try out."""
  job = main_job_flags.Config(
    dataset=config.preset,
    model=preset.network,
    plan=config.plan,
    seeds=config.seeds,
    proxy=preset.proxy,
    rank=preset.rank,
    num_models=preset.num_models if config.num_models is None else config.num_models,
    truth=config.truth,
    cross_fit=config.cross_fit,
    group_size=1000,
    epochs=preset.epochs,
    batch_size=preset.batch_size,
    learning_rate=preset.learning_rate,
    audit_models=preset.audit_models if config.audit_models is None else config.audit_models,
    checkpoints=True,
    key=config.key,
    data_dir=config.data_dir,
    log=config.log,
    out=config.out,
  )
  if not config.smoke:
    return job
  return dataclasses.replace(
    job,
    dataset=f"{config.preset}, made up",
    proxy=("confidence", "curvature", "heldout_divergence"),
    rank=(),
    seeds=1,
    num_models=4,
    group_size=3,
    epochs=20,  # of one step each: BatchNorm's statistics take some
    batch_size=64,
    audit_models=0,
  )


def work_of(job: main_job_flags.Config, preset: Preset) -> main_job_results.Work:
  """Returns what is done to the forget set; the plan's own method is last, what RUM should beat."""
  work = main_job.work_of(job)
  own = {name: {"published": step} for name, step in preset.whole.items()}
  return dataclasses.replace(work, plain=own | work.plain)


def cut(
  preset: Preset, training: data.Dataset, test: data.Dataset, key: jax.Array
) -> tuple[data.Dataset, data.Holdout]:
  """Returns all images as one data set, and who is trained on, held out and tested."""
  source = test if preset.heldout_of_test else training
  count = len(test) // 2 if preset.heldout_of_test else len(training) // 10
  rest, heldout, _ = data.holdout(source, key, heldout=count, test=0)
  parts = data.Holdout(rest, heldout, test.ids)
  if preset.heldout_of_test:
    parts = data.Holdout(training.ids, heldout, rest)
  arrays = (
    np.concatenate([getattr(part, name) for part in (training, test)])
    for name in ("inputs", "labels", "ids")
  )
  return data.Dataset(*arrays, num_classes=preset.num_classes), parts


def made_up(preset: Preset) -> tuple[data.Dataset, data.Dataset]:
  """Returns a few images of four patterns under noise; a third of the labels is random."""
  rng = np.random.default_rng(0)
  training = 24 if preset.heldout_of_test else 60
  count, shape = training + 24, (preset.smoke_side, preset.smoke_side, 3)
  pattern = np.arange(count) % 4
  images = (rng.integers(0, 256, (4, *shape))[pattern] + rng.integers(0, 256, (count, *shape))) // 2
  labels = np.where(rng.random(count) < 1 / 3, rng.integers(0, 4, count), pattern)
  both = data.Dataset(images.astype(np.uint8), labels, num_classes=preset.num_classes)
  return both.take(both.ids[:training]), both.take(both.ids[training:])


def recipe_of(config: Config, preset: Preset, job: main_job_flags.Config) -> train.Recipe:
  """Returns the training recipe of a preset."""
  model = getattr(models, preset.network)(
    num_classes=preset.num_classes,
    mean=preset.mean,
    std=preset.std,
    dtype=jnp.bfloat16 if config.bfloat16 else None,
  )
  return dataclasses.replace(setting.recipe_with(model, job), augment=preset.augment)


def main(config: Config) -> None:
  """Runs a preset, or the part of its ground truth that falls to this machine."""
  if config.distributed:
    jax.distributed.initialize()
  preset = PRESETS[config.preset]()
  job = job_of(config, preset)
  start = time.perf_counter()
  images = made_up(preset) if config.smoke else preset.read(config.data_dir)
  data_seconds = time.perf_counter() - start
  key = jax.random.fold_in(jax.random.key(config.key), 0)
  dataset, parts = cut(preset, *images, key)
  recipe = recipe_of(config, preset, job)
  if not (config.part or config.distributed):
    main_job.run(job, dataset, parts, recipe, work_of(job, preset), data_seconds=data_seconds)
    return
  schedule, chunks = scheduled_truth(job, recipe, dataset.take(parts.train))
  if config.part:
    compute_part(schedule, chunks, retraining.default(), config.part)
  else:
    for _ in retraining.stream(schedule, store=chunks):
      pass
  print(f"ground truth: this part is in {chunks}; now run it without --part or --distributed.")


def _tfds(name: str) -> Callable[[Path | None], tuple[data.Dataset, data.Dataset]]:
  """Returns what reads a prepared data set; ids of test images follow those of the others."""

  def read(folder: Path | None) -> tuple[data.Dataset, data.Dataset]:
    if folder is not None and folder.suffix == ".npz":
      return _of_file(data.from_npz(folder), folder)
    training, test = (data.from_tfds(name, part, data_dir=folder) for part in ("train", "test"))
    return training, dataclasses.replace(test, ids=test.ids + training.ids.max() + 1)

  return read


def _of_file(images: data.Dataset, path: Path) -> tuple[data.Dataset, data.Dataset]:
  """Returns the training and the test part of CIFAR's images."""
  is_test = images.ids >= setting.CIFAR_TRAINING
  if (len(images), is_test.sum()) != (60_000, 10_000):
    raise ValueError(
      f"{path}: {len(images) - is_test.sum()} images with ids below {setting.CIFAR_TRAINING} and "
      f"{is_test.sum()} from there on, must be 50,000 and 10,000. Write it with "
      "python -m experiments.cifar10_small cifar10.npz --whole."
    )
  return images.take(images.ids[~is_test]), images.take(images.ids[is_test])


def _tiny_imagenet(folder: Path | None) -> tuple[data.Dataset, data.Dataset]:
  if folder is None:
    raise ValueError("Tiny-ImageNet is not in TFDS: pass --data-dir with its tiny-imagenet-200.")
  return data.tiny_imagenet(folder, "train"), data.tiny_imagenet(folder, "val")


if __name__ == "__main__":
  cli.main(main, Config, __doc__)
