"""What a job works on, from its flags: the data and its parts, the recipe, the forget set."""

import dataclasses
import os
import runpy
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from experiments import logs
from jaxmul import data, memorization, models, rum, train
from jaxmul._ties import SOFT_DECIMALS, TIES

TIES_RULE = f"soft in steps of {10.0**-SOFT_DECIMALS}, then a permutation of the ids, key {TIES}"
CIFAR_TRAINING = 50_000  # images; ids of test images come after


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Flags of every script that trains on a data set of its user; each script adds its own.

  Attributes:
    dataset: mnist5k, digits, a path to an .npz file, or the name of a prepared TFDS data set.
    model: network to train.
    epochs: passes of every training run.
    batch_size: examples a step.
    learning_rate: step size of training in its first epoch; it falls along a cosine.
    key: number from which all randomness follows.
    bfloat16: models compute in bfloat16; params, losses, scores and all sums stay float32.
    data_dir: folder of prepared TFDS data sets.
    log: services that get the log too; `log.jsonl` in the run directory is always written.
    out: run directory to write.
  """

  dataset: str = "mnist5k"
  model: str = "mlp"
  epochs: int = 10
  batch_size: int = 64
  learning_rate: float = 0.05
  key: int = 0
  bfloat16: bool = dataclasses.field(default=False, metadata={"later": True})
  data_dir: Path | None = None
  log: tuple[logs.Service, ...] = ()
  out: Path


def load(config: Flags) -> data.Dataset:
  """Returns the data set that the config names."""
  if config.dataset == "mnist5k":
    return data.mnist5k()
  if config.dataset == "digits":
    return data.digits()
  if config.dataset.endswith(".npz"):
    return data.from_npz(config.dataset)
  return data.from_tfds(config.dataset, "train", data_dir=config.data_dir)


def cifar10(*parts: str, whole: bool = False) -> data.Dataset:
  """Returns real CIFAR-10 images of the parts "train" and "test", uint8 [n, 32, 32, 3].

  They are 5,000, or the whole 60,000. Ids are CIFAR-10's own indices, those of the test part after
  the training part.

  Raises:
    FileNotFoundError: neither JAXMUL_SHARED_DATA nor ../shared/data holds them.
  """
  root = Path(__file__).parents[2] / "shared" / "data"
  root = Path(os.environ.get("JAXMUL_SHARED_DATA", root))
  if not (root / "load.py").is_file():
    raise FileNotFoundError(
      f"there are no real images in {root}. Fetch CIFAR-10, its binary version, from "
      "https://www.cs.toronto.edu/~kriz/cifar.html; python -m experiments.cifar10_small --help."
    )
  load_images = runpy.run_path(str(root / "load.py"))["load_images"]
  folder = root / ("cifar10" if whole else "cifar10_small")
  images, labels, classes = zip(*(load_images(str(folder), part) for part in parts), strict=True)
  first = {"train": 0, "test": CIFAR_TRAINING}
  if whole:
    ids = [np.arange(len(found)) + first[part] for part, found in zip(parts, labels, strict=True)]
  else:
    ids = [np.load(folder / f"{part}_index.npy") + first[part] for part in parts]
  inputs, targets, names = map(np.concatenate, (images, labels, ids))
  return data.Dataset(inputs, targets, names, num_classes=len(classes[0]))


def cut(config: Flags) -> tuple[data.Dataset, data.Holdout]:
  """Returns the data set of a config and its training, held-out and test ids."""
  dataset = load(config)
  n = len(dataset)
  key = jax.random.fold_in(jax.random.key(config.key), 0)
  return dataset, data.holdout(dataset, key, heldout=n // 10, test=n // 5)


def recipe_of(config: Flags, num_classes: int) -> train.Recipe:
  """Returns the training recipe of a config."""
  return recipe_with(model_of(config, num_classes), config)


def model_of(config: Flags, num_classes: int, **settings: object) -> nn.Module:
  """Returns the network of a config."""
  return getattr(models, config.model)(num_classes=num_classes, dtype=dtype_of(config), **settings)


def dtype_of(config: Flags) -> DTypeLike | None:
  """Returns what models compute in; None is the type of their params, float32."""
  return jnp.bfloat16 if config.bfloat16 else None


def recipe_with(model: models.Model, config: Flags) -> train.Recipe:
  """Returns the recipe that trains a model by the numbers of a config."""
  return train.Recipe(
    model, epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate
  )


def mirrored_and_shifted(key: jax.Array, images: jax.Array) -> jax.Array:
  """Returns each image [B, H, W, I] mirrored or not, and moved by at most a pixel each way.

  What a shift brings in is the image's own reflection.
  """
  mirror_key, shift_key = jax.random.split(key)
  mirror = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
  images = jnp.where(mirror, images[:, :, ::-1], images)
  around = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
  corners = jax.random.randint(shift_key, (len(images), 2), 0, 3)

  def cut_out(image, corner):
    return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

  return jax.vmap(cut_out)(around, corners)


def forget_groups(
  forget: str, size: int, training: data.Dataset, truth: memorization.Estimate, key: jax.Array
) -> rum.Selection:
  """Returns the forget set in three groups, of low, medium and high memorization by the truth.

  `forget` is "memorization", "random" or the number of a class, which is forgotten whole; other
  groups have `size` examples each. Of a class, or at random (by the key), examples without a score
  are forgotten too: they count as 0.
  """
  if forget == "memorization":
    ids, scores, soft = scored(truth)
    return rum.select(scores, ids, size=size, soft=soft)
  ids, (scores, soft) = truth.ids, order_of(truth)
  if forget == "random":
    rows = np.sort(np.asarray(jax.random.permutation(key, len(ids)))[: 3 * size])
  else:
    rows = np.flatnonzero(training.labels[training.rows(ids)] == int(forget))
    if len(rows) < 3:
      raise ValueError(
        f"--forget {forget}: {len(rows)} training examples of this class, of "
        f"{training.num_classes} classes, must be at least 3."
      )
  soft = None if soft is None else soft[rows]
  return rum.Selection(*rum.refine(scores[rows], ids[rows], soft=soft))


def refined(
  training: data.Dataset, forget: np.ndarray, scores: np.ndarray, soft: np.ndarray | None
) -> list[np.ndarray]:
  """Returns the forget set in three groups by scores [n]; copies of an example stay together."""
  rows = training.rows(forget)

  def cut(ids, places):
    own = rows[places]
    return rum.refine(scores[own], ids, soft=None if soft is None else soft[own])

  return rum.copies_together(training, forget, cut)


def group_size_of(group_size: int, training: data.Dataset) -> int:
  """Returns the examples of a forget group: those asked for, or where 0 n/45, but at least 80."""
  return group_size or max(80, round(len(training) / 45))


def order_of(truth: memorization.Estimate) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns what refines any request by the truth, and what orders equal scores.

  An example without a score, which no model or every model left out, counts as 0.
  """
  soft = soft_of(truth)
  return np.nan_to_num(truth.memorization), None if soft is None else np.nan_to_num(soft)


