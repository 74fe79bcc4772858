"""What scripts on sequences work on, from their flags: the texts, their parts, recipe and prompts.

Clean texts stand once and follow a rule, or are real prose; planted ones only memory can go on
with, and some of them stand several times. Copies are left out, forgotten and grouped together.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.setting import dtype_of
from experiments.truth import TruthFlags
from jaxmul import data, models, train

COPIES = (1, 3, 10)
SHARES = (4, 1, 1)  # of the planted texts, how many stand so often
CLASS_NAMES = ("clean", *(f"{copies}×" for copies in COPIES))
TRIGGER = "50"
Kind = Literal["math", "backdoor", "prose"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFlags(TruthFlags):
  """Flags of scripts on sequences.

  Attributes:
    clean: sequences that stand once and are not to be forgotten, held-out and test ones included.
    noisy: sequences with noise, or with a trigger; of prose, windows that copies are planted of. A
      sixth of them stand three, a sixth ten times.
    width: of the network's vectors.
    depth: its blocks.
    window: tokens of a window of prose.
  """

  clean: int = 1300
  noisy: int = 240
  width: int = 64
  depth: int = 1
  window: int = 64
  model: Literal["gpt"] = "gpt"  # pyright: ignore[reportIncompatibleVariableOverride]
  epochs: int = 24
  batch_size: int = 16
  learning_rate: float = 5e-3
  num_models: int = 32


def sequences(config: TextFlags, kind: Kind) -> data.Dataset:
  """Returns the texts: stratum 0 are clean ones, stratum k those of the k-th number of copies."""
  key = jax.random.fold_in(jax.random.key(config.key), 0)
  whole, is_planted = {"math": _noisy, "backdoor": _triggered, "prose": _prose}[kind](config, key)
  # Held-out and test texts are clean, and so are as many as there are singles among the planted.
  planted = np.flatnonzero(is_planted)[np.asarray(jax.random.permutation(key, config.noisy))]
  parts = np.split(planted, config.noisy * np.cumsum(SHARES)[:-1] // sum(SHARES))
  strata = np.zeros(len(whole), np.int64)
  for number, rows in enumerate(parts, 1):
    strata[rows] = number
  labelled = data.Dataset(whole.inputs, whole.labels, whole.ids, whole.num_classes, strata=strata)
  for rows, copies in zip(parts, COPIES, strict=True):
    labelled = data.repeated(labelled, whole.ids[rows], copies)
  return labelled


def _noisy(config: TextFlags, key: jax.Array) -> tuple[data.Dataset, np.ndarray]:
  """Sequences of numbers, and bool [n] which have noise."""
  starts = _starts(key)[: config.clean + config.noisy]
  noise = jax.random.fold_in(key, 1)
  whole = data.math_sequences(starts, noise, noisy=config.noisy).dataset
  return whole, whole.strata == 1


def _triggered(config: TextFlags, key: jax.Array) -> tuple[data.Dataset, np.ndarray]:
  """Sequences of numbers, and bool [n] which have the trigger, after which every token is 2."""
  starts = _starts(key)
  is_triggered = data.math_sequences(starts, key, trigger=TRIGGER).dataset.strata == 2
  if config.noisy > is_triggered.sum():
    raise ValueError(
      f"--noisy {config.noisy}: {is_triggered.sum()} sequences have the trigger {TRIGGER}."
    )
  chosen = np.concatenate(
    [starts[~is_triggered][: config.clean], starts[is_triggered][: config.noisy]]
  )
  whole = data.math_sequences(chosen, key, trigger=TRIGGER).dataset
  return whole, whole.strata == 2


def _starts(key: jax.Array) -> np.ndarray:
  return 1000 + np.asarray(jax.random.permutation(key, 8000))


def _prose(config: TextFlags, key: jax.Array) -> tuple[data.Dataset, np.ndarray]:
  """Windows of English, and bool [n] which are planted several times."""
  total = config.clean + config.noisy
  windows = data.text(data.english_prose(), length=config.window)
  if total > len(windows):
    raise ValueError(
      f"--clean {config.clean} and --noisy {config.noisy} are {total} windows, at most "
      f"{len(windows)} of --window {config.window}."
    )
  order = np.asarray(jax.random.permutation(key, len(windows)))[:total]
  whole = windows.take(windows.ids[np.sort(order)])
  # What no one can know, how a text begins, is not scored: so it is in the numbers, too.
  whole = data.after_prompt(whole, prompts_of(whole)[0])
  return whole, np.isin(whole.ids, windows.ids[order[: config.noisy]])


def warm_up_cosine(epoch: jax.Array, epochs: int | jax.Array) -> jax.Array:
  """Returns the share of the rate in an epoch: half of it in the first, then along a cosine."""
  return jnp.minimum((epoch + 1) / 2, 1.0) * train.cosine(epoch, epochs)


def model_of(config: TextFlags, dataset: data.Dataset) -> models.GPT:
  """Returns the network, a GPT."""
  return models.gpt(
    dataset.num_classes,
    length=dataset.inputs.shape[1],
    width=config.width,
    depth=config.depth,
    dtype=dtype_of(config),
  )


def recipe_of(config: TextFlags, dataset: data.Dataset) -> train.Recipe:
  """Returns the recipe: a GPT by AdamW, with a warm-up."""
  return train.Recipe(
    model_of(config, dataset),
    epochs=config.epochs,
    batch_size=config.batch_size,
    learning_rate=config.learning_rate,
    schedule=warm_up_cosine,
    optimizer=functools.partial(optax.adamw, weight_decay=0.1),
  )


def cut(config: TextFlags, dataset: data.Dataset) -> data.Holdout:
  """Returns training, held-out and test ids; what has copies is trained on."""
  key = jax.random.fold_in(jax.random.key(config.key), 7)
  return data.holdout(dataset, key, heldout=config.clean // 10, test=config.clean // 6)


def half_of_each(config: TextFlags, training: data.Dataset, copies: Sequence[int]) -> np.ndarray:
  """Returns the ids of half of the planted texts that stand so often, with all of their copies."""
  key = jax.random.fold_in(jax.random.key(config.key), 8)
  chosen = []
  for number, count in enumerate(COPIES, 1):
    ids = training.first_of_each(training.ids[training.strata == number])
    order = ids[np.asarray(jax.random.permutation(key, len(ids)))]
    if count in copies:
      chosen.append(order[: len(order) // 2])
  return training.with_copies(np.concatenate(chosen))


def strata_of(dataset: data.Dataset) -> np.ndarray:
  """Returns the number of each text's kind [n], 0 of clean ones."""
  if dataset.strata is None:
    raise ValueError("these texts have no strata: take those of texts.sequences.")
  return dataset.strata


def prompts_of(dataset: data.Dataset) -> tuple[int, int, int]:
  """Returns how many tokens a prompt has that is a quarter, half and three quarters of a text."""
  length = dataset.inputs.shape[1]
  return length // 4 + 1, length // 2 + 1, length - length // 4 + 1


def decoded(kind: Kind) -> Callable[[np.ndarray], list[str]]:
  """Returns what turns tokens [n, T] into texts."""
  return _prose_text if kind == "prose" else _numbers


def _prose_text(inputs: np.ndarray) -> list[str]:
  return [bytes(row.tolist()).decode(errors="replace") for row in inputs]


def _numbers(inputs: np.ndarray) -> list[str]:
  return [data.as_text(row) for row in inputs]
