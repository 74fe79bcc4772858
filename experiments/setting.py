"""What a job works on, from its flags: the data and its parts, the recipe, the forget set."""

from typing import Any

import jax
import numpy as np

from jaxmul import data, memorization, models, rum, train


def load(config: Any) -> data.Dataset:
  """Returns the data set that the config names."""
  if config.dataset == "mnist5k":
    return data.mnist5k()
  if config.dataset == "digits":
    return data.digits()
  if config.dataset.endswith(".npz"):
    return data.from_npz(config.dataset)
  return data.from_tfds(config.dataset, "train", data_dir=config.data_dir)


def cut(config: Any) -> tuple[data.Dataset, data.Holdout]:
  """Returns the data set of a config and its training, held-out and test ids."""
  dataset = load(config)
  n = len(dataset)
  key = jax.random.fold_in(jax.random.key(config.key), 0)
  return dataset, data.holdout(dataset, key, heldout=n // 10, test=n // 5)


def recipe_of(config: Any, num_classes: int) -> train.Recipe:
  """Returns the training recipe of a config."""
  model = getattr(models, config.model)(num_classes=num_classes)
  return train.Recipe(model, config.epochs, config.batch_size, config.learning_rate)


def forget_groups(
  config: Any, training: data.Dataset, truth: memorization.Estimate
) -> rum.Selection:
  """Returns the forget set in three groups, of low, medium and high memorization by the truth."""
  known = np.isfinite(truth.memorization)
  ids, scores, soft = truth.ids[known], truth.memorization[known], truth.soft[known]
  size = config.group_size or max(80, round(len(training) / 45))
  if config.forget == "memorization":
    return rum.select(scores, ids, size=size, soft=soft)
  if config.forget == "random":
    drawn = jax.random.permutation(jax.random.fold_in(jax.random.key(config.key), 6), len(ids))
    rows = np.sort(np.asarray(drawn)[: 3 * size])
  else:
    rows = np.flatnonzero(training.labels[training.rows(ids)] == int(config.forget))
    if len(rows) < 3:
      raise ValueError(
        f"--forget {config.forget}: {len(rows)} training examples of this class, of "
        f"{training.num_classes} classes, must be at least 3."
      )
  return rum.Selection(*rum.refine(scores[rows], ids[rows], soft=soft[rows]))


def show_groups(
  groups: rum.Selection, training: data.Dataset, truth: memorization.Estimate
) -> None:
  """Prints how many examples of each class are in each group, and how memorized they are."""
  counts = rum.class_counts(groups, training)
  for name, ids, classes in zip(groups._fields, groups, counts, strict=True):
    scores = truth.take(ids).memorization
    listed = " ".join(map(str, classes))
    print(
      f"forget group {name}: {len(ids)} examples, memorization {scores.min():.2f} to "
      f"{scores.max():.2f}, of each class {listed}"
    )


def split_of(
  groups: rum.Selection, training: data.Dataset, heldout: data.Heldout, test: np.ndarray
) -> data.Split:
  """Returns the split in which all three groups are forgotten."""
  forget = np.sort(np.concatenate(groups))
  return data.Split(
    forget=forget,
    retain=np.setdiff1d(training.ids, forget),
    heldout=np.concatenate(heldout),
    test=test,
  )