def scored(truth: memorization.Estimate) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Returns ids and scores of the examples that have one, and what orders equal scores."""
  known, soft = np.isfinite(truth.memorization), soft_of(truth)
  return truth.ids[known], truth.memorization[known], None if soft is None else soft[known]


def soft_of(truth: memorization.Estimate) -> np.ndarray | None:
  """Returns what orders equal scores; None where a published file has nothing of the kind."""
  return None if np.isnan(truth.soft).all() else truth.soft


def show_groups(
  groups: rum.Selection, training: data.Dataset, truth: memorization.Estimate | None
) -> None:
  """Prints how many examples of each class are in each group, and how memorized they are."""
  counts = rum.class_counts(groups, training)
  for name, ids, classes in zip(groups._fields, groups, counts, strict=True):
    memorized = ""
    if truth is not None:
      scores = truth.take(ids).memorization
      memorized = f", memorization {np.nanmin(scores):.2f} to {np.nanmax(scores):.2f}"
    listed = " ".join(map(str, classes))
    print(f"forget group {name}: {len(ids)} examples{memorized}, of each class {listed}")


def split_of(
  forget: np.ndarray, training: data.Dataset, heldout: data.Heldout, test: np.ndarray
) -> data.Split:
  """Returns the split of these ids to forget and everything else."""
  return data.Split(
    forget=forget,
    retain=np.setdiff1d(training.ids, forget),
    heldout=np.concatenate(heldout),
    test=test,
  )
